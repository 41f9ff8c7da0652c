"""run in the foreground: a container whose end is waited for. Its executor stays, and undoes what it made."""

from __future__ import annotations

from hutch.errors import HutchError
from hutch.executor.launcher import Execution
from hutch.runtime.verbs import hooks
from hutch.runtime.verbs.common import Options, report_times
from hutch.runtime.verbs.create import Bundle, Creation
from hutch.runtime.verbs.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Run:
    """A container from its making to its end. With `keep` its record stays, as of a stopped container."""

    def __init__(self, store: Store, identity: str, bundle: Bundle, options: Options, notice: Callable[[str, str], None], *, keep: bool) -> None:
        self.notice = notice
        self.creation = Creation(store, identity, bundle, options, notice, await_start=False, keep=keep)
        self.keep = keep

    def launch(self) -> Execution:
        """Start the executor."""
        self.execution = self.creation.launch()
        return self.execution

    def ready(self) -> None:
        """Wait until the program runs, hand over what was promised, run the poststart hooks. Raises HutchError, upon which the
        container is stopped."""
        creation, config = self.creation, self.creation.config
        try:
            self.execution.wait_ready()
            creation.hand_over()
            if config.hooks is not None and config.hooks.poststart:
                text = hooks.state(config, creation.identity, creation.bundle.path, "running", self.execution.pid)
                hooks.run_all(config.hooks.poststart, "poststart", text)
        except HutchError:
            self.execution.close()
            self.keep = False
            self.ended()
            raise
        finally:
            report_times(self.execution, self.notice)
            creation.settle(self.execution.ready)

    def ended(self) -> None:
        """Once the container is gone: the poststop hooks."""
        if not self.keep:
            for failure in hooks.poststop(self.creation.config, self.creation.identity, self.creation.bundle.path):
                self.notice("warning", failure)
