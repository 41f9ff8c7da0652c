"""Commands in a container that runs."""

from __future__ import annotations

import os

from hutch.engine import configuration
from hutch.engine.identity import PLACEHOLDER
from hutch.engine.prepare import Prepared
from hutch.engine.settings import Settings
from hutch.errors import ConfigError, UsageError
from hutch.executor import undo
from hutch.executor.kept import Stored
from hutch.executor.launcher import FIRST_EXTRA
from hutch.image import resolve
from hutch.kernel import proc
from hutch.kernel.features import features
from hutch.oci.config import CapabilitySets, ConsoleSize, Process, User
from hutch.plan.ops import Execute, FindProgram
from hutch.plan.plan import Plan, encode_operation
from hutch.runtime.enter import EnterRequest, compile_enter
from hutch.runtime.process import candidates


def process_of(
    prepared: Prepared, argv: tuple[str, ...], env: dict[str, str], workdir: str | None, user: str | None, *,
    terminal: ConsoleSize | None = None, privileged: bool = False,
) -> Process:  # fmt: skip
    """The process that a command becomes: the container's own, with the command's changes."""
    s = prepared.settings.replace(privileged=True) if privileged else prepared.settings
    ids, home = prepared.user, prepared.home
    if user is not None:
        ids, home = resolve.user(user, (), prepared.rootfs)
        if prepared.compiled.user_namespace and prepared.machine is None:
            _check_ids(user, ids, prepared.settings)
    if workdir is not None and not workdir.startswith("/"):
        raise UsageError(f"workdir: expected an absolute path, got {workdir!r}")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + str(value):
            raise UsageError(f"env: expected NAME=VALUE, got {name!r}")
    image = prepared.rootfs.config
    changed = s.replace(env=(*s.env, *(f"{name}={value}" for name, value in env.items())))
    hostname = s.hostname or (prepared.id if s.uts == "private" else "")
    caps = configuration.capability_set(s)
    held = caps if ids.uid == 0 else ()
    process = Process(
        cwd=workdir or s.workdir or image.workdir or "/",
        args=argv,
        env=configuration.environment(changed, image.env, hostname, home),
        user=ids,
        capabilities=CapabilitySets(bounding=caps, effective=held, permitted=held),
        no_new_privileges=s.no_new_privileges and not s.privileged,
    )
    return process if terminal is None else process.replace(terminal=True, console_size=terminal, env=(*process.env, "TERM=xterm"))


def _check_ids(typed: str, ids: User, s: Settings) -> None:
    from hutch.runtime.identity import check_user

    try:
        check_user(ids, *configuration.id_mappings(s, features()))
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
    prepared: Prepared,
    *,
    env: dict[str, str],
    workdir: str | None,
    user: str | None,
    child_cgroup: str = "",
    terminal: ConsoleSize | None = None,
    privileged: bool = False,
) -> Template:
    """The plan of commands in the container that `prepared` made."""
    found = features()
    s = prepared.settings.replace(privileged=True) if privileged else prepared.settings
    process = process_of(prepared, ("true",), env, workdir, user, terminal=terminal, privileged=privileged)
    userns = prepared.compiled.user_namespace
    namespaces = tuple(n.type for n in configuration.namespaces(prepared.settings, userns))
    paths = {key: path.replace(PLACEHOLDER, prepared.id) for key, path in prepared.compiled.cgroup_paths.items()}
    request = EnterRequest(
        namespaces=namespaces,
        cgroup_paths=paths,
        target_fd=FIRST_EXTRA,
        child_cgroup=child_cgroup if "" in paths or "pids" in paths else "",
        set_groups=not _denied(prepared),
    )
    typed = (
        ("process.cwd", f"workdir {process.cwd}"),
        ("process.user", f"user {process.user.uid}:{process.user.gid}"),
        ("process", "the command"),
        ("linux", "the container's isolation"),
    )
    return Template(compile_enter(process, configuration.seccomp_of(s), request, found).replace(typed=typed))


def _denied(prepared: Prepared) -> bool:
    return any(getattr(op, "name", "") == "setgroups" for op in prepared.compiled.plan.host)


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
