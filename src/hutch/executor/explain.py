"""From ``{lane, index, errno}`` to a sentence: the operation, where it comes from, the cause, and what to do about it."""

from __future__ import annotations

import os

from hutch.errors import MachineLost, NotExecutable, NotFoundInContainer, StartError
from hutch.executor.messages import EREMOTEIO, Message
from hutch.plan import ops
from hutch.plan.operation import printable
from hutch.plan.plan import Plan, called

ENOENT, EACCES, ENOTDIR, EISDIR, EINVAL, EPERM, ENOSPC, E2BIG, ENOEXEC, ELIBACC, ELOOP, EMFILE, EBUSY, EBADMSG, ECANCELED, EAGAIN = (
    2, 13, 20, 21, 22, 1, 28, 7, 8, 79, 40, 24, 16, 74, 125, 11,
)  # fmt: skip


def failure(plan: Plan, message: Message, detail: str, replace: tuple[str, str] = ("", "")) -> StartError:
    """The exception for a failed operation; `replace` is (placeholder, id) of a plan that was kept as a template."""
    error = _failure(plan, message, detail)
    if replace[0]:
        error.message = error.message.replace(*replace)
        error.operation = error.operation.replace(*replace)
        error.args = (error.message,)
    return error


def _failure(plan: Plan, message: Message, detail: str) -> StartError:
    operation = plan.operation(message.lane, message.index)
    if isinstance(operation, ops.Machine | ops.Remote) and message.values[1] and message.error:
        return _inside(operation.guest.replace(typed=plan.typed), message, detail)
    if isinstance(operation, ops.Machine | ops.Remote) and message.error == EREMOTEIO:
        return StartError(lost(detail).message, operation=operation.describe(), origin="machine")
    detail = printable(detail)  # it may come out of an image's file, and goes to a terminal
    errno = message.error
    if errno == ECANCELED:
        return StartError("the container was stopped while it was being made", operation=operation.describe(), errno=errno)
    if isinstance(operation, ops.FindProgram | ops.Execute) and errno:
        return _program(plan, message.index, errno, detail)
    origin = operation.origin or "the plan"
    cause, hint = _cause(errno, message, detail), _hint(operation, errno, detail)
    text = f"{origin}: {operation.describe()}: {cause}"
    if plan.typed:
        text, hint = _plainly(plan, operation, message, cause, hint)
    return StartError(text, hint, operation=operation.describe(), origin=operation.origin, errno=errno)


def _plainly(plan: Plan, operation: ops.Operation, message: Message, cause: str, hint: str | None) -> tuple[str, str | None]:
    """The message for a user of flags, who has seen neither the configuration nor the plan: (what he typed and the cause, a hint)."""
    words = called(plan.typed, operation.origin) or operation.origin or "the container"
    if message.error == 0 and message.values[0] & 0x7F == 9 and (limit := called(plan.typed, "linux.resources.memory.limit")) and "memory" in limit:
        return f"{limit}: too small to start in", "a larger --memory"
    if message.error == ENOSPC and (size := called(plan.typed, "upper-size")):
        return f"{size}: the container's own files do not fit ({cause})", "a larger --upper-size"
    if isinstance(operation, ops.OpenTree) and operation.base is None and message.error == ENOENT:
        if os.path.islink(operation.path):
            return f"{words}: {operation.path} is a link to {os.readlink(operation.path)}, which does not exist", None
        return f"{words}: {operation.path} does not exist (mkdir -p {operation.path})", None
    return f"{words}: {cause}", hint


def lost(detail: str) -> MachineLost:
    """The exception for a machine that ended by itself; what it said comes out of a guest, and goes to a terminal."""
    lines = (printable(line.strip()) for line in detail.splitlines())
    return MachineLost(f"isolation vm: {'; '.join(line for line in lines if line)}")


def _inside(guest: Plan, message: Message, detail: str) -> StartError:
    """What failed in a machine, by the plan that its guest carries out. The guest says where: it may name what is not there."""
    lane, index = message.values[1] - 1, message.values[2]
    if not 0 <= lane <= 1 or not 0 <= index < len((guest.host, guest.container)[lane]):
        return StartError(f"the machine's guest failed: {_cause(message.error, message, printable(detail))}", errno=message.error)
    return _failure(guest, message.replace(lane=lane, index=index, values=(message.values[0], 0, 0, 0)), detail)


def _cause(errno: int, message: Message, detail: str) -> str:
    if errno == 0:
        status = message.values[0]
        killed = status & 0x7F
        what = f"the process was killed by signal {killed}" if killed else f"the process ended with {status >> 8}"
        return what + (" (the memory limit is too small to start in)" if killed == 9 else "")
    if errno == EREMOTEIO:
        return detail
    text = os.strerror(errno)
    return f"{text} ({detail})" if detail else text


def _program(plan: Plan, index: int, errno: int, detail: str) -> StartError:
    operation = plan.container[index]
    name = next((op.argv[0] for op in plan.container[index:] if isinstance(op, ops.Execute)), "?")
    common = {"operation": operation.describe(), "origin": operation.origin, "errno": errno}
    # the words in brackets are those that Docker and Podman choose their exit code by
    if errno in (ENOENT, ENOTDIR) and "/" not in name:
        where = ":".join(c.rpartition("/")[0] for c in _candidates(plan))
        return NotFoundInContainer(f"{name}: no such program in the container's PATH (executable file not found in $PATH: {where})", None, **common)  # type: ignore[arg-type]
    if errno in (ENOENT, ENOTDIR):
        return NotFoundInContainer(f"{name}: no such file or directory in the container", None, **common)  # type: ignore[arg-type]
    if errno == ELIBACC:
        hint = "the file was built for another system, or its interpreter is not in the image"
        return NotFoundInContainer(f"{name}: {detail} (no such file or directory)", hint, **common)  # type: ignore[arg-type]
    if errno == EISDIR:
        return NotExecutable(f"{name}: is a directory, and no program (permission denied)", None, **common)  # type: ignore[arg-type]
    if errno == EACCES:
        return NotExecutable(f"{name}: not executable by this user (permission denied)", "chmod +x it; a mount with noexec forbids it too", **common)  # type: ignore[arg-type]
    if errno == ENOEXEC:
        return NotExecutable(f"{name}: neither a program for this machine nor a script with a #! line (exec format error)", None, **common)  # type: ignore[arg-type]
    if errno == E2BIG:
        return NotExecutable(f"{name}: arguments and environment are too long for execve", None, **common)  # type: ignore[arg-type]
    return NotExecutable(f"{name}: {os.strerror(errno)}{f' ({detail})' if detail else ''}", None, **common)  # type: ignore[arg-type]


def _candidates(plan: Plan) -> tuple[str, ...]:
    return next((op.candidates for op in plan.container if isinstance(op, ops.FindProgram)), ())


def _hint(operation: ops.Operation, errno: int, detail: str) -> str | None:
    if isinstance(operation, ops.OpenTree) and operation.base is None:
        if operation.idmap is not None and errno == EINVAL:
            return "its file system takes no idmapped mounts: bind it without idmap, or run with --userns host"
        if errno in (ENOENT, ENOTDIR):
            return f"{operation.path} does not exist on the host" if not os.path.lexists(operation.path) else None
        if errno == EACCES:
            return f"this user may not reach {operation.path}"
    if isinstance(operation, ops.MakeFilesystem):
        if errno == EPERM and operation.kind in ("proc", "sysfs"):
            return f"a user namespace may mount {operation.kind} only where nothing covers the host's: inside another container it is covered"
        if errno == 19:
            return f"this kernel has no {operation.kind}: modprobe {operation.kind}, or a kernel built with it"
        if operation.kind == "overlay" and errno == EINVAL:
            return "the kernel's log (dmesg) has overlayfs's own reason"
    if isinstance(operation, ops.Clone):
        if errno in (ENOSPC, 87):
            return "too many namespaces: see /proc/sys/user/max_*_namespaces, or nesting deeper than 32"
        if errno == EPERM:
            return "this user may not make user namespaces here: `hutch doctor` tells why"
    if isinstance(operation, ops.ProcWrite) and operation.name == "oom_score_adj" and errno == EACCES:
        return "lowering the score below what this process was started with needs CAP_SYS_RESOURCE"
    if isinstance(operation, ops.MapHelper):
        return "see /etc/subuid and /etc/subgid; --userns single does with one id"
    if isinstance(operation, ops.HostWrite) and operation.path.startswith("/sys/fs/cgroup"):
        return "the kernel refused this limit: see its cgroup documentation for the range" if errno == EINVAL else None
    if isinstance(operation, ops.CheckRoom | ops.CloneInside | ops.Clone | ops.Init) and errno == EAGAIN:
        return "the container has as many processes as its limit allows: a higher --pids-limit, or fewer processes in it"
    if errno == ENOSPC:
        return "the disk, or the container's tmpfs, is full"
    if errno == EMFILE:
        return "too many open files: raise `ulimit -n`"
    if isinstance(operation, ops.Attach) and errno == ELOOP and operation.no_symlinks:
        return f"/{operation.path.strip('/')}, where the container's own directory is to be, is a symbolic link in the image: it could lead anywhere"
    return None
