"""A container of this process's, for many commands."""

from __future__ import annotations

import os

from hutch.engine.containers import create
from hutch.engine.containers.changed import Changed, guarded
from hutch.engine.containers.process import OUTPUT_LIMIT, Process, with_hint
from hutch.engine.launch import launching, prepare
from hutch.engine.spec import options as api_options
from hutch.errors import ContainerGone, StartError, UnsupportedError, UsageError
from hutch.executor.launcher import Execution
from hutch.result import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self, TypeAlias, Unpack

    from hutch.cgroup.live import Cgroup, Event, Stats
    from hutch.engine.containers.filesystem import Target
    from hutch.engine.containers.process import Input
    from hutch.engine.files.files import Files
    from hutch.engine.launch.enter import Template
    from hutch.engine.launch.prepare import Prepared
    from hutch.engine.machines.machine_snapshots import Snapshot
    from hutch.engine.spec.options import Options
    from hutch.engine.spec.settings import Settings
    from hutch.oci.config import Process as OciProcess
    from hutch.plan.plan import Plan

    Launch: TypeAlias = Callable[[int, int, int], Execution]


class Container(Changed):
    """A container that runs until it is closed, for any number of commands::

        with hutch.Container("host", network="none", cpus=0.5) as box:
            box.write("/srv/a.py", "print('hi')")
            print(box.run(["python3", "/srv/a.py"]).stdout)

    It ends with the `with` block, by `close()`, or with this process, however that ends. Its PID 1 reaps, and does
    nothing else.

    Options (sizes as bytes or text such as ``"512m"``):
        name, hostname, labels, env (mapping or NAME=VALUE), workdir, user ("name|uid[:group|gid]"), groups;
        memory, memory_swap, cpus, cpu_shares, cpuset, pids, unified (v2's own keys), oom_score_adj, ulimits;
        mounts (`Bind`, `Tmpfs`, or "/host:/container:ro"), tmpfs, devices, readonly, shm_size,
        upper ("tmpfs" or "disk": where changes live), upper_size;
        network ("none" or "host"), pid, ipc, uts ("private" or "host"), userns ("auto", "private", "single", "host");
        capabilities (exactly these), cap_add, cap_drop, seccomp ("default", "compat": 32-bit programs too, "unconfined", or a
        profile's path),
        no_new_privileges, privileged, sysctls, time_offsets (seconds by clock), init, entrypoint, cgroup_parent, systemd.
    """

    def __init__(self, image: str, **options: Unpack[Options]) -> None:
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
        self._commands = 0
        self._live: set[Process] = set()
        self._templates: dict[object, Template] = {}
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

    def start(
        self,
        command: Iterable[str],
        *,
        stdin: Input = None,
        text: bool = True,
        timeout: float | None = None,
        output_limit: int = OUTPUT_LIMIT,
        merge_stderr: bool = False,
        env: dict[str, str] | None = None,
        workdir: str | None = None,
        user: str | int | None = None,
    ) -> Process:
        """Start a command in the container. After `timeout` seconds it is killed with all that it started."""
        self._check()
        argv = api_options.command_of(command)
        if not argv:
            raise UsageError("command: is empty")
        self._commands += 1
        # of a copied machine the guest has the groups of its origin
        group = "" if timeout is None else f"command-{self._commands}" if self.live.machine is None else f"command-{self.id}-{self._commands}"
        if self.live.machine is not None:
            launch = self._remote(argv, env or {}, workdir, user, group)
        else:
            plan = self._template(env or {}, workdir, user, group).command(argv)
            pidfd = self._pidfd

            def launch(child_in: int, child_out: int, child_err: int) -> Execution:
                return Execution(plan, stdin=child_in, stdout=child_out, stderr=child_err, extra=(pidfd,))

        process = Process(
            launch,
            argv,
            stdin=stdin,
            text=text,
            timeout=timeout,
            output_limit=output_limit,
            merge_stderr=merge_stderr,
            on_timeout=lambda: self._kill_group(process, group),
            on_end=lambda: self._live.discard(process),
        )
        self._live.add(process)
        return process

    def _remote(self, argv: tuple[str, ...], env: dict[str, str], workdir: str | None, user: str | int | None, group: str) -> Launch:
        from hutch.engine.launch import enter
        from hutch.engine.machines import channel

        process = enter.process_of(self.live, argv, env, workdir, enter.user_of(self.live, None if user is None else str(user)))
        plan = enter.remote_plan(self.live, process, group=group)

        def launch(child_in: int, child_out: int, child_err: int) -> Execution:
            relay = channel.connect(self.live.directory, self.name)
            try:
                return Execution(plan, stdin=child_in, stdout=child_out, stderr=child_err, extra=(relay,))
            finally:
                os.close(relay)

        return launch

    def _template(self, env: dict[str, str], workdir: str | None, user: str | int | None, group: str) -> Template:
        from hutch.engine.launch import enter

        who = None if user is None else enter.user_of(self.live, str(user))  # his lines of passwd(5) may have changed
        key = (tuple(env.items()), workdir, who)
        if group or key not in self._templates:
            made = enter.template(self.live, env=env, workdir=workdir, who=who or enter.user_of(self.live, None), child_cgroup=group)
            if group:
                return made
            if len(self._templates) > 16:
                self._templates.clear()
            self._templates[key] = made
        return self._templates[key]

    def _kill_group(self, process: Process, group: str) -> None:
        if self.live.machine is not None:
            return  # the guest does it, when the process that stands for the command goes
        from hutch.engine.launch import enter

        enter.kill_command(self.cgroup.paths, group, process.execution.pid, self._execution.pid)

    def run(
        self,
        command: Iterable[str],
        *,
        stdin: Input = None,
        text: bool = True,
        timeout: float | None = None,
        output_limit: int = OUTPUT_LIMIT,
        merge_stderr: bool = False,
        env: dict[str, str] | None = None,
        workdir: str | None = None,
        user: str | int | None = None,
        check: bool = False,
    ) -> Result:
        """Run a command in the container to its end; `hutch.run` describes the arguments."""
        before = self.cgroup.oom_kills() or 0 if self._settings.memory is not None else 0
        with self.start(
            command,
            stdin=stdin,
            text=text,
            timeout=timeout,
            output_limit=output_limit,
            merge_stderr=merge_stderr,
            env=env,
            workdir=workdir,
            user=user,
        ) as process:
            result = process.wait()
        if self._settings.memory is not None and result.exit_code == 137 and result.outcome in ("signalled", "exited"):
            after = self.cgroup.oom_kills() or 0
            if after > before:
                result = result.replace(outcome="out-of-memory", usage=result.usage.replace(oom_kills=after - before))
        result = with_hint(result, self._settings.image)
        return result.check() if check else result

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

    def read(self, path: str) -> str:
        """A file's text (UTF-8). `read_bytes` for the bytes. Raises HutchError."""
        return self.read_bytes(path).decode("utf-8")

    def read_bytes(self, path: str) -> bytes:
        """A regular file's content. Raises HutchError."""
        return self.files.read(path)

    def write(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Create or replace a file, making its directories. Raises HutchError."""
        self.files.write(path, data.encode() if isinstance(data, str) else data, mode)

    def put(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file or tree of the host into the container, to exactly `target`."""
        guarded("put", lambda: self.files.put(os.fspath(source), target))

    def get(self, source: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or tree of the container to the host, to exactly `target`."""
        guarded("get", lambda: self.files.get(source, os.fspath(target)))

    def target(self) -> Target:
        """Its files, for copies and commits. Close it after use."""
        from hutch.engine.containers.filesystem import Target
        from hutch.image import store

        self._check_shared()
        self._check()
        descriptors = self._execution.descriptors
        return Target(
            self.live,
            running=True,
            root=descriptors["container-root"],
            base=descriptors.get("base", -1),
            upper=f"{store.uppers()}/{self.id}" if self._settings.upper == "disk" else "",
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
