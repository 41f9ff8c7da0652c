"""kill, delete, pause, resume, update."""

from __future__ import annotations

import sys

from hutch.cli.oci.main import Context
from hutch.errors import UsageError
from hutch.kernel import documents
from hutch.oci.config import BlockIo, Cpu, Memory, Pids, Resources
from hutch.record import Record
from hutch.runtime.verbs import end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def kill_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci kill`."""
    if len(words) > 2:
        raise UsageError(f"kill: expected an id and a signal, got {len(words)} arguments")
    end.kill(context.store, words[0], end.signal_number(words[1] if len(words) > 1 else "TERM"), everyone=bool(values.get("all")))
    return 0


def delete_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci delete`."""
    end.delete(context.store, words[0], force=bool(values.get("force")), notice=context.log.notice)
    return 0


def pause_command(context: Context, _: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci pause`."""
    end.pause(context.store, words[0])
    return 0


def resume_command(context: Context, _: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci resume`."""
    end.resume(context.store, words[0])
    return 0


def update_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci update`."""
    from hutch.runtime.verbs import update as verbs

    for flag in ("l3_cache_schema", "mem_bw_schema"):
        if values.get(flag):
            from hutch.errors import UnsupportedError

            raise UnsupportedError(f"--{flag.replace('_', '-')}: the schemata of a running container are not changed", "write them to its group in resctrl")
    source = values.get("resources")
    if source is not None:
        if source == "-":
            text = sys.stdin.read(documents.LIMIT)
        else:
            try:
                text = documents.read_text(source)
            except OSError as error:
                raise UsageError(f"--resources {source}: {error.strerror}") from None
        resources = verbs.resources_from(text, "--resources")
    else:
        resources = resources_of(values)
    verbs.update(context.store, words[0], resources)
    return 0


def resources_of(values: dict[str, Any]) -> Resources:
    """The limits that the flags of `update` name. Raises UsageError."""
    cpu = {
        "shares": _integer(values, "cpu_share"),
        "quota": _integer(values, "cpu_quota"),
        "burst": _integer(values, "cpu_burst"),
        "period": _integer(values, "cpu_period"),
        "realtime_runtime": _integer(values, "cpu_rt_runtime"),
        "realtime_period": _integer(values, "cpu_rt_period"),
        "idle": _integer(values, "cpu_idle"),
        "cpus": values.get("cpuset_cpus"),
        "mems": values.get("cpuset_mems"),
    }
    memory = {
        "limit": _size(values, "memory"),
        "reservation": _size(values, "memory_reservation"),
        "swap": _size(values, "memory_swap"),
        "kernel_tcp": _size(values, "kernel_memory_tcp"),
    }
    _size(values, "kernel_memory")
    pids, weight = _integer(values, "pids_limit"), _integer(values, "blkio_weight")
    return Resources(
        cpu=_some(Cpu, cpu),
        memory=_some(Memory, memory),
        pids=None if pids is None else Pids(limit=pids),
        block_io=None if weight is None else BlockIo(weight=weight),
    )


def _some(kind: type[Record], values: dict[str, Any]) -> Any:
    given = {name: value for name, value in values.items() if value is not None}
    return kind(**given) if given else None


def _integer(values: dict[str, Any], key: str) -> int | None:
    text = values.get(key) or values.get(f"{key}s")
    if text is None:
        return None
    try:
        return int(text[:20])
    except ValueError:
        raise UsageError(f"--{key.replace('_', '-')}: expected a number, got {text[:20]!r}") from None


def _size(values: dict[str, Any], key: str) -> int | None:
    """Bytes, or a number with a unit: ``64m``; -1 is unlimited."""
    text = values.get(key)
    if text is None:
        return None
    if text == "-1":
        return -1
    from hutch.engine.spec.units import size

    return size(text, f"--{key.replace('_', '-')}")
