"""Chapter 6, to run: a whole container by hand, each step with the kernel object that it makes.

``python container.py`` starts a small tour, ``python container.py sh`` a shell, ``--root DIR`` takes a directory as the root
file system instead of the host's /usr, ``--quiet`` leaves the steps out. The exit status is the program's. As root the
container's root is mapped to host uid 100000, and a limit on processes is set; as an ordinary user it is mapped to that user,
and the limit is left out.

There are two processes. The *parent* stays on the host and does what needs the host's privileges: the cgroup, the id maps, the
idmapped layers. The *child* is made in its new namespaces and builds its world from inside, until it executes the program.

Sources: clone(2) for clone3, user_namespaces(7), mount_namespaces(7), fsopen(2), open_tree(2), pivot_root(2), capabilities(7),
seccomp(2), Documentation/filesystems/{overlayfs,idmappings}.rst in the kernel's tree.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

from hutch.kernel import capabilities, cgroupfs, features, proc, syscalls as kernel
from hutch.oci.config import Seccomp
from hutch.runtime import seccomp

if TYPE_CHECKING:
    from typing import NoReturn

HOST_ID, ID_COUNT = 100_000, 65_536
HOSTNAME = "rabbit-hole"
PIDS_MAX = 64
ROOT_ATTRIBUTES = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
NO_PROGRAMS = ROOT_ATTRIBUTES | kernel.MOUNT_ATTR_NOEXEC
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# What the root inside may do. Nothing here reaches a mount, a network setting or another process's memory.
CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE")
# A tiny filter: everything is allowed but the calls that built this container, and some of the kernel's darker corners.
REFUSED = (
    "mount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount mount_setattr unshare setns "
    "add_key keyctl request_key bpf perf_event_open userfaultfd ptrace kexec_load init_module finit_module reboot"
).split()
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": os.environ.get("TERM", "dumb")}
NAMESPACES = {
    "user": kernel.CLONE_NEWUSER, "mnt": kernel.CLONE_NEWNS, "pid": kernel.CLONE_NEWPID,
    "net": kernel.CLONE_NEWNET, "ipc": kernel.CLONE_NEWIPC, "uts": kernel.CLONE_NEWUTS,
}  # fmt: skip
TOUR = """
echo "I am $(id -un), uid $(id -u), process $$ on $(hostname)"
echo "processes:    $(ls /proc | grep -c '^[0-9]')  (this shell and those that count)"
echo "the root:     $(ls / | tr '\\n' ' ')"
echo "/usr:         $(touch /usr/new 2>/dev/null && echo 'writable here, unchanged on the host' || echo 'read-only')"
echo "interfaces:   $(ls /sys/class/net 2>/dev/null | tr '\\n' ' ')"
echo "cgroup:       $(sort -u -t: -k3,3 /proc/self/cgroup | cut -d: -f3 | tr '\\n' ' ')"
echo "up since:     $(cut -d' ' -f1 /proc/uptime) s"
grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
"""


class Steps:
    """Prints each step, numbered in each process, with what it made."""

    def __init__(self, who: str, quiet: bool) -> None:
        self.who = who
        self.quiet = quiet
        self.number = 0

    def __call__(self, call: str, made: str) -> None:
        """One step. A single write(2), since two processes print."""
        self.number += 1
        if not self.quiet:
            os.write(2, f"{self.who} {self.number:>2}  {call:<44} {made}\n".encode())


def write(path: str, text: str) -> None:
    """One write(2): /proc's maps and the knobs of cgroups take their whole value at once."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def make_file(path: str, text: str = "") -> None:
    """A new file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


# ---- the parent -------------------------------------------------------------------------------------------------------------


def make_cgroup(step: Steps) -> tuple[str, bool]:
    """A cgroup with a limit on processes: its directory ("" where there can be none), and whether it is v2's."""
    layout = cgroupfs.detect(proc.mounts(), proc.read_text("/proc/self/cgroup"))
    pids = layout.controller("pids")
    v2 = pids is None and "pids" in layout.v2_controllers
    top = pids.mount if pids else layout.v2_mount
    path = f"{top}/hutch-book-container-{os.getpid()}"
    try:
        if not (pids or v2):
            raise FileNotFoundError(errno.ENOENT, "no pids controller")
        if v2 and "pids" not in layout.v2_root_subtree:
            write(f"{top}/cgroup.subtree_control", "+pids")
        os.mkdir(path)
    except OSError as error:
        step("mkdir cgroup", f"none: {error.strerror}")
        return "", False
    write(f"{path}/pids.max", str(PIDS_MAX))
    step("mkdir, write pids.max", f"cgroup {path}, {PIDS_MAX} processes at most")
    return path, v2


def remove_cgroup(path: str) -> None:
    """rmdir, as soon as the last process is gone: with init the kernel has killed them all, but they take a moment to die."""
    deadline = time.monotonic() + 5
    while True:
        try:
            os.rmdir(path)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def map_ids(pid: int, step: Steps) -> None:
    """Say what the ids of the new user namespace mean outside (user_namespaces(7))."""
    if os.geteuid() == 0:
        uids = gids = f"0 {HOST_ID} {ID_COUNT}"
    else:
        # An ordinary user may map one id, his own, and groups only once the process cannot drop any (CVE-2014-8989).
        uids, gids = f"0 {os.geteuid()} 1", f"0 {os.getegid()} 1"
        write(f"/proc/{pid}/setgroups", "deny")
    write(f"/proc/{pid}/uid_map", uids)
    write(f"/proc/{pid}/gid_map", gids)
    step(f"write /proc/{pid}/uid_map, gid_map", f"inside 0 is outside {uids.split()[1]}, {uids.split()[2]} ids")


def idmapped_layers(pid: int, lowers: list[str], step: Steps) -> list[int]:
    """Detached clones of the lower directories that show host root's files as the container root's: mount_setattr(2).

    None where that is not possible (not root, or a file system that cannot): the child makes plain clones then, and files of
    the host's root belong to nobody in its eyes.
    """
    if os.geteuid() != 0:
        return []
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    clones: list[int] = []
    try:
        for lower in lowers:
            # Not recursive: overlayfs does not look into mounts below a layer, and each would have to be idmappable.
            clones.append(kernel.open_tree(kernel.AT_FDCWD, lower, kernel.OPEN_TREE_CLONE))
            kernel.mount_setattr(clones[-1], set_attributes=kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_IDMAP, userns=userns)
            step(f"open_tree({lower}), mount_setattr(IDMAP)", f"detached mount, fd {clones[-1]}")
    except OSError as error:
        for fd in clones:
            os.close(fd)
        step("mount_setattr(IDMAP)", f"not possible: {error.strerror}")
        return []
    finally:
        os.close(userns)
    return clones


def wait(pid: int, pidfd: int) -> int:
    """Wait for the container, and kill it when we are told to end: its exit status, or 128 + the signal that ended it."""
    try:
        select.select([pidfd], [], [])  # a pidfd can be read when the process has ended
    except (KeyboardInterrupt, SystemExit):
        kernel.pidfd_send_signal(pidfd, signal.SIGKILL)  # an init dies of SIGKILL from outside, and all of its own with it
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def run(command: list[str], root: str, quiet: bool) -> int:
    """Make the container, wait for its end, remove what is left of it on the host."""
    step = Steps("host ", quiet)
    lowers = [root] if root else ["/usr", *(f"/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64") if is_real(f"/{name}"))]
    clock = features.features().time_namespaces
    cgroup, v2 = make_cgroup(step)
    cgroup_fd = os.open(cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if v2 and cgroup else None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = pidfd = 0
    try:
        flags = 0
        for flag in NAMESPACES.values():
            flags |= flag
        # Like fork, but in six new namespaces, and with v2 born in the cgroup: no moment outside of its limits.
        pid, pidfd = kernel.clone3(flags, cgroup=cgroup_fd)
        if pid == 0:
            ours.close()
            child(command, lowers, bool(root), clock, theirs, Steps("child", quiet))
        theirs.close()
        names = " ".join(os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES)
        step("clone3", f"pid {pid}, pidfd {pidfd}, {names}")
        if cgroup and not v2:
            write(f"{cgroup}/cgroup.procs", str(pid))
            step(f"write {pid} to cgroup.procs", "the child is limited")
        map_ids(pid, step)
        clones = idmapped_layers(pid, lowers, step)
        socket.send_fds(ours, [b"go"], clones)  # SCM_RIGHTS (unix(7)): the child gets descriptors of the same mounts
        for fd in clones:
            os.close(fd)
        return wait(pid, pidfd)
    finally:
        if pid:
            try:
                kernel.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # it has ended, the usual case
            os.close(pidfd)
        ours.close()
        if cgroup_fd is not None:
            os.close(cgroup_fd)
        if cgroup:
            remove_cgroup(cgroup)
            step("rmdir cgroup", "nothing is left: the namespaces and their mounts died with the last process in them")


def is_real(path: str) -> bool:
    """Whether a directory is one, not a link into /usr."""
    return os.path.isdir(path) and not os.path.islink(path)


# ---- the child --------------------------------------------------------------------------------------------------------------


def child(command: list[str], lowers: list[str], whole: bool, clock: bool, parent: socket.socket, step: Steps) -> NoReturn:
    """From the clone to the exec. Whatever goes wrong, this process ends here and not in the parent's code.

    Every module is imported by now: Python's library may lie where only the host's root can read.
    """
    status = 99
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        word, clones, _, _ = socket.recv_fds(parent, 16, len(lowers))  # until now this process has no ids to speak of
        if word:  # empty: the parent is dead
            enter(clock, step)
            die_with(parent)
            build(lowers, whole, clones, step)
            pivot(step)
            confine(step)
            status = execute(command, step)
    except OSError as error:
        os.write(2, f"container.py: {error.filename or 'the last step'}: {error.strerror}\n".encode())
    except Exception as error:
        os.write(2, f"container.py: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def die_with(parent: socket.socket) -> None:
    """Ask for SIGKILL when the parent ends (its thread, to be exact, but it has one).

    After the change of ids, since that takes the wish back (prctl(2), PR_SET_PDEATHSIG). And if the parent had died just
    before? getppid(2) is 0 in here either way, but its end of the socket would be closed.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([parent], [], [], 0)[0]:
        os._exit(99)


def enter(clock: bool, step: Steps) -> None:
    """The namespaces that are not made by the clone, and the settings of those that are."""
    # The maps are there, but this process still has its old id, which may have no name inside.
    if os.geteuid() != 0 or os.getegid() != 0:
        os.setgroups([])  # the host root's other groups do not come along
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        # Whoever changes his ids becomes undumpable, and his files in /proc the property of the host's root (proc(5)). Nobody
        # else is in these namespaces yet who could look into this process's memory.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    step("setgroups(), setresgid(0), setresuid(0)", "root of the user namespace")
    # Not with clone3: the new namespace's root is where the process stands, and the parent moved it only now (v1).
    kernel.unshare(kernel.CLONE_NEWCGROUP)
    step("unshare(CLONE_NEWCGROUP)", os.readlink("/proc/self/ns/cgroup"))
    if clock:
        kernel.unshare(kernel.CLONE_NEWTIME)
        now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        write("/proc/self/timens_offsets", f"boottime -{now} 0\n")  # the container has just booted
        step("unshare(CLONE_NEWTIME)", f"{os.readlink('/proc/self/ns/time_for_children')}, entered at exec (Linux 6.3)")
    else:
        # Before 6.3 execve stays outside, and then every vfork(2) gets EINVAL: parent and child would share memory, and with it
        # the clocks' page, over two time namespaces.
        step("unshare(CLONE_NEWTIME)", "left out: it needs Linux 6.3")
    kernel.sethostname(HOSTNAME)
    step("sethostname", HOSTNAME)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        # netdevice(7): SIOCSIFFLAGS with IFF_UP. lo is all that there is; it takes 127.0.0.1 by itself.
        fcntl.ioctl(control, 0x8914, struct.pack("16sH22x", b"lo", 1))
    step("ioctl(SIOCSIFFLAGS)", "lo is up")


def attach(kind: str, target: str, attributes: int, *options: tuple[str, str | int | None]) -> None:
    """fsopen, fsconfig, fsmount, move_mount: make a file system, set it up, make a mount of it, put that somewhere."""
    mount = kernel.make_filesystem(kind, options, attributes)
    try:
        kernel.move_mount(mount, target)
    finally:
        os.close(mount)


def build(lowers: list[str], whole: bool, clones: list[int], step: Steps) -> None:
    """The new root, in a tmpfs on /tmp that nobody else sees. Ends with the current directory on it."""
    # The mount namespace is a copy; without this, mounts made here would travel to the host's (or at best from it).
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    step('mount("/", MS_REC | MS_PRIVATE)', "mounts stay in this namespace")
    base = "/tmp"  # any directory: what is mounted over it vanishes together with the old root
    attach("tmpfs", base, 0, ("mode", "0755"))
    os.chdir(base)
    step(f"tmpfs on {base}", "a place for layers: lower, upper, work, root")
    for name in ("lower", "upper", "work", "root"):
        os.mkdir(name)
    if not whole:
        # A root that begins empty; the overlays go below it
        attach("tmpfs", "root", ROOT_ATTRIBUTES, ("mode", "0755"))
        step("tmpfs on root", "the new root, a mount of its own: pivot_root wants one")
    for number, lower in enumerate(lowers):
        overlay(number, lower, "root" if whole else f"root{lower}", clones[number] if clones else None, step)
    os.chdir("root")
    skeleton(whole)
    devices(step)
    # The kernel gives a user namespace a new proc or sysfs only while an old one, with nothing mounted over its files, is in
    # sight: otherwise it would uncover what a container's builder has masked. So before the old root goes.
    attach("proc", "proc", NO_PROGRAMS)
    step("proc on /proc", "shows this pid namespace")
    try:
        attach("sysfs", "sys", NO_PROGRAMS | kernel.MOUNT_ATTR_RDONLY)
        step("sysfs on /sys, read-only", "shows this network namespace's interfaces")
    except PermissionError:
        step("sysfs on /sys", "not permitted: the one in sight is partly covered")


def overlay(number: int, lower: str, target: str, clone: int | None, step: Steps) -> None:
    """An overlay: the lower directory to read, an upper one on the tmpfs to write, and an empty one to work in."""
    paths = {kind: f"{kind}/{number}" for kind in ("lower", "upper", "work")}
    for path in paths.values():
        os.mkdir(path)
    os.makedirs(target, exist_ok=True)
    # overlayfs in a user namespace takes a layer only from a mount that is attached in the mounter's own mount namespace, so
    # the clone, made by the parent or here, is attached first. Here recursive: what the copied namespace locked together
    # cannot be taken apart (mount_namespaces(7)).
    mount = clone if clone is not None else kernel.open_tree(kernel.AT_FDCWD, lower, kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
    kernel.move_mount(mount, paths["lower"])
    os.close(mount)
    options: list[tuple[str, str | int | None]] = [
        ("lowerdir", paths["lower"]),
        ("upperdir", paths["upper"]),
        ("workdir", paths["work"]),
        # overlayfs keeps its marks (an opaque directory, for one) in extended attributes, trusted.* by default, and those
        # are for the host's root
        ("userxattr", None),
    ]
    attach("overlay", target, ROOT_ATTRIBUTES, *options)
    step(f"overlay on /{target.partition('/')[2]}", f"{lower} below, {paths['upper']} on the tmpfs above")


def skeleton(whole: bool) -> None:
    """The directories and files that are neither mounted nor in a layer."""
    for name in ("proc", "sys", "dev", "tmp", "root", "etc", "run", "var"):
        if not os.path.lexists(name):
            os.mkdir(name)
        elif os.path.islink(name) and name in ("proc", "sys", "dev"):
            # Followed here it would lead to the host, and the mounts with it: runc's CVE-2019-19921 and its like. The engine
            # opens such a path with openat2(RESOLVE_IN_ROOT); one that is no directory is refused here.
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), f"/{name} of the root file system")
    if whole:
        return
    os.chmod("tmp", 0o1777)
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), name)
    # Not the host's /etc: its passwords and keys are nobody's business here
    make_file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    make_file("etc/group", "root:x:0:\nnogroup:x:65534:\n")
    make_file("etc/hostname", f"{HOSTNAME}\n")
    make_file("etc/hosts", f"127.0.0.1\tlocalhost\n127.0.1.1\t{HOSTNAME}\n")


def devices(step: Steps) -> None:
    """/dev: a tmpfs with the harmless devices of the host, by bind mounts."""
    attach("tmpfs", "dev", kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC, ("mode", "0755"), ("size", "64k"))
    for name in DEVICES:
        # mknod(2) in a user namespace gets EPERM: a device node is a key to the host's hardware. A mount of the host's own
        # node is allowed.
        make_file(f"dev/{name}")
        node = kernel.open_tree(kernel.AT_FDCWD, f"/dev/{name}", kernel.OPEN_TREE_CLONE)
        kernel.move_mount(node, f"dev/{name}")
        os.close(node)
    for name in ("pts", "shm"):
        os.mkdir(f"dev/{name}")
    attach("devpts", "dev/pts", kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC, ("ptmxmode", "0666"), ("mode", "0620"))
    attach("tmpfs", "dev/shm", NO_PROGRAMS, ("mode", "1777"), ("size", "16m"))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"dev/{name}")
    os.symlink("/proc/self/fd", "dev/fd")
    os.symlink("pts/ptmx", "dev/ptmx")
    step("tmpfs on /dev, open_tree(/dev/null), …", f"{' '.join(DEVICES)}, pts, shm")


def pivot(step: Steps) -> None:
    """Exchange the root mount, and let go of the old one: not chroot(2), which only changes where "/" points."""
    new = os.stat(".")
    # pivot_root(2), "pivot_root(".", ".")": the old root is put where the new one is, on top of it, and no directory is
    # needed for it
    kernel.pivot_root(".", ".")
    step('pivot_root(".", ".")', "the old root lies stacked on the new one")
    # "." is now the topmost mount here: the old root. MNT_DETACH takes it with all that is mounted below it, /tmp included.
    # One call takes one mount off the stack. Here one is enough, as nothing was attached over the old "/" itself; whoever
    # attaches his new root on "/" has to call once more, or the whole host stays one ".." away.
    kernel.umount(".", kernel.MNT_DETACH)
    os.chdir("/")
    # ".." of the root crosses whatever is still stacked on it. So look, and do not believe the count.
    above = os.stat("..")
    roots = [mount for mount in proc.mounts() if mount.mount_point == "/"]
    if (above.st_dev, above.st_ino) != (new.st_dev, new.st_ino) or len(roots) != 1:
        raise OSError(errno.EBUSY, "something of the host is still mounted over the new root", "pivot_root")
    step('umount2(".", MNT_DETACH)', f"the host is gone; {len(proc.mounts())} mounts left, '/' is {roots[0].kind}")


def confine(step: Steps) -> None:
    """Give up what the program shall not have. In this order: each step needs a privilege that a later one takes away."""
    keep = capabilities.mask(CAPABILITIES)
    last = int(proc.read_text("/proc/sys/kernel/cap_last_cap"))
    # exec gives uid 0 whatever is in the bounding set (capabilities(7)): so that first, while CAP_SETPCAP is there
    for number in range(last + 1):
        if not keep >> number & 1:
            kernel.prctl(kernel.PR_CAPBSET_DROP, number)
    kernel.capset(keep, keep, 0)
    step("prctl(PR_CAPBSET_DROP), capset", f"{len(CAPABILITIES)} of {last + 1} capabilities: {keep:#x}")
    # No setuid program gives anything back. It is also what lets a process without CAP_SYS_ADMIN load a filter: otherwise
    # one could run a setuid program with, say, a setuid(2) that fails without a word.
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    step("prctl(PR_SET_NO_NEW_PRIVS)", "for ever, and for all descendants")
    rules = (seccomp.rule(*REFUSED, action="SCMP_ACT_ERRNO", errno=errno.EPERM),)
    program = seccomp.compile_filter(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=rules), kernel.MACHINE)
    kernel.seccomp_filter(program)  # last: it refuses what came before
    step("seccomp(SECCOMP_SET_MODE_FILTER)", f"{len(program) // 8} instructions of BPF, {len(REFUSED)} calls refused")


def execute(command: list[str], step: Steps) -> int:
    """Become the program. All other descriptors are O_CLOEXEC, as Python's always are; one of the host's left open would be
    a way out (CVE-2024-21626). Returns the shell's exit status for a program that cannot be started."""
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) > 2:
            try:
                os.set_inheritable(int(fd), False)  # those inherited from the caller, too
            except OSError:
                pass  # the one that listed them
    step(f"execve({command[0]})", "pid 1 of the container")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an ignored signal stays ignored after exec
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, ENVIRONMENT)
    except OSError as error:
        os.write(2, f"container.py: {command[0]}: {error.strerror}\n".encode())
        return 127 if error.errno == errno.ENOENT else 126


def main(words: list[str]) -> int:
    """The command line: ``container.py [--quiet] [--root DIR] [COMMAND…]``."""
    root, quiet = "", False
    while words and words[0].startswith("--"):
        word, *words = words
        if word == "--":
            break
        if word == "--quiet":
            quiet = True
        elif word == "--root" and words:
            root, *words = words
            root = os.path.realpath(root)
        else:
            print("usage: container.py [--quiet] [--root DIR] [--] [COMMAND…]", file=sys.stderr)
            return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cgroup goes with us
    sys.stdout.flush()
    return run(words or ["sh", "-c", TOUR], root, quiet)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
