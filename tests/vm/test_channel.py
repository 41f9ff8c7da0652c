"""The control channel, attacked from the guest's side: whatever a guest says, the host's processes say one clear thing, keep no more
than their windows, and leave nothing."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hutch
from hutch.engine.machines import channel
from tests.security import attack
from tests.vm import fake, kit
from tests.vm.kit import EMULATED

pytestmark = [pytest.mark.root, kit.needed]

BROKEN = "the guest broke the protocol of its control channel"


def run(*command: str, **options) -> hutch.Result:
    options.setdefault("timeout", 20)
    return hutch.run("host", list(command or ("true",)), **EMULATED, **options)


def test_a_guest_that_keeps_to_it(monkeypatch):
    fake.guest(monkeypatch, "started(); send(OUTPUT, 1, b'out'); send(ERRORS, 1, b'err'); ended(5 << 8)")
    r = run()
    assert (r.outcome, r.exit_code, r.stdout, r.stderr) == ("exited", 5, "out", "err")


def test_input_and_credit(monkeypatch):
    script = """
    started()
    got = 0
    while True:
        kind, session, data = take()
        if kind == INPUT:
            if not data: break
            got += len(data)
            send(INPUT_CREDIT, 1, struct.pack("<I", len(data) + 512))
    send(OUTPUT, 1, str(got).encode()); ended()
    """
    fake.guest(monkeypatch, script)
    assert run(stdin=b"x" * 1_000_000).stdout == "1000000"


@pytest.mark.parametrize(
    "script",
    [
        "send(99)",
        "send(SETUP)",
        "send(OUTPUT, 63, b'x')",
        "send(OUTPUT, 64, b'x')",
        "send(OUTPUT, 65535, b'x')",
        "send(OUTPUT, 0, b'x')",
        "send(ENDED, 5)",
        "send(QUIET, 0)",
        "send(OUTPUT, 1, b'', size=1 << 31)",
        "send(OUTPUT, 1, b'', size=16385)",
        "started(); send(INPUT_CREDIT, 1, struct.pack('<I', 1000)); time.sleep(9)",
        "started(); send(INPUT_CREDIT, 1, b'123'); time.sleep(9)",
        "started(); send(FROM_EXECUTOR, 1, b'short'); time.sleep(9)",
        "started(); send(FROM_EXECUTOR, 1, message(READY) + b'x'); time.sleep(9)",
        "started(); send(HELLO, 1); time.sleep(9)",
        "channel.sendall(os.urandom(100000)); time.sleep(9)",
    ],
)
def test_what_breaks_it_ends_the_machine(monkeypatch, script):
    fake.guest(monkeypatch, script)
    started = time.monotonic()
    r = run("cat", stdin=b"")
    assert r.outcome in ("failed-to-start", "machine-lost") and r.exit_code == 125
    assert BROKEN in str(r.error) and time.monotonic() - started < 8


@pytest.mark.parametrize("size", [0, 1, 16000])
def test_output_beyond_its_window_ends_the_machine(monkeypatch, size):
    """Nobody reads it: the pipe, the client's buffer and the window are full, and what comes then was not to come."""
    fake.guest(monkeypatch, f"started()\nwhile True: send(OUTPUT, 1, b'x' * {size})")
    with hutch.start("host", ["yes"], **EMULATED, timeout=20) as process:
        pid = process.pid
        deadline = time.monotonic() + 10
        while attack.children(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        r = process.wait()
    assert r.outcome == "machine-lost" and BROKEN in str(r.error)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sys.exit(0)", "the machine ended"),
        ("time.sleep(0.1); os.kill(os.getpid(), 9)", "the machine ended"),
        ("os.write(1, b'qemu: no such accelerator\\n'); sys.exit(1)", "its console ends with: qemu: no such accelerator"),
        ("time.sleep(60)", "the guest did not come up in time"),
        ("send(HELLO, 0); time.sleep(60)", "the guest did not come up in time"),
        ("send(GUEST_FAILED, 0, b'the guest: load the module x: error 2'); time.sleep(60)", "load the module x"),
        ("os.write(1, b'Kernel panic - not syncing: no memory\\r\\nCall trace: ' + b'x' * 9000); sys.exit(0)", "its kernel gave up: no memory"),
        ("until(START); send(FROM_EXECUTOR, 1, message(FAILED, lane=1, index=3, error=13)); time.sleep(9)", "Permission denied"),
        ("until(START); send(FROM_EXECUTOR, 1, message(FAILED, lane=1, index=99999, error=13)); time.sleep(9)", "the machine's guest failed"),
        ("until(START); send(FROM_EXECUTOR, 1, message(FAILED, lane=-5, index=-1, error=-7)); time.sleep(9)", "the machine's guest failed"),
    ],
)
def test_what_ends_it_is_said(monkeypatch, script, words):
    fake.guest(monkeypatch, script)
    r = run()
    assert r.outcome == "failed-to-start" and words in str(r.error)
    assert str(r.error).isprintable() or "\n" in str(r.error)


def test_what_was_said_before_its_end_is_heard(monkeypatch):
    """A relay that closes a command's socket with something of the command's unread there takes nothing along that was said before."""
    script = """
    started()
    for _ in range(100): send(OUTPUT, 1, b"line\\n")
    send(FROM_EXECUTOR, 1, message(EXITED, a=3 << 8)); send(ENDED, 1)
    time.sleep(9)
    """
    fake.guest(monkeypatch, script)
    for _ in range(30):
        r = run(stdin=b"y" * 60000)
        assert (r.outcome, r.exit_code, r.stdout) == ("exited", 3, "line\n" * 100)


def test_a_failure_behind_its_start_is_no_normal_end(monkeypatch):
    fake.guest(monkeypatch, "started(); send(FROM_EXECUTOR, 1, message(FAILED, error=0, detail=b'\\x01\\x00\\x0a\\x00oom_kill 9')); time.sleep(9)")
    r = run()
    assert r.outcome == "machine-lost" and not r.usage.oom_kills


@pytest.mark.parametrize("detail", ["oom_kill \xb2", "oom_kill --5", "oom_kill " + "9" * 400])
def test_numbers_that_are_none(monkeypatch, detail):
    packed = "struct.pack('<HH', 1, len(d)) + d"
    fake.guest(monkeypatch, f"d = {detail!r}.encode(); started(); send(FROM_EXECUTOR, 1, message(EXITED, detail={packed})); send(ENDED); time.sleep(9)")
    assert run().outcome == "exited"


def test_a_guest_that_says_something_and_does_not_start_anything(monkeypatch):
    """Not every word counts as a sign of life."""
    fake.guest(monkeypatch, "until(START)\nwhile True: send(INPUT_CREDIT, 1, struct.pack('<I', 0)); time.sleep(0.05)", patience=1000)
    r = run()
    assert r.outcome == "failed-to-start" and "did not come up in time" in str(r.error)


def test_a_snapshot_that_is_not_answered_holds_up_nobody(monkeypatch):
    """Whoever asked for silence has gone, and the guest never fell silent: nothing spins."""
    fake.guest(monkeypatch, "started(); time.sleep(60)")
    with hutch.Container("host", **EMULATED) as box:
        door = socket.socket(fileno=channel.connect(box.live.directory, box.name))
        door.send((0).to_bytes(4, "little") + (12).to_bytes(2, "little") + bytes(2))  # QUIESCE
        time.sleep(0.2)
        door.close()
        relay = next(c for c in Path(f"/proc/{box.pid}/task/{box.pid}/children").read_text().split() if "relay" in Path(f"/proc/{c}/comm").read_text())
        before = sum(map(int, Path(f"/proc/{relay}/stat").read_text().rpartition(")")[2].split()[11:13]))
        time.sleep(1)
        after = sum(map(int, Path(f"/proc/{relay}/stat").read_text().rpartition(")")[2].split()[11:13]))
        assert after - before < 30  # of a hundred ticks


def test_a_command_whose_caller_is_killed_is_ended_in_the_guest(monkeypatch):
    """However it happens: the guest is told, also where it spoke to nobody first."""
    script = """
    started()
    while True:
        kind, session, data = take()
        if kind == START and session > 1:
            send(FROM_EXECUTOR, session, message(READY, a=9))
            for _ in range(100):
                send(FROM_EXECUTOR, session, message(READY, a=9)); time.sleep(0.005)
        elif kind == HANG_UP:
            os.write(1, b"told\\n"); send(ENDED, session); send(OUTPUT, 1, b"told\\n")
    """
    fake.guest(monkeypatch, script)
    with hutch.start("host", ["yes"], **EMULATED, timeout=20) as process:
        assert process.pid
        running = next(r for r in hutch.containers() if r.pid == process.pid)
        code = (
            "import sys; from hutch.engine.records import state; from hutch.engine.containers import recorded; from hutch.engine.launch import enter\n"
            "from hutch.engine.machines import channel; from hutch.executor.launcher import Execution\n"
            "r = state.find(sys.argv[1]); p = recorded.live_of(r)\n"
            "plan = enter.remote_plan(p, enter.process_of(p, ('sleep',), {}, None, enter.user_of(p, None)))\n"
            "fd = channel.connect(r.directory, 'x'); e = Execution(plan, stdin=0, stdout=1, stderr=2, extra=(fd,)); e.wait_ready(); print('up', flush=True); e.wait()"
        )
        caller = subprocess.Popen([sys.executable, "-c", code, running.id], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert caller.stdout is not None and caller.stdout.readline() == "up\n"
        caller.kill()
        caller.wait()
        caller.stdout.close()
        assert next(process.lines()).startswith("told")
        process.kill()


def test_a_machine_that_ends_later_is_lost(monkeypatch):
    fake.guest(monkeypatch, "started(); send(OUTPUT, 1, b'so far'); time.sleep(0.2); sys.exit(0)")
    r = run()
    assert (r.outcome, r.exit_code, r.stdout) == ("machine-lost", 125, "so far")
    assert isinstance(r.error, hutch.MachineLost) and "the machine ended" in str(r.error)
    with pytest.raises(hutch.MachineLost):
        r.check()


def test_what_it_says_does_not_reach_a_terminal(monkeypatch):
    fake.guest(monkeypatch, r"send(GUEST_FAILED, 0, b'\x1b]0;owned\x07\x1b[2J' * 9); time.sleep(60)")
    assert "\x1b" not in str(run().error)
    fake.guest(monkeypatch, r"os.write(1, b'\x1b[31mred\x1b[0m\n'); sys.exit(0)")
    assert "\x1b" not in str(run().error)


def memory_of(pid: int) -> int:
    """The anonymous memory of a process and its children, in KiB."""
    total = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            total += int(line.split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return total + sum(memory_of(int(child)) for child in children if Path(f"/proc/{child}/comm").read_text().startswith("hutch-"))


def test_a_flood_on_the_console_is_not_kept(monkeypatch):
    fake.guest(monkeypatch, "started()\nwhile True: os.write(1, b'flood ' * 10000)")
    with hutch.Container("host", **EMULATED) as box:
        time.sleep(1)
        assert box.running and memory_of(box.pid) < 2048


def test_output_that_nobody_takes_waits_in_the_guest(monkeypatch):
    script = """
    started()
    open_ = 0
    while True:
        if open_ + 16512 <= 65536:
            send(OUTPUT, 1, b"x" * 16000); open_ += 16512
        elif (frame := take())[0] == CREDIT:
            open_ -= struct.unpack("<II", frame[2])[1]
    """
    fake.guest(monkeypatch, script)
    with hutch.start("host", ["yes"], **EMULATED) as process:
        pid = process.pid
        time.sleep(1)  # nobody pumps: pipe, windows and sockets are full
        assert memory_of(pid) < 2048
        process.kill()


def test_a_guest_that_reads_nothing_holds_up_nobody(monkeypatch):
    """What is written to it waits in windows and sockets; a kill takes it away at once."""
    fake.guest(monkeypatch, "started(); time.sleep(60)")
    started = time.monotonic()
    r = run("cat", stdin=b"x" * 5_000_000, timeout=2)
    assert r.outcome == "timeout" and time.monotonic() - started < 10


def test_sixty_commands_and_no_more(monkeypatch):
    """A machine has room for 63 commands; one more is refused, and those that run go on."""
    script = """
    started()
    while True:
        kind, session, data = take()
        if kind == START and session > 1:
            send(FROM_EXECUTOR, session, message(READY, a=9))
        elif kind == HANG_UP:
            send(ENDED, session)
    """
    fake.guest(monkeypatch, script)
    with hutch.Container("host", **EMULATED) as box:
        running = []
        for _ in range(62):
            running.append(box.start(["sleep"]))
            assert running[-1].pid
        r = box.run(["sleep"], timeout=10)
        assert r.outcome in ("failed-to-start", "machine-lost") and "no room for another command" in str(r.error)
        for process in running:
            process.kill()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            last = box.start(["sleep"])
            try:
                assert last.pid
                break
            except hutch.HutchError:
                time.sleep(0.05)
            finally:
                last.close()
        for process in running:
            process.close()
        assert box.running


MUTANT = """
rng = random.Random(%d)
def mutated(data):
    data = bytearray(data)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 8))):
        how = rng.randrange(4)
        at = rng.randrange(len(data)) if data else 0
        if how == 0 and data: data[at] ^= 1 << rng.randrange(8)
        elif how == 1 and data: data[at] = rng.randrange(256)
        elif how == 2: data[at:at] = rng.randbytes(rng.randrange(1, 20))
        elif data: del data[at : at + rng.randrange(1, 20)]
    return bytes(data)
def chatter():
    kind = rng.choice((HELLO, OUTPUT, OUTPUT, ERRORS, INPUT_CREDIT, FROM_EXECUTOR, ENDED, FILE_CONTENT, GUEST_FAILED, QUIET, rng.randrange(65536)))
    session = rng.choice((0, 1, 1, 1, 2, 63, 64, rng.randrange(65536)))
    data = rng.choice((b"", rng.randbytes(rng.randrange(700)), struct.pack("<I", rng.randrange(1 << 32)), message(rng.randrange(6), a=rng.randrange(1 << 40), error=rng.randrange(200), lane=rng.randrange(5), index=rng.randrange(90)), b"x" * rng.randrange(17000)))
    return raw(kind, session, data, rng.choice((None, None, None, rng.randrange(1 << 32), rng.randrange(20000))))
try:
    until(START)
    channel.sendall(mutated(raw(FROM_EXECUTOR, 1, message(READY, a=7))))
    for _ in range(rng.randrange(30)):
        channel.sendall(mutated(chatter()))
    channel.sendall(mutated(raw(FROM_EXECUTOR, 1, message(EXITED, a=rng.randrange(65536)))))
    channel.sendall(mutated(raw(ENDED)))
    channel.settimeout(0.3)
    while channel.recv(65536): pass
except OSError:
    pass
"""


def test_mutants(monkeypatch):
    """Hundreds of guests that almost keep to it, or not at all."""
    rounds = int(os.environ.get("HUTCH_TEST_MUTANTS", "40"))
    first = random.randrange(1 << 30)
    outcomes = {}
    for seed in range(first, first + rounds):
        fake.guest(monkeypatch, MUTANT % seed, patience=1500)
        r = run(stdin=b"y" * 3000, timeout=5)
        outcomes[r.outcome] = outcomes.get(r.outcome, 0) + 1
        assert r.outcome in ("exited", "signalled", "machine-lost", "failed-to-start", "timeout"), (seed, r)
        assert r.outcome != "timeout", (seed, "it hung")
    assert outcomes


def test_nothing_is_left_of_a_machine_whose_starter_is_killed(monkeypatch, tmp_path):
    fake.guest(monkeypatch, "started(); time.sleep(60)")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            box = hutch.Container("host", **EMULATED)
            os.write(writer, f"{box.pid}\n".encode())
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    pid = int(os.read(reader, 64))
    os.close(reader)
    inside = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert len(inside) >= 3  # virtiofsd, the monitor, the relay
    os.kill(child, 9)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{p}") for p in (pid, *inside)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(os.path.exists(f"/proc/{p}") for p in (pid, *inside))


@pytest.mark.parametrize("victim", ["qemu", "virtiofsd", "hutch-relay"])
def test_a_part_that_is_killed_takes_the_machine_along(monkeypatch, victim):
    fake.guest(monkeypatch, "started(); time.sleep(60)")
    with hutch.start("host", ["sleep", "50"], **EMULATED) as process:
        parent = process.pid
        names = {"qemu": "python3", "virtiofsd": "virtiofsd", "hutch-relay": "hutch-relay"}
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == names[victim]:
                os.kill(int(child), 9)
        r = process.wait()
    assert r.outcome == "machine-lost" and "the machine ended" in str(r.error)
