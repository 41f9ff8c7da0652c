"""One command in a container of its own."""

from __future__ import annotations

from hutch.engine.containers import create
from hutch.engine.containers.process import OUTPUT_LIMIT, Process, check_streams
from hutch.engine.containers.running import Run
from hutch.engine.launch import launching
from hutch.engine.spec import arguments, options as api_options
from hutch.errors import UsageError
from hutch.executor.launcher import Execution
from hutch.image.resolve import SNAPSHOT
from hutch.result import Result
from hutch.typed import overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal, Unpack

    from hutch.engine.spec.arguments import AnyPath
    from hutch.engine.spec.options import Input, Options, RunOptions, Streams


@overload
def start(image: AnyPath, command: Iterable[AnyPath] = (), *, text: Literal[True] = True, **options: Unpack[RunOptions]) -> Process[str]: ...
@overload
def start(image: AnyPath, command: Iterable[AnyPath] = (), *, text: Literal[False], **options: Unpack[RunOptions]) -> Process[bytes]: ...
@overload
def start(image: AnyPath, command: Iterable[AnyPath] = (), *, text: bool, **options: Unpack[RunOptions]) -> Process[str] | Process[bytes]: ...
def start(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    stdin: Input = None,
    text: bool = True,
    timeout: float | None = None,
    output_limit: int = OUTPUT_LIMIT,
    merge_stderr: bool = False,
    **options: Unpack[Options],
) -> Process[str] | Process[bytes]:
    """Start a command in a container of its own; the `Process` gives its lines, and its result when it ends.

    `run` describes the arguments. Raises UsageError, ImageError or UnsupportedError before anything is touched.
    """
    check_streams(stdin, text, timeout, output_limit, merge_stderr)
    argv = arguments.command(command)
    prepared = create.create(api_options.settings(image, argv, options), accounting=False)
    if prepared.facts.idle:
        raise UsageError(f"{image}: what runs in it waits for commands, and would never end", "hutch.run with a command, or hutch.Container")

    def launch(child_in: int, child_out: int, child_err: int) -> Execution:
        return launching.launch(prepared, stdin=child_in, stdout=child_out, stderr=child_err)

    process: Process[str] | Process[bytes] = Process(
        launch, prepared.facts.args, stdin=stdin, text=text, timeout=timeout, output_limit=output_limit, merge_stderr=merge_stderr
    )
    if prepared.asks:
        try:
            process.pid  # noqa: B018 -- its executor asks for networks, and whoever starts it may not look at it again for long
        except BaseException:
            process.close()
            raise
    return process


@overload
def run(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    text: Literal[True] = True,
    check: bool = False,
    **options: Unpack[RunOptions],
) -> Result[str]: ...
@overload
def run(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    text: Literal[False],
    check: bool = False,
    **options: Unpack[RunOptions],
) -> Result[bytes]: ...
@overload
def run(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    text: bool,
    check: bool = False,
    **options: Unpack[RunOptions],
) -> Result[str] | Result[bytes]: ...
def run(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    stdin: Input = None,
    text: bool = True,
    timeout: float | None = None,
    output_limit: int = OUTPUT_LIMIT,
    merge_stderr: bool = False,
    check: bool = False,
    **options: Unpack[Options],
) -> Result[str] | Result[bytes]:
    """Run one command in a container of its own, to its end, and return what came of it.

    >>> hutch.run("host", ["python3", "-c", "print(6 * 7)"], memory="512m", pids=64, timeout=10).stdout
    '42\\n'

    `image` is "host" (this machine's own programs, copy on write), the name of an image, the path of a directory or an
    archive (one with a slash, or a `Path`), or "snapshot:NAME"; `command` is a list of arguments, texts and paths (the
    image's own command when empty). `stdin` is text, bytes, a file or a descriptor (default: empty). The result's streams
    are `str`, or `bytes` with ``text=False``; of each, `output_limit` bytes are kept (default 64 MiB); `merge_stderr` puts
    what goes to stderr into stdout. After `timeout` seconds everything in the container is killed (default: never).

    Raises UsageError, ImageError, RegistryError or UnsupportedError before anything is touched. A container that could not
    be started is a result, "failed-to-start"; with ``check=True`` everything but exit code 0 raises: CommandFailed,
    StartError or MachineLost.
    """
    arguments.flag("check", check)
    with begin(
        image,
        command,
        stdin=stdin,
        text=text,
        timeout=timeout,
        output_limit=output_limit,
        merge_stderr=merge_stderr,
        **options,
    ) as running:
        result = running.result()
    return result.check() if check else result


def begin(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    stdin: Input = None,
    text: bool = True,
    timeout: float | None = None,
    output_limit: int = OUTPUT_LIMIT,
    merge_stderr: bool = False,
    **options: Unpack[Options],
) -> Run:
    """Start a command whose result is wanted: `run` waits for it, and `hutch.aio` does so in a thread."""
    name, argv = arguments.image(image), arguments.command(command)
    streams: Streams = {
        "stdin": stdin, "timeout": timeout, "output_limit": output_limit, "merge_stderr": merge_stderr
    }  # fmt: skip
    if not name.startswith(SNAPSHOT) or not argv:
        return Run(start(image, argv, text=text, **streams, **options), name)
    from hutch.engine.containers.container import Container

    box = Container(image, **options)
    try:
        running = box.begin(argv, text=text, **streams)
    except BaseException:
        box.close()
        raise
    return Run(running.process, name, running.judge, box.close)


run.__doc__ = (run.__doc__ or "") + api_options.DESCRIPTION
