"""The process of a user's network namespace (hutch.engine.networks.usernet says what it is for).

It is root of a user namespace and does what it is asked by its own user alone: the socket lies in a directory that nobody else may
enter. A second process stays outside, for what can be done only there: mapping ids, and starting pasta(1). When the first
ends, so do the other, and pasta.
"""

from __future__ import annotations

import os
import select
import signal
import socket

from hutch import jsontext
from hutch.engine.networks import definitions, reclaiming, usernet
from hutch.engine.records import state
from hutch.errors import HutchError, UnsupportedError
from hutch.helpers import resident
from hutch.kernel import syscalls
from hutch.kernel.features import features, program
from hutch.kernel.netlink import route
from hutch.network import attach, filler, names, nft
from hutch.network.spec import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.network.attach import Connection

LINGER = 1000  # milliseconds: who runs one container after another finds it there
PR_SET_DUMPABLE = 4
# as in QEMU and slirp4netns; not the host's own, which could not be reached if it were the namespace's as well
UPLINK, ADDRESS, LENGTH, GATEWAY = "uplink", "10.0.2.100", 24, "10.0.2.2"
PATIENCE = 10  # seconds for a program
PASTA = "--config-net --foreground --quiet --no-map-gw -t none -u none -T none -U none".split()


def main() -> None:
    """The process, with its lock and the socket that requests come by."""
    if os.fork():  # its starter waits for nobody
        os._exit(0)
    resident.name_process("hutch-usernet")
    os.chdir("/")
    features()  # what this user may do outside
    process: UserNetworkProcess | None = None
    trouble: HutchError | None = None
    try:
        process = UserNetworkProcess()
    except HutchError as error:
        trouble = error
    except OSError as error:
        trouble = HutchError(f"network: a network namespace of the user's own: {error.strerror}", "`hutch doctor` says what user namespaces need")
    serve(socket.socket(fileno=resident.LISTENER_FD), process, trouble)
    os._exit(0)  # the lock goes last


def serve(listener: socket.socket, process: UserNetworkProcess | None, trouble: HutchError | None) -> None:
    """Answer, until nobody is there who would need it."""
    connections: dict[int, socket.socket] = {}
    guests: set[int] = set()  # pidfds
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        events = poll.poll(LINGER if not connections and not guests else None)
        if not events:
            return
        for fd, _ in events:
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
                poll.register(connection, select.POLLIN)
            elif fd in guests:
                poll.unregister(fd)
                guests.remove(fd)
                os.close(fd)
            elif not _answer(connections[fd], process, trouble, guests, poll):
                poll.unregister(fd)
                connections.pop(fd).close()


def _answer(connection: socket.socket, process: UserNetworkProcess | None, trouble: HutchError | None, guests: set[int], poll: select.poll) -> bool:
    """One request; whether others may follow."""
    try:
        data, fds, _, _ = socket.recv_fds(connection, usernet.LARGEST, 4)
    except OSError:
        return False
    if not data:
        return False
    given: tuple[int, ...] = ()
    out: dict[str, Any] = {}
    attached: Connection | None = None
    try:
        if process is None:
            raise trouble or HutchError("network: no network namespace of the user's own")
        request = jsontext.loads(data.decode())
        given, out = process.answer(request, fds)
        if request["do"] == usernet.ATTACH:
            attached = usernet.connection_of(request["connection"])
            guests.add(fds[2])
            poll.register(fds[2], select.POLLIN)
            fds = fds[:2]
    except HutchError as error:
        out = {"error": error.message, "hint": error.hint, "unsupported": isinstance(error, UnsupportedError)}
    except OSError as error:
        out = {"error": f"network: {error.strerror}"}
    except (ValueError, KeyError, TypeError, IndexError):
        out = {"error": "network: a request that makes no sense"}
    try:
        socket.send_fds(connection, [jsontext.dumps(out).encode()], given)
    except OSError:
        if attached is not None and attached.later:
            _take_back(attached)
        return False
    finally:
        for fd in (*fds, *given):
            os.close(fd)
    return True


def _take_back(connection: Connection) -> None:
    """Whoever asked for it has gone, and with it who would have held the place."""
    try:
        attach.disconnect(connection)
    except (HutchError, OSError):
        pass  # `hutch network prune` looks for what is left


class UserNetworkProcess:
    """The namespaces, and what is done there."""

    def __init__(self) -> None:
        self._outside, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        if not os.fork():
            self._outside.close()
            _stay_outside(own, parent)
        own.close()
        if not _join_existing():
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET)
            self._beyond(b"m")
            with route.Route() as inside:
                inside.do(route.set_link(name="lo", up=True))
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        syscalls.prctl(PR_SET_DUMPABLE, 1)  # pasta, and the executors, open its namespaces in /proc

    def _beyond(self, request: bytes) -> None:
        self._outside.sendall(request)
        said = self._outside.recv(4096).decode("utf-8", "replace")
        if said != "y":
            raise UnsupportedError(said or "network: the process outside of the user's network namespace has ended")

    def answer(self, request: dict[str, Any], fds: list[int]) -> tuple[tuple[int, ...], dict[str, Any]]:
        """(descriptors, words) that a request gets. Raises HutchError."""
        kind = request["do"]
        if kind == usernet.ENTER:
            flags = os.O_RDONLY | os.O_CLOEXEC
            return (os.open("/proc/self/ns/user", flags), os.open("/proc/self/ns/net", flags)), {}
        if kind == usernet.ATTACH:
            connection = usernet.connection_of(request["connection"])
            if not all(network.internal for network, _ in connection.places):
                self._make_way_out()
            attach.connect(connection, fds[0], fds[1])
            return (), {}
        if kind == usernet.NAMES:
            sockets = [*names.sockets_in(fds[0], again=request["again"], machine=request["machine"])]
            if request["guarded"]:
                sockets.append(filler.start())
            return tuple(one.detach() for one in sockets), {}
        if kind == usernet.CLEAR:
            reclaiming.clear()
            return (), {}
        if kind == usernet.RELEASE:
            reclaiming.release(Network.of_plain(request["network"]), even_held=request["even_held"])
            return (), {}
        if kind == usernet.DETACH:
            attach.disconnect(usernet.connection_of(request["connection"]))
            return (), {}
        if kind == usernet.NETLINK:
            with usernet.entered(fds[0]) if fds else route.Route() as found:
                return (os.dup(found.fileno()),), {}
        if kind == usernet.TABLE:
            return (), {"found": nft.listed(request["family"], request["table"])}
        raise HutchError(f"network: {kind!r} is not known: another version's process is running", "it ends with the containers on networks")

    def _make_way_out(self) -> None:
        with route.Route() as here:
            there = here.link(UPLINK)  # it goes with pasta
        if there is None:
            self._beyond(b"p")


def _join_existing() -> bool:
    """Enter the namespaces that the containers of one that was killed are in, if there are any."""
    with open("/proc/self/ns/user", "rb") as own_namespace:
        own = os.fstat(own_namespace.fileno()).st_ino
    for container in state.containers(reclaim=False):
        executor = container.data.get("executor")
        if not isinstance(executor, int) or not container.pid:
            continue
        try:
            user = os.open(f"/proc/{executor}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(user).st_ino == own:
                continue  # it is on no network
            net = os.open(f"/proc/{executor}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(user, syscalls.CLONE_NEWUSER)
                syscalls.setns(net, syscalls.CLONE_NEWNET)
                return True
            finally:
                os.close(net)
        except OSError:
            continue
        finally:
            os.close(user)
    return False


def _stay_outside(requests: socket.socket, inside: int) -> None:
    """The second process: it maps ids and starts pasta for the first, for as long as that lives."""
    from hutch.image.layers import mapped

    for fd in (resident.LOCK_FD, resident.LISTENER_FD):
        os.close(fd)
    while True:
        request = requests.recv(16)
        if not request:
            _stop_pasta()
            os._exit(0)
        try:
            if request == b"m":
                mapped.map_ids(inside, features())
            else:
                _stop_pasta()  # of one that was killed
                _start_pasta(inside)
            requests.sendall(b"y")
        except HutchError as error:
            requests.sendall(f"{error.message}".encode()[:4000])
        except OSError as error:
            requests.sendall(f"network: {error.strerror}".encode())


def _pid_file() -> str:
    return f"{definitions.root()}/.pasta"


def _start_pasta(inside: int) -> None:
    """Start pasta for a process's network namespace. Nothing of the host's is reachable by it but what the host's own programs
    could reach, without its loopback; and nothing comes in."""
    import subprocess
    import time

    path = program("pasta")
    if not path:
        raise UnsupportedError("network: pasta is not installed")
    common = [path, *PASTA, "-I", UPLINK, "-P", _pid_file()]
    own = ["-a", ADDRESS, "-n", str(LENGTH), "-g", GATEWAY]
    said = ""
    # a host without a way out has neighbours nevertheless; one without IPv4 has its own addresses to offer
    for words in (own, *([*own, "-i", name] for name in _interfaces()), []):
        # what it says later goes nowhere: a pipe that nobody reads, which stops nobody who writes
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        process = subprocess.Popen([*common, *words, str(inside)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer)
        os.close(writer)
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if _pasta_pid() == process.pid:
                return  # the reader stays
            time.sleep(0.002)
        process.kill()
        code = process.wait()
        said = (os.read(reader, 65536) or b"").decode("utf-8", "replace").strip().rpartition("\n")[2] or f"ended with {code}"
        os.close(reader)
    if _interfaces():
        raise HutchError(f"network: pasta: {said}")
    # a host without a network: there is no way out to be had


def _pasta_pid() -> int:
    """The pid that pasta has written when it was ready; 0 where it has not, or has ended."""
    try:
        with open(_pid_file(), encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return pid if file.read().startswith(("pasta", "passt")) else 0  # the same program
    except (OSError, ValueError):
        return 0


def _stop_pasta() -> None:
    pid, pidfd = _pasta_pid(), -1
    try:
        if pid:
            pidfd = os.pidfd_open(pid)
            if _pasta_pid() == pid:  # still, and so this descriptor is pasta's
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.unlink(_pid_file())
    except OSError:
        pass  # it has just ended
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _interfaces() -> list[str]:
    with route.Route() as here:
        having = {item.index for item in here.addresses()}
        return [link.name for link in here.links() if link.up and link.name != "lo" and link.index in having]
