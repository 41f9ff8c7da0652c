"""Commands in a container that runs."""

from __future__ import annotations

import os

from hutch.engine.files.files import Files
from hutch.engine.records.facts import Facts
from hutch.engine.records.live import Live
from hutch.engine.spec import configuration
from hutch.errors import ConfigError, HutchError, UsageError
from hutch.executor import undo
from hutch.executor.kept import Stored
from hutch.executor.launcher import FIRST_EXTRA
from hutch.image import resolve
from hutch.image.layers import unmounted
from hutch.kernel import proc
from hutch.kernel.features import features
from hutch.oci.config import CapabilitySets, ConsoleSize, Process, Seccomp, User
from hutch.plan.ops import Execute, FindProgram
from hutch.plan.plan import Plan, encode_operation
from hutch.runtime.enter import EnterRequest, compile_enter
from hutch.runtime.process import candidates


def user_of(container: Live, user: str | None) -> tuple[User, str]:
    """A command's user and his home: by the container's files as they are now, or the container's own (None). Raises UsageError."""
    if user is None:
        return container.facts.oci_user, container.facts.home
    ids, home = resolve.user_in(user, (), lambda path: _text(container, path))
    if container.facts.user_namespace and container.machine is None:
        _check_ids(user, ids, container.facts)
    return ids, home


def _text(container: Live, path: str) -> str | None:
    """A text file of a container's root file system as it is now; None where there is none. Of one whose files cannot be reached from
    here it is the image's."""
    if container.open_root is None:
        return unmounted.read(container.rootfs, path)
    fd = container.open_root()
    try:
        return Files(fd, container.facts.root_uid, container.facts.root_gid).read(path, unmounted.FILE_LIMIT).decode("utf-8", "replace")
    except (HutchError, OSError):
        return None
    finally:
        os.close(fd)


def process_of(
    container: Live, argv: tuple[str, ...], env: dict[str, str], workdir: str | None, who: tuple[User, str], *,
    terminal: ConsoleSize | None = None, privileged: bool = False,
) -> Process:  # fmt: skip
    """The process that a command becomes: the container's own, with the command's changes; `who` is what `user_of` gave. Raises
    UsageError."""
    facts = container.facts
    ids, home = who
    if workdir is not None and not workdir.startswith("/"):
        raise UsageError(f"workdir: expected an absolute path, got {workdir!r}")
    values = dict(item.partition("=")[::2] for item in facts.env)
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + str(value):
            raise UsageError(f"env: expected NAME=VALUE, got {name!r}")
        values[name] = value
    values.setdefault("HOME", home)
    if terminal is not None:
        values["TERM"] = "xterm"
    caps = configuration.capability_set(container.settings.replace(privileged=True)) if privileged else facts.capabilities
    held = caps if ids.uid == 0 else ()
    process = Process(
        cwd=workdir or facts.workdir,
        args=argv,
        env=tuple(f"{name}={value}" for name, value in values.items()),
        user=ids,
        capabilities=CapabilitySets(bounding=caps, effective=held, permitted=held),
        no_new_privileges=facts.no_new_privileges and not privileged,
    )
    return process if terminal is None else process.replace(terminal=True, console_size=terminal)


def seccomp_of(container: Live, privileged: bool) -> Seccomp | None:
    """The filter of a command."""
    return None if privileged else configuration.seccomp_of(container.facts.seccomp, container.facts.capabilities)


def _check_ids(typed: str, ids: User, facts: Facts) -> None:
    from hutch.runtime.identity import check_user

    try:
        check_user(ids, *facts.mappings())
    except ConfigError as error:
        raise UsageError(f"user {typed}: {error.message.partition(': ')[2]}") from None


class Template:
    """The plan of commands that differ in their arguments alone, encoded once.

    Only two operations name the program (`FindProgram`, `Execute`), and neither uses a slot: for a command those two are
    encoded, and put between the pieces that are ready.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._segments = plan.segments()
        self._exports = plan.exports()
        last = plan.container[-1]
        assert isinstance(last, Execute)
        self._environment = last.environment
        offset = 1 + len(plan.host)
        self._find = offset + next(i for i, op in enumerate(plan.container) if isinstance(op, FindProgram))
        self._execute = offset + len(plan.container) - 1

    def command(self, argv: tuple[str, ...]) -> Stored:
        """The plan for these arguments, encoded."""
        find = FindProgram(candidates=candidates(argv, self._environment), origin="process.args[0]")
        execute = Execute(argv=argv, environment=self._environment, origin="process.args")
        segments = self._segments.copy()
        segments[self._find], segments[self._execute] = encode_operation(find), encode_operation(execute)
        return Stored(self._exports, b"".join(segments), lambda: self._with(find, execute))

    def _with(self, find: FindProgram, execute: Execute) -> Plan:
        index = self._find - 1 - len(self.plan.host)
        return self.plan.replace(container=(*self.plan.container[:index], find, *self.plan.container[index + 1 : -1], execute))


def template(
    container: Live,
    *,
    env: dict[str, str],
    workdir: str | None,
    who: tuple[User, str],
    child_cgroup: str = "",
    terminal: ConsoleSize | None = None,
    privileged: bool = False,
) -> Template:
    """The plan of commands in a container, by who `user_of` gave. Raises UsageError."""
    facts = container.facts
    process = process_of(container, ("true",), env, workdir, who, terminal=terminal, privileged=privileged)
    request = EnterRequest(
        namespaces=facts.namespaces,
        cgroup_paths=facts.cgroup,
        target_fd=FIRST_EXTRA,
        child_cgroup=child_cgroup if "" in facts.cgroup or "pids" in facts.cgroup else "",
        set_groups=facts.set_groups,
    )
    typed = (
        ("process.cwd", f"workdir {process.cwd}"),
        ("process.user", f"user {process.user.uid}:{process.user.gid}"),
        ("process", "the command"),
        ("linux", "the container's isolation"),
    )
    return Template(compile_enter(process, seccomp_of(container, privileged), request, features()).replace(typed=typed))


def remote_plan(container: Live, process: Process, *, group: str = "", privileged: bool = False) -> Plan:
    """The plan of a command in a container's machine: a process outside that stands for it, and the plan that the guest carries out."""
    from hutch.vm.remote import RemoteRequest, compile_remote

    assert container.machine is not None
    request = RemoteRequest(user_namespace=container.facts.user_namespace and container.machine.user_namespace, child_cgroup=group)
    return compile_remote(process, seccomp_of(container, privileged), request, container.machine, features())


def kill_command(paths: dict[str, str], group: str, pid: int, init: int) -> None:
    """Kill a command with all that it started: by its own cgroup where it has one, else by its descendants and its
    session, as far as they can be found."""
    place = paths.get("") or paths.get("pids")
    if place and group:
        undo.kill(f"{place}/{group}/cgroup.procs")
        return
    for _ in range(20):
        if not undo.kill_listed(lambda: descendants(pid) - {init}):
            return


def descendants(pid: int) -> set[int]:
    """A process, its children and theirs, and every member of its session."""
    if pid <= 0:
        return set()
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for name in os.listdir("/proc"):
        seen = proc.stat(name) if name.isdigit() else None
        if seen is not None and seen.state != "Z":
            parents[int(name)], sessions[int(name)] = seen.parent, seen.session
    found = {p for p, session in sessions.items() if session == pid} | ({pid} & parents.keys())
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return found
