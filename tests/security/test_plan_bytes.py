"""The executor given bytes that are almost a plan: it refuses or fails, and never does what C leaves undefined.

A plan comes from the same user's Python and is trusted. But it is what everything that Hutch does goes through, and an executor that
loses its way in one would do it with root's rights. The attempts run in a container: whatever an altered plan asks for stays there.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

import hutch
from hutch.executor import launcher
from tests.security import attack

pytestmark = pytest.mark.root
ROUNDS = int(os.environ.get("HUTCH_TEST_PLANS", "150"))

# runs in the container: alters the plan, starts the executor with it as a launcher does, and tells how both of its processes ended
TRY = r"""
import json, os, random, select, signal, socket, sys, time
plan, binary, seed, rounds = open(sys.argv[1], "rb").read(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
BAD = {signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP}
def operations(data):
    at, found = 32, []
    while at + 8 <= len(data):
        found.append(at)
        at += 8 + int.from_bytes(data[at:at + 4], "little")
    return found
AT = operations(plan)
def altered(rng):
    data = bytearray(plan)
    for _ in range(rng.choice((1, 1, 2, 4, 8, 24))):
        how = rng.randrange(8)
        at = rng.randrange(0, len(data) - 8) & ~7
        if how == 0: data[at:at + 8] = (rng.choice((0, 1, 2, 7, 1023, 1024, 4096, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, len(data)))).to_bytes(8, "little")
        elif how == 1: data[at:at + 8] = rng.getrandbits(64).to_bytes(8, "little")
        elif how == 2: data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == 3: data[(head := rng.choice(AT)) + 4:head + 8] = rng.randrange(0, 110).to_bytes(4, "little")
        elif how == 4: data[(head := rng.choice(AT)):head + 4] = rng.choice((0, 8, 24, 2**31, 2**32 - 8, rng.randrange(4096))).to_bytes(4, "little")
        elif how == 5: data[(word := 4 * rng.randrange(4, 8)):word + 4] = rng.choice((0, 1, 1024, 2**31, 2**32 - 1, rng.randrange(2048))).to_bytes(4, "little")
        elif how == 6: del data[rng.randrange(32, len(data)):]
        else:
            a, b = sorted((rng.choice(AT), rng.choice(AT)))
            data[a:a] = data[b:b + 8 + int.from_bytes(data[b:b + 4], "little")]
        if len(data) < 64: break
    data[8:12] = os.getpid().to_bytes(4, "little")
    return bytes(data)
def attempt(number):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null, text = os.open("/dev/null", os.O_RDWR), os.memfd_create("plan")
    os.write(text, altered(random.Random(number)))
    os.lseek(text, 0, 0)
    high = [os.dup2(fd, 100 + i) for i, fd in enumerate((null, null, null, text, theirs.fileno()))]
    actions = [(os.POSIX_SPAWN_DUP2, fd, i) for i, fd in enumerate(high)] + [(os.POSIX_SPAWN_CLOSE, fd) for fd in high]
    pid = os.posix_spawn(binary, ["hutch-executor"], {}, file_actions=actions, setsid=True)
    for fd in (null, text, *high): os.close(fd)
    theirs.close()
    end, status, said = time.monotonic() + 3, None, []
    ours.setblocking(False)
    while status is None and time.monotonic() < end:
        select.select([ours], [], [], 0.02)
        try: said.append(ours.recv(4096))
        except OSError: pass
        done, found = os.waitpid(pid, os.WNOHANG)
        status = found if done else None
    ours.close()
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "hung"
    while True:  # its container's processes come to us, the first of this pid namespace's tree
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0: break
        except ChildProcessError: break
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in BAD: return f"executor: signal {os.WTERMSIG(status)}"
    for raw in said:
        kind, error = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[12:16], "little")
        how = int.from_bytes(raw[16:24], "little") & 0x7f
        if kind == 2 and error == 0 and how in BAD: return f"container lane: signal {how}"
    return "exited" if os.WIFEXITED(status) else "killed"
counts = {}
for number in range(seed, seed + rounds):
    end = attempt(number)
    counts[end] = counts.get(end, 0) + 1
    if ":" in end: counts.setdefault("bad", []).append((number, end))
print(json.dumps(counts))
"""


@pytest.mark.parametrize("kind", ["a container", "a command"])
def test_altered_plans(tmp_path: Path, busybox_root: Path, kind: str) -> None:
    """Hundreds of plans with numbers, lengths, codes and operations that are others."""
    tmp_path.chmod(0o755)
    if kind == "a container":
        plan = attack.compiled(str(busybox_root), ("true",), memory="64m", hostname="x")
    else:
        with hutch.Container(str(busybox_root)) as box:
            plan = attack.entering(box, ("true",))
    (tmp_path / "plan").write_bytes(plan.encode(0))
    (tmp_path / "executor").write_bytes(Path(launcher.BINARY).read_bytes())
    (tmp_path / "try.py").write_text(TRY)
    for name, mode in (("plan", 0o644), ("executor", 0o755), ("try.py", 0o644)):
        (tmp_path / name).chmod(mode)
    seed = random.randrange(1 << 30)
    result = hutch.run(
        "host", ["python3", "/try/try.py", "/try/plan", "/try/executor", str(seed), str(ROUNDS)],
        mounts=[f"{tmp_path}:/try:ro"], cap_add=["ALL"], seccomp="unconfined", userns="private", memory="512m", pids=200,
        timeout=60 + ROUNDS, init=True,
    )  # fmt: skip
    assert result.ok, (seed, result)
    counts = json.loads(result.stdout)
    assert not counts.get("bad"), (seed, counts)
    assert sum(n for name, n in counts.items() if name != "bad") == ROUNDS and counts.get("exited", 0) > ROUNDS // 2, counts
