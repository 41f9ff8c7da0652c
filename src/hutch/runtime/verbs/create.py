"""create and run: from a bundle to a container (runtime.md, "Create")."""

from __future__ import annotations

import os
import time

from hutch import jsontext
from hutch.errors import ConfigError, HutchError, UsageError
from hutch.executor.launcher import FIRST_EXTRA, Execution
from hutch.kernel.features import features
from hutch.oci.config import Config
from hutch.oci.decode import decode_config
from hutch.plan.ops import HostRecord, HostWrite, Operation
from hutch.plan.plan import Plan
from hutch.record import Record
from hutch.runtime import lifecycle
from hutch.runtime.compile import compile_container
from hutch.runtime.request import Compiled, Request
from hutch.runtime.verbs import hooks
from hutch.runtime.verbs.common import Options, hand_over, occupied, parse_json, read_configuration, report_times, utc, vacant
from hutch.runtime.verbs.grants import granted
from hutch.runtime.verbs.store import CONFIG, Entry, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from hutch.runtime.verbs.netdevices import Moved


class Bundle(Record):
    """A bundle that was read: its absolute path, the text of its configuration, and what that says."""

    path: str
    text: str
    config: Config


def load_bundle(path: str, text: str | None = None) -> Bundle:
    """Read and check a bundle (bundle.md); `text` is its configuration, where it was read already. Raises ConfigError or
    UsageError."""
    path = os.path.abspath(path)
    text = read_configuration(path) if text is None else text
    config = decode_config(parse_json(text, f"{path}/{CONFIG}"))
    if config.root is None:
        raise ConfigError("root", "is required and missing")
    root = os.path.join(path, config.root.path)
    if os.path.islink(root.rstrip("/")):
        raise ConfigError("root.path", f"{root} is a symbolic link", "name the directory that it leads to")
    if not os.path.isdir(root):
        raise ConfigError("root.path", f"{root} is not a directory" if os.path.lexists(root) else f"{root} does not exist")
    return Bundle(path=path, text=text, config=config)


class Compilation:
    """A bundle compiled for this machine: the plan with the container's record in it. Nothing is touched. `created` is the
    moment that the record tells ("" is now)."""

    def __init__(
        self,
        store: Store,
        identity: str,
        bundle: Bundle,
        options: Options,
        tell: Callable[[str, str], None],
        *,
        await_start: bool,
        keep: bool = False,
        created: str = "",
    ) -> None:
        self.store, self.identity, self.bundle, self.options = store, identity, bundle, options
        self.warned = False

        def notice(level: str, text: str) -> None:
            self.warned = True
            tell(level, text)

        self.features = features()
        self.directory = store.directory(identity)
        self.config = granted(bundle.config, self.features, notice)
        if options.listening and self.config.process is not None:
            told = (f"LISTEN_FDS={options.listening}", "LISTEN_PID=1")
            self.config = self.config.replace(process=self.config.process.replace(env=(*self.config.process.env, *told)))
        request = request_of(identity, bundle.path, self.directory, options, await_start=await_start).replace(remove=not keep)
        if options.systemd:
            from hutch.runtime.verbs import systemd

            request = request.replace(systemd_scope=systemd.scope_path(self.config, identity))
        self.compiled = compile_container(self.config, request, self.features)
        for warning in self.compiled.plan.warnings:
            notice("warning", warning)
        self.created = created or utc(time.time_ns())
        self.plan = with_record(self.compiled, bundle, self.record())

    def record(self) -> dict[str, Any]:
        """The first line of the container's record."""
        root = self.config.root
        assert root is not None
        own = self.config.hooks
        return {
            "id": self.identity,
            "bundle": self.bundle.path,
            "rootfs": os.path.normpath(os.path.join(self.bundle.path, root.path)),
            "created": self.created,
            "owner": os.geteuid(),
            "ociVersion": self.config.oci_version,
            "annotations": self.config.annotations,
            "cgroup": self.compiled.cgroup_paths,
            "namespaces": [n.type for n in self.config.linux.namespaces],
            "joined": [n.type for n in self.config.linux.namespaces if n.path],
            "poststart": bool(own and own.poststart),
            "poststop": bool(own and own.poststop),
            "options": {name: value for name, value in self.options.as_dict().items() if value != self.options._defaults[name]},
        }


class Creation(Compilation):
    """A container in the making: compiled, then started by its executor, then handed over to the caller."""

    def __init__(
        self, store: Store, identity: str, bundle: Bundle, options: Options, tell: Callable[[str, str], None], *, await_start: bool, keep: bool = False
    ) -> None:
        vacant(store, identity)
        super().__init__(store, identity, bundle, options, tell, await_start=await_start, keep=keep)
        self.moved: Moved | None = None
        occupied(self.compiled.cgroup_paths)
        self.console = self._connect_console()
        store.prepare()

    def _connect_console(self) -> socket | None:
        """The console socket, reached before anything is made. Raises UsageError when it has no use or is missing."""
        process, path = self.config.process, self.options.console_socket
        terminal = process is not None and process.terminal
        if not path:
            return None
        if not terminal:
            raise UsageError("--console-socket: process.terminal is not set, so there is no terminal to be sent")
        from hutch.runtime.verbs import handover

        return handover.connect(path, "--console-socket")

    def launch(self) -> Execution:
        """Start the executor. The container inherits this process's standard streams, and its descriptors from 3 on as far as
        `preserve` says."""
        extra = [3 + i for i in range(self.options.preserve)]
        for fd in extra:
            try:
                os.fstat(fd)
            except OSError:
                raise UsageError(f"--preserve-fds {self.options.preserve}: descriptor {fd} is not open") from None
        self.execution = Execution(self.plan, stdin=0, stdout=1, stderr=2, extra=extra, on_call=self._answer, trace=self.options.debug)
        return self.execution

    def _answer(self, request: str, pid: int, _: int) -> None:
        """What the executor cannot do by itself."""
        if request == lifecycle.RUNTIME_HOOKS:
            own = self.config.hooks
            assert own is not None
            text = hooks.state(self.config, self.identity, self.bundle.path, "creating", pid)
            try:
                hooks.run_all(own.prestart, "prestart", text)
                hooks.run_all(own.create_runtime, "createRuntime", text)
            except HutchError as error:
                raise HutchError(error.message.partition(": ")[2]) from None  # the operation's own origin stands before it
        elif request == lifecycle.NET_DEVICES:
            from hutch.runtime.verbs import netdevices

            self.moved = netdevices.Moved(pid, self.execution.descriptors["netlink"])
            self.moved.move(self.config.linux.net_devices)
        else:
            from hutch.runtime.verbs import systemd

            systemd.start(request.removeprefix("start "), pid, self.config)

    def settle(self, made: bool) -> None:
        """Interfaces that were moved stay where the container was made, and go home where it was not."""
        if self.moved is not None:
            if not made:
                self.moved.back()
            self.moved.close()
            self.moved = None

    def hand_over(self) -> None:
        """Once the container is ready: the terminal, the listener and the pid go to whom they were promised."""

        def state() -> str:
            return hooks.state(self.config, self.identity, self.bundle.path, "creating", self.execution.pid)

        hand_over(self.execution, self.console, self.config.linux.seccomp, self.options.pid_file, state)


def create(store: Store, identity: str, bundle: Bundle, options: Options, notice: Callable[[str, str], None]) -> Entry:
    """Make a container that waits for its start, and leave it.

    Raises ConfigError, UsageError, UnsupportedError or StateError before anything is touched, StartError when an operation
    failed and everything was undone.
    """
    process = bundle.config.process
    if process is not None and process.terminal and not options.console_socket:
        raise UsageError("process.terminal: a terminal needs a --console-socket to be sent to", "set process.terminal to false, or name the socket")
    creation = Creation(store, identity, bundle, options, notice, await_start=True)
    with creation.launch() as execution:
        try:
            execution.wait_ready()
        finally:
            report_times(execution, notice)
            creation.settle(execution.ready)
            if not execution.ready and bundle.config.hooks is not None:
                for failure in hooks.poststop(bundle.config, identity, bundle.path):
                    notice("warning", failure)
        entry = store.load(identity)
        try:
            creation.hand_over()
        except BaseException:
            execution.detach()
            from hutch.runtime.verbs import end

            end.delete(store, identity, force=True, notice=notice)
            raise
        execution.detach()
    return entry


def request_of(identity: str, bundle: str, directory: str, options: Options, *, await_start: bool) -> Request:
    """The compiler's request for a container of this runtime's."""
    return Request(
        id=identity,
        bundle=bundle,
        state=directory,
        make_workdir=True,
        files=False,
        oci=True,
        await_start=await_start,
        preserve=options.preserve,
        first_extra=FIRST_EXTRA,
        pivot=options.pivot,
        keyring=options.keyring,
    )


def with_record(compiled: Compiled, bundle: Bundle, record: dict[str, Any]) -> Plan:
    """The plan with the container's record in it, and a copy of its configuration."""
    host: list[Operation] = []
    for op in compiled.plan.host:
        if isinstance(op, HostRecord):
            host.append(op.replace(data=jsontext.dumps(record) + "\n"))
            directory = op.path.rpartition("/")[0]
            host.append(HostWrite(path=f"{directory}/{CONFIG}", data=bundle.text, create=True, origin="state"))
        else:
            host.append(op)
    return compiled.plan.replace(host=tuple(host))


def recompile(store: Store, entry: Entry) -> Plan:
    """The plan that a container was made by, for the words of an error that comes after its making: systemd is not asked again."""
    options = Options(**entry.data.get("options", {})).replace(systemd=False)
    bundle = Bundle(path=entry.bundle, text="", config=entry.config())
    return Compilation(store, entry.id, bundle, options, lambda *_: None, await_start=True).plan
