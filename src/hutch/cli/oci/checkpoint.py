"""checkpoint and restore."""

from __future__ import annotations

from hutch.cli.oci.main import Context
from hutch.cli.oci.making import options_of
from hutch.errors import UsageError
from hutch.runtime.verbs import checkpoint as verbs
from hutch.runtime.verbs.create import load_bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MODES = ("soft", "full", "strict", "ignore")


def criu_options(values: dict[str, Any]) -> verbs.CriuOptions:
    """CRIU's options from the flags. Raises UsageError."""
    mode = values.get("manage_cgroups_mode", "")
    if mode and mode not in MODES:
        raise UsageError(f"--manage-cgroups-mode: expected one of {', '.join(MODES)}, got {mode!r}")
    return verbs.CriuOptions(
        image=values.get("image_path", "checkpoint"),
        work=values.get("work_path", ""),
        tcp=bool(values.get("tcp_established")),
        unix=bool(values.get("ext_unix_sk")),
        shell_job=bool(values.get("shell_job")),
        file_locks=bool(values.get("file_locks")),
        cgroups=mode,
    )


def checkpoint_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci checkpoint`."""
    verbs.checkpoint(
        context.store,
        words[0],
        criu_options(values),
        leave_running=bool(values.get("leave_running")),
        pre_dump=bool(values.get("pre_dump")),
        parent=values.get("parent_path", ""),
        notice=context.log.notice,
    )
    return 0


def restore_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci restore`: with --detach it returns when the container runs, else when that has ended."""
    from hutch.runtime.verbs.end import delete

    bundle = load_bundle(values.get("bundle", "."))
    entry = verbs.restore(context.store, words[0], bundle, criu_options(values), options_of(context, values), context.log.notice)
    if values.get("detach"):
        return 0
    verbs.pass_signals(entry)
    code = verbs.wait(entry)
    delete(context.store, words[0], force=True, notice=context.log.notice)
    return code
