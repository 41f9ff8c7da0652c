"""How commands get into a container of this process's: plans that are kept for the next command, and what ends a late one."""

from __future__ import annotations

import os

from hutch.executor.launcher import Execution

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from hutch.cgroup.live import Cgroup
    from hutch.engine.launch.enter import Template
    from hutch.engine.records.live import Live

    Launch: TypeAlias = Callable[[int, int, int], Execution]  # with its stdin, stdout and stderr
    Expired: TypeAlias = Callable[[int], None]  # with the command's pid, when its time is over

KEPT = 16  # plans


class Commands:
    """The commands of one container, by the pid of its PID 1 and a pidfd, which stays its owner's."""

    def __init__(self, live: Live, name: str, pidfd: int, pid: int, cgroup: Callable[[], Cgroup]) -> None:
        self._live, self._name, self._pidfd, self._pid, self._cgroup = live, name, pidfd, pid, cgroup
        self._count = 0
        self._templates: dict[object, Template] = {}

    def prepare(self, argv: tuple[str, ...], env: dict[str, str], workdir: str | None, user: str | None, limited: bool) -> tuple[Launch, Expired]:
        """What starts a command, and what kills it with all that it started: it has a cgroup of its own where its time is
        limited. Raises UsageError for a user or a directory that is not there."""
        self._count += 1
        if self._live.machine is not None:
            # the guest of a copied machine has the cgroups of its origin
            group = f"command-{self._live.id}-{self._count}" if limited else ""
            return self._remote(argv, env, workdir, user, group), lambda _: None  # the guest kills it
        group = f"command-{self._count}" if limited else ""
        plan = self._template(env, workdir, user, group).command(argv)

        def launch(child_in: int, child_out: int, child_err: int) -> Execution:
            return Execution(plan, stdin=child_in, stdout=child_out, stderr=child_err, extra=(self._pidfd,))

        def expired(pid: int) -> None:
            from hutch.engine.launch import enter

            enter.kill_command(self._cgroup().paths, group, pid, self._pid)

        return launch, expired

    def _remote(self, argv: tuple[str, ...], env: dict[str, str], workdir: str | None, user: str | None, group: str) -> Launch:
        from hutch.engine.launch import enter
        from hutch.engine.machines import channel

        process = enter.process_of(self._live, argv, env, workdir, enter.user_of(self._live, user))
        plan = enter.remote_plan(self._live, process, group=group)

        def launch(child_in: int, child_out: int, child_err: int) -> Execution:
            relay = channel.connect(self._live.directory, self._name)
            try:
                return Execution(plan, stdin=child_in, stdout=child_out, stderr=child_err, extra=(relay,))
            finally:
                os.close(relay)

        return launch

    def _template(self, env: dict[str, str], workdir: str | None, user: str | None, group: str) -> Template:
        from hutch.engine.launch import enter

        who = None if user is None else enter.user_of(self._live, user)  # their lines of passwd(5) may have changed
        key = (tuple(env.items()), workdir, who)
        if not group and key in self._templates:
            return self._templates[key]
        made = enter.template(self._live, env=env, workdir=workdir, who=who or enter.user_of(self._live, None), child_cgroup=group)
        if not group:
            if len(self._templates) >= KEPT:
                self._templates.clear()
            self._templates[key] = made
        return made
