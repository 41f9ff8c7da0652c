"""What works here, by trying it: each feature, what Hutch uses in its place, and how to have it."""

from __future__ import annotations

import importlib.util
import os

from hutch.kernel import capabilities, syscalls
from hutch.kernel.features import IDMAP_SINCE, Features, features, program
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Finding(Record):
    """One feature: whether it is there, what was seen, what is used instead, how to enable it."""

    name: str
    ok: bool
    detail: str = ""
    instead: str = ""
    enable: str = ""


def attempt(action: Callable[[], object]) -> int:
    """Do something in a child process that ends with it; 0, or the errno of its failure."""
    pid = os.fork()
    if pid == 0:
        code = 125
        try:
            action()
            code = 0
        except OSError as error:
            code = min(error.errno or 125, 125)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _in_namespace(action: Callable[[], object]) -> Callable[[], None]:
    def both() -> None:
        if os.geteuid() == 0:
            syscalls.unshare(syscalls.CLONE_NEWNS)
        else:
            _user_namespace()
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        action()

    return both


def _overlay() -> None:
    base = syscalls.make_filesystem("tmpfs")
    syscalls.move_mount(base, "/tmp")
    for name in ("upper", "work"):
        os.mkdir(f"/tmp/{name}")
    options: list[tuple[str, str | int | None]] = [("lowerdir", "/usr"), ("upperdir", "/tmp/upper"), ("workdir", "/tmp/work")]
    if os.geteuid() != 0 or not features().privileged:
        options.insert(0, ("userxattr", None))
    os.close(syscalls.make_filesystem("overlay", options))


def _proc_in_pid_namespace() -> None:
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.close(syscalls.make_filesystem("proc"))
        except OSError as error:
            code = error.errno or 125
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def _sysfs() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    os.close(syscalls.make_filesystem("sysfs"))


def _said(errno: int) -> str:
    return "" if errno == 0 else os.strerror(errno)


def examine() -> list[Finding]:
    """Every finding, from the kernel up. Processes are made and end; nothing else is touched."""
    f = features()
    out = [_kernel(f), *_namespaces(f), *_filesystems(f), *_networks(f), *_machines(f), *_cgroups(f), *_rights(f), *_libraries()]
    out.append(_whole())
    return out


def _kernel(f: Features) -> Finding:
    version = f"{f.kernel[0]}.{f.kernel[1]}"
    return Finding(
        name="Linux 5.15 or newer",
        ok=f.kernel >= (5, 15),
        detail=f"{version} on {f.machine}",
        enable="a newer kernel: the mount API by descriptor is not complete before",
    )


def _namespaces(f: Features) -> list[Finding]:
    out = []
    userns = attempt(_user_namespace)
    out.append(
        Finding(
            name="user namespaces",
            ok=userns == 0,
            detail=_said(userns),
            instead="as root, containers without one (--userns host)" if f.privileged else "nothing: without root every container needs one",
            enable="sysctl user.max_user_namespaces=15000; kernel.unprivileged_userns_clone=1 (Debian before 11); "
            "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)",
        )
    )
    for name in ("mnt", "pid", "ipc", "uts", "net", "cgroup"):
        out.append(Finding(name=f"{name} namespaces", ok=name in f.namespaces, enable="a kernel with CONFIG_NAMESPACES and its parts"))
    out.append(Finding(name="time namespaces", ok=f.time_namespaces, instead="--time-offset is refused", enable="Linux 6.3 with CONFIG_TIME_NS"))
    for name, action in (("proc", _proc_in_pid_namespace), ("sysfs", _sysfs)):
        errno = attempt(_in_namespace(action))
        out.append(
            Finding(
                name=f"a {name} of the container's own",
                ok=errno == 0,
                detail=_said(errno),
                instead="nothing: the container cannot start" if name == "proc" else "--network host shows the host's /sys",
                enable="inside another container the outer one must leave /proc and /sys uncovered (docker run --security-opt systempaths=unconfined)",
            )
        )
    if f.uid != 0:
        mapped = bool(f.subuid and f.subgid and f.newuidmap and f.newgidmap)
        out.append(
            Finding(
                name="subordinate ids",
                ok=mapped,
                detail=f"{f.subuid.count} from {f.subuid.start}" if f.subuid else "no line in /etc/subuid",
                instead="one id: the container's root is you, and there are no other users in it",
                enable="usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, and newuidmap (Debian: uidmap)",
            )
        )
    return out


def _filesystems(f: Features) -> list[Finding]:
    errno = attempt(_in_namespace(_overlay))
    root = f.mount_at("/usr")
    kind = root.kind if root else "?"
    since = IDMAP_SINCE.get(kind)
    out = [
        Finding(
            name="overlayfs", ok=errno == 0, detail=_said(errno), instead="nothing: images need it", enable="modprobe overlay; in a user namespace Linux 5.11"
        ),
        Finding(name="overlayfs layers by descriptor", ok=f.overlay_by_descriptor, instead="their paths under /proc/self/fd", enable="Linux 6.13"),
        Finding(name="user attributes on tmpfs", ok=f.upper_user_xattrs, instead="as root, no user namespace by default", enable="Linux 6.6"),
    ]
    if f.privileged:
        out.append(
            Finding(
                name="idmapped layers of this machine's files",
                ok=f.can_idmap("/usr") and f.idmapped_layers,
                detail=f"/usr is on {kind}",
                instead="containers of `host` without a user namespace: their root is the host's, confined by capabilities and seccomp",
                enable=f"Linux {since[0]}.{since[1]}" if since else f"another file system: {kind} takes no idmapped mounts",
            )
        )
    return out


def _bridge() -> None:
    from hutch.kernel.netlink import route

    syscalls.unshare(syscalls.CLONE_NEWNET)
    with route.Route() as socket:
        socket.do(route.bridge("doctor0"))
        socket.do(route.veth("doctor1", "doctor2"))


def _networks(f: Features) -> list[Finding]:
    from hutch.network import nft

    refusal = "--network NAME is refused; --network none and host remain"
    errno = attempt(_in_namespace(_bridge))
    there = nft.available()
    out = [
        Finding(name="bridges and veth pairs", ok=errno == 0, detail=_said(errno), instead=refusal, enable="modprobe bridge veth"),
        Finding(name="nftables", ok=bool(there), detail=there, instead=refusal, enable="apt-get install nftables"),
    ]
    if f.privileged and there:
        out.append(_others_rules())
    if not f.privileged:
        path = program("pasta")
        out.append(Finding(name="networks without root", ok=bool(path), detail=path, instead=refusal, enable="install pasta (Debian: passt)"))
        out.append(
            Finding(
                name="interfaces of the host's",
                ok=False,
                instead="--network device:NAME is refused; an address of the host's reaches its services",
                enable="sudo",
            )
        )
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            first = int(file.read())
        out.append(
            Finding(
                name="ports below 1024", ok=first <= 1, detail=f"from {first} on", instead=f"publish ports from {first} on",
                enable="sysctl net.ipv4.ip_unprivileged_port_start=0",
            )
        )  # fmt: skip
    return out


def _machines(f: Features) -> list[Finding]:
    """What containers in machines of their own need: hardware that runs a guest, QEMU, virtiofsd, a kernel."""
    from hutch.errors import HutchError
    from hutch.kernel.kvm.probe import probe
    from hutch.vm import initramfs, kernel, modules, qemu, virtiofsd

    found = probe()
    instead = "--isolation vm --vm-accel tcg emulates them in software, which is no security boundary"
    out = [Finding(name="virtual machines by hardware", ok=found.works, detail="" if found.works else found.reason, instead=instead, enable=found.hint)]
    if f.machine != "x86_64":
        return [*out, Finding(name="containers in machines", ok=False, detail=f"this is {f.machine}, and Hutch's machines are for x86-64")]

    def guest() -> str:
        chosen = kernel.find()
        modules.files(chosen, (*initramfs.ALWAYS, *initramfs.SHARED_ROOT, *initramfs.DISK_ROOT, *initramfs.NETWORK))
        kernel.elf_of(chosen)
        return f"Linux {chosen.release}"

    parts: tuple[tuple[str, Callable[[], str], str], ...] = (
        ("QEMU", lambda: qemu.find().path, "no machines at all"),
        ("virtiofsd", lambda: virtiofsd.find().path, "only machines with a root on disks of their own: --vm-root disk"),
        ("a kernel for guests", guest, "--kernel FILE names one"),
    )
    for name, ask, lost in parts:
        try:
            out.append(Finding(name=name, ok=True, detail=ask()))
        except HutchError as error:
            out.append(Finding(name=name, ok=False, detail=error.message.removeprefix("isolation vm: "), instead=lost, enable=error.hint or ""))
    tap = os.access("/dev/net/tun", os.R_OK | os.W_OK)
    out.append(Finding(name="interfaces for machines", ok=tap, detail="" if tap else "/dev/net/tun cannot be opened", instead="machines on no network",
                       enable="modprobe tun; chmod 666 /dev/net/tun"))  # fmt: skip
    return out


def _others_rules() -> Finding:
    """Whether somebody else's rules drop what is forwarded and not theirs: then Hutch's do not help (nft(8): every chain is asked)."""
    from hutch.errors import HutchError
    from hutch.network import nft

    name = "others' rules for what is forwarded"
    try:
        chains = [item["chain"] for item in nft.run([{"list": {"chains": None}}]) if "chain" in item]
    except HutchError as error:
        return Finding(name=name, ok=True, detail=f"cannot be listed: {error.message}")
    strict = [item for item in chains if item.get("hook") == "forward" and item.get("policy") == "drop" and item["family"] in ("ip", "ip6", "inet")]
    if not strict:
        return Finding(name=name, ok=True, detail="nobody's policy is drop")
    for item in [*strict]:
        listed = nft.listed(item["family"], item["table"])
        if any("hutch-" in str(rule["rule"]["expr"]) for rule in listed if "rule" in rule):
            strict.remove(item)  # somebody has let them through
    if not strict:
        return Finding(name=name, ok=True, detail="Hutch's networks are let through")
    within = {item["name"] for item in chains if (item["family"], item["table"]) == (strict[0]["family"], strict[0]["table"])}
    places = ", ".join(f"{item['family']} {item['table']} {item['name']}" for item in strict)
    remedy = "rules there that accept iifname hutch-* and oifname hutch-*"
    if "DOCKER-USER" in within:
        remedy = "iptables -I DOCKER-USER -i hutch-+ -j ACCEPT; iptables -I DOCKER-USER -o hutch-+ -j ACCEPT"
    elif any(chain.startswith("ufw") for chain in within):
        remedy = "ufw default allow routed, or such rules in /etc/ufw/before.rules"
    return Finding(name=name, ok=False, instead=f"containers reach nothing beyond this host: {places} drops what it does not accept", enable=remedy)


def _cgroups(f: Features) -> list[Finding]:
    layout = f.cgroups
    v1 = {c.name for c in layout.v1}
    may = layout.v2_writable or f.privileged if layout.mode == "v2" else f.privileged
    available = set(layout.v2_controllers if f.privileged or layout.v2_path == "/" else layout.v2_own_subtree) if layout.mode == "v2" else v1
    out = [
        Finding(
            name="control groups",
            ok=layout.mode != "none",
            detail=f"{layout.mode}{f', delegated at {layout.v2_path}' if layout.mode == 'v2' and not f.privileged and may else ''}",
            enable="mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
        Finding(
            name="limits for this user",
            ok=may and bool(available),
            instead="containers without limits; asking for one is an error",
            enable="systemd-run --user --scope -p Delegate=yes hutch …, or --cgroup-manager systemd"
            if layout.mode == "v2"
            else "v1 cannot be delegated: run as root, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    ]
    for name in ("cpu", "memory", "pids", "cpuset", "io" if layout.mode == "v2" else "blkio", "hugetlb"):
        there = name in available or (name == "hugetlb" and name in layout.v2_controllers and f.privileged)
        out.append(
            Finding(
                name=f"{name} controller",
                ok=there and may,
                instead="limits of its are refused",
                enable=f"echo +{name} > {layout.v2_mount or '/sys/fs/cgroup'}/cgroup.subtree_control, or a kernel built with it",
            )
        )
    return out


def _rights(f: Features) -> list[Finding]:
    limit = f.hard_limits.get("RLIMIT_NOFILE", 0)
    out = [
        Finding(name="root", ok=f.privileged, detail=f"uid {f.uid}", instead="rootless containers", enable="sudo"),
        Finding(
            name="raising resource limits",
            ok=bool(f.capabilities & capabilities.SYS_RESOURCE),
            detail=f"at most {limit} open files",
            instead="--ulimit and --oom-score-adj within this process's own limits",
            enable="CAP_SYS_RESOURCE",
        ),
    ]
    try:
        syscalls.syscall("seccomp", syscalls.SECCOMP_GET_ACTION_AVAIL, 0, _u32(0x7FFF0000))
        errno = 0
    except OSError as error:
        errno = error.errno or 1
    out.append(Finding(name="seccomp filters", ok=errno == 0, detail=_said(errno), enable="a kernel with CONFIG_SECCOMP_FILTER"))
    out.append(Finding(name="AppArmor", ok=f.apparmor, instead="namespaces, capabilities and seccomp; profiles are refused", enable="a kernel with AppArmor"))
    out.append(Finding(name="SELinux", ok=f.selinux, instead="the same; labels are refused", enable="a kernel with SELinux"))
    return out


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _libraries() -> list[Finding]:
    out = []
    for module, what, enable in (
        ("zstandard", "zstd-compressed archives", "pip install zstandard"),
        ("jeepney", "cgroups by systemd", "pip install 'hutch[systemd]'"),
        ("qemu.qmp", "pauses and snapshots of machines", "pip install 'hutch[vm]'"),
    ):
        parent = module.partition(".")[0]
        there = importlib.util.find_spec(parent) is not None and importlib.util.find_spec(module) is not None
        out.append(Finding(name=what, ok=there, instead="refused", enable=enable))
    return out


def _whole() -> Finding:
    from hutch.engine.containers.once import run

    result = run("host", ["true"], timeout=20)
    detail = f"{result.usage.wall * 1000:.1f} ms" if result.ok else result.describe()
    return Finding(name="a container of this machine's files", ok=result.ok, detail=detail)
