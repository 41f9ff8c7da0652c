"""nftables (nft(8), libnftables-json(5)), in tables of Hutch's own: everybody else's rules stay as they are.

By libnftables where it is installed, in this process; else by the `nft` program. Both work in the network namespace of the
calling thread.
"""

from __future__ import annotations

import _thread
import os

from hutch import jsontext
from hutch.errors import HutchError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Rule = dict[str, Any]

JSON_OUTPUT = 1 << 4
HIGHEST = 128  # the lowest free descriptor from which on 1024 may be near: other threads open hundreds meanwhile
_library: list[Any] = []
_one_at_a_time = _thread.allocate_lock()


class NftError(HutchError):
    """What nftables says of a command that it refused."""


def run(commands: Iterable[Rule]) -> list[Rule]:
    """Run commands, all or none of them (a transaction); the objects that they list. Raises NftError, UnsupportedError."""
    text = jsontext.dumps({"nftables": list(commands)})
    if _load() is None:
        out = _by_program(text)
    elif _crowded():
        out = _by_library_alone(text)
    else:
        out = _by_library(text)
    if not out.strip():
        return []
    return [item for item in jsontext.loads(out).get("nftables", []) if "metainfo" not in item]


def listed(family: str, name: str) -> list[dict[str, Any]]:
    """A table with all that is in it; nothing where it is not there."""
    try:
        return run([{"list": {"table": {"family": family, "name": name}}}])
    except NftError:
        return []


def drop_table(family: str, name: str) -> None:
    """Remove a table, if it is there."""
    own = table(family, name)
    run([{"add": own}, {"delete": own}])


def available() -> str:
    """By what rules are made here: the library, or a program's path; "" for nothing."""
    from hutch.kernel.features import program

    return "libnftables" if _load() is not None else program("nft")


def _load() -> Any:
    if not _library:
        import ctypes

        try:
            found: Any = ctypes.CDLL("libnftables.so.1")
        except OSError:
            found = None
        else:
            found.nft_ctx_new.restype = ctypes.c_void_p
            for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
                getattr(found, name).restype = ctypes.c_char_p
                getattr(found, name).argtypes = [ctypes.c_void_p]
            for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
                getattr(found, name).argtypes = [ctypes.c_void_p]
            found.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
            found.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        _library.append(found)
    return _library[0]


def _by_library(text: str) -> str:
    library = _load()
    # a context of its own each time: its socket belongs to the namespace in which it was made
    context = library.nft_ctx_new(0)
    if not context:
        raise NftError("nftables: no context could be made")
    try:
        library.nft_ctx_output_set_flags(context, JSON_OUTPUT)
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        failed = library.nft_run_cmd_from_buffer(context, text.encode())
        out, said = library.nft_ctx_get_output_buffer(context), library.nft_ctx_get_error_buffer(context)
    finally:
        library.nft_ctx_free(context)
    if failed:
        raise _refused((said or b"").decode("utf-8", "replace"))
    return (out or b"").decode("utf-8", "replace")


def _crowded() -> bool:
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    os.close(fd)
    return fd >= HIGHEST


def _by_library_alone(text: str) -> str:
    """In a thread with descriptors of its own, and none of the others': the library waits by select(2), whose numbers end at 1023, and a
    higher one ends the process."""
    import gc

    from hutch.kernel import syscalls, threads

    def work() -> str:
        # what the collector closed here would stay open for all others
        collects = gc.isenabled()
        gc.disable()
        try:
            syscalls.unshare(syscalls.CLONE_FILES)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            return _by_library(text)
        finally:
            if collects:
                gc.enable()

    with _one_at_a_time:
        return threads.apart(work)


def _by_program(text: str) -> str:
    import subprocess

    try:
        done = subprocess.run(["nft", "-j", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        said = "there is neither libnftables nor nft" if isinstance(error, FileNotFoundError) else f"nft: {error.strerror}"
        raise UnsupportedError(f"nftables: {said}", "apt-get install nftables") from None
    if done.returncode:
        raise _refused(done.stderr)
    return done.stdout


def _refused(said: str) -> HutchError:
    line = next((line for line in said.splitlines() if line.strip()), "refused without a word").removeprefix("internal:0:0-0: ").removeprefix("Error: ")
    if "Operation not supported" in said or "Protocol not supported" in said:
        return UnsupportedError(f"nftables: this kernel has not what it takes: {line}")
    return NftError(f"nftables: {line}")


# what rules are made of (libnftables-json(5), "STATEMENTS" and "EXPRESSIONS")


def table(family: str, name: str) -> Rule:
    """A table's own description."""
    return {"table": {"family": family, "name": name}}


def chain(family: str, table_: str, name: str, kind: str, hook: str, priority: int, policy: str = "accept", device: str = "") -> Rule:
    """A base chain's."""
    found = {"family": family, "table": table_, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": policy}
    return {"chain": {**found, **({"dev": device} if device else {})}}


def rule(family: str, table_: str, chain_: str, *expressions: Rule, comment: str = "") -> Rule:
    """A rule's."""
    return {"rule": {"family": family, "table": table_, "chain": chain_, "expr": list(expressions), **({"comment": comment} if comment else {})}}


def match(left: Rule, right: object, op: str = "==") -> Rule:
    """Whether two things are equal, or what `op` says."""
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> Rule:
    """What the kernel knows of a packet beside its bytes."""
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> Rule:
    """A field of a packet's."""
    return {"payload": {"protocol": protocol, "field": field}}


def prefix(subnet: str) -> Rule:
    """A subnet (CIDR)."""
    address, _, length = subnet.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


ACCEPT: Rule = {"accept": None}
DROP: Rule = {"drop": None}
COUNTER: Rule = {"counter": None}
