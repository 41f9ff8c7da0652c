"""Devices: those that are always there, those of the configuration, and who may open them."""

from __future__ import annotations

import pytest

from tests.conformance.runtime import config, mapped, shell

pytestmark = pytest.mark.root
clause = pytest.mark.clause
DEFAULT = {"null": "1 3", "zero": "1 5", "full": "1 7", "random": "1 8", "urandom": "1 9", "tty": "5 0"}
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
DENY = {"allow": False, "access": "rwm"}


def with_rules(*rules: dict) -> dict:
    return {"resources": {"devices": list(rules)}}


@clause("config-linux.md", "Default Devices", "null, zero, full, random, urandom, tty MUST be supplied")
@pytest.mark.parametrize("user", [False, True], ids=["", "user"])
def test_default_devices(box, user):
    script = "for d in null zero full random urandom tty; do stat -c '%F %t %T %a' /dev/$d; done"
    lines = box((mapped if user else shell)(script)).run().lines()
    assert lines == [f"character special file {numbers} 666" for numbers in DEFAULT.values()]


@clause("config-linux.md", "Default Devices", "they work")
@pytest.mark.parametrize("user", [False, True], ids=["", "user"])
def test_default_devices_work(box, user):
    script = "echo x > /dev/null; head -c4 /dev/zero | od -An -tx1; head -c8 /dev/urandom | wc -c; echo x > /dev/full || echo full"
    assert [line.strip() for line in box((mapped if user else shell)(script)).run().lines()] == ["00 00 00 00", "8", "full"]


@clause("config-linux.md", "Default Devices", "/dev/ptmx is the container's /dev/pts/ptmx")
def test_ptmx(box):
    assert box(shell("readlink /dev/ptmx || stat -c %t,%T /dev/ptmx")).run().lines()[0] in ("pts/ptmx", "/dev/pts/ptmx", "5,2")


@clause("config-linux.md", "Default Devices", "fd, stdin, stdout, stderr are links into /proc/self/fd")
def test_links(box):
    lines = box(shell("for d in fd stdin stdout stderr; do readlink /dev/$d; done")).run().lines()
    assert lines == list(LINKS.values())


@clause("config-linux.md", "Devices", "c, b, u and p; fileMode, uid, gid; anywhere in the container's file system")
def test_devices(box):
    devices = [
        {"path": "/dev/my-zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/my-full", "type": "u", "major": 1, "minor": 7, "fileMode": 0o600},
        {"path": "/deep/er/loop", "type": "b", "major": 7, "minor": 3, "fileMode": 0o660, "gid": 6},
        {"path": "/deep/pipe", "type": "p", "fileMode": 0o622, "uid": 9},
    ]
    script = "for d in /dev/my-zero /dev/my-full /deep/er/loop /deep/pipe; do stat -c '%F %t %T %a %u %g' $d; done"
    assert box(shell(script, linux={"devices": devices})).run().lines() == [
        "character special file 1 5 640 7 8",
        "character special file 1 7 600 0 0",
        "block special file 7 3 660 0 6",
        "fifo 0 0 622 9 0",
    ]


@clause("config-linux.md", "Devices", "MUST be available with a user namespace too, where mknod is not allowed")
def test_devices_with_a_user_namespace(box):
    devices = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]
    assert box(mapped("stat -c '%F %t %T' /dev/fuse", linux={"devices": devices})).run().lines() == ["character special file a e5"]


@clause("config-linux.md", "Devices", "a file that exists and does not match the device MUST generate an error")
def test_device_over_another_file(box):
    devices = [{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 5}]
    box(config("true", linux={"devices": devices})).create().failed()


@clause("config-linux.md", "Devices", "a device that is there already and matches is left")
def test_device_that_is_there(box):
    devices = [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}]
    assert box(shell("echo x > /dev/null && echo ok", linux={"devices": devices})).run().lines() == ["ok"]


@clause("config-linux.md", "Devices", "an unknown type is an error")
def test_unknown_type(box):
    box(config("true", linux={"devices": [{"path": "/dev/x", "type": "z", "major": 1, "minor": 5}]})).create().failed()


OPEN = "mknod /tmp/loop b 7 5 2>/dev/null || echo no node; head -c0 /tmp/loop 2>/dev/null && echo opened || echo refused"


@clause("config-linux.md", "Allowed Device list", "what is denied cannot be opened, what is allowed can, in the listed order")
@pytest.mark.parametrize(("rules", "opened"), [
    ([DENY], False),
    ([DENY, {"allow": True, "type": "b", "major": 7, "minor": 5, "access": "rwm"}], True),
    ([DENY, {"allow": True, "type": "b", "major": 7, "access": "rwm"}], True),
    ([DENY, {"allow": True, "type": "b", "major": 7, "minor": 6, "access": "rwm"}], False),
    ([DENY, {"allow": True, "type": "c", "major": 7, "minor": 5, "access": "rwm"}], False),
    ([DENY, {"allow": True, "type": "b", "major": 7, "minor": 5, "access": "wm"}], False),
    ([DENY, {"allow": True, "access": "rwm"}], True),
], ids=["denied", "number", "major", "other minor", "other type", "other access", "all"])  # fmt: skip
def test_allowed_devices(box, rules, opened):
    assert box(shell(OPEN, linux=with_rules(*rules))).run().lines()[-1] == ("opened" if opened else "refused")


@clause("config-linux.md", "Allowed Device list", "a later denial counts: what the kernel's list cannot say is an error, not silence")
def test_denial_after_allowance(box):
    rules = [DENY, {"allow": True, "type": "b", "major": 7, "access": "rwm"}, {"allow": False, "type": "b", "major": 7, "minor": 5, "access": "r"}]
    result = box(shell(OPEN, linux=with_rules(*rules))).run()
    assert (result.code != 0 and result.err) or result.lines()[-1] == "refused", result


@clause("config-linux.md", "Allowed Device list", "the default devices stay allowed")
def test_default_devices_stay_allowed(box):
    lines = (
        box(shell("echo x > /dev/null && head -c1 /dev/zero | wc -c; head -c1 /dev/urandom | wc -c; exec 3<>/dev/ptmx && echo ptmx", linux=with_rules(DENY)))
        .run()
        .lines()
    )
    assert lines == ["1", "1", "ptmx"]


@clause("config-linux.md", "Devices", "a device of the configuration is allowed by its rule")
def test_listed_device_with_its_rule(box):
    devices = [{"path": "/dev/loop-conf", "type": "b", "major": 7, "minor": 5, "fileMode": 0o600}]
    rules = with_rules(DENY, {"allow": True, "type": "b", "major": 7, "minor": 5, "access": "r"})
    lines = (
        box(shell("head -c0 /dev/loop-conf && echo read; true 2>/dev/null >> /dev/loop-conf && echo wrote", linux={"devices": devices, **rules}))
        .run()
        .out.splitlines()
    )
    assert lines == ["read"]


@clause("config-linux.md", "Default Devices", "a bind of the host's /dev needs none of the runtime's own")
def test_dev_of_the_host(box):
    data = config("sh", "-c", "test -c /dev/null && echo ok")
    data["mounts"] = [data["mounts"][0], {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind", "ro"]}]
    assert box(data).run().lines() == ["ok"]
