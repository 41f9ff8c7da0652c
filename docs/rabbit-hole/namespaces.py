"""Chapter 3, to run: the eight namespaces of Linux, one at a time.

``python namespaces.py`` goes through all of them, ``python namespaces.py uts pid`` through some, ``--json`` prints data. Each
part forks a child, puts it into a new namespace, looks at the same thing from inside and from outside, and lets the child end:
the namespace ends with it, and the host is as it was.

Root is not needed. An ordinary user may make every one of these namespaces inside a user namespace of his own, and that is
what `enter` does for him (user_namespaces(7)).

Sources: namespaces(7) and the pages it names, one for each kind; unshare(2), setns(2), proc(5).
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from hutch.kernel import capabilities, cgroupfs, proc, syscalls as kernel

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
DAY = 86400
STRANGER = 54321  # an id that nobody has
# linux/ipc.h, linux/sockios.h, linux/if.h
IPC_CREAT, IPC_EXCL, IPC_RMID = 0o1000, 0o2000, 0
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

Account = dict[str, Any]


def identity(kind: str, pid: int | str = "self") -> str:
    """A namespace's name, such as ``uts:[4026531838]``: two processes that read the same number are in the same one."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def in_child(work: Callable[[], Account]) -> Account:
    """Fork, let the child do `work`, and return what it found: a namespace entered by a child cannot stick to its parent.

    The answer comes through a pipe as JSON. An OSError in the child is raised again here.
    """
    sys.stdout.flush()  # what is in the buffer would be copied, and then written twice
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            try:
                answer: Account = {"found": work()}
            except OSError as error:
                answer = {"error": [error.errno, error.strerror, error.filename]}
            except Exception as error:
                answer = {"bug": f"{type(error).__name__}: {error}"}
            os.write(writing, json.dumps(answer).encode())
            status = 0
        finally:
            os._exit(status)  # never back into the parent's code
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    answer = json.loads(text or b'{"bug": "it died without an answer"}')
    if "error" in answer:
        raise OSError(*answer["error"])
    if "bug" in answer:
        raise RuntimeError(f"in the child: {answer['bug']}")
    return dict(answer["found"])


def write(path: str, text: str) -> None:
    """Write a file of /proc in one write(2): the id maps and the clock offsets take nothing else."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def map_to_root(uid: int, gid: int) -> None:
    """Make this process uid 0 of the user namespace that it has just entered, and its old ids what that 0 means outside."""
    # Without CAP_SETGID outside, groups may be mapped only by a process that can no longer drop any: a group can be there to
    # *deny* (mode 0604), and setgroups(2) would step out of it (CVE-2014-8989).
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"0 {uid} 1")
    write("/proc/self/gid_map", f"0 {gid} 1")


def enter(flags: int) -> None:
    """unshare(2): leave some namespaces for new ones. An ordinary user gets a user namespace around them."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        kernel.unshare(flags)
        return
    # With several flags the kernel makes the user namespace first, and the others belong to it.
    kernel.unshare(kernel.CLONE_NEWUSER | flags)
    map_to_root(uid, gid)


def private_mounts() -> None:
    """Stop mounts from travelling to the namespace that this one was copied from.

    A new mount namespace is a copy, and a copy of a *shared* mount stays its peer: without this a mount made inside would
    appear outside, on every host with systemd (mount_namespaces(7), "Shared subtrees").
    """
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def uts() -> Account:
    """UTS: the host's name."""

    def inside() -> Account:
        enter(kernel.CLONE_NEWUTS)
        kernel.sethostname("rabbit")
        return {"namespace": identity("uts"), "hostname": os.uname().nodename}

    found = in_child(inside)
    return {"inside": found, "outside": {"namespace": identity("uts"), "hostname": os.uname().nodename}}


def pid() -> Account:
    """PID: numbers of processes, and an init of its own."""

    def init(ask: int, answer: int, life: int) -> None:
        """The first process of the namespace. It holds `life` open, as does its child: whoever reads it sees both die."""
        kernel.unshare(kernel.CLONE_NEWNS)
        private_mounts()
        # /proc shows the pid namespace of whoever mounted it, so the old one would still list the host's processes
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        child = os.fork()
        if child == 0:
            os.kill(1, signal.SIGKILL)  # init is immune to signals from inside that it has no handler for, this one too
            while True:
                signal.pause()
        seen = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        found = {"getpid": os.getpid(), "getppid": os.getppid(), "processes in /proc": seen, "namespace": identity("pid")}
        os.write(answer, json.dumps(found).encode())
        os.read(ask, 1)  # its end: the parent has seen enough, or is dead
        os._exit(0)  # takes the child with it: the kernel kills what is left in the namespace

    def outside() -> Account:
        enter(kernel.CLONE_NEWPID)
        ask, asked = os.pipe()
        answered, answer = os.pipe()
        dead, life = os.pipe()
        own = identity("pid")
        # unshare moved nobody: a process keeps its pid for life. The *next child* is the new namespace's first process.
        child = os.fork()
        if child == 0:
            try:
                os.close(asked)
                os.close(dead)
                init(ask, answer, life)
            finally:
                os._exit(1)
        os.close(life)
        os.close(answer)
        # Only init's words end this wait: were it dead, the pipe would be at its end and the answer empty.
        found = json.loads(os.read(answered, 4096) or b"{}")
        pids = proc.status(child).get("NSpid", "").split()
        os.close(asked)
        os.waitpid(child, 0)
        everyone_died = bool(select.select([dead], [], [], 5)[0]) and os.read(dead, 1) == b""
        return {
            "inside": found,
            "outside": {"namespace": own, "pid of the same process": int(pids[0]), "pid as it sees itself": int(pids[-1])},
            "all died with init": everyone_died,
        }

    return in_child(outside)


def mount() -> Account:
    """Mount: which file systems are where."""
    with tempfile.TemporaryDirectory(prefix="hutch-book-", dir="/var/tmp") as place:

        def inside() -> Account:
            enter(kernel.CLONE_NEWNS)
            private_mounts()
            kernel.mount("tmpfs", place, "tmpfs", 0, "size=1m")
            write_new(f"{place}/carrot")
            here = any(m.mount_point == place for m in proc.mounts())
            return {"namespace": identity("mnt"), "files": os.listdir(place), "a mount": here, "propagation": propagation(place)}

        found = in_child(inside)
        here = any(m.mount_point == place for m in proc.mounts())
        return {"inside": found, "outside": {"namespace": identity("mnt"), "files": os.listdir(place), "a mount": here}}


def write_new(path: str) -> None:
    """Make an empty file (by a plain call: a child that became somebody else may be unable to read Python's own library)."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


def propagation(place: str) -> dict[str, bool]:
    """Whether a mount made in a child's mount namespace arrives here, by the propagation type of the mount above it."""
    arrived = {}
    for name, flag in (("shared", kernel.MS_SHARED), ("private", kernel.MS_PRIVATE)):
        top = f"{place}/{name}"
        os.mkdir(top)
        kernel.mount("tmpfs", top, "tmpfs", 0, "size=1m")
        kernel.mount(None, top, None, flag)
        below = f"{top}/below"
        os.mkdir(below)

        def child(below: str = below) -> Account:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("tmpfs", below, "tmpfs", 0, "size=1m")
            return {}

        in_child(child)
        arrived[name] = any(m.mount_point == below for m in proc.mounts())
    return arrived


def ipc() -> Account:
    """IPC: System V queues, semaphores and shared memory, and POSIX message queues."""
    key = 0x48000000 | os.getpid()

    def has_queue() -> bool:
        try:
            kernel.syscall("msgget", key, 0)
        except FileNotFoundError:
            return False
        return True

    def inside() -> Account:
        before = has_queue()
        enter(kernel.CLONE_NEWIPC)
        after = has_queue()
        kernel.syscall("msgget", key, IPC_CREAT | IPC_EXCL | 0o600)  # the same key, another queue: it dies with the namespace
        lines = len(proc.read_text("/proc/sysvipc/msg").splitlines()) - 1
        return {"namespace": identity("ipc"), "queue there before": before, "queue there after": after, "queues in the namespace": lines}

    queue = kernel.syscall("msgget", key, IPC_CREAT | IPC_EXCL | 0o600)
    try:
        found = in_child(inside)
        return {"inside": found, "outside": {"namespace": identity("ipc"), "queue still there": has_queue()}}
    finally:
        kernel.syscall("msgctl", queue, IPC_RMID, None)


def user() -> Account:
    """User: who is who, and what root means."""
    with tempfile.TemporaryDirectory(prefix="hutch-book-", dir="/var/tmp") as place:

        def inside() -> Account:
            if os.geteuid() == 0:
                # Nothing that follows needs root, so root becomes an ordinary user for it.
                os.chown(place, STRANGER, STRANGER)
                os.setgroups([])
                os.setresgid(STRANGER, STRANGER, STRANGER)
                os.setresuid(STRANGER, STRANGER, STRANGER)
                # A process that changed its ids is not dumpable, and then its /proc files, the maps too, are root's (prctl(2)).
                kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            uid, gid = os.geteuid(), os.getegid()
            before = kernel.capget()[0]
            kernel.unshare(kernel.CLONE_NEWUSER)
            unmapped = os.geteuid()  # the new namespace has no word for this id yet: the overflow id stands for it
            map_to_root(uid, gid)
            write_new(f"{place}/carrot")
            effective = kernel.capget()[0]
            try:
                # The host's name belongs to the first UTS namespace, and that to the first user namespace, where this
                # process has no capability whatever. A UTS namespace made *in* the user namespace is another matter.
                kernel.sethostname("never")
                hostname = "may be changed"
            except PermissionError:
                hostname = "not permitted"
            kernel.unshare(kernel.CLONE_NEWUTS)
            kernel.sethostname("rabbit")
            return {
                "namespace": identity("user"),
                "uid before": uid,
                "uid before the map": unmapped,
                "uid": os.geteuid(),
                "owner of its file": os.stat(f"{place}/carrot").st_uid,
                "uid_map": proc.read_text("/proc/self/uid_map").split(),
                "capabilities before": len(capabilities.names(before)),
                "capabilities": len(capabilities.names(effective)),
                "host's name": hostname,
                "its own host name": os.uname().nodename,
            }

        found = in_child(inside)
        owner = os.stat(f"{place}/carrot").st_uid
        return {"inside": found, "outside": {"namespace": identity("user"), "uid": os.geteuid(), "owner of its file": owner}}


def cgroup() -> Account:
    """Cgroup: where the tree of control groups begins."""
    layout = cgroupfs.detect(proc.mounts(), proc.read_text("/proc/self/cgroup"))
    pids = layout.controller("pids")
    # "" is the key of v2 in what `parse_cgroups` returns
    key, top = ("", layout.v2_mount) if layout.v2_mount else ("pids", pids.mount if pids else "")
    made = f"{top}/hutch-book-ns-{os.getpid()}"
    try:
        if not top:
            raise FileNotFoundError("no cgroup file system")
        os.mkdir(made)
    except OSError:
        made = ""  # an ordinary user: what there is will do

    def path(pid: int | str = "self") -> str:
        return proc.parse_cgroups(proc.read_text(f"/proc/{pid}/cgroup")).get(key, "")

    def inside() -> Account:
        if made:
            write(f"{made}/cgroup.procs", "0")
        before, parent = path(), os.getppid()
        # The namespace's root is where the process stands at this moment, in every hierarchy.
        enter(kernel.CLONE_NEWCGROUP)
        watcher = in_child_of_old(os.getpid())
        return {"namespace": identity("cgroup"), "before": before, "own": path(), "parent": path(parent), **watcher}

    def in_child_of_old(pid: int) -> Account:
        """Ask the parent, which is still in the old namespace, how it sees this process."""
        os.write(tell[1], str(pid).encode())
        return {"seen from outside": os.read(told[0], 4096).decode()}

    tell, told = os.pipe(), os.pipe()
    try:
        observer = os.fork()
        if observer == 0:
            try:
                os.close(tell[1])
                number = os.read(tell[0], 32)
                if number:
                    os.write(told[1], path(int(number)).encode())
            finally:
                os._exit(0)
        try:
            os.close(tell[0])
            os.close(told[1])
            found = in_child(inside)
        finally:
            os.close(tell[1])
            os.close(told[0])
            os.waitpid(observer, 0)
        return {"inside": found, "outside": {"namespace": identity("cgroup"), "own": path()}}
    finally:
        if made:
            os.rmdir(made)


def clocks() -> dict[str, int]:
    """The three clocks, in whole seconds: since some point at boot, the same with the time asleep, and since 1970."""
    return {
        "monotonic": int(time.clock_gettime(time.CLOCK_MONOTONIC)),
        "boottime": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        "realtime": int(time.clock_gettime(time.CLOCK_REALTIME)),
    }


def clock() -> Account:
    """Time: clocks that count from boot."""
    if not os.path.exists("/proc/self/ns/time"):
        return {"skipped": "this kernel has no time namespaces (Linux 5.6, CONFIG_TIME_NS)"}

    def inside() -> Account:
        enter(kernel.CLONE_NEWTIME)
        maker = clocks()
        # Offsets are settled before anybody is in the namespace: a clock must not jump under a running process.
        write("/proc/self/timens_offsets", f"monotonic {DAY} 0\nboottime {10 * DAY} 0\n")

        def child() -> Account:
            uptime = float(proc.read_text("/proc/uptime").split()[0])
            return {"namespace": identity("time"), **clocks(), "uptime": int(uptime)}

        # As with pids, the caller of unshare stays where it was; a fork, and since Linux 6.3 an execve, goes inside.
        return {"inside": in_child(child), "the process that made it": {"namespace": identity("time"), **maker}}

    return {**in_child(inside), "outside": {"namespace": identity("time"), **clocks()}}


def network() -> Account:
    """Network: interfaces, addresses, routes, ports."""

    def connect(port: int) -> str:
        with socket.socket() as client:
            try:
                client.settimeout(5)
                client.connect(("127.0.0.1", port))
            except OSError as error:
                return error.strerror or str(error)
        return "connected"

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def inside() -> Account:
            before = connect(port)
            enter(kernel.CLONE_NEWNET)
            # A socket belongs for life to the namespace that it was made in: `server`, inherited, still listens outside.
            down = connect(port)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                request = struct.pack("16sH22x", b"lo", 0)  # struct ifreq: netdevice(7)
                flags = struct.unpack_from("16xH", fcntl.ioctl(control, SIOCGIFFLAGS, request))[0]
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))
            refused = connect(port)
            with socket.create_server(("127.0.0.1", port)) as own:  # the same port is free here
                connected = connect(own.getsockname()[1])
            return {
                "namespace": identity("net"),
                "interfaces": [name for _, name in socket.if_nameindex()],
                "to the host's server before": before,
                "with lo down": down,
                "with lo up": refused,
                "to a server of its own on the same port": connected,
            }

        found = in_child(inside)
    interfaces = [name for _, name in socket.if_nameindex()]
    return {"inside": found, "outside": {"namespace": identity("net"), "interfaces": interfaces}}


PARTS: dict[str, Callable[[], Account]] = {
    "uts": uts, "pid": pid, "mount": mount, "ipc": ipc, "user": user, "cgroup": cgroup, "time": clock, "network": network,
}  # fmt: skip


def show(account: Account, indent: str = "  ") -> None:
    """Print what was found: one thing a line."""
    for key, value in account.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        else:
            words = ("no", "yes")[value] if isinstance(value, bool) else " ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{indent}{key + ':':<42} {words if words != '' else '(none)'}")


def main(words: list[str]) -> int:
    """The command line: names of parts, all when there are none. 1 when a part was not possible here."""
    as_json = "--json" in words
    names = [word for word in words if word != "--json"] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        print(f"{unknown[0]}: not one of {' '.join(PARTS)}", file=sys.stderr)
        return 2
    found: dict[str, Account] = {}
    failed = 0
    for name in names:
        try:
            found[name] = PARTS[name]()
        except OSError as error:
            failed = 1
            found[name] = {"failed": str(error), "hint": "does /proc/sys/user/max_user_namespaces, or a security module, forbid it?"}
        if not as_json:
            print((PARTS[name].__doc__ or name).splitlines()[0])
            show(found[name])
            print()
    if as_json:
        print(json.dumps(found))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
