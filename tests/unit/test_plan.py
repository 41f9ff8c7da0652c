"""Plans: their bytes, their words, their rules."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

import hutch.executor
from hutch.executor import messages
from hutch.plan import lint as rules, numbers, ops
from hutch.plan.lint import lint
from hutch.plan.ops import slot
from hutch.plan.plan import FLAG_DETACH, MAGIC, MAX_SLOTS, VERSION, Plan

EXECUTOR = Path(hutch.executor.__file__).parent

# One of each, and the words that its description must have.
SAMPLES: tuple[tuple[ops.Operation, tuple[str, ...]], ...] = (
    (ops.Wait(barrier=3), ("barrier 3",)),
    (ops.Signal(barrier=4), ("barrier 4",)),
    (ops.OpenTree(path="/data", into=slot("t"), set_attributes=5, idmap=slot("u"), recursive=True), ("/data", "<t>", "ro,nodev", "idmapped", "tree")),
    (ops.Open(path="/data", flags=0, into=slot("f")), ("/data", "<f>")),
    (ops.Join(target=slot("n"), flags=0x40000000), ("<n>", "network")),
    (ops.ResourceLimit(resource="RLIMIT_NOFILE", soft=10, hard=2**64 - 1), ("RLIMIT_NOFILE", "10", "unlimited")),
    (ops.Pipe(reader=slot("r"), writer=slot("w")), ("<r>", "<w>")),
    (
        ops.MakeFilesystem(
            kind="overlay",
            into=slot("o"),
            attributes=2,
            options=(("userxattr", None), ("a", "b"), ("upperdir", slot("u")), ("lowerdir", (slot("x"), slot("y")))),
        ),
        ("overlay", "nosuid", "userxattr", "a=b", "upperdir=<u>", "lowerdir=<x>:<y>", "<o>"),
    ),
    (ops.MakeDirectory(base=slot("b"), path="a/b", mode=0o700), ("a/b", "<b>", "0700")),
    (ops.MakeSymlink(base=slot("b"), target="to", path="from"), ("from", "to", "<b>")),
    (ops.MakeFile(base=slot("b"), path="etc/hosts", data="127.0.0.1"), ("etc/hosts", "127.0.0.1", "<b>")),
    (ops.MakeNode(base=slot("b"), path="null", kind="c", major=1, minor=3), ("null", "c 1:3", "0666")),
    (ops.SetXattr(base=slot("b"), path="d", name="user.x", value="y"), ("user.x=y", "<b>")),
    (ops.OpenAt(base=slot("b"), path="d", flags=0, into=slot("i")), ("d in <b>", "<i>")),
    (ops.HostDirectory(path="/run/h", undo="tree", userns=slot("u")), ("/run/h", "remove the tree")),
    (ops.HostWrite(path="/cg/memory.max", data="4096"), ("/cg/memory.max", "4096")),
    (ops.HostRecord(path="/run/h/state", data="{}", into=slot("rec")), ("/run/h/state",)),
    (ops.Reserve(path="/run/h/state", name="/run/.names/web"), ("/run/h/state", "/run/.names/web")),
    (ops.Clone(flags=0x20020000, into=slot("p"), cgroup=slot("c")), ("mount", "pid", "<c>")),
    (ops.ProcWrite(name="uid_map", data="0 1000 1"), ("uid_map", "0 1000 1")),
    (ops.MapHelper(program="/usr/bin/newuidmap", numbers=(0, 1000, 1)), ("/usr/bin/newuidmap", "0 1000 1")),
    (ops.OpenNamespace(name="ns/user", into=slot("u")), ("ns/user", "<u>")),
    (ops.DeviceProgram(cgroup=slot("c"), program=bytes(16), summary="allow c 1:3"), ("2 instructions", "<c>", "allow c 1:3")),
    (ops.ReadAtExit(path="/cg/memory.peak", tag=3), ("/cg/memory.peak",)),
    (ops.KillAtExit(path="/cg/x/cgroup.procs"), ("/cg/x",)),
    (ops.WritePid(record=slot("rec")), ("<rec>",)),
    (ops.CallOwner(request="start scope"), ("start scope",)),
    (ops.Inherit(into=slot("i"), number=7), ("7", "<i>")),
    (ops.Export(value=slot("e")), ("<e>",)),
    (ops.Log(path="/run/h/log", limit=77, sources=(slot("a"),)), ("/run/h/log", "77")),
    (ops.ExitFile(path="/run/h/exit"), ("/run/h/exit",)),
    (ops.SetIds(uid=5, gid=6, groups=(7, 8)), ("uid 5", "gid 6", "7,8")),
    (ops.Propagation(kind="slave"), ("slave", "recursively")),
    (ops.Attach(mount=slot("m"), root=slot("r"), path="/mnt"), ("<m>", "/mnt", "<r>")),
    (ops.SetAttributes(root=slot("r"), path="/mnt", set_attributes=1, clear_attributes=8, propagation=1 << 18), ("/mnt", "ro", "-noexec", "private")),
    (ops.Pivot(root=slot("r"), stacked=1), ("<r>",)),
    (ops.Mask(root=slot("r"), path="kcore", empty=slot("e"), null=slot("n")), ("kcore", "<r>")),
    (ops.ReadOnly(root=slot("r"), path="sys"), ("sys", "<r>", "read-only")),
    (ops.Hostname(name="box"), ("box",)),
    (ops.DomainName(name="dom"), ("dom",)),
    (ops.WriteAt(base=slot("p"), path="sys/kernel/sem", data="1 2"), ("sys/kernel/sem", "1 2", "<p>")),
    (ops.Loopback(), ("lo",)),
    (ops.Unshare(flags=0x02000000), ("cgroup",)),
    (ops.EnterCgroup(tasks=slot("t")), ("<t>",)),
    (ops.Keyring(), ("session keyring",)),
    (ops.CloneInside(), ("inside", "pid namespace")),
    (ops.ControllingTerminal(), ("controlling terminal",)),
    (ops.TakeOver(), ("pid namespace",)),
    (ops.CheckRoom(current="/a/pids.current", limit="/a/pids.max"), ("/a/pids.current", "/a/pids.max")),
    (ops.NewSession(), ("session",)),
    (ops.Terminal(devpts=slot("d"), master=slot("m"), peer=slot("p"), rows=25, columns=80), ("<m>", "<p>", "80", "25")),
    (ops.Stdio(stdout=slot("o"), stderr=slot("e")), ("stdout", "<o>", "stderr", "<e>")),
    (ops.CloseDescriptors(preserve=(slot("g"), slot("h")), keep=(slot("k"),)), ("5", "<g>, <h>", "<k>")),
    (ops.Capabilities(bounding=3, keep=True, effective=1, permitted=3, inheritable=0, ambient=4), ("bounding=0x3", "effective=0x1", "ambient=0x4", "kept")),
    (ops.NoNewPrivileges(), ("no_new_privs",)),
    (ops.Seccomp(program=bytes(24), summary="2 calls allowed"), ("3 instructions", "2 calls allowed")),
    (ops.Umask(mask=0o22), ("0022",)),
    (ops.ChangeDirectory(path="/work", make=True), ("/work", "made")),
    (ops.Personality(persona=8), ("0x8",)),
    (ops.Scheduler(attributes=bytes(48), summary="SCHED_IDLE"), ("SCHED_IDLE",)),
    (ops.IoPriority(value=3 << 13, summary="IOPRIO_CLASS_IDLE 0"), ("IOPRIO_CLASS_IDLE",)),
    (ops.Affinity(mask=b"\x03" + bytes(7), summary="0-1"), ("0-1",)),
    (ops.FindProgram(candidates=("/bin/sh", "/usr/bin/sh")), ("/bin/sh", "/usr/bin/sh")),
    (ops.Execute(argv=("sh", "-c", "true"), environment=("A=b",)), ("sh -c true", "1 variable")),
    (ops.Init(child=True), ("PID 1", "child")),
    (ops.ParentDeath(signal=9), ("signal 9",)),
    (ops.Protect(), ("debuggers",)),
    (ops.AwaitStart(commands=slot("c"), report=slot("r")), ("<c>", "<r>")),
    (ops.RunHook(path="/hook", argv=("hook",), environment=(), head="{", tail="}", timeout=5), ("/hook", "5 s")),
    (ops.Respawn(flags=0x20000000), ("pid",)),
    (ops.Netlink(into=slot("n")), ("<n>",)),
    (ops.Home(uid=7), ("uid 7", "/etc/passwd")),
    (ops.OwnStdio(uid=7), ("uid 7",)),
    (ops.ChangeRoot(root=slot("r")), ("<r>",)),
    (ops.MemoryPolicy(mode=2, nodes=b"\x01" + bytes(7), summary="MPOL_BIND on nodes 0"), ("MPOL_BIND", "0")),
    (ops.TakeDescriptor(into=slot("t")), ("listener", "<t>")),
    (ops.MakeUserNamespace(uid_map="0 1 2", gid_map="0 3 4", into=slot("u")), ("0 1 2", "0 3 4", "<u>")),
    (ops.HostWritePid(path="/x/tasks"), ("/x/tasks",)),
    (ops.HoldLayer(path="/l/mount", lock="/l/lock", index="/l/index", tar="/c/tar"), ("/l/mount", "/l/index", "/c/tar", "unmount")),
    (
        ops.ReturnDevice(namespace=slot("net"), inside="eth0", outside="wan", up=True, addresses=(b"1234",)),
        ("lend wan to the container as eth0", "take it back"),
    ),
    (ops.EnterUserNetwork(user=slot("user"), network=slot("net")), ("user namespace <user>", "network namespace <net>")),
    (ops.Watch(process=slot("pidfd")), ("as long as the process <pidfd>",)),
    (ops.Publish(what="0.0.0.0:8080 -> 80/tcp", address="172.18.0.2     ", ports=((5, True, 80), (6, False, 53))), ("0.0.0.0:8080 -> 80/tcp",)),
    (
        ops.HoldShared(lock="/n/lock", what="network web", own=((12, b"ab"),), last=((0, b"cd"),), restore=True, unless="/proc/sys/x"),
        ("network web", "last one"),
    ),
    (ops.SocketPair(first=slot("a"), second=slot("b")), ("<a>", "<b>")),
    (ops.Listen(into=slot("l"), path="/run/h/door", packets=True), ("/run/h/door",)),
    (ops.Beside(count=7, name="qemu"), ("qemu", "7")),
    (ops.Tap(name="tap0", into=slot("t")), ("tap0",)),
    (ops.Memory(size=5 << 20, into=slot("m"), source=slot("s")), ("<m>", "<s>", "5 MiB")),
    (ops.Detach(path="/host/root"), ("/host/root",)),
    (
        ops.Machine(channel=slot("c"), console=slot("o"), door=slot("d"), guest=Plan(host=(), container=(ops.Loopback(),)), network=b"ab", terminal=0),
        ("PID 1", "0+1 operations", "terminal"),
    ),
    (ops.Remote(relay=slot("r"), guest=Plan(host=(), container=(ops.Loopback(),)), group="/sys/fs/cgroup/x"), ("0+1 operations",)),
    (ops.CopyUp(root=slot("r"), into=slot("t"), path="/etc"), ("/etc", "<r>", "<t>")),
)
CLASSES = {kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, ops.Operation) and kind is not ops.Operation}


def test_samples_are_complete():
    assert {type(op) for op, _ in SAMPLES} == CLASSES


@pytest.mark.parametrize(("op", "words"), SAMPLES, ids=[type(op).__name__ for op, _ in SAMPLES])
def test_describe(op, words):
    text = op.describe()
    assert text.strip() == text and text and "\n" not in text
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


@pytest.mark.parametrize(("op", "words"), SAMPLES, ids=[type(op).__name__ for op, _ in SAMPLES])
def test_arguments_and_json(op, words):
    for argument in op.arguments():
        assert argument is None or isinstance(argument, int | str | bytes | ops.Slot)
    data = json.loads(json.dumps(Plan(host=(op,), container=(op.replace(origin="mounts[3]"),)).to_json()))
    assert data["version"] == VERSION and data["detach"] is False and data["warnings"] == []
    assert data["host"][0]["op"] == type(op).__name__ and data["host"][0]["text"] == op.describe()
    assert data["container"][0]["origin"] == "mounts[3]"
    assert set(data["host"][0]) == {"op", "text", *op._fields}


# Strings that a user chooses: none may break the line, or the terminal that shows it
HOSTILE = "a\nb\rc\x1b[31md"


@pytest.mark.parametrize(
    "op",
    [
        ops.Execute(argv=("sh", "-c", HOSTILE), environment=()),
        ops.FindProgram(candidates=(HOSTILE,)),
        ops.ChangeDirectory(path=f"/{HOSTILE}"),
        ops.OpenTree(path=f"/{HOSTILE}", into=slot("t")),
        ops.Attach(mount=slot("m"), root=slot("r"), path=f"/{HOSTILE}"),
        ops.MakeFilesystem(kind="tmpfs", into=slot("t"), options=(("a", HOSTILE),)),
        ops.HostWrite(path="/x", data=HOSTILE),
        ops.MakeFile(base=slot("b"), path="x", data=HOSTILE),
    ],
    ids=lambda op: type(op).__name__,
)
def test_describe_is_one_printable_line(op):
    """`describe` promises one line for a person; `hutch plan` and error messages print it as it is."""
    text = op.describe()
    assert not set(text) & {"\n", "\r", "\x1b"}, text


def _upper(name: str) -> str:
    special = {"ResourceLimit": "RLIMIT", "DomainName": "DOMAINNAME"}
    return special.get(name) or "".join("_" + c if c.isupper() and i else c for i, c in enumerate(name)).upper()


def test_codes_are_the_executors():
    assert {_upper(kind.__name__): kind.code for kind in CLASSES} == numbers.OPERATIONS


def test_codes_are_distinct_and_fit_their_lane():
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)
    for kind in CLASSES:
        lane = "both" if kind.code < 20 else "host" if kind.code < 40 or kind.code >= 100 else "container"
        assert kind.lanes == lane, kind


def test_the_executor_was_built_with_these_numbers():
    assert (EXECUTOR / "numbers.h").read_text() == numbers.header()


def test_no_number_stands_twice():
    """What the table has is written nowhere in the executor's source, and two of its numbers have no name in common."""
    tables = (numbers.OPERATIONS, numbers.MESSAGES, numbers.ORDERS, numbers.FRAMES, numbers.START, numbers.HEAD, numbers.FLAGS, numbers.LIMITS)
    names = [name for table in tables for name in table]
    assert len(set(names)) == len(names)
    for path in EXECUTOR.glob("*.[ch]"):
        if path.name != "numbers.h":
            assert not re.search(rf"\b({'|'.join(names)}) = ", path.read_text()), path


# Encoding


class Decoder:
    """The executor's reader, in Python."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def u32(self) -> int:
        self.at += 4
        return int.from_bytes(self.data[self.at - 4 : self.at], "little")

    def number(self) -> int:
        assert self.at + 8 <= len(self.data)
        self.at += 8
        return int.from_bytes(self.data[self.at - 8 : self.at], "little", signed=True)

    def string(self) -> bytes:
        size = self.number()
        padded = (size + 8) & ~7
        raw = self.data[self.at : self.at + padded]
        assert len(raw) == padded and raw[size:] == bytes(padded - size)
        self.at += padded
        return raw[:size]


def _read(data: bytes, plan: Plan) -> tuple[tuple[int, ...], dict[ops.Slot, int]]:
    """Decode a plan, argument by argument, against what its operations say."""
    reader = Decoder(data)
    head = tuple(reader.u32() for _ in range(8))
    slots: dict[ops.Slot, int] = {}
    for _, _, op in plan.lanes():
        size, code = reader.u32(), reader.u32()
        end = reader.at + size
        assert code == op.code and size % 8 == 0
        for argument in op.arguments():
            if argument is None:
                assert reader.number() == -1
            elif isinstance(argument, ops.Slot):
                number = reader.number()
                assert slots.setdefault(argument, number) == number
            elif isinstance(argument, int):
                assert reader.number() % 2**64 == argument % 2**64
            elif isinstance(argument, str):
                assert reader.string() == argument.encode("utf-8", "surrogateescape")
            else:
                assert reader.string() == argument
        assert reader.at == end
    assert reader.at == len(data)
    return head, slots


def test_encode_every_operation():
    plan = Plan(host=tuple(op for op, _ in SAMPLES), container=tuple(op for op, _ in SAMPLES), detach=True)
    head, slots = _read(plan.encode(4711), plan)
    assert head == (MAGIC, VERSION, 4711, FLAG_DETACH, len(slots), len(SAMPLES), len(SAMPLES), 0)
    assert sorted(slots.values()) == list(range(len(slots))), "slots are numbered without gaps"


def test_encode_layout():
    plan = Plan(host=(ops.Signal(barrier=2),), container=(ops.Hostname(name="hutch"), ops.Hostname(name="1234567"), ops.Hostname(name="12345678")))
    assert plan.encode(0).hex(" ", 4).split() == [
        "484f504c", "01000000", "00000000", "00000000", "00000000", "01000000", "03000000", "00000000",
        "08000000", "02000000", "02000000", "00000000",
        "10000000", "2f000000", "05000000", "00000000", "68757463", "68000000",
        "10000000", "2f000000", "07000000", "00000000", "31323334", "35363700",
        "18000000", "2f000000", "08000000", "00000000", "31323334", "35363738", "00000000", "00000000",
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    argv=st.lists(st.binary(max_size=20).filter(lambda b: 0 not in b), min_size=1, max_size=4),
    numbers=st.lists(st.integers(-(2**63), 2**64 - 1), min_size=2, max_size=2),
    names=st.lists(st.text(max_size=4), min_size=1, max_size=6),
    blob=st.binary(max_size=40),
)
def test_encode_anything(argv, numbers, names, blob):
    """Arguments that are not UTF-8 pass unchanged (os.fsdecode), as do numbers of either sign."""
    words = tuple(word.decode("utf-8", "surrogateescape") for word in argv)
    plan = Plan(
        host=tuple(ops.Open(path="/", flags=0, into=slot(name)) for name in names),
        container=(
            ops.Execute(argv=words, environment=()),
            ops.ResourceLimit(resource="RLIMIT_CPU", soft=numbers[0], hard=numbers[1]),
            ops.Seccomp(program=blob),
            ops.Stdio(stdin=slot(names[0]), stdout=None, stderr=slot(names[-1])),
        ),
    )
    head, _ = _read(plan.encode(1), plan)
    assert head[4] == len(set(names))


def test_too_many_slots():
    def plan(count: int) -> Plan:
        return Plan(host=tuple(ops.Open(path="/", flags=0, into=slot(str(i))) for i in range(count)), container=())

    assert plan(MAX_SLOTS).encode(0)
    with pytest.raises(ValueError, match="at most 1024 slots"):
        plan(MAX_SLOTS + 1).encode(0)


def test_a_nul_in_a_path_does_not_cut_it():
    """The executor's strings end at a NUL: ``/etc\\0/harmless`` would be bound as ``/etc``."""
    with pytest.raises(Exception, match="NUL"):
        Plan(host=(ops.OpenTree(path="/etc\0/harmless", into=slot("t")),), container=()).encode(0)


def test_describe_plan():
    plan = Plan(host=(ops.Signal(barrier=1),), container=(ops.Hostname(name="box", origin="hostname"), ops.Loopback()), warnings=("no cgroup",))
    assert plan.describe().splitlines() == [
        "host        0  -         signal barrier 1",
        "container   0  hostname  set the host name to box",
        "container   1  -         bring lo up",
        "warning: no cgroup",
    ]
    assert plan.operation(0, 0) == ops.Signal(barrier=1) and plan.operation(1, 1) == ops.Loopback()
    assert Plan(host=(ops.Export(value=slot("a")), ops.Signal(barrier=1), ops.Export(value=slot("b"))), container=()).exports() == ("a", "b")
    assert Plan(host=(), container=()).describe() == ""


def test_shown_data_is_cut():
    text = ops.HostWrite(path="/x", data="y" * 5000).describe()
    assert len(text) < 100 and "…" in text


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, []),
        (5, ["ro", "nodev"]),
        (0x10, ["noatime"]),
        (0x20, ["strictatime"]),
        (0x80, ["nodiratime"]),
        (0x20000F, ["ro", "nosuid", "nodev", "noexec", "nosymfollow"]),
    ],
)
def test_attribute_names(bits, names):
    assert ops.attribute_names(bits) == names


def test_names_of_namespaces():
    assert ops.namespace_names(0) == "none"
    assert ops.namespace_names(sum(ops.NAMESPACES.values())) == ", ".join(ops.NAMESPACES)


@given(major=st.integers(0, 0xFFF), minor=st.integers(0, 0xFFFFF))
def test_device_numbers_are_the_kernels(major, minor):
    import os

    assert ops.device_number(major, minor) == os.makedev(major, minor)


# Messages


@given(error=st.integers(-(2**31), 2**31 - 1), kind=st.sampled_from([messages.SEND_SIGNAL, messages.KILL_TREE, messages.ANSWER]), detail=st.text(max_size=700))
def test_messages(error, kind, detail):
    raw = messages.encode(kind, error, detail)
    assert len(raw) == messages.SIZE
    found = messages.decode(raw)
    assert (found.type, found.error, found.lane, found.index, found.values) == (kind, error, 0, 0, (0, 0, 0, 0))
    assert len(found.detail) == messages.DETAIL and found.detail[-1] == 0, "the executor reads it to its NUL"
    assert detail.encode("utf-8", "replace").startswith(found.detail.rstrip(b"\0")[:500])


def test_message_layout():
    raw = (
        b"".join(n.to_bytes(4, "little", signed=True) for n in (2, 1, 12, 22))
        + b"".join(n.to_bytes(8, "little", signed=True) for n in (1, -2, 3, 2**40))
        + b"why"
    )
    assert messages.decode(raw + bytes(messages.SIZE - len(raw))) == messages.Message(
        type=2, lane=1, index=12, error=22, values=(1, -2, 3, 2**40), detail=b"why" + bytes(messages.DETAIL - 3)
    )


# The linter

ROOT, PROC, SYS, EMPTY, NULL = (slot(name) for name in ("root", "proc", "sys", "empty", "null"))


def sound(**changes: object) -> Plan:
    """A small plan without fault."""
    masked = list(rules.MASKED)
    container = (
        ops.Wait(barrier=1),
        ops.Open(path="/", flags=0, into=slot("host-root")),
        ops.MakeFilesystem(kind="tmpfs", into=ROOT),
        ops.MakeFilesystem(kind="tmpfs", into=EMPTY),
        ops.OpenTree(path="/dev/null", into=NULL),
        ops.Attach(mount=ROOT, root=slot("host-root"), path=""),
        ops.MakeFilesystem(kind="proc", into=PROC),
        ops.Attach(mount=PROC, root=ROOT, path="/proc"),
        ops.MakeFilesystem(kind="sysfs", into=SYS),
        ops.Attach(mount=SYS, root=ROOT, path="/sys"),
        *(ops.Mask(root=PROC, path=path[6:], empty=EMPTY, null=NULL) for path in masked if path.startswith("/proc/")),
        *(ops.Mask(root=ROOT, path=path, empty=EMPTY, null=NULL) for path in masked if path.startswith("/sys/")),
        *(ops.ReadOnly(root=PROC, path=path[6:]) for path in rules.FROZEN),
        ops.Pivot(root=ROOT),
        ops.CloseDescriptors(),
        ops.Signal(barrier=9),
        ops.Capabilities(bounding=0, keep=True),
        ops.SetIds(uid=0, gid=0),
        ops.Capabilities(effective=0, permitted=0, ambient=0),
        ops.NoNewPrivileges(),
        ops.Seccomp(program=bytes(8)),
        ops.Execute(argv=("sh",), environment=()),
    )
    host = (ops.Clone(flags=ops.NAMESPACES["mount"], into=slot("pidfd")), ops.Signal(barrier=1), ops.Wait(barrier=9))
    return Plan(host=host, container=container).replace(**changes)


def without(kind: type[ops.Operation]) -> Plan:
    return sound(container=tuple(op for op in sound().container if not isinstance(op, kind)))


def put(op: ops.Operation, *, before: type[ops.Operation] | None = None, after: type[ops.Operation] | None = None) -> Plan:
    """The sound plan with one more operation in the container lane."""
    container = list(sound().container)
    place = next(i for i, found in enumerate(container) if isinstance(found, before or after))  # type: ignore[arg-type]
    container.insert(place + (after is not None), op)
    return sound(container=tuple(container))


def only(plan: Plan, word: str) -> None:
    problems = lint(plan)
    assert problems and all(word in problem for problem in problems), problems


def test_sound_plan():
    assert lint(sound()) == []
    assert lint(sound(), privileged=True) == []


def test_rule_lanes():
    only(sound(host=(*sound().host, ops.Loopback())), "Loopback does not belong in the host lane")
    only(put(ops.WritePid(record=ROOT), before=ops.Pivot), "does not belong in the container lane")


def test_rule_slots():
    only(put(ops.Open(path="/", flags=0, into=ROOT), before=ops.Pivot), "<root> is assigned twice")
    only(put(ops.Attach(mount=slot("nowhere"), root=ROOT, path="/x"), before=ops.Pivot), "<nowhere> is never assigned")
    early = put(ops.Attach(mount=SYS, root=slot("host-root"), path="/x"), after=ops.Open)
    only(early, "<sys> is used before it is assigned")


def test_rule_slots_across_lanes():
    use = ops.Attach(mount=slot("tree"), root=ROOT, path="/x")
    make = ops.OpenTree(path="/x", into=slot("tree"))
    clone, signal, wait = sound().host
    plan = put(use, before=ops.Pivot)
    assert lint(plan.replace(host=(make, clone, signal, wait))) == [], "before the clone everything is there"
    assert lint(plan.replace(host=(clone, make, signal, wait))) == [], "behind the barrier"
    only(plan.replace(host=(clone, signal, make, wait)), "no barrier stands between")
    late = ops.Attach(mount=slot("tree"), root=ROOT, path="/x")
    back = sound(host=(clone, signal, ops.SetXattr(base=SYS, path="", name="a", value="b"), wait), container=sound().container)
    only(back, "no barrier stands between")
    assert late in plan.container


def test_rule_barriers():
    clone, signal, wait = sound().host
    assert any("nobody signals barrier 1" in p for p in lint(sound(host=(clone, wait))))
    assert any("out of order" in p for p in lint(sound(host=(clone, ops.Signal(barrier=2), signal, wait))))
    circle = lint(sound(host=(clone, wait, signal)))
    assert any("host: stuck at operation 1" in p for p in circle) and any("container: stuck at operation 0" in p for p in circle)


def test_rule_ending():
    only(without(ops.Execute), "does not execute a program")
    only(sound(container=(*sound().container, ops.Umask(mask=0))), "")
    assert lint(sound(container=(*sound().container[:-1], ops.Init(child=False)))) == []


def test_rule_descriptors():
    only(without(ops.CloseDescriptors), "descriptors are not closed")
    only(put(ops.Open(path="/", flags=0, into=slot("leak")), after=ops.CloseDescriptors), "Open opens a descriptor after the table was closed")


def test_rule_capabilities():
    only(without(ops.Capabilities), "capabilities are never set")
    only(put(ops.Capabilities(bounding=0), before=ops.Pivot), "a mount comes after the capabilities were dropped")
    unbound = tuple(op.replace(bounding=None) if isinstance(op, ops.Capabilities) else op for op in sound().container)
    only(sound(container=unbound), "the bounding set is not limited")
    only(put(ops.Capabilities(effective=1, permitted=1, inheritable=1), before=ops.NoNewPrivileges), "CVE-2022-24769")
    assert lint(put(ops.Capabilities(effective=1, permitted=1, inheritable=1, ambient=1), before=ops.NoNewPrivileges)) == []


def test_rule_capabilities_inheritable_beyond_ambient():
    """CAP 1 inheritable, CAP 0 ambient: the first is what CVE-2022-24769 is about."""
    only(put(ops.Capabilities(effective=3, permitted=3, inheritable=3, ambient=1), before=ops.NoNewPrivileges), "CVE-2022-24769")


def test_rule_capabilities_bounding_first():
    """The rule's own words: the bounding set before the sets (without CAP_SETPCAP it can no longer be dropped)."""
    container = list(sound().container)
    i, j = (i for i, op in enumerate(container) if isinstance(op, ops.Capabilities))
    container[i], container[j] = container[j], container[i]
    only(sound(container=tuple(container)), "bounding")


def test_rule_seccomp():
    only(put(ops.Umask(mask=0), after=ops.Seccomp), "Umask comes after the seccomp filter")
    container = [op for op in sound().container if not isinstance(op, ops.NoNewPrivileges)]
    assert any("must come before the privileges are dropped" in problem for problem in lint(sound(container=tuple(container))))
    container.insert(next(i for i, op in enumerate(container) if isinstance(op, ops.Capabilities)), ops.Seccomp(program=bytes(8)))
    assert lint(sound(container=tuple(op for i, op in enumerate(container) if i != len(container) - 2)), privileged=True) == []


def test_rule_root():
    only(without(ops.Pivot), "pivot_root")


@pytest.mark.parametrize("path", [*rules.MASKED, *rules.FROZEN])
def test_rule_masks(path):
    container = tuple(op for op in sound().container if not (isinstance(op, ops.Mask | ops.ReadOnly) and (path in (op.path, f"/proc/{op.path}"))))
    plan = sound(container=container)
    assert len(container) == len(sound().container) - 1
    only(plan, f"{path} is ")
    assert lint(plan, privileged=True) == []


def test_rule_masks_is_for_what_is_mounted():
    container = tuple(
        op for op in sound().container if not isinstance(op, ops.Mask | ops.ReadOnly) and not (isinstance(op, ops.Attach) and op.path in ("/proc", "/sys"))
    )
    assert lint(sound(container=container)) == []


def test_rule_filtered():
    plan = without(ops.Seccomp)
    only(plan, "no seccomp filter")
    assert lint(plan, privileged=True) == []


def test_rule_filtered_asks_for_no_new_privs():
    """The rule's own words: a confined plan ends under a seccomp filter and no_new_privs."""
    container = [op for op in sound().container if not isinstance(op, ops.NoNewPrivileges | ops.Seccomp)]
    container.insert(next(i for i, op in enumerate(container) if isinstance(op, ops.Capabilities)), ops.Seccomp(program=bytes(8)))
    only(sound(container=tuple(container)), "no_new_privs")


def test_lint_of_an_empty_plan_is_no_crash():
    assert lint(Plan(host=(), container=()))
