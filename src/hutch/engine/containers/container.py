"""A container of this process's, for many commands."""

from __future__ import annotations

import os

from hutch.engine.containers import create
from hutch.engine.containers.changed import Changed, guarded
from hutch.engine.containers.commands import Commands
from hutch.engine.containers.process import OUTPUT_LIMIT, Process, check_streams, variables_of
from hutch.engine.containers.running import Run
from hutch.engine.launch import launching, prepare
from hutch.engine.spec import arguments, options as api_options
from hutch.errors import ContainerGone, StartError, UnsupportedError, UsageError
from hutch.result import Result
from hutch.typed import overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Literal, Self, Unpack

    from hutch.cgroup.live import Cgroup, Event, Stats
    from hutch.engine.containers.filesystem import Target
    from hutch.engine.files.files import Files
    from hutch.engine.launch.prepare import Prepared
    from hutch.engine.machines.machine_snapshots import Snapshot
    from hutch.engine.spec.arguments import AnyPath
    from hutch.engine.spec.options import CommandOptions, Input, Options
    from hutch.engine.spec.settings import Settings
    from hutch.oci.config import Process as OciProcess
    from hutch.plan.plan import Plan


class Container(Changed):
    """A container that runs until it is closed, for any number of commands::

        with hutch.Container("host", network="none", cpus=0.5) as box:
            box.write("/srv/a.py", "print('hi')")
            print(box.run(["python3", "/srv/a.py"]).stdout)

    It ends with the `with` block, by `close()`, or with this process, however that ends. Its PID 1 reaps, and does
    nothing else.
    """

    def __init__(self, image: AnyPath, **options: Unpack[Options]) -> None:
        settings = api_options.settings(image, (), options)
        self._spawn(create.create(settings, idle=True), settings)
        self._wait()

    def _spawn(self, prepared: Prepared, settings: Settings, lowers: Sequence[tuple[int, str]] = ()) -> None:
        """Start its executor. `lowers` are directories that it begins with above its image: the descriptor of a detached mount,
        and the path in it."""
        self._settings, self._prepared = settings, prepared
        self.live = prepared.live(self._open_root)
        self.id = prepared.id
        self.name = settings.name or self.id
        self._files: Files | None = None
        self._live: set[Process[str] | Process[bytes]] = set()
        self._closed = True  # until it runs
        self._lowers = [(os.dup(tree), path) for tree, path in lowers]
        self._inherited = len(lowers)
        self._generation = 0
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            extra = tuple(tree for tree, _ in self._lowers)
            self._execution = launching.launch(prepared, stdin=null, stdout=null, stderr=null, extra=extra)
        except BaseException:
            self._let_go()
            raise
        finally:
            os.close(null)

    def _open_root(self) -> int:
        self._check_shared()
        return os.dup(self._execution.descriptors["container-root"])

    def _wait(self) -> None:
        """Wait until it runs. Raises StartError."""
        try:
            self._execution.wait_ready()
            from hutch.kernel import syscalls

            self._pidfd = syscalls.pidfd_open(self._execution.pid)
        except BaseException:
            self._execution.close()
            self._let_go()
            raise
        self._commands = Commands(self.live, self.name, self._pidfd, self._execution.pid, lambda: self.cgroup)
        self._closed = False

    def _let_go(self) -> None:
        for tree, _ in self._lowers:
            os.close(tree)
        self._lowers = []

    def _freeze_upper(self) -> None:
        """Its upper directory has become a lower one, and it has another now."""
        self._lowers.insert(0, (os.dup(self._execution.descriptors["base-tree"]), f"upper/{self._generation}"))
        self._generation += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def __repr__(self) -> str:
        return f"<hutch.Container {self.name} {'closed' if self._closed else f'pid {self._execution.pid}'}>"

    @property
    def pid(self) -> int:
        """The pid of the container's PID 1 on the host."""
        return self._execution.pid

    @property
    def running(self) -> bool:
        """Whether the container still runs: a process in it can have been told to end it, or the host's OOM killer."""
        if self._closed or self._execution.exited is not None:
            return False
        import select

        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def _check(self) -> None:
        if not self.running:
            raise ContainerGone(f"container {self.name}: has ended")

    @overload
    def start(self, command: Iterable[AnyPath], *, text: Literal[True] = True, **options: Unpack[CommandOptions]) -> Process[str]: ...
    @overload
    def start(self, command: Iterable[AnyPath], *, text: Literal[False], **options: Unpack[CommandOptions]) -> Process[bytes]: ...
    @overload
    def start(self, command: Iterable[AnyPath], *, text: bool, **options: Unpack[CommandOptions]) -> Process[str] | Process[bytes]: ...
    def start(
        self,
        command: Iterable[AnyPath],
        *,
        stdin: Input = None,
        text: bool = True,
        timeout: float | None = None,
        output_limit: int = OUTPUT_LIMIT,
        merge_stderr: bool = False,
        env: Mapping[str, str] | Iterable[str] | None = None,
        workdir: AnyPath | None = None,
        user: str | int | None = None,
    ) -> Process[str] | Process[bytes]:
        """Start a command in the container. After `timeout` seconds it is killed with all that it started.

        `env` is a mapping, or NAME=VALUE texts, beside the container's; `user` is "name|uid[:group|gid]". Raises UsageError,
        and ContainerGone for a container that has ended.
        """
        check_streams(stdin, text, timeout, output_limit, merge_stderr)
        argv = arguments.command(command)
        if not argv:
            raise UsageError("command: is empty")
        variables = variables_of(env)
        workdir = None if workdir is None else arguments.path("workdir", workdir)
        user = None if user is None else arguments.identity("user", user)
        self._check()
        launch, expired = self._commands.prepare(argv, variables, workdir, user, timeout is not None)
        process: Process[str] | Process[bytes] = Process(
            launch,
            argv,
            stdin=stdin,
            text=text,
            timeout=timeout,
            output_limit=output_limit,
            merge_stderr=merge_stderr,
            on_timeout=lambda: expired(process.execution.pid),
            on_end=lambda: self._live.discard(process),
        )
        self._live.add(process)
        return process

    @overload
    def run(
        self,
        command: Iterable[AnyPath],
        *,
        text: Literal[True] = True,
        check: bool = False,
        **options: Unpack[CommandOptions],
    ) -> Result[str]: ...
    @overload
    def run(
        self,
        command: Iterable[AnyPath],
        *,
        text: Literal[False],
        check: bool = False,
        **options: Unpack[CommandOptions],
    ) -> Result[bytes]: ...
    @overload
    def run(self, command: Iterable[AnyPath], *, text: bool, check: bool = False, **options: Unpack[CommandOptions]) -> Result[str] | Result[bytes]: ...
    def run(
        self,
        command: Iterable[AnyPath],
        *,
        stdin: Input = None,
        text: bool = True,
        timeout: float | None = None,
        output_limit: int = OUTPUT_LIMIT,
        merge_stderr: bool = False,
        env: Mapping[str, str] | Iterable[str] | None = None,
        workdir: AnyPath | None = None,
        user: str | int | None = None,
        check: bool = False,
    ) -> Result[str] | Result[bytes]:
        """Run a command in the container to its end; `hutch.run` describes the arguments, and `start` the others."""
        arguments.flag("check", check)
        with self.begin(
            command,
            stdin=stdin,
            text=text,
            timeout=timeout,
            output_limit=output_limit,
            merge_stderr=merge_stderr,
            env=env,
            workdir=workdir,
            user=user,
        ) as running:
            result = running.result()
        return result.check() if check else result

    def begin(self, command: Iterable[AnyPath], *, text: bool = True, **options: Unpack[CommandOptions]) -> Run:
        """Start a command whose result is wanted: `run` waits for it, and `hutch.aio` does so in a thread."""
        limited = self._settings.memory is not None
        before = self.cgroup.oom_kills() or 0 if limited else 0

        def judge(result: Result[str] | Result[bytes]) -> Result[str] | Result[bytes]:
            if limited and result.exit_code == 137 and result.outcome in ("signalled", "exited"):
                after = self.cgroup.oom_kills() or 0
                if after > before:
                    usage = result.usage.replace(oom_kills=after - before)
                    return result.replace(outcome="out-of-memory", usage=usage)
            return result

        return Run(self.start(command, text=text, **options), self._settings.image, judge)

    @property
    def cgroup(self) -> Cgroup:
        """The container's cgroup: numbers, changes of limits, freezing."""
        if self.live.machine is not None:
            from hutch.engine.machines.guest_cgroup import GuestCgroup

            return GuestCgroup(self.live.directory, self.name)
        from hutch.cgroup.live import Cgroup

        return Cgroup(self.live.facts.cgroup)

    def stats(self) -> Stats:
        """What the container uses now."""
        return self.cgroup.stats()

    def events(self) -> Iterator[Event]:
        """OOM kills and throttling as they happen, until the container ends."""
        return self.cgroup.events()

    def plan(self) -> Plan:
        """The plan that made this container."""
        return prepare.plan_of(self._prepared)

    @property
    def files(self) -> Files:
        """The container's files."""
        self._check()
        if self._files is None:
            self._check_shared()
            from hutch.engine.files.files import Files

            self._files = Files(self._execution.descriptors["container-root"], self.live.facts.root_uid, self.live.facts.root_gid)
        return self._files

    def _check_shared(self) -> None:
        """Raises UnsupportedError for a machine whose root is its own: nothing of it can be seen from here."""
        if self.live.machine is not None:
            from hutch.engine.machines import channel

            channel.shared_root(self.live.machine, self.name)

    def read(self, path: AnyPath) -> str:
        """A file's text (UTF-8). `read_bytes` for the bytes. Raises HutchError."""
        return self.read_bytes(path).decode("utf-8")

    def read_bytes(self, path: AnyPath) -> bytes:
        """A regular file's content. Raises HutchError."""
        return self.files.read(arguments.path("path", path))

    def write(self, path: AnyPath, data: str | bytes, mode: int = 0o644) -> None:
        """Create or replace a file, making its directories. Raises HutchError."""
        if not isinstance(data, str | bytes | bytearray | memoryview):
            arguments.wrong("data", "text or bytes", data)
        where = arguments.path("path", path)
        self.files.write(where, data.encode() if isinstance(data, str) else data, arguments.whole("mode", mode))

    def put(self, source: AnyPath, target: AnyPath) -> None:
        """Copy a file or tree of the host into the container, to exactly `target`."""
        guarded("put", lambda: self.files.put(arguments.path("source", source), arguments.path("target", target)))

    def get(self, source: AnyPath, target: AnyPath) -> None:
        """Copy a file or tree of the container to the host, to exactly `target`."""
        guarded("get", lambda: self.files.get(arguments.path("source", source), arguments.path("target", target)))

    def target(self) -> Target:
        """Its files, for copies and commits. Close it after use."""
        from hutch.engine.containers.filesystem import Target
        from hutch.image.store import directories

        self._check_shared()
        self._check()
        descriptors = self._execution.descriptors
        return Target(
            self.live,
            running=True,
            root=descriptors["container-root"],
            base=descriptors.get("base", -1),
            upper=f"{directories.uppers()}/{self.id}" if self._settings.upper == "disk" else "",
            cgroup=self.cgroup,
            earlier=tuple(reversed(self._lowers)),
            last=f"upper/{self._generation}",
        )

    def fork(self, count: int = 1) -> list[Container]:
        """New containers with this one's files as they are now, and its settings; this one goes on, and none of them sees
        what another changes. It takes the same time for any number of files and bytes, as long as no process has a file of
        the root open for writing or works in one of its directories; else the changes are copied once.

        Memory (tmpfs, volumes) of its own is not part of it, and neither are its processes. Raises UsageError, StartError.
        """
        if self.live.machine is not None:
            raise UnsupportedError(f"fork {self.name}: a machine cannot be forked", "snapshot() copies one, with its processes: --vm-root disk")
        from hutch.engine.containers import forking

        return forking.fork(self, count)

    def snapshot(self, name: str) -> Snapshot:
        """Save this container's machine as it is now, with what runs in it, under a name: ``hutch.Container("snapshot:NAME")`` begins
        as a copy of it, in a fraction of a boot's time, with an id, a host name, addresses and random numbers of its own.

        For ``isolation="vm", vm_root="disk"``. Raises UnsupportedError for others, UsageError, StateError when there is one of that
        name.
        """
        from hutch.engine.machines import machine_snapshots

        self._check()
        return machine_snapshots.create(self.live, self.pid, name)

    def pause(self) -> None:
        """Freeze every process of the container; of a machine, its processors. Raises UnsupportedError without a freezer."""
        self._check()
        self.cgroup.freeze(True)

    def resume(self) -> None:
        """Let frozen processes go on."""
        self.cgroup.freeze(False)

    def process_settings(self) -> OciProcess:
        """How commands are started in this container, unless they say otherwise."""
        from hutch.engine.launch import enter

        return enter.process_of(self.live, (), {}, None, enter.user_of(self.live, None))

    def close(self) -> None:
        """End the container and everything in it. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._execution.kill()
            for process in list(self._live):
                process.close()
            self._execution.close()
        except StartError:
            pass
        finally:
            os.close(self._pidfd)
            self._let_go()


Container.__doc__ = (Container.__doc__ or "") + api_options.DESCRIPTION
