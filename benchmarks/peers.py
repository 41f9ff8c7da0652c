"""The other engines, each as its own manual has it, with what this machine needs. Every one is a function of the `Shop`
that yields its contestants, or raises `Missing`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

from contest import Contestant, Missing, Shop

Contestants = tuple[list[Contestant], list[Contestant]]  # those that start a container, those that run a command in one
TRUE = "/usr/bin/true"
LIMITED = "512 MB, 64 pids, 1 CPU"
LIMIT_FLAGS = ("--memory", "512m", "--pids-limit", "64", "--cpus", "1")
UNIFIED = "/sys/fs/cgroup/unified"


def need(program: str) -> str:
    """Where a program is. Raises Missing."""
    path = shutil.which(program)
    if path is None:
        raise Missing("not on PATH")
    return path


def ask(*argv: str, timeout: float = 60) -> str:
    """What a program prints. Raises Missing with its last words when it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise Missing(f"{' '.join(argv[:1] + argv[-2:])}: {(done.stderr.strip() or 'no word').splitlines()[-1][:200]}")
    return done.stdout.strip()


def bubblewrap(_: Shop) -> Contestants:
    """A sandbox of binds."""
    argv = [need("bwrap"), "--unshare-all", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"]
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            argv += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            argv += ["--ro-bind", f"/{name}", f"/{name}"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", TRUE]
    return [Contestant("bubblewrap", "host's /usr, /etc by bind; no overlay, limits, seccomp", argv)], []


def unshare(_: Shop) -> Contestants:
    """The namespaces alone."""
    argv = [need("unshare"), "--user", "--map-root-user", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid", "--fork", "--mount-proc", TRUE]
    return [Contestant("unshare", "host's root; namespaces and /proc, nothing else", argv)], []


def nspawn(shop: Shop) -> Contestants:
    """systemd-nspawn, unregistered: what it can do without systemd."""
    argv = [need("systemd-nspawn"), "--quiet", "--register=no", "--keep-unit", f"--machine={shop.cgroup}", "--private-network"]
    argv += ["--private-users=536870912:65536", "--volatile=yes", "--directory=/", TRUE]
    return [Contestant("systemd-nspawn", "host's /usr read-only; seccomp, no limits", argv, every=4)], []


def _bundle(shop: Shop, runc: str, name: str, args: list[str]) -> str:
    """A bundle: `runc spec`'s own configuration, with the limits."""
    directory = shop.directory / f"bundle-{name}"
    directory.mkdir()
    ask(runc, "spec", "--bundle", str(directory))
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["process"].update(terminal=False, args=args)
    config["root"]["path"] = str(shop.root)
    limits = {"memory": {"limit": 512 << 20}, "cpu": {"quota": 100000, "period": 100000}, "pids": {"limit": 64}}
    config["linux"].setdefault("resources", {}).update(limits)
    config["linux"]["cgroupsPath"] = f"/{shop.cgroup}/{name}"
    path.write_text(json.dumps(config))
    return str(directory)


def runc(shop: Shop) -> Contestants:
    """runc with a prepared bundle."""
    program = need("runc")
    base = [program, "--root", f"{shop.directory}/runc-state"]
    what = f"prepared bundle of true and libc; {LIMITED}, no user namespace, no seccomp"
    start = Contestant("runc run", what, [*base, "run", "--bundle", _bundle(shop, program, "runc", [TRUE]), "runc"], every=4)
    idle = _bundle(shop, program, "runc-idle", ["/usr/bin/sleep", "600"])
    shop.stack.callback(subprocess.run, [*base, "delete", "--force", "idle"], capture_output=True, check=False)
    subprocess.run([*base, "run", "--detach", "--bundle", idle, "idle"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return [start], [Contestant("runc exec", "in a container of its own", [*base, "exec", "idle", TRUE], every=4)]


def crun(shop: Shop) -> Contestants:
    """crun with the same bundle. It refuses hybrid cgroups, so it is shown none."""
    program = need("crun")
    argv = [program, "--root", f"{shop.directory}/crun-state", "run", "--bundle", _bundle(shop, need("runc"), "crun", [TRUE]), "crun"]
    what = f"the same bundle; {LIMITED}, no user namespace, no seccomp"
    if not os.path.ismount(UNIFIED):
        return [Contestant("crun run", what, argv, every=4)], []
    detour = [need("unshare"), "--mount", "/bin/sh", "-c", f'umount {UNIFIED}; exec "$@"', "sh"]
    shop.notes.append(f"crun refuses hybrid cgroups: it is run by `unshare -m sh -c 'umount {UNIFIED}; exec crun ...'`, and nothing is subtracted")
    return [
        Contestant("crun run", f"{what}; with the detour", [*detour, *argv], every=4),
        Contestant("crun's detour", "unshare, sh and umount alone", [*detour, TRUE]),
    ], []


def parent(pid: int) -> int:
    """The parent of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def podman_base(shop: Shop, name: str) -> list[str]:
    """podman's command with a store of its own."""
    directory = shop.directory / name
    base = [need("podman"), "--root", f"{directory}/root", "--runroot", f"{directory}/run", "--tmpdir", f"{directory}/tmp"]
    return [*base, "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", need("runc")]


def podman(shop: Shop) -> Contestants:
    """podman with an image store of its own."""
    base = podman_base(shop, "podman")
    ask(*base, "import", "--quiet", str(shop.archive), "bench")
    shop.stack.callback(subprocess.run, [*base, "rm", "--all", "--force", "--time", "0"], capture_output=True, check=False)
    run = [*base, "run", "--rm", "--network", "none", "--cgroup-parent", f"/{shop.cgroup}", *LIMIT_FLAGS]
    run += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
    start = Contestant("podman run", f"image of true and libc; {LIMITED}, seccomp", [*run, "bench", TRUE], every=20, settle=True)
    idle = ask(*run, "--detach", "bench", "/usr/bin/sleep", "600")
    shop.monitors["conmon (podman)"] = [parent(int(ask(*base, "inspect", "--format", "{{.State.Pid}}", idle)))]
    return [start], [Contestant("podman exec", "in a container of its own", [*base, "exec", idle, TRUE], every=20, settle=True)]


def docker_base(shop: Shop, name: str, *, networks: bool = False) -> list[str]:
    """docker's command with a daemon and a store of its own; `networks`: it may write rules into this network namespace."""
    client, daemon = need("docker"), need("dockerd")
    directory = shop.directory / name
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    argv = [need("setpriv"), "--pdeathsig", "TERM", daemon, "--config-file", f"{directory}/config.json", "--data-root", f"{directory}/data"]
    argv += ["--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid", "--host", f"unix://{directory}/socket"]
    if not networks:
        argv += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
    argv += ["--cgroup-parent", f"/{shop.cgroup}"]
    argv += ["--containerd-namespace", shop.cgroup, "--containerd-plugins-namespace", f"{shop.cgroup}-plugins"]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    base = [client, "--host", f"unix://{directory}/socket"]
    shop.stack.callback(_stop, process)
    deadline = time.monotonic() + 20
    while subprocess.run([*base, "version"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"dockerd: {'ended' if process.poll() is not None else 'not up after 20 s'}")
        time.sleep(0.1)
    shop.stack.callback(_remove_all, base)
    return base


def docker(shop: Shop) -> Contestants:
    """docker with a daemon of its own."""
    base = docker_base(shop, "docker")
    ask(*base, "import", str(shop.archive), "bench")
    run = [*base, "run", "--rm", "--network", "none", *LIMIT_FLAGS]
    start = Contestant("docker run", f"image of true and libc; {LIMITED}, seccomp", [*run, "bench", TRUE], every=20, settle=True)
    idle = ask(*run, "--detach", "bench", "/usr/bin/sleep", "600")
    shop.monitors["containerd-shim (docker)"] = [parent(int(ask(*base, "inspect", "--format", "{{.State.Pid}}", idle)))]
    return [start], [Contestant("docker exec", "in a container of its own", [*base, "exec", idle, TRUE], every=20, settle=True)]


def _remove_all(base: list[str]) -> None:
    """Remove every container of our own daemon's."""
    listed = subprocess.run([*base, "ps", "--all", "--quiet"], capture_output=True, text=True, timeout=20, check=False).stdout.split()
    if listed:
        subprocess.run([*base, "rm", "--force", *listed], capture_output=True, timeout=30, check=False)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop our daemon; it stops the containerd that it started."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: itself and its containerd
        process.wait()


PEERS: dict[str, Callable[[Shop], Contestants]] = {
    "bubblewrap": bubblewrap,
    "unshare": unshare,
    "systemd-nspawn": nspawn,
    "runc": runc,
    "crun": crun,
    "podman": podman,
    "docker": docker,
}


def versions() -> dict[str, str]:
    """What each peer on PATH calls itself."""
    found = {}
    for name in PEERS:
        path = shutil.which("bwrap" if name == "bubblewrap" else name)
        if path:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
            found[name] = said[0] if said else "?"
    return found


# What peers leave outside the directories that they were given. What was not there before the run is removed after it: these
# files, and of these directories what is empty.
FILES = (
    "/dev/shm/libpod_lock", "/etc/cni/net.d/cni.lock", "/etc/docker/key.json", "/var/cache/containers/short-name-aliases.conf.lock",
    "/var/lib/containers/cache/blob-info-cache-v1.boltdb",
)  # fmt: skip
DIRECTORIES = (
    "/etc/cni", "/etc/docker", "/opt/containerd", "/run/containerd", "/run/crun", "/run/docker", "/run/libpod", "/run/runc",
    "/run/systemd/nspawn", "/run/systemd/nspawn-root", "/var/cache/containers", "/var/lib/containers",
)  # fmt: skip
CGROUPS = ("docker", "libpod_parent", "payload", "supervisor")  # likewise, in each hierarchy


def cgroup_roots() -> Iterator[str]:
    """The root of every cgroup hierarchy."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields = line.split()
            if fields[fields.index("-") + 1] in ("cgroup", "cgroup2"):
                yield fields[4]


def footprints(shop: Shop) -> None:
    """Remember what is there, so that at the end what is new can go."""
    files = [path for path in FILES if not os.path.lexists(path)]
    trees = [path for path in DIRECTORIES if not os.path.lexists(path)]
    cgroups = [path for root in cgroup_roots() for name in CGROUPS if not os.path.isdir(path := f"{root}/{name}")]
    cgroups += [f"{root}/{shop.cgroup}" for root in cgroup_roots()]

    def remove() -> None:
        for path in files:
            if os.path.lexists(path):
                os.unlink(path)
        for tree in (*trees, *cgroups):
            for directory, _, _ in os.walk(tree, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError as error:
                    print(f"left behind: {directory}: {error.strerror}")

    shop.stack.callback(remove)
