"""An image's configuration: signals that do not exist, volumes where none can be, volumes that are left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.registry import base, make
from tests.security import attack

pytestmark = pytest.mark.root
SLEEP = ["sleep", "60"]
INTERNAL = (
    "mounts[",
    "<root>",
    "<bind",
    "b'",
    "Traceback",
    "openat2",
    "pivot_root",
)  # the plan's words, Python's, the kernel's


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store and a state directory of the test's own."""
    found = Path(tempfile.mkdtemp(prefix="hutch-store-", dir="/var/tmp"))
    found.chmod(0o711)
    (found / "state").mkdir(0o711)
    monkeypatch.setenv("HUTCH_DATA", str(found / "data"))
    monkeypatch.setenv("HUTCH_STATE", str(found / "state"))
    yield found
    shutil.rmtree(found)


@pytest.fixture
def box(hutch_cli) -> Iterator[str]:
    """The name of a container that is removed at the end, if it was made."""
    name = f"image-config-{os.getpid()}"
    yield name
    hutch_cli("rm", "-f", name)


@pytest.fixture
def image(place, hutch_cli) -> Callable[..., str]:
    """Load an image with a configuration; its name, or the refusal."""

    def load(**config: object) -> str:
        layout = Path(tempfile.mkdtemp(dir=place))
        make(base(), config={"Cmd": SLEEP, **config}).write(layout, "odd:1")
        done = hutch_cli("load", "-i", str(layout))
        return "odd:1" if done.returncode == 0 else done.stderr

    return load


def readable(message: str, *words: str) -> None:
    """One line that names what is wrong in the user's words, and perhaps hints."""
    first, *rest = message.splitlines()
    assert first.startswith("hutch: ") and all(line.startswith("hint: ") for line in rest), message
    assert not [word for word in INTERNAL if word in message], message
    assert all(word.lower() in message.lower() for word in words), message


# signals

SIGNALS = ["99999", "65", "0", "-1", "SIGNOPE", "SIGRTMIN+99", " ", "9" * 5000, 99999, ["TERM"]]


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: repr(signal)[:12])
def test_a_stop_signal_that_does_not_exist(hutch_cli, image, box, signal):
    """An image names a signal that no kernel has: it is refused, or `stop` ends the container."""
    name = image(StopSignal=signal)
    done = hutch_cli("run", "-d", "--name", box, name) if name == "odd:1" else None
    if done is None or done.returncode:
        readable(name if done is None else done.stderr, "signal")
        return
    stopped = hutch_cli("stop", "-t", "1", box)
    assert stopped.returncode == 0, stopped.stderr
    assert hutch_cli("rm", box).returncode == 0, "it still runs"


@pytest.mark.parametrize("signal", ["SIGRTMIN+3", "RTMIN+3", "SIGRTMAX-1", "rtmax", "37"])
def test_a_real_time_signal_stops(hutch_cli, image, box, signal):
    """Images of systemd name SIGRTMIN+3: `stop` sends it."""
    name = image(StopSignal=signal, Cmd=SLEEP)
    assert hutch_cli("run", "-d", "--name", box, name).returncode == 0
    stopped = hutch_cli("stop", "-t", "1", box)
    assert stopped.returncode == 0, stopped.stderr
    assert hutch_cli("rm", box).returncode == 0, "it still runs"


# volumes where none can be

PLACES = ["/", "/.", "/..", "/etc/..", "/proc", "//proc/", "/sys", "/dev", "/bin/busybox", "/bin/sh"]


@pytest.mark.parametrize("target", PLACES)
@pytest.mark.parametrize("who", ["the image", "the user"])
def test_a_volume_where_none_can_be(hutch_cli, image, box, who, target):
    """A volume over the root, a system directory or a file: a message names it, or the container runs."""
    asked = ["-v", f"named:{target}"] if who == "the user" else []
    name = image(**({"Volumes": {target: {}}} if not asked else {}))
    done = hutch_cli("run", "-d", "--name", box, *asked, name) if name == "odd:1" else None
    if done is not None and done.returncode == 0:
        entered = hutch_cli("exec", box, "/bin/busybox", "true")
        assert entered.returncode == 0, entered.stderr
        return
    # a mount of the user's may be called one
    readable(
        name if done is None else done.stderr,
        target if target.rstrip("/") else "/",
        "mount" if asked and "mount" in done.stderr else "volume",
    )
    assert set(hutch_cli("volume", "ls", "-q").stdout.split()) <= {"named"}


@pytest.mark.parametrize("target", ["/proc", "/sys", "/proc/sys", "/dev"])
def test_a_volume_is_not_filled_from_a_kernels_file_system(hutch_cli, image, place, box, target):
    """A volume begins with what the image has there, never with a container's /proc, /sys or /dev."""
    hutch_cli("run", "-d", "--name", box, image(Volumes={target: {}}))
    copied = {path.name for path in place.glob("data/volumes/*/data/**/*")}
    assert not copied & {"stat", "kernel", "null", "self"}


# volumes of containers that never start

FAILS: dict[str, list[str]] = {
    "no program": ["{image}", "/nonexistent"],
    "not a program": ["{image}", "/etc/passwd"],
    "unknown user": ["-u", "nobody-here", "{image}"],
    "unknown network": ["--network", "nonexistent", "{image}"],
    "missing device": ["--device", "/dev/nonexistent", "{image}"],
    "missing directory": ["-v", "/nonexistent:/x", "{image}"],
    "working directory": ["-w", "/etc/passwd/x", "{image}"],
    "a port that is none": ["-p", "99999:1", "{image}"],
    "a subpath that is none": ["--mount", "type=volume,src=named,dst=/x,volume-subpath=no", "{image}"],
    "a name that is taken": ["--name", "{box}", "{image}"],
    "no command": ["--entrypoint", "", "{image}"],
}


@pytest.mark.parametrize("volumes", ["the image's", "the user's"])
@pytest.mark.parametrize("name", FAILS)
def test_a_container_that_does_not_start_leaves_no_volumes(hutch_cli, image, box, name, volumes):
    """Anonymous volumes go with the container that they were made for, when it fails to start."""
    own = [] if volumes == "the image's" else ["-v", "/data", "--mount", "type=volume,dst=/other"]
    loaded = image(
        **({} if own else {"Volumes": {"/data": {}, "/other": {}}}),
        **({"Cmd": None} if name == "no command" else {}),
    )
    if "{box}" in FAILS[name]:
        without = ["--tmpfs", "/data", "--tmpfs", "/other"]
        assert hutch_cli("run", "-d", "--name", box, *without, loaded).returncode == 0
    words = [word.format(image=loaded, box=box) for word in FAILS[name]]
    done = hutch_cli("run", "-d", *own, *words)
    assert done.returncode, done
    left = set(hutch_cli("volume", "ls", "-q").stdout.split()) - {"named"}
    assert not left, done.stderr


@pytest.mark.parametrize("words", [["{image}", "/nonexistent"], ["-v", "/nonexistent:/x", "{image}"]])
def test_an_attached_container_that_does_not_start_leaves_no_volumes(hutch_cli, image, words):
    """The same without -d, where the container is removed at its end whatever that is."""
    name = image(Volumes={"/data": {}})
    assert hutch_cli("run", "-v", "/other", *(word.format(image=name) for word in words)).returncode
    assert hutch_cli("volume", "ls", "-q").stdout == ""


@pytest.mark.parametrize("words", [["--rm"], [], ["--rm", "-d"]])
def test_a_container_that_is_removed_at_its_end_takes_its_volumes_along(hutch_cli, image, words):
    """Anonymous volumes that the user asked for belong to the container: nobody else knows their names."""
    name = image()
    assert hutch_cli("run", *words, "-v", "/other", name, "true").returncode == 0
    assert attack.until(lambda: len(hutch_cli("ps", "-a").stdout.splitlines()) == 1)
    assert attack.until(lambda: hutch_cli("volume", "ls", "-q").stdout == "", 2)


def test_a_container_that_does_not_start_leaves_no_record(hutch_cli, image, place):
    """Its directory is gone when `run -d` has failed, whether or not somebody lists the containers later."""
    assert hutch_cli("run", "-d", image(), "/nonexistent").returncode == 127
    left = [path for path in (place / "state").iterdir() if path.name[0] != "."]
    assert not left, [list(path.iterdir()) for path in left]


def test_many_failed_starts_leave_no_volumes(hutch_cli, image, place):
    """A supervisor that tries once more and once more does not fill the disk."""
    name = image(Volumes={f"/data/{number}": {} for number in range(8)})
    for _ in range(3):
        assert hutch_cli("run", "-d", name, "/nonexistent").returncode == 127
    assert not list(place.glob("data/volumes/*/data")), hutch_cli("volume", "ls").stdout


def test_a_container_that_started_keeps_its_volumes(hutch_cli, image, box):
    """The other side: what a container that ran has written stays until its volumes are removed."""
    name = image(Volumes={"/data": {}})
    program = ["sh", "-c", "echo kept >/data/file; exit 3"]
    assert hutch_cli("run", "-d", "--name", box, name, *program).returncode == 0
    assert attack.until(lambda: "xited" in hutch_cli("ps", "-a").stdout)
    left = hutch_cli("volume", "ls", "-q").stdout.split()
    assert len(left) == 1
    assert hutch_cli("run", "-v", f"{left[0]}:/v", name, "cat", "/v/file").stdout == "kept\n"
