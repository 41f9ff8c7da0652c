"""One command in a container of its own."""

from __future__ import annotations

from hutch.engine.containers import create
from hutch.engine.containers.process import OUTPUT_LIMIT, Process, with_hint
from hutch.engine.launch import launching
from hutch.engine.spec import options as api_options
from hutch.errors import UsageError
from hutch.executor.launcher import Execution
from hutch.image.resolve import SNAPSHOT
from hutch.result import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Unpack

    from hutch.engine.containers.process import Input
    from hutch.engine.spec.options import Options


def start(
    image: str,
    command: Iterable[str] = (),
    *,
    stdin: Input = None,
    text: bool = True,
    timeout: float | None = None,
    output_limit: int = OUTPUT_LIMIT,
    merge_stderr: bool = False,
    **options: Unpack[Options],
) -> Process:
    """Start a command in a container of its own; the `Process` gives its lines, and its result when it ends.

    `run` describes the arguments. Raises UsageError, ImageError or UnsupportedError before anything is touched.
    """
    argv = api_options.command_of(command)
    prepared = create.create(api_options.settings(image, argv, options), accounting=False)
    if prepared.facts.idle:
        raise UsageError(f"{image}: what runs in it waits for commands, and would never end", "hutch.run with a command, or hutch.Container")

    def launch(child_in: int, child_out: int, child_err: int) -> Execution:
        return launching.launch(prepared, stdin=child_in, stdout=child_out, stderr=child_err)

    process = Process(launch, prepared.facts.args, stdin=stdin, text=text, timeout=timeout, output_limit=output_limit, merge_stderr=merge_stderr)
    if prepared.asks:
        try:
            process.pid  # noqa: B018 -- its executor asks for networks, and whoever starts it may not look at it again for long
        except BaseException:
            process.close()
            raise
    return process


def run(
    image: str,
    command: Iterable[str] = (),
    *,
    stdin: Input = None,
    text: bool = True,
    timeout: float | None = None,
    output_limit: int = OUTPUT_LIMIT,
    merge_stderr: bool = False,
    check: bool = False,
    **options: Unpack[Options],
) -> Result:
    """Run one command in a container of its own, to its end, and return what came of it.

    `image` is ``host`` (this machine's own programs, copy on write) or a path to a directory or an archive; `command` is a
    list of arguments (the image's own command when empty). `stdin` is text, bytes, a file or a descriptor. The streams
    are text, or bytes with ``text=False``; of each, `output_limit` bytes are kept. After `timeout` seconds everything in
    the container is killed. Limits: ``memory="512m"``, ``cpus=0.5``, ``pids=64``. See `Container` for the rest.

    Raises UsageError, ImageError or UnsupportedError before anything is touched. A container that could not be started
    is a result, "failed-to-start"; with ``check=True`` everything but exit code 0 raises.
    """
    if image.startswith(SNAPSHOT) and not isinstance(command, str) and (argv := api_options.command_of(command)):
        from hutch.engine.containers.container import Container

        with Container(image, **options) as box:
            return box.run(
                argv, stdin=stdin, text=text, timeout=timeout, output_limit=output_limit, merge_stderr=merge_stderr, check=check
            )  # fmt: skip
    with start(image, command, stdin=stdin, text=text, timeout=timeout, output_limit=output_limit, merge_stderr=merge_stderr, **options) as process:
        result = process.wait()
    result = with_hint(result, image)
    return result.check() if check else result
