"""checkpoint and restore, by CRIU (criu.org): what runs becomes files, and files what runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

from hutch import jsontext
from hutch.errors import ContainerGone, HutchError, StateError, UnsupportedError, UsageError
from hutch.kernel import documents, proc, syscalls
from hutch.record import Record
from hutch.runtime.verbs import end
from hutch.runtime.verbs.common import Options, write_pid
from hutch.runtime.verbs.create import Bundle, Creation
from hutch.runtime.verbs.store import CONFIG, PAUSED, RECORD, RUNNING, Entry, Lock, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STREAMS = "streams.json"  # beside CRIU's images: what the standard streams were


class CriuOptions(Record):
    """What both commands share. `image` is a directory of CRIU's images, `work` takes its log ("" is the same)."""

    image: str
    work: str = ""
    tcp: bool = False
    unix: bool = False
    shell_job: bool = False
    file_locks: bool = False
    cgroups: str = ""


def program() -> str:
    """Where CRIU is. Raises UnsupportedError."""
    found = shutil.which("criu") or next((p for p in ("/usr/sbin/criu", "/usr/local/sbin/criu") if os.access(p, os.X_OK)), None)
    if found is None:
        raise UnsupportedError("checkpoint and restore need CRIU, which is not installed", "install it (Debian: criu)")
    return found


def _shared(options: CriuOptions, work: str, log: str) -> list[str]:
    words = ["--images-dir", options.image, "--work-dir", work, "--log-file", log, "-v4", "--external", "mnt[]:ms"]
    words += ["--manage-cgroups" if not options.cgroups else f"--manage-cgroups={options.cgroups}"]
    for wanted, flag in (
        (options.tcp, "--tcp-established"),
        (options.unix, "--ext-unix-sk"),
        (options.shell_job, "--shell-job"),
        (options.file_locks, "--file-locks"),
    ):
        words += [flag] if wanted else []
    return words


def failure(what: str, identity: str, log: str) -> HutchError:
    """CRIU's own last error, out of its log."""
    try:
        errors = [line for line in proc.read_text(log).splitlines() if "Error" in line]
    except OSError:
        errors = []
    reason = errors[0].partition("Error ")[2] if errors else "CRIU says no more"
    return HutchError(f"container {identity}: {what}: {reason}", f"{log} has the whole story; `criu check` tells whether this kernel can do it")


def checkpoint(
    store: Store,
    identity: str,
    options: CriuOptions,
    *,
    leave_running: bool,
    pre_dump: bool,
    parent: str,
    notice: Callable[[str, str], None],
) -> None:
    """Save a running container; it ends, unless it is to go on. Raises HutchError with CRIU's reason."""
    criu = program()
    entry = store.load(identity)
    with Lock(entry.directory, identity):
        status = entry.status()
        if status not in (RUNNING, PAUSED):
            raise ContainerGone(f"container {identity}: container not running: cannot checkpoint one that is {status}")
        process = entry.config().process
        if process is not None and process.terminal:
            raise UnsupportedError(
                "checkpoint: the other end of a container's terminal is its engine's, and cannot be saved with it", "run it without a terminal"
            )
        os.makedirs(options.image, mode=0o700, exist_ok=True)
        work = options.work or options.image
        os.makedirs(work, mode=0o700, exist_ok=True)
        if status == PAUSED:
            end.freeze(entry, False)
        streams = {str(fd): found for fd in range(3) if (found := stream(entry.pid, fd))}
        words = [criu, "pre-dump" if pre_dump else "dump", "--tree", str(entry.pid), *_shared(options, work, "dump.log")]
        words += ["--leave-running"] if leave_running and not pre_dump else []
        words += ["--prev-images-dir", parent, "--track-mem"] if parent else ["--track-mem"] if pre_dump else []
        words += [word for key in dict.fromkeys(streams.values()) if key.startswith("file[") for word in ("--external", key)]
        for kind, path in _foreign(entry):
            words += ["--external", f"{kind}[{os.stat(path).st_ino}]:{kind}"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise failure("checkpoint", identity, f"{work}/dump.log")
        with open(f"{options.image}/{STREAMS}", "w", encoding="utf-8") as file:
            file.write(jsontext.dumps(streams))
    if not leave_running and not pre_dump:
        end.wait_dead(entry, end.PATIENCE)
        end.delete(store, identity, force=True, notice=notice)


def stream(pid: int, fd: int) -> str:
    """What CRIU calls a standard stream that leads out of the container: a pipe or a socket by its number, a file by those of its
    mount and inode; "" for what lies inside."""
    try:
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        if target.startswith(("pipe:", "socket:")):
            return target
        info = os.stat(f"/proc/{pid}/fd/{fd}")
        lines = proc.read_text(f"/proc/{pid}/fdinfo/{fd}").splitlines()
        mount = next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))
        inside = any(m.mount_id == mount for m in proc.mounts(pid))
    except (OSError, StopIteration, ValueError):
        return ""
    return "" if inside else f"file[{mount:x}:{info.st_ino:x}]"


def _foreign(entry: Entry) -> list[tuple[str, str]]:
    """The network and pid namespaces that the container joined: they are not its own to be saved."""
    return [(kind, f"/proc/{entry.pid}/ns/{kind}") for name, kind in (("network", "net"), ("pid", "pid")) if name in entry.data.get("joined", ())]


def restore(store: Store, identity: str, bundle: Bundle, options: CriuOptions, made: Options, notice: Callable[[str, str], None]) -> Entry:
    """A container from its images: it runs when this returns, a child of this process's subreaper. Raises HutchError."""
    criu = program()
    if not os.path.isdir(options.image):
        raise UsageError(f"--image-path {options.image}: is not a directory of CRIU's images")
    if bundle.config.process is not None and bundle.config.process.terminal:
        raise UnsupportedError("restore: a container with a terminal cannot be restored", "checkpoint refuses to save one")
    creation = Creation(store, identity, bundle, made, notice, await_start=False)
    directory = creation.directory
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        raise StateError(f"container {identity}: exists already") from None
    try:
        with open(f"{directory}/{CONFIG}", "w", encoding="utf-8") as file:
            file.write(bundle.text)
        record = creation.record()
        pid = _restore(criu, creation, options, record["rootfs"])
        started = proc.start_time(pid)
        with open(f"{directory}/{RECORD}", "w", encoding="utf-8") as file:
            file.write(jsontext.dumps(record) + "\n" + jsontext.dumps({"pid": pid, "started": started or 0}) + "\n")
        if made.pid_file:
            write_pid(made.pid_file, pid)
    except BaseException:
        end.remove_damaged(identity, directory)
        raise
    return store.load(identity)


def _restore(criu: str, creation: Creation, options: CriuOptions, rootfs: str) -> int:
    work = options.work or options.image
    os.makedirs(work, mode=0o700, exist_ok=True)
    root = f"{creation.directory}/root"
    pid_file = f"{creation.directory}/restored"
    os.mkdir(root)
    words = [criu, "restore", "--root", root, "--restore-detached", "--pidfile", pid_file, *_shared(options, work, "restore.log")]
    try:
        streams = jsontext.loads(documents.read_text(f"{options.image}/{STREAMS}"))
    except (OSError, ValueError):
        streams = {}
    for fd, target in streams.items():
        if target.startswith(("pipe:", "socket:", "file[")):
            words += ["--inherit-fd", f"fd[{fd}]:{target}"]
    child = os.fork()
    if child == 0:
        # CRIU wants the root as a mount of its own; in a mount namespace that ends with this process nothing of it is left
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
            syscalls.mount(rootfs, root, None, syscalls.MS_BIND | syscalls.MS_REC)
            syscalls.mount(None, root, None, syscalls.MS_PRIVATE)
            os.execv(words[0], words)
        except OSError as error:
            os.write(2, f"restore: {error.strerror}\n".encode())
        finally:
            os._exit(126)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise failure("restore", creation.identity, f"{work}/restore.log")
    return int(proc.read_text(pid_file))


def wait(entry: Entry) -> int:
    """Until a restored container has ended: 0, since its exit code is its parent's to read and CRIU was that."""
    while entry.alive():
        time.sleep(0.05)
    return 0


def pass_signals(entry: Entry) -> None:
    """Send on to the container what is sent to this process."""

    def forward(number: int, _: object) -> None:
        end.signal_first(entry, number)

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)
