"""nf_tables by netlink (include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h): what removes a table or a chain.

Rules are made by libnftables (`network.nft`); these few bytes are for who has no library at hand, an executor at a container's
end, or no time for it. A function that changes something gives one datagram: a batch, of which all or nothing happens.
"""

from __future__ import annotations

from hutch.kernel.netlink import codec
from hutch.kernel.netlink.codec import attribute, text, u8
from hutch.kernel.netlink.socket import NetlinkError, Socket

FAMILIES = {"inet": 1, "ip": 2, "netdev": 5, "bridge": 7, "ip6": 10}
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
BATCH_BEGIN, BATCH_END = 16, 17
GETTABLE, DELTABLE, DELCHAIN, DELRULE, NEWSETELEM, DELSETELEM = 1, 2, 5, 8, 12, 14
NETFILTER, ENOENT = 12, 2
LIST_TABLE, LIST_SET, LIST_ELEMENTS, LIST_ELEM = 1, 2, 3, 1  # NFTA_SET_ELEM_LIST_*, NFTA_LIST_ELEM
ELEM_KEY, ELEM_TIMEOUT, DATA_VALUE = 1, 4, 1  # NFTA_SET_ELEM_*, NFTA_DATA_VALUE
NAME, TABLE, CHAIN, CHAIN_NAME = 1, 1, 2, 3  # NFTA_TABLE_NAME, NFTA_{CHAIN,RULE}_TABLE, NFTA_RULE_CHAIN, NFTA_CHAIN_NAME


def _batch(*messages: bytes) -> bytes:
    edge = u8(0) + u8(0) + codec.be16(SUBSYSTEM)
    return codec.message(BATCH_BEGIN, 0, edge, 0) + b"".join(messages) + codec.message(BATCH_END, 0, edge, 0)


def _message(kind: int, family: str, *attributes: bytes, flags: int = 0, sequence: int = 1) -> bytes:
    return codec.message(SUBSYSTEM << 8 | kind, flags, u8(FAMILIES[family]) + bytes(3) + b"".join(attributes), sequence)


def delete_table(family: str, name: str) -> bytes:
    """Remove a table with all that is in it."""
    return _batch(_message(DELTABLE, family, attribute(NAME, text(name)), flags=codec.ACK))


def table_exists(family: str, name: str) -> bool:
    """Whether there is a table. Raises NetlinkError."""
    with Socket(NETFILTER) as socket:
        try:
            socket.request(SUBSYSTEM << 8 | GETTABLE, u8(FAMILIES[family]) + bytes(3) + attribute(NAME, text(name)))
        except NetlinkError as error:
            if error.errno == ENOENT:
                return False
            raise
    return True


def delete_chain(family: str, table: str, name: str) -> bytes:
    """Remove a chain with its rules."""
    rules = _message(DELRULE, family, attribute(TABLE, text(table)), attribute(CHAIN, text(name)))
    return _batch(rules, _message(DELCHAIN, family, attribute(TABLE, text(table)), attribute(CHAIN_NAME, text(name)), flags=codec.ACK, sequence=2))


def add_element(family: str, table: str, name: str, key: bytes, seconds: int) -> bytes:
    """Put an element into a set for some time. One that is there has its time begun anew: added (so that it can be deleted),
    deleted, and added again, in one transaction; each of the three is acknowledged."""
    place = (attribute(LIST_TABLE, text(table)), attribute(LIST_SET, text(name)))
    own = codec.nested(ELEM_KEY, attribute(DATA_VALUE, key))
    plain = codec.nested(LIST_ELEMENTS, codec.nested(LIST_ELEM, own))
    timed = codec.nested(LIST_ELEMENTS, codec.nested(LIST_ELEM, own, attribute(ELEM_TIMEOUT, (seconds * 1000).to_bytes(8, "big"))))
    return _batch(
        _message(NEWSETELEM, family, *place, timed, flags=codec.CREATE | codec.ACK),
        _message(DELSETELEM, family, *place, plain, flags=codec.ACK, sequence=2),
        _message(NEWSETELEM, family, *place, timed, flags=codec.CREATE | codec.ACK, sequence=3),
    )
