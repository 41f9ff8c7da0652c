"""Directories of state in places that all may write to, where somebody else was first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import runtime as rt
from tests.conftest import system_python
from tests.security import test_oci_tools as tools

pytestmark = pytest.mark.root
place = tools.place
STRANGER = 54321  # another ordinary user
COMMANDS = [
    "list", "list --quiet", "list --format json", "state @", "ps @", "events --stats @", "exec @ true",
    "kill @ KILL", "kill --all @ KILL", "pause @", "resume @", "update --pids-limit 5 @", "start @",
    "delete @", "delete --force @",
]  # fmt: skip


class Elsewhere:
    """A user in a mount namespace whose /tmp, /dev/shm and /run (on a disk) are its own."""

    def __init__(self, user, place: Path, source: Path) -> None:
        self.uid, self.gid = (user.pw_uid, user.pw_gid) if user else (0, 0)
        self.home = place / "home"
        self.home.mkdir(mode=0o700)
        os.chown(self.home, self.uid, self.gid)
        self.environment = {
            "HOME": str(self.home),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(source),
        }
        run = place / "run"
        run.mkdir(mode=0o755)
        mounts = [f"mount -t tmpfs -o mode=1777 none {top}" for top in ("/tmp", "/dev/shm")]
        script = " && ".join([*mounts, f"mount --bind {run} /run", "echo ready", "exec sleep 1000"])
        words = ["unshare", "-m", "sh", "-c", script]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        rt.expect(self.process.pid)
        assert self.process.stdout.readline() == b"ready\n"

    def path(self, path: str) -> Path:
        """A file in there, from here."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def __call__(self, *words: str, module: str = "hutch.cli.oci") -> subprocess.CompletedProcess[str]:
        become = [
            "nsenter",
            f"--mount=/proc/{self.process.pid}/ns/mnt",
            "--wdns=/",
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--init-groups",
        ]
        with (
            open(self.home / "out", "w+") as out,
            open(self.home / "err", "w+") as err,
        ):  # what is left running may hold them
            line = [*become, system_python(), "-m", module, *words]
            done = subprocess.run(
                line,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment,
                check=False,
                timeout=30,
            )
            texts = [file.seek(0) or file.read() for file in (out, err)]
        assert "Traceback" not in texts[1] and "mistake" not in texts[1], texts
        return subprocess.CompletedProcess(words, done.returncode, *texts)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def elsewhere(ordinary_user, place: Path, public_source) -> Iterator[Elsewhere]:
    rt.adopt(True)
    made = Elsewhere(ordinary_user, place, public_source)
    yield made
    made.close()
    rt.adopt(False)
    rt.reap()


def given(path: Path, owner: int) -> None:
    """Give a tree away."""
    for name in [path, *path.rglob("*")]:
        os.chown(name, owner, owner, follow_symlinks=False)


def bundle(where: Elsewhere, place: Path) -> tuple[Path, Path]:
    """A bundle of the user's, with a hook after the end that tells of itself."""
    hook, told = place / "hook", where.home / "told"
    hook.write_text(f"#!/bin/sh\nid -u >>{told}\n")
    hook.chmod(0o755)
    path = place / "bundle"
    rt.make_rootfs(path / "rootfs")
    (path / "rootfs/bin/busybox").unlink()
    shutil.copy("/bin/busybox", path / "rootfs/bin/busybox")
    ids = [{"containerID": 0, "hostID": where.uid, "size": 1}]
    spaces = [*rt.NAMESPACES, "user"]
    data = rt.shell(
        "sleep 1000",
        namespaces=spaces,
        linux={"uidMappings": ids, "gidMappings": ids},
        hooks={"poststop": [{"path": str(hook)}]},
    )
    (path / "config.json").write_text(json.dumps(data))
    given(path, where.uid)
    return path, told


FORMS = [
    "a stranger's",
    "a stranger's, open to all",
    "a link to a stranger's",
    "the user's, open to all",
    "the user's, open to a group",
]


@pytest.mark.parametrize("named", [False, True], ids=["default", "named"])
@pytest.mark.parametrize("form", FORMS)
def test_containers_in_a_directory_of_another_users(elsewhere, place, form, named):
    """A directory of containers is not this user's alone: no command believes a record, or runs a hook."""
    made, told = bundle(elsewhere, place)
    options = [
        "--root",
        f"/tmp/hutch-oci-{elsewhere.uid}",
    ]  # where the default was, for a user without $XDG_RUNTIME_DIR
    assert elsewhere(*options, "create", "--bundle", str(made), "planted").returncode == 0
    root = elsewhere.path(options[1])
    pid = json.loads(elsewhere(*options, "state", "planted").stdout)["pid"]
    flags = options if named else []
    if form.startswith("a stranger's"):
        given(root, STRANGER)
        root.chmod(0o777 if "all" in form else 0o755)
        for path in root.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)
    elif form.startswith("the user's"):
        given(root / "planted", STRANGER)
        os.chown(root, elsewhere.uid, STRANGER)
        root.chmod(0o777 if "all" in form else 0o770)
        for path in (root / "planted").rglob("*"):
            path.chmod(0o666)
        (root / "planted").chmod(0o777)
    else:
        given(root, STRANGER)
        root.chmod(0o755)
        for path in root.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)
        root.rename(root.parent / "theirs")
        root.symlink_to("/tmp/theirs")
        os.chown(root, STRANGER, STRANGER, follow_symlinks=False)
    try:
        wrong = []
        for line in COMMANDS:
            done = elsewhere(*flags, *line.replace("@", "planted").split())
            none = not named and "--force" in line  # nothing to be deleted: the default is elsewhere
            if "planted" in done.stdout or (done.returncode == 0 and "@" in line and not none):
                wrong.append((line, done.returncode, done.stdout))
            if told.exists() or not rt.alive(pid):
                wrong.append((line, "ran the hook" if told.exists() else "ended the process"))
                break
        for line in ("create", "run"):
            elsewhere(*flags, line, *(["--detach"] if line == "run" else []), "--bundle", str(made), "new")
            if (root / "new").exists():
                wrong.append((line, "made one there"))
            elsewhere(*flags, "delete", "--force", "new")
        assert not wrong
    finally:
        if root.is_symlink():
            root.unlink()
            (root.parent / "theirs").rename(root)
        root.chmod(0o700)
        given(root, elsewhere.uid)
        for identity in ("new", "planted"):
            elsewhere(*options, "delete", "--force", identity)
        if rt.alive(pid):
            os.kill(pid, 9)
        rt.until(lambda: rt.reap() or not rt.alive(pid), "its end")


@pytest.mark.parametrize("form", ["a directory", "an open directory", "a file", "a link", "a full directory"])
@pytest.mark.parametrize("who", ["user", "root"])
def test_a_stranger_made_the_state_directory_first(ordinary_user, place, public_source, who, form):
    """Another user's mkdir(2) locks nobody out: containers are made, seen and removed, elsewhere."""
    where = Elsewhere(ordinary_user if who == "user" else None, place, public_source)
    where.environment["HUTCH_DATA"] = str(where.home / "data")
    rt.make_rootfs(place / "image")
    squatted = []
    try:
        for top in ("/dev/shm", "/tmp"):
            path = where.path(f"{top}/hutch-{where.uid}")
            if form == "a file":
                path.write_text("")
            elif form == "a link":
                path.symlink_to("/root")
            else:
                path.mkdir()
                path.chmod(0o777 if form == "an open directory" else 0o755)
            if form == "a full directory":
                for n in range(50):
                    (path / f"{n:012x}").mkdir()
            os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
            squatted.append((path, None if "director" not in form else sorted(os.listdir(path))))

        def hutch(*words: str) -> str:
            done = where(*words, module="hutch.cli")
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert hutch("ps", "-aq") == ""
        assert hutch("run", str(place / "image"), "echo", "fine") == "fine\n"
        identity = hutch("run", "-d", "--name", "mine", str(place / "image"), "sleep", "100").strip()
        try:
            assert hutch("ps", "-q").strip() == identity
            assert hutch("exec", "mine", "echo", "fine") == "fine\n"
        finally:
            hutch("rm", "-f", "mine")
        for path, names in squatted:
            assert names is None or sorted(os.listdir(path)) == names
    finally:
        where.close()
