"""Chapter 1's script: the labs find what the chapter says, and the guests' bytes are what an assembler makes of their listings."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.guests import assemble

HOLE = Path(__file__).resolve().parents[2] / "docs/rabbit-hole"
SCRIPT, CHAPTER = HOLE / "virtualisation.py", HOLE / "1-virtualisation.md"
LABS = ("processor", "memory", "device", "privileged", "monitor", "interpreter", "hole", "hardware")
# what differs from machine to machine: which instructions UMIP covers, and whether cpuid can be refused
SOMETIMES = {"sgdt", "sidt", "smsw", "cpuid, refused"}
HIDDEN = {"the same frame after fork", "the same frame after the write", "those 2 are one frame"}  # from whoever is not root
EXPECTED = {
    "device": {
        "is a terminal": True, "bits per second, it says": 38400, "sent by the keyboard": r"'carrotz\x7f\n'",
        "seen on the screen": [r"'carrotz\x08 \x08'", "'CARROT'"], "after Control-C it ended by": "SIGINT",
    },
    "hole": {
        "trap and emulate": {"traps": 2, "after cli the guest reads IF as": 1, "at hlt interrupts are": "off", "wakes up again": False},
        "interpreted": {"traps": 0, "after cli the guest reads IF as": 0, "at hlt interrupts are": "on", "wakes up again": True},
        "translated": {"traps": 4, "after cli the guest reads IF as": 0, "at hlt interrupts are": "on", "wakes up again": True},
    },
}  # fmt: skip


def load():
    spec = importlib.util.spec_from_file_location("book_virtualisation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BOOK = load()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=120, check=False)


def check(name: str, found: dict, root: bool) -> None:
    """What must hold of a lab's account, on any machine."""
    if "skipped" in found:
        pytest.skip(found["skipped"])
    if name in EXPECTED:
        assert found == EXPECTED[name]
    elif name == "processor":
        assert [len(found[part]["CPU time (s)"]) for part in ("alone", "three on one CPU")] == [1, 3]
        assert min(found["three on one CPU"]["involuntary switches"]) > 0
    elif name == "memory":
        addresses, copies, promises = found["one address, two processes"], found["copy on write"], found["more than there is"]
        assert (addresses["the same address"], addresses["the parent reads"], addresses["the child reads"]) == (True, "carrot", "turnip")
        frames = (addresses["the same frame after fork"], addresses["the same frame after the write"], promises["those 2 are one frame"])
        assert frames in ((True, False, True), (None,) * 3) and (frames[0] or not root)
        assert copies["faults: the child reads all"] < copies["pages"] <= copies["faults: the child writes all"]
        assert copies["faults: and once more"] < copies["pages"] <= copies["faults: the first write"]
        assert (promises["of 16 pages there"], promises["there after 3 writes"]) in ((0, 3), (None, None))
        assert promises["what 2 others hold when read"] == [0, 0] and promises["granted, in memories of this machine"] > 0
    elif name == "privileged":
        assert {found[key] for key in ("hlt", "cli", "in", "out", "mov cr0", "rdmsr")} == {"traps"}
        assert (found["a bad address"], found["popf"], found["cpuid"]) == ("no memory", "does nothing", "runs")
        assert {found[key] for key in ("sgdt", "sidt", "smsw")} <= {"traps", "runs", "emulated by the kernel"}
        assert found["cpuid, refused"] == "traps" or found["cpuid, refused"] in map(os.strerror, range(1, 40))
    elif name == "monitor":
        assert (found["printed"], found["traps"], found["CR0 that the guest has read"]) == ("321", 9, "0x80000011")
    elif name == "interpreter":
        assert (found["printed"], found["traps"], found["CR0 that the guest has read"]) == ("321", 0, "0x80000011")
        assert found["instructions of the guest's"] == 34 and found["instructions of the host's for one"] > 100
    elif name == "hardware":
        flags = found["flags in /proc/cpuinfo"]
        assert len(found["maker"]) == 12 and ("hypervisor" in flags) is found["under a hypervisor"] is (found["whose name is"] is not None)
        assert found["KVM runs a guest here"] is ("because" not in found)
        for key, flag in (("VMX (Intel)", "vmx"), ("SVM (AMD)", "svm")):  # a kernel may hide what the processor has
            assert found[key] or flag not in flags
    else:
        raise AssertionError(name)


def consoles() -> dict[str, list[str]]:
    """What the chapter shows: the lines that each lab prints."""
    found = {}
    for block in re.findall(r"^```console\n(.*?)^```", CHAPTER.read_text(), re.DOTALL | re.MULTILINE):
        first, *lines = block.splitlines()
        found[first.partition("virtualisation.py ")[2]] = lines
    return found


def alike(name: str, lines: list[str]) -> list[str]:
    """Lines without what is measured, and without what only this machine says."""
    found = []
    for line in lines:
        key, colon, value = line.strip().partition(":")
        measured = re.search(r"\((s|ns|µs)\)$", key) or key in ("involuntary switches", "times it stood still", "instructions of the host's for one")
        machine = key in ("granted, in memories of this machine", *SOMETIMES) or (name == "hardware" and value) or (key in HIDDEN and os.geteuid())
        if key == "faults" or measured or machine:  # faults: which, and how many
            value = value.partition(":")[0] if key == "faults" else ""
        if key == "tries" and any(word in value for word in (*SOMETIMES, "cpuid")):
            value = value[:42]
        if key != "because" and not (name == "hardware" and key == "cpuid"):
            found.append(f"{key}{colon}{value}")
    return found


@pytest.mark.parametrize("name", LABS)
def test_what_a_lab_finds(name):
    done = run("--json", name)
    assert done.returncode == 0 and not done.stderr, done.stderr
    (found,) = json.loads(done.stdout).values()
    check(name, found, os.geteuid() == 0)


@pytest.mark.parametrize("name", LABS)
def test_what_the_chapter_prints(name):
    done = run(name)
    assert done.returncode == 0 and not done.stderr, done.stderr
    printed = done.stdout.rstrip().splitlines()
    if skipped := [line for line in printed if line.strip().startswith("skipped:")]:
        pytest.skip(skipped[0].strip())
    assert alike(name, printed) == alike(name, consoles()[name])


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("objcopy")) or os.uname().machine != "x86_64", reason="an assembler for x86-64 is needed")
@pytest.mark.parametrize("name", BOOK.GUESTS)
def test_the_bytes_are_the_listing(name):
    guest = BOOK.GUESTS[name]
    assert assemble(guest.source) == guest.code
    last, (code, _, _) = list(guest.places.items())[-1]
    assert last + len(bytes.fromhex(code)) == len(guest.code)


def test_the_chapter_has_all_labs_and_links():
    text = CHAPTER.read_text()
    assert re.findall(r"^### .*`virtualisation\.py (\w+)`$", text, re.MULTILINE) == list(BOOK.LABS) == list(LABS)
    assert set(consoles()) == set(LABS)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (HOLE / target).exists(), target
    assert "](1-virtualisation.md)" in (HOLE / "2-kvm.md").read_text()


@pytest.fixture
def guests():
    """Whoever runs guests: this test is skipped where that is not possible."""
    try:
        BOOK.attempt("cpuid")
    except BOOK.Skipped as error:
        pytest.skip(str(error))


def test_the_interpreter_and_the_processor_agree(guests):
    """The same registers at the end, but for the instruction pointer, whose zero is elsewhere."""
    machine, registers = BOOK.monitor_guest(BOOK.GUESTS["driver"].code)
    emulated = BOOK.Interpreter(BOOK.GUESTS["driver"].code)
    emulated.run()
    for name in BOOK.NAMES:
        if name != "rsp":
            assert getattr(registers, name) == getattr(emulated.registers, name), name
    assert registers.rip - machine.base == emulated.registers.rip == len(BOOK.GUESTS["driver"].code)
    assert (registers.eflags ^ emulated.registers.eflags) & BOOK.ZERO_FLAG == 0
    assert emulated.count - machine.traps == 25 and "The other 25" in CHAPTER.read_text()


def test_what_is_translated():
    assert BOOK.translate(BOOK.GUESTS["driver"].code) == (BOOK.GUESTS["driver"].code, {})
    code, replaced = BOOK.translate(bytes.fromhex("689c9d9c9d 9c b89d9c9d9c 9d f4"))  # what is inside other instructions stays
    assert code == bytes.fromhex("689c9d9c9d f4 b89d9c9d9c f4 f4") and replaced == {5: b"\x9c", 11: b"\x9d"}


def test_what_nobody_can_do(guests):
    with pytest.raises(BOOK.Skipped, match=r"the interpreter does not know 0f 0b"):
        BOOK.Interpreter(b"\x0f\x0b").run()
    with pytest.raises(BOOK.Skipped, match="does not know 90"):
        BOOK.Interpreter(b"\x90").run()
    for code, said in ((b"\x0f\x0b", "SIGILL"), (b"\xcc", "SIGTRAP"), (b"\xff\xe0", "SIGSEGV")):  # ud2; int3; jmp *%rax, to 0
        with pytest.raises(BOOK.Skipped, match=f"the guest stopped by {said}"):
            BOOK.monitor_guest(code)


def test_a_guest_that_ends_by_itself(guests):
    with pytest.raises(BOOK.Skipped, match="the guest ended: 7"):
        BOOK.monitor_guest(bytes.fromhex("b83c000000 bf07000000 0f05"))  # exit(7)


def test_without_ptrace(monkeypatch, capsys):
    if os.uname().machine != "x86_64":
        pytest.skip("the guests are for x86-64")
    real = BOOK.kernel.syscall

    def refused(name, *words):
        if name == "ptrace":
            raise PermissionError(1, "Operation not permitted", name)
        return real(name, *words)

    monkeypatch.setattr(BOOK.kernel, "syscall", refused)
    assert BOOK.main(["--json", "privileged", "monitor", "interpreter", "hardware"]) == 0
    out, err = capsys.readouterr()
    assert {account["skipped"] for account in json.loads(out).values()} == {"ptrace(2) is not allowed here"} and not err
    with pytest.raises(BOOK.Skipped, match=r"ptrace\(2\) is not allowed here"):
        BOOK.host_instructions(lambda: None)


def test_another_architecture(monkeypatch, capsys):
    monkeypatch.setattr(BOOK.platform, "machine", lambda: "aarch64")
    assert BOOK.main(["hole", "device"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  skipped: +the guests are for x86-64, and this is aarch64$", out, re.MULTILINE) and "SIGINT" in out


def test_a_lab_that_fails(monkeypatch, capsys):
    def broken(_):
        """Broken."""
        raise OSError(5, "Input/output error")

    monkeypatch.setitem(BOOK.LABS, "monitor", broken)
    assert BOOK.main(["--json", "monitor", "device"]) == 1
    assert json.loads(capsys.readouterr().out) == {"monitor": {"failed": "[Errno 5] Input/output error"}, "device": EXPECTED["device"]}


def test_nothing_stays(capsys):
    """Neither descriptors nor children."""

    def held() -> tuple[list[str], str]:
        fds = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
        return fds, Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    before = held()
    assert BOOK.main(["--json", "memory", "device", "privileged", "monitor", "hole"]) == 0
    assert held() == before
    capsys.readouterr()


def lives(pid: int) -> bool:
    """Whether a process is there, and not only waits to be waited for."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_guest_dies_with_its_monitor(guests):
    program = f"""
import importlib.util, time
spec = importlib.util.spec_from_file_location("book", {str(SCRIPT)!r})
book = importlib.util.module_from_spec(spec)
spec.loader.exec_module(book)
guest = book.Traced(book.Room(bytes.fromhex("ebfe")))
print(guest.pid, flush=True)
guest.start()
guest.run()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as monitor:
        pid = int(monitor.stdout.readline())
        assert lives(pid)
        monitor.send_signal(signal.SIGKILL)
        monitor.wait(20)
    deadline = time.monotonic() + 20
    while lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_as_an_ordinary_user(as_user):
    script = Path(f"/var/tmp/book-virtualisation-{os.getpid()}.py")
    shutil.copy(SCRIPT, script)
    script.chmod(0o644)
    names = [name for name in LABS if name not in ("processor", "hardware")]
    try:
        done = as_user(str(script), "--json", *names)
    finally:
        script.unlink()
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == names
    for name in names:
        if "skipped" not in found[name]:
            check(name, found[name], False)
    assert {part[key] for part in found["memory"].values() for key in part if key in HIDDEN} <= {None}


def test_what_makes_no_sense_is_refused():
    for words in (["nonsense"], ["--nonsense"], ["hole", "--quick"]):
        done = run(*words)
        assert done.returncode == 2 and "not one of processor memory device" in done.stderr and not done.stdout
