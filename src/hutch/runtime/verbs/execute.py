"""exec: one more process in a container that runs."""

from __future__ import annotations

import os

from hutch.errors import ConfigError, ContainerGone, StateError, UsageError
from hutch.executor.launcher import FIRST_EXTRA, Execution
from hutch.kernel import capabilities, documents, proc
from hutch.kernel.features import features
from hutch.oci.config import CapabilitySets, Process, User
from hutch.oci.decode import decode
from hutch.record import Record
from hutch.runtime.enter import EnterRequest, compile_enter
from hutch.runtime.identity import check_user
from hutch.runtime.verbs import end, handover
from hutch.runtime.verbs.common import hand_over, parse_json, report_times
from hutch.runtime.verbs.grants import known_capabilities
from hutch.runtime.verbs.store import PAUSED, STOPPED, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from hutch.oci.config import Config

KINDS = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup", "time": "time"}


class ExecOptions(Record):
    """What `exec` is told beside its process."""

    detach: bool = False
    console_socket: str = ""
    pid_file: str = ""
    preserve: int = 0
    cgroup: tuple[str, ...] = ()
    ignore_paused: bool = False
    debug: bool = False


def process_from(path: str) -> Process:
    """The process that a file describes (config.md, "Process"). Raises UsageError or ConfigError."""
    try:
        text = documents.read_text(path)
    except OSError as error:
        raise UsageError(f"--process {path}: {error.strerror}") from None
    return decode(Process, parse_json(text, f"--process {path}"))


def process_with(
    base: Process,
    args: tuple[str, ...],
    *,
    cwd: str = "",
    env: tuple[str, ...] = (),
    tty: bool = False,
    user: str = "",
    groups: tuple[int, ...] = (),
    caps: tuple[str, ...] = (),
    apparmor: str = "",
    label: str = "",
    no_new_privileges: bool = False,
) -> Process:
    """The container's own process with other arguments, and what the flags of `exec` change."""
    sets = base.capabilities
    if caps:
        names = tuple(capabilities.canonical(name) for name in caps)
        old = sets or CapabilitySets()
        sets = CapabilitySets(
            bounding=_joined(old.bounding, names),
            effective=_joined(old.effective, names),
            permitted=_joined(old.permitted, names),
            inheritable=old.inheritable,
            ambient=_joined(old.ambient, names) if old.ambient else (),
        )
    ids = base.user
    if user:
        ids = User(uid=user_id(user.partition(":")[0]), gid=user_id(user.partition(":")[2]) if ":" in user else ids.gid, umask=ids.umask)
    if groups:
        ids = ids.replace(additional_gids=(*ids.additional_gids, *groups))
    return base.replace(
        args=args,
        cwd=cwd or base.cwd,
        env=(*base.env, *env),
        terminal=tty,
        user=ids,
        capabilities=sets,
        apparmor_profile=apparmor or base.apparmor_profile,
        selinux_label=label or base.selinux_label,
        no_new_privileges=no_new_privileges or base.no_new_privileges,
    )


def _joined(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*old, *new)))


def user_id(text: str) -> int:
    """A number, and nothing else: a name is the engine's to resolve, and a parser that takes "1000abc" or "" for a number
    made an empty one root (CVE-2026-30892)."""
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > 2**32 - 2:
        raise UsageError(f"--user: expected UID or UID:GID in numbers, got {text!r}")
    return int(text)


def namespaces(entry: Entry) -> tuple[str, ...]:
    """Those of the container's namespaces that are not this process's: joining one's own user namespace is an error."""
    out = []
    for kind in entry.data.get("namespaces", ()):
        name = KINDS.get(str(kind))
        try:
            if name and os.readlink(f"/proc/{entry.pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
                out.append(str(kind))
        except OSError:
            continue
    return tuple(out)


def cgroup_paths(entry: Entry, chosen: tuple[str, ...]) -> dict[str, str]:
    """The cgroups to join: the container's, or below them what `--cgroup [CONTROLLER,...:]PATH` says. Raises UsageError."""
    paths = dict(entry.cgroup)
    for text in chosen:
        controllers, colon, path = text.rpartition(":")
        if ".." in path.split("/"):
            raise UsageError(f"--cgroup {text}: a path below the container's cgroup, without `..`")
        for name in controllers.split(",") if colon else list(paths):
            if name not in paths:
                raise UsageError(f"--cgroup {text}: the container has no cgroup of {name!r}")
            paths[name] = f"{entry.cgroup[name]}/{path.strip('/')}".rstrip("/")
            if not os.path.isdir(paths[name]):
                raise UsageError(f"--cgroup {text}: {paths[name]} does not exist")
    return paths


class Command:
    """A process in a container that runs: compiled, then started, then handed over."""

    def __init__(self, entry: Entry, config: Config, process: Process, options: ExecOptions, notice: Callable[[str, str], None]) -> None:
        self.entry, self.config, self.options, self.notice = entry, config, options, notice
        identity, status = entry.id, entry.status()
        if status == STOPPED or not self.entry.pid:
            raise ContainerGone(f"container {identity}: container not running: cannot exec in one that is {status}")
        if status == PAUSED and not options.ignore_paused:
            raise StateError(f"container {identity}: cannot exec in a paused container", "`resume` it, or --ignore-paused: the process waits then")
        if not process.args:
            raise ConfigError("process.args", "is empty: there is no program to run")
        if not process.cwd.startswith("/"):
            raise ConfigError("process.cwd", f"expected an absolute path, got {process.cwd!r}")
        self.seccomp = config.linux.seccomp
        found = features()
        joined = namespaces(self.entry)
        if "user" in joined:
            check_user(process.user, config.linux.uid_mappings, config.linux.gid_mappings)
        process = known_capabilities(process, -1 if "user" in joined else found.capabilities, notice)
        self.console = self._console(process)
        self.pidfd = end.open_process(self.entry)
        request = EnterRequest(
            namespaces=joined,
            cgroup_paths=cgroup_paths(self.entry, options.cgroup) if found.privileged or found.cgroups.mode == "v2" else {},
            target_fd=FIRST_EXTRA,
            set_groups=not ("user" in joined and self._denied()),
            oci=True,
            leave=options.detach,
            preserve=options.preserve,
        )
        self.plan = compile_enter(process, self.seccomp, request, found)
        self.process = process

    def _denied(self) -> bool:
        try:
            return proc.read_text(f"/proc/{self.entry.pid}/setgroups").strip() == "deny"
        except OSError:
            return False

    def _console(self, process: Process) -> socket | None:
        path = self.options.console_socket
        if process.terminal and self.options.detach and not path:
            raise UsageError("exec: a detached terminal needs a --console-socket to be sent to")
        if not path:
            return None
        if not process.terminal:
            raise UsageError("--console-socket: the process has no terminal to be sent", "--tty gives it one")
        return handover.connect(path, "--console-socket")

    def _state(self) -> str:
        from hutch.runtime.verbs import hooks

        return hooks.state(self.config, self.entry.id, self.entry.bundle, "running", self.entry.pid)

    def launch(self) -> Execution:
        """Start it. It inherits this process's standard streams."""
        extra = [self.pidfd, *(3 + i for i in range(self.options.preserve))]
        try:
            self.execution = Execution(self.plan, stdin=0, stdout=1, stderr=2, extra=extra, trace=self.options.debug)
        finally:
            os.close(self.pidfd)
        return self.execution

    def ready(self) -> int:
        """Wait until the program runs, and hand over what was promised. Returns its pid. Raises StartError."""
        execution = self.execution
        try:
            execution.wait_ready()
        finally:
            report_times(execution, self.notice)
        try:
            hand_over(execution, self.console, self.seccomp, self.options.pid_file, self._state)
        except BaseException:
            if self.options.detach:
                os.kill(execution.pid, 9)
            raise
        return execution.pid
