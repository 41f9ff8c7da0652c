"""The same for an ordinary user: one id of their own, or those that /etc/subuid lends them."""

from __future__ import annotations

import json
import os

import pytest

from tests.conformance.outside import Console
from tests.conformance.runtime import alive, shell, until

pytestmark = pytest.mark.root
clause = pytest.mark.clause
SPACES = ("user", "mount", "pid", "ipc", "uts", "network", "cgroup")
ROOTLESS = ("config-linux.md", "User namespace mappings (of an ordinary user)")


def own(script: str, user, **rest) -> dict:
    """A configuration that maps root inside to the user outside."""
    linux = {"uidMappings": [{"containerID": 0, "hostID": user.pw_uid, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": user.pw_gid, "size": 1}]}
    return shell(script, namespaces=SPACES, linux={**linux, **rest.pop("linux", {})}, **rest)


def subordinate(script: str, user, **rest) -> dict:
    """A configuration that maps the subordinate ids too."""

    def lent(path: str) -> tuple[int, int]:
        with open(path) as file:
            found = next(line.split(":") for line in file if line.startswith(f"{user.pw_name}:"))
        return int(found[1]), int(found[2])

    parts = []
    for path, first in (("/etc/subuid", user.pw_uid), ("/etc/subgid", user.pw_gid)):
        start, size = lent(path)
        parts.append([{"containerID": 0, "hostID": first, "size": 1}, {"containerID": 1, "hostID": start, "size": size}])
    return shell(script, namespaces=SPACES, linux={"uidMappings": parts[0], "gidMappings": parts[1], **rest.pop("linux", {})}, **rest)


@clause(*ROOTLESS, "root inside is the user outside")
def test_mapped_root(user_box, ordinary_user):
    container = user_box(own("id -u; cat /proc/self/uid_map; touch /tmp/mine", ordinary_user))
    first, second = container.run().lines()
    assert first == "0" and second.split() == ["0", str(ordinary_user.pw_uid), "1"]
    assert (container.rootfs / "tmp/mine").stat().st_uid == ordinary_user.pw_uid


@clause(*ROOTLESS, "subordinate ids are mapped by newuidmap and newgidmap")
def test_subordinate_ids(user_box, ordinary_user):
    container = user_box(subordinate("id -u; chown 1000:1000 /tmp/file; stat -c %u:%g /tmp/file", ordinary_user))
    (container.rootfs / "tmp/file").touch()
    os.chown(container.rootfs / "tmp/file", ordinary_user.pw_uid, ordinary_user.pw_gid)
    assert container.run().lines() == ["0", "1000:1000"]


@clause(*ROOTLESS, "another user inside is a subordinate id outside")
def test_subordinate_user(user_box, ordinary_user):
    user = {"uid": 1000, "gid": 1000, "additionalGids": [29]}
    lines = user_box(subordinate("id -u; id -G", ordinary_user, process={"user": user, "capabilities": {}})).run().lines()
    assert lines[0] == "1000" and {"1000", "29"} <= set(lines[1].split())


@clause(*ROOTLESS, "ids that nobody lent are refused")
def test_ids_of_others(user_box, ordinary_user):
    container = user_box(own("true", ordinary_user, linux={"uidMappings": [{"containerID": 0, "hostID": 0, "size": 10}]}))
    container.run().failed()


@clause("runtime.md", "Lifecycle (of an ordinary user)", "create, start, kill, delete")
def test_lifecycle(user_box, ordinary_user):
    container = user_box(own("echo run; sleep 100", ordinary_user))
    container.create().ok()
    assert container.status == "created" and container.out() == ""
    container.start().ok()
    until(lambda: container.out() == "run\n", "the output")
    assert os.stat(f"/proc/{container.init}").st_uid in (0, ordinary_user.pw_uid) and alive(container.init)
    container.delete().failed()
    container.kill("KILL").ok()
    container.wait_status("stopped")
    assert container.wait() == -9
    container.delete().ok()
    assert container.status == ""


@clause("runtime.md", "Operations (of an ordinary user)", "exec, list")
def test_commands(user_box, ordinary_user):
    container = user_box(own("sleep 100", ordinary_user)).up()
    assert container.exec("sh", "-c", "id -u; exit 3").code == 3
    assert container.exec("id", "-u").lines() == ["0"]
    found = {entry["id"]: entry for entry in container.runtime.call("list", "--format", "json").json()}[container.id]
    assert found["owner"] == ordinary_user.pw_name
    _, *rows = container.runtime.call("list").lines()
    assert any(row.split()[0] == container.id for row in rows)


@clause("runtime.md", "Operations (of an ordinary user)", "kill --all reaches the container, whatever its cgroup")
def test_kill_all(user_box, ordinary_user):
    container = user_box(own("sleep 99 & sleep 99", ordinary_user)).up()
    container.kill("KILL", "--all").ok()
    assert container.wait() == -9


@clause("runtime.md", "Operations (of an ordinary user)", "the exit code of run and of a signal")
@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("exit 0", 0)])
def test_exit_codes(user_box, ordinary_user, script, code):
    assert user_box(own(script, ordinary_user)).run().code == code


@clause("config.md", "Mounts (of an ordinary user)", "proc, tmpfs, devpts, mqueue, a bind of the host's sysfs; read-only and masked paths")
def test_mounts(user_box, ordinary_user, place):
    (place / "data").mkdir()
    (place / "data/file").write_text("seen\n")
    mounts = [
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/data", "type": "bind", "source": str(place / "data"), "options": ["bind", "ro"]},
    ]
    linux = {"maskedPaths": ["/proc/kcore", "/etc/group"], "readonlyPaths": ["/proc/sys"]}
    script = "cat /data/file; touch /data/x || echo ro; cat /etc/group; test -d /sys/class && echo sys; touch /dev/shm/x && echo shm; touch /x || echo ro"
    data = own(script, ordinary_user, mounts=mounts, linux=linux)
    data["root"]["readonly"] = True
    assert user_box(data).run().lines() == ["seen", "ro", "sys", "shm", "ro"]


@clause("config-linux.md", "Default Devices (of an ordinary user)", "they are there, where mknod is not allowed")
def test_devices(user_box, ordinary_user):
    script = "for d in null zero full random urandom tty; do stat -c '%t %T' /dev/$d; done; echo x > /dev/null; readlink /dev/fd"
    assert user_box(own(script, ordinary_user)).run().lines() == ["1 3", "1 5", "1 7", "1 8", "1 9", "5 0", "/proc/self/fd"]


@clause("config.md", "POSIX-platform Hooks (of an ordinary user)", "all six, as the user")
def test_hooks(user_box, ordinary_user, place):
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    hooks = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"id -u > {shared}/{kind}"], "env": ["PATH=/bin:/usr/bin"]}] for kind in kinds}
    mount = {"destination": str(shared), "type": "bind", "source": str(shared), "options": ["bind"]}
    user_box(own("true", ordinary_user, hooks=hooks, mounts=[mount])).run().ok()
    assert {kind for kind in kinds if (shared / kind).exists()} == set(kinds)
    assert (shared / "startContainer").read_text() == "0\n" and (shared / "poststop").stat().st_uid == ordinary_user.pw_uid


@clause("config.md", "Process (of an ordinary user)", "terminal")
def test_terminal(user_box, ordinary_user, place):
    console = Console(place, ordinary_user.pw_uid)
    try:
        container = user_box(own("tty && stty size", ordinary_user, process={"terminal": True, "consoleSize": {"height": 31, "width": 99}}))
        container.create("--console-socket", console.path).ok()
        console.receive()
        container.start().ok()
        assert "31 99" in console.read()
        container.wait()
    finally:
        console.close()


@clause("config-linux.md", "Seccomp (of an ordinary user)", "a filter needs no rights of the host's")
def test_seccomp(user_box, ordinary_user):
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}
    assert user_box(own("mkdir /tmp/x 2>/dev/null; echo $?", ordinary_user, linux={"seccomp": seccomp})).run().lines() == ["1"]


@clause("config.md", "Hostname (of an ordinary user)", "names and sysctls of the user's own namespaces")
def test_names(user_box, ordinary_user):
    data = own("hostname; cat /proc/sys/net/ipv4/ip_forward", ordinary_user, hostname="mine", linux={"sysctl": {"net.ipv4.ip_forward": "1"}})
    assert user_box(data).run().lines() == ["mine", "1"]


@clause("config-linux.md", "Control groups (of an ordinary user)", "a limit that cannot be kept is an error, not silence")
def test_limits(user_box, ordinary_user):
    user_box(own("true", ordinary_user, linux={"resources": {"memory": {"limit": 67108864}}})).create().failed()


@clause("runtime.md", "Operations (of an ordinary user)", "spec --rootless writes what can be run as it is")
def test_spec(user_box, ordinary_user):
    container = user_box()
    container.runtime.call("spec", "--rootless", "--bundle", str(container.bundle)).ok()
    data = json.loads((container.bundle / "config.json").read_text())
    data["process"] |= {"args": ["id", "-u"], "terminal": False}
    data["process"].pop("rlimits", None)
    container.write(data)
    assert container.run().lines() == ["0"]


@clause("runtime.md", "Errors (of an ordinary user)", "without a user namespace there is nothing that an ordinary user may do")
def test_no_user_namespace(user_box):
    user_box(shell("true")).run().failed()


@clause("runtime.md", "Hooks (of an ordinary user)", "a failing hook leaves nothing")
def test_failing_hook(user_box, ordinary_user):
    container = user_box(own("true", ordinary_user, hooks={"createRuntime": [{"path": "/bin/false"}]}))
    container.create().failed()
    assert container.status == ""
