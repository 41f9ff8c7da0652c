"""Start the executor on a prepared container, and do what it asks its owner for: networks, lent interfaces, a systemd scope."""

from __future__ import annotations

import os

from hutch.engine.launch.identity import ADDRESS, ADDRESS_LENGTH, PORT, PORT_LENGTH
from hutch.executor.late import fill
from hutch.executor.launcher import Execution
from hutch.kernel.features import features
from hutch.runtime.lifecycle import JOIN_NETWORKS, NET_DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.launch.prepare import Prepared
    from hutch.network.ports import Sockets


def answer(prepared: Prepared, request: str, pid: int) -> None:
    """Do what an executor asks its owner for: start the systemd scope of its container."""
    from hutch.cgroup import systemd
    from hutch.cgroup.settings import v2_settings
    from hutch.engine.spec import configuration

    limits = configuration.resources_of(prepared.settings, prepared.compiled.user_namespace)
    if prepared.machine is not None:
        from hutch.vm.compile import machine_resources

        limits = machine_resources(limits, prepared.machine, features(), prepared.settings.vm_root == "shared" and prepared.settings.upper != "disk")
    with systemd.Manager() as manager:
        manager.start_scope(request.removeprefix("start ").replace(prepared.marks.id, prepared.id), pid, v2_settings(limits))


def launch(prepared: Prepared, *, stdin: int, stdout: int, stderr: int, extra: tuple[int, ...] = ()) -> Execution:
    """Start the executor on a prepared container. Raises StateError when its name is taken, HutchError when its network has no
    address for it."""
    try:
        if prepared.settings.name:
            from hutch.engine.records import state

            state.check_name(prepared.settings.name)
        return _launch(prepared, stdin, stdout, stderr, extra)
    except BaseException:
        if prepared.fresh:
            from hutch.engine.volumes import volumes

            volumes.forget(prepared.fresh)  # no executor did
        raise


def _launch(prepared: Prepared, stdin: int, stdout: int, stderr: int, extra: tuple[int, ...]) -> Execution:
    encoded, places, sockets, user_network = prepared.encoded, None, None, None
    own: tuple[int, ...] = ()
    if prepared.joinings:
        from hutch.engine.networks.joining import Places

        encoded, sockets = _bind(prepared, encoded)
        try:
            if not features().privileged:
                from hutch.engine.networks import usernet

                user_network = usernet.reach()
                own = user_network.enter()
            places = Places(prepared.joinings, prepared.id, prepared.settings)
        except BaseException:
            if sockets is not None:
                sockets.close()
            if user_network is not None:
                user_network.close()
            raise
        # nobody takes the addresses over: the executor has them open to its end, and that is all
        extra = (*extra, *own, *(one.fileno() for one in (sockets.sockets if sockets else ())), *places.fds)
        encoded = fill(encoded, prepared.places, {ADDRESS: places.address.ljust(ADDRESS_LENGTH).encode()})
        if prepared.machine is not None:
            from hutch.engine.machines import wiring

            encoded = fill(encoded, prepared.places, {wiring.NETWORK_VALUE: wiring.network_of(places.places, prepared.machine.addresses)})

    def on_call(request: str, pid: int, _: int) -> None:
        if request == JOIN_NETWORKS and places is not None:
            try:
                places.attach(pid, found.descriptors["netlink"], user_network)
                if prepared.machine is not None:
                    from hutch.engine.machines import wiring

                    wiring.join_taps(found.descriptors["netlink"], places.places)
            finally:
                if user_network is not None:
                    user_network.close()  # the container itself keeps it now
        elif request == NET_DEVICES:
            _lend(prepared, pid, found.descriptors["netlink"])
        else:
            answer(prepared, request, pid)

    try:
        found = Execution(
            prepared.compiled.plan,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            extra=extra,
            encoded=encoded,
            replace=(prepared.marks.id, prepared.id),
            on_call=on_call,
        )
    finally:
        if places is not None:
            places.close()
        if sockets is not None:
            sockets.close()
        for fd in own:
            os.close(fd)
    return found


def _lend(prepared: Prepared, pid: int, netlink: int) -> None:
    from hutch.oci.config import NetDevice
    from hutch.runtime.verbs.netdevices import Moved

    moved = Moved(pid, netlink)
    try:
        moved.move({outside: NetDevice(name=inside) for outside, inside in prepared.settings.net_devices})
    finally:
        moved.close()  # what was moved is taken back by the executor


def _bind(prepared: Prepared, encoded: bytes) -> tuple[bytes, Sockets | None]:
    """The host's sockets of the ports that are published. Raises HutchError for one that is in use, before anything is started."""
    if not prepared.ports:
        return encoded, None
    from hutch.network.ports import Sockets

    sockets = Sockets(prepared.ports, prepared.ipv6)
    found = {f"{PORT}{i}": str(one.port).ljust(PORT_LENGTH).encode() for i, one in enumerate(sockets.published)}
    return fill(encoded, prepared.places, found), sockets
