"""Trees, archives and commands that are cheap to make, and must be cheap to remove, to read and to keep."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance import runtime as rt
from tests.conftest import HUTCH, descends, executors
from tests.images import END, extended, header
from tests.security import attack, test_oci_tools as tools
from tests.security.test_layers import UNPACK, disk

pytestmark = pytest.mark.root
boxes, place = tools.boxes, tools.place
TICKS = os.sysconf("SC_CLK_TCK")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/var/tmp"
MIB = 1 << 20
LIMIT = 512 * MIB


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Data and state directories of the test's own, in memory unless it asks for a disk."""
    found = Path(tempfile.mkdtemp(prefix="hutch-store-", dir=getattr(request, "param", MEMORY)))
    found.chmod(0o711)
    (found / "state").mkdir(0o711)
    monkeypatch.setenv("HUTCH_DATA", str(found / "data"))
    monkeypatch.setenv("HUTCH_STATE", str(found / "state"))
    yield found
    subprocess.run(["rm", "-rf", str(found)], check=True)  # some trees are deeper than Python's recursion


def within(seconds: int, words: list[str], **options: object) -> str:
    """What a command prints that may use so much of a processor, and no more."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))

    done = subprocess.run(words, capture_output=True, check=False, preexec_fn=limit, timeout=300, **options)
    assert done.returncode not in (-24, -9), f"more than {seconds} s"
    assert done.returncode == 0, done.stderr.decode()[-600:]
    return done.stdout.decode()


# removal: quadratic work shows as minutes of a processor's time, and takes a second when it is linear

TREES = {
    "siblings": "[os.makedirs(f'{i}/x') for i in range(10_000)]",
    "siblings with files": "[(os.mkdir(str(i)), open(f'{i}/x', 'w')) for i in range(10_000)]",
    "depth": "[(os.mkdir('n' * 250), os.chdir('n' * 250)) for _ in range(14_000)]",
    "both": "[(os.makedirs('a/b'), os.mkdir('z' * 250), os.chdir('z' * 250)) for _ in range(8000)]",
}


CASES = [
    *(("container", shape) for shape in TREES),
    ("volume", "depth"),
    ("volume", "siblings"),
    ("pruned volume", "both"),
]


@pytest.mark.parametrize(("what", "shape"), CASES)
def test_removing_a_large_tree_takes_no_quadratic_time(store, hutch_cli, what, shape):
    """A container leaves a tree of many siblings or levels: `rm` and `volume rm` are done in seconds."""
    program = ["host", "/usr/bin/python3", "-c", f"import os; os.chdir('/srv'); {TREES[shape]}"]
    if what == "container":
        assert hutch_cli("run", "-d", "--name", "large", *program).returncode == 0
        assert attack.until(lambda: "xited (0)" in hutch_cli("ps", "-a").stdout, 60)
        within(5, [*HUTCH, "rm", "-f", "large"])
    else:
        source = "large:/srv" if what == "volume" else "/srv"
        done = hutch_cli("run", "-v", source, *program)
        assert done.returncode == 0, done.stderr
        within(5, [*HUTCH, "volume", "rm", "large"] if what == "volume" else [*HUTCH, "volume", "prune"])
    assert not [path for path in store.glob("data/*") if len(path.name) == 12]
    assert not list(store.glob("data/volumes/*"))


def test_an_archive_that_replaces_a_large_tree_takes_no_quadratic_time(store):
    """A layer makes many siblings, then a file of their directory's name: they are removed in seconds."""
    siblings = b"".join(header(b"d/%d/x" % number, b"5", mode=0o755) for number in range(10_000))
    code = f"import sys\n{UNPACK}from hutch.cli.main import main\nsys.exit(main())"
    within(9, [sys.executable, "-c", code, "import", "-", "large:1"], input=siblings + header(b"d") + END)


def spent(pid: int) -> float:
    """The seconds of a processor that a process has used; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / TICKS


def spent_by_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_executor_removes_many_siblings_in_linear_time(monkeypatch):
    """It removes an attached container's changes on a disk: in a few times as long as rm(1)."""
    program = "import os; os.chdir('{}'); [os.makedirs(f'{{i:0240}}/x') for i in range(16_000)]"
    with disk("ext4", "512m", 60_000) as place:
        os.mkdir(place / "data")
        monkeypatch.setenv("HUTCH_DATA", str(place / "data"))
        words = ["run", "--upper", "disk", "host", "/usr/bin/python3", "-c", program.format("/srv")]
        process = subprocess.Popen([*HUTCH, *words])
        known: dict[int, float] = {}
        while process.poll() is None or any(len(name) == 12 for name in os.listdir(place / "data")):
            for pid in set(known) or {pid for pid in executors() if descends(pid, process.pid)}:
                known[pid] = max(known.get(pid, 0), spent(pid))
            time.sleep(0.01)
        assert process.returncode == 0
        subprocess.run(
            [sys.executable, "-c", f"import os; os.mkdir('{place}/rm')\n{program.format(f'{place}/rm')}"],
            check=True,
        )
        before = spent_by_children()
        subprocess.run(["rm", "-rf", str(place / "rm")], check=True)
        reference = spent_by_children() - before
        shutil.rmtree(place / "data")
    assert known and max(known.values()) < 4 * reference + 1, (known, reference)


# memory for members


def numbered(template: bytes) -> Callable[[int], bytes]:
    """A maker of headers that differ in a number of seven digits: faster than from their fields."""
    total = sum(template) - sum(template[148:156]) + 256 - sum(b"0000000")

    def one(number: int) -> bytes:
        name = b"%07d" % number
        return name + template[7:148] + b"%06o\0 " % (total + sum(name)) + template[156:]

    return one


FILE, LINK = numbered(header(b"0000000")), numbered(header(b"0000000", b"2", link=b"x"))
TARGET = b"".join(b"%03d/" % number for number in range(1000))
MEMBERS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "files": (FILE, 1_500_000),
    "long targets": (
        lambda number: extended({b"linkpath": b"%07d/" % number + TARGET}) + LINK(number),
        200_000,
    ),
    "long names": (lambda number: extended({b"path": b"%07d" % number + b"n" * 240}) + FILE(0), 700_000),
}


def family(pid: int) -> list[int]:
    return [pid, *(below for child in attack.children(pid) for below in family(child))]


def resident(pid: int) -> int:
    """The most bytes that a process and its children have had in memory."""
    total = 0
    for one in family(pid):
        try:
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    return total


def feed(pipe, make: Callable[[int], bytes], count: int) -> None:
    try:
        with pipe, gzip.GzipFile(fileobj=pipe, mode="wb", compresslevel=1) as out:
            for begin in range(0, count, 500):
                out.write(b"".join(map(make, range(begin, min(begin + 500, count)))))
            out.write(END)
    except OSError:
        return  # it has read enough


def imported(make: Callable[[int], bytes], count: int, unpacks: bool = False) -> tuple[int, int, str]:
    """(peak of memory in bytes, exit code, errors) of an import of so many members; ended at 512 MiB."""
    words = [
        sys.executable,
        "-c",
        f"import sys\n{UNPACK if unpacks else ''}from hutch.cli.main import main\nsys.exit(main())",
    ]
    process = subprocess.Popen(
        [*words, "import", "-", "large:1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    thread = threading.Thread(target=feed, args=(process.stdin, make, count))
    thread.start()
    peak = 0
    try:
        while process.poll() is None and peak < LIMIT:
            peak = max(peak, resident(process.pid))
            time.sleep(0.005)
    finally:
        process.kill()
        error = process.stderr.read().decode()
        process.stderr.close()
        process.wait()
        thread.join()
    return peak, process.returncode, error


def refused(code: int, error: str) -> bool:
    """Whether it says on one line what is too much, and nothing worse happened."""
    assert code in (0, 125) and "Traceback" not in error and "MemoryError" not in error, (code, error[-600:])
    return code == 125


@pytest.mark.long
@pytest.mark.parametrize("store", ["/var/tmp"], indirect=True, ids=["disk"])
@pytest.mark.parametrize("kind", MEMBERS)
def test_members_without_end_do_not_fill_the_memory(store, kind):
    """A few compressed megabytes hold a million members: they are read, or refused, in 512 MiB."""
    peak, code, error = imported(*MEMBERS[kind])
    assert peak < LIMIT, f"{peak // MIB} MiB"
    refused(code, error)


@pytest.mark.parametrize("store", ["/var/tmp"], indirect=True, ids=["disk"])
def test_many_members_take_little_memory(store):
    """Two hundred thousand files: less than a thousand bytes each (and of more the tree is not kept in memory), or a refusal."""
    count = 200_000
    least = imported(FILE, 1)[0]
    peak, code, error = imported(FILE, count)
    assert refused(code, error) or peak - least < 1000 * count, f"{(peak - least) // count} bytes each"


@pytest.mark.parametrize("store", ["/var/tmp"], indirect=True, ids=["disk"])
def test_an_image_of_many_files_is_read(store):
    """The other side: fifty thousand files, and links with long targets among them, are an ordinary image."""
    long, _ = MEMBERS["long targets"]
    peak, code, error = imported(lambda number: (FILE if number % 100 else long)(number), 50_000)
    assert code == 0, (peak, error)


def test_directories_with_long_paths_take_little_memory_to_unpack(store):
    """Where layers are unpacked, directories' modes wait for the end, but not all of their paths."""
    deep = b"/".join([b"d" * 240] * 16)

    def make(number: int) -> bytes:
        return extended({b"path": b"%s/%07d" % (deep, number)}) + header(b"x", b"5", mode=0o755)

    least, count = imported(make, 1, unpacks=True)[0], 15_000
    peak, code, error = imported(make, count, unpacks=True)
    assert refused(code, error) or peak - least < 1500 * count, f"{(peak - least) // count} bytes each"


# plans that are kept

LARGE = ["x" * 120_000] * 14


def size(top: Path) -> int:
    return sum(path.lstat().st_size for path in top.rglob("*") if not path.is_dir())


def test_kept_plans_have_a_size(store, hutch_cli):
    """Commands with two megabytes of arguments: what is kept of them stays small, and they still run."""
    for number in range(6):
        done = hutch_cli("run", "--network", "none", "host", "sh", "-c", "echo $1", "sh", str(number), *LARGE)
        assert done.stdout == f"{number}\n", done.stderr
    assert size(store / "state") < 16 * MIB


def test_kept_plans_of_bundles_have_a_size(boxes, place):
    """The same for bundles with large configurations that hutch-oci runs."""
    environment = ["PATH=/bin", *(f"E{index}={text}" for index, text in enumerate(LARGE))]
    for number in range(6):
        done = boxes(rt.shell(f"echo {number}", process={"env": environment})).run()
        assert done.out == f"{number}\n", done
    assert sum(size(path) for path in place.glob("state*") if path.is_dir()) < 16 * MIB
