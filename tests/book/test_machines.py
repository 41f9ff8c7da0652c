"""Chapter 2's virtual machines: the labs find what the chapter says, and the guests' bytes are what an assembler makes of their listings."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hutch.errors import HutchError, UnsupportedError
from hutch.kernel.kvm import Kvm, exits, modes
from tests.guests import assemble

HOLE = Path(__file__).resolve().parents[2] / "docs/rabbit-hole"
SCRIPT, CHAPTER = HOLE / "machines.py", HOLE / "2-kvm.md"
EXPECTED = {
    "real": {"printed": "9", "sum in memory": 9, "exits": ["io", "hlt"]},
    "protected": {"through the port": 4200000000, "in memory at 0x200000": 4200000000, "exits": ["io", "hlt"]},
    "long": {
        "where an address leads": {"0x1000": "0x1000", "0x200000": "0x400000", "0x40000000": "nowhere"},
        "in memory": {"0x200000": 0, "0x400000": 42000000000},
        "exits": ["hlt"],
    },
    "interrupt": {"printed": "123", "exits": ["io"] * 4},
    "eventfd": {"kicks": 1000, "exits with the eventfd": 1, "exits without it": 1001},
    "faults": {
        "an invalid instruction": "shutdown", "with a handler": "hlt", "no memory": "mmio", "read-only memory": "mmio",
        "what it read, and what is there": ["firm", "00 00 00 00"], "an endless loop": "interrupted",
    },
    "step": {
        "steps": 13, "path": ["1000", "1002", *["1007", "1009", "100b"] * 3, "100d", "100e"], "rax": 6, "rbx": 6,
    },
}  # fmt: skip
INSTRUCTIONS = ("int3", "fld", "cmpxchg16b")


def load():
    spec = importlib.util.spec_from_file_location("book_machines", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BOOK = load()


@pytest.fixture
def kvm():
    try:
        found = Kvm()
    except UnsupportedError as error:
        pytest.skip(error.message)
    with found:
        yield found


def run(*words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*before, sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=60, check=False)


def consoles() -> list[tuple[str, list[str]]]:
    """What the chapter shows: each block's lab, which is the one of the block before where it names none, and its lines."""
    found, name = [], ""
    for block in re.findall(r"^```console\n(.*?)^```", CHAPTER.read_text(), re.DOTALL | re.MULTILINE):
        lines = block.splitlines()
        if lines[0].startswith("$"):
            name = lines[0].partition("machines.py ")[2]
            lines = lines[1:]
        if name:
            found.append((name, lines))
    return found


def alike(text: str) -> list[str]:
    """Lines, but for times, and for an instruction's bytes, which not every KVM hands out."""
    return [re.sub(r"took:.*|cannot emulate \([0-9a-f ]+\)", "", line) for line in text.rstrip().splitlines()]


def test_what_the_labs_find(kvm):
    done = run("--json")
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = {name: account["found"] for name, account in json.loads(done.stdout).items()}
    probed = found.pop("probe")
    assert found == EXPECTED and [*EXPECTED, "probe"] == list(BOOK.LABS)
    assert set(probed) == {*INSTRUCTIONS, "a kernel could boot"} and {probed[name] for name in INSTRUCTIONS} <= {"runs", "internal error"}
    assert probed["a kernel could boot"] is (probed["cmpxchg16b"] == "runs")


@pytest.mark.parametrize("name", EXPECTED)
def test_one_at_a_time(kvm, name):
    done = run("--json", name)
    assert done.returncode == 0 and json.loads(done.stdout) == {name: {"found": EXPECTED[name]}}, done.stderr


@pytest.mark.parametrize("name", [*EXPECTED, "probe"])
def test_what_the_chapter_prints(kvm, name):
    printed = alike(run(name).stdout)
    shown = [alike("\n".join(lines)) for other, lines in consoles() if other == name]
    assert shown
    if name == "probe":  # of which there is one for each kind of KVM
        assert [lines[-1].split()[-1] for lines in shown] == ["yes", "no"]
        shown = [lines for lines in shown if lines[-4:] == printed[-4:]]
        if not shown:
            pytest.skip(f"a KVM of a third kind: {' '.join(printed[-4:])}")
    for lines in shown:
        parts, at = [part.strip("\n").splitlines() for part in re.split(r"^  \[…\]$", "\n".join(lines), flags=re.MULTILINE)], 0
        for number, part in enumerate(parts):
            if not part:
                continue  # the block begins, or ends, with what is left out
            places = [i for i in range(at, len(printed) - len(part) + 1) if printed[i : i + len(part)] == part]
            assert places, f"{name} does not print this: {part}"
            at = places[0] + len(part)
            assert number or places[0] == 0
        assert not parts[-1] or at == len(printed)


@pytest.mark.parametrize("name", BOOK.GUESTS)
def test_the_bytes_are_the_listing(name):
    guest = BOOK.GUESTS[name]
    assert assemble(guest.source, guest.bits) == guest.code
    last, (code, _, _) = list(guest.places.items())[-1]
    assert last + len(bytes.fromhex(code)) == guest.address + len(guest.code)


def test_the_chapter_has_all_labs_and_links():
    text = CHAPTER.read_text()
    assert re.findall(r"^### .*`machines\.py (\w+)`$", text, re.MULTILINE) == list(BOOK.LABS)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (HOLE / target).exists(), target


def test_the_table_of_exits():
    """Names and numbers of the chapter are those of the code that decodes them."""
    rows = re.findall(r"^\| ([\d, ]+) \| (.*?) \|", CHAPTER.read_text(), re.MULTILINE)
    found = {
        int(number): name.removeprefix("X86_").lower().replace("_", " ")
        for numbers, names in rows
        for number, name in zip(numbers.split(", "), re.findall(r"`(\w+)`", names), strict=True)
    }
    assert len(found) == 18 and found.pop(10) == "intr" and exits.NAMES[10] == "interrupted"
    assert found == {number: exits.NAMES[number] for number in found}


def test_another_exit_than_expected(kvm, monkeypatch, capsys):
    lab = BOOK.Lab(kvm, True)
    with lab.machine() as (machine, memory):
        lab.load(memory, "invalid")
        processor = machine.create_processor()
        modes.long_mode(processor, memory, BOOK.ENTRY, BOOK.STACK, tables=BOOK.TABLES)
        with pytest.raises(HutchError, match="expected an exit of the kind Halt, and the processor shuts down"):
            lab.run(processor, exits.Halt)

    def broken(_):
        """Broken."""
        raise HutchError("expected something else")

    monkeypatch.setitem(BOOK.LABS, "real", broken)
    assert BOOK.main(["--json", "real", "protected"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"real": {"failed": "expected something else"}, "protected": {"found": EXPECTED["protected"]}}
    assert err == "real: expected something else\n"


def test_nothing_stays(kvm):
    """Neither descriptors nor memory, also of the labs that stop in the middle."""

    def held() -> list[str]:
        return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))

    before = held()
    assert BOOK.main(["--json", "interrupt", "faults", "eventfd"]) == 0
    assert held() == before
    assert "kvm-vcpu" not in Path("/proc/self/maps").read_text()


@pytest.mark.root
@pytest.mark.parametrize(
    ("change", "said"),
    [("mount --bind /dev/null /dev/kvm", "is not KVM: Inappropriate ioctl for device"), ("mount -t tmpfs none /dev", "No such file or directory (")],
)
def test_without_the_device(change, said):
    if not os.path.exists("/dev/kvm"):
        change, said = "true", "No such file or directory ("
    done = run("real", before=("unshare", "--mount", "sh", "-c", f'{change} && exec "$@"', "sh"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"machines.py cannot use KVM here: /dev/kvm: {said}") and done.stderr.count("\n") == 1


def test_a_device_that_may_not_be_opened(as_user):
    try:
        mode = os.stat("/dev/kvm").st_mode
    except OSError as error:
        pytest.skip(f"/dev/kvm: {error.strerror}")
    if stat.S_IMODE(mode) & 0o006 == 0o006:
        pytest.skip("everybody may open /dev/kvm here")
    script = Path(f"/var/tmp/book-machines-{os.getpid()}.py")
    shutil.copy(SCRIPT, script)
    script.chmod(0o644)
    try:
        done = as_user(str(script), "--json")
    finally:
        script.unlink()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "machines.py cannot use KVM here: /dev/kvm: Permission denied (the group `kvm` may open it)\n"


def test_what_makes_no_sense_is_refused():
    for words in (["nonsense"], ["--nonsense"], ["real", "--quick"]):
        done = run(*words)
        assert done.returncode == 2 and "not one of real protected long" in done.stderr and not done.stdout
