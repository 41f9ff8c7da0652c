"""The commands and flags of `hutch-oci`: those that runc and crun share."""

from __future__ import annotations

from hutch.cli.parse import Command, Flag


def _switch(*names: str, help: str) -> Flag:
    return Flag(names=names, kind="switch", help=help)


def _value(*names: str, value: str, help: str) -> Flag:
    return Flag(names=names, kind="value", value=value, help=help)


def _list(*names: str, value: str, help: str) -> Flag:
    return Flag(names=names, kind="list", value=value, help=help)


GLOBAL = Command(
    name="",
    summary="",
    usage="[GLOBAL FLAGS] COMMAND [FLAGS] [ARG...]",
    flags=(
        _value("--root", value="DIR", help="where containers are kept (default: /run/hutch-oci, or below $XDG_RUNTIME_DIR)"),
        _value("--log", value="FILE", help="write messages to this file"),
        _value("--log-format", value="text|json", help="format of the log"),
        _switch("--debug", help="log every operation with its time"),
        _switch("--systemd-cgroup", help="the container's cgroup is a scope of systemd's; cgroupsPath is slice:prefix:name"),
        _value("--rootless", value="true|false|auto", help="accepted for its callers: what may be done is asked of the kernel"),
        _value("--cgroup-manager", value="cgroupfs|systemd|disabled", help="as crun has it: systemd is --systemd-cgroup"),
        _value("--criu", value="PATH", help="accepted for its callers: criu is looked for on PATH"),
        _switch("--version", "-v", help="print the version"),
    ),
)

BUNDLE = _value("--bundle", "-b", value="DIR", help="the bundle (default: the current directory)")
CONSOLE = _value("--console-socket", value="SOCKET", help="unix socket that receives the terminal's descriptor")
PID_FILE = _value("--pid-file", value="FILE", help="write the pid to this file")
PRESERVE = _value("--preserve-fds", value="N", help="hand N descriptors, from 3 on, to the container")
MAKING = (
    BUNDLE,
    CONSOLE,
    PID_FILE,
    _switch("--no-pivot", help="do not use pivot_root: for an initial ramdisk"),
    _switch("--no-new-keyring", help="keep this session's keyring"),
    PRESERVE,
    _switch("--no-subreaper", help="accepted for its callers"),
)
DETACH = _switch("--detach", "-d", help="do not wait for its end")
FORMAT = _value("--format", "-f", value="table|json", help="how to print")
RESOURCES = (
    _value("--resources", "-r", value="FILE", help="linux.resources as JSON (- for standard input)"),
    _value("--blkio-weight", value="N", help="10 to 1000"),
    _value("--cpu-period", value="US", help="microseconds"),
    _value("--cpu-quota", value="US", help="microseconds of CPU time a period"),
    _value("--cpu-burst", value="US", help="microseconds that may be saved up"),
    _value("--cpu-share", "--cpu-shares", value="N", help="weight against other cgroups"),
    _value("--cpu-rt-period", value="US", help="real-time period"),
    _value("--cpu-rt-runtime", value="US", help="real-time runtime"),
    _value("--cpuset-cpus", value="LIST", help="such as 0-3,7"),
    _value("--cpuset-mems", value="LIST", help="such as 0"),
    _value("--cpu-idle", value="0|1", help="SCHED_IDLE for all of it"),
    _value("--kernel-memory", value="SIZE", help="accepted for its callers: no kernel has this limit any more"),
    _value("--kernel-memory-tcp", value="SIZE", help="bytes of TCP buffers"),
    _value("--memory", "-m", value="SIZE", help="bytes, or 64m"),
    _value("--memory-reservation", value="SIZE", help="soft limit"),
    _value("--memory-swap", value="SIZE", help="memory and swap together; -1 is unlimited"),
    _value("--pids-limit", value="N", help="number of tasks; -1 is unlimited"),
    _value("--l3-cache-schema", value="TEXT", help="Intel RDT"),
    _value("--mem-bw-schema", value="TEXT", help="Intel RDT"),
)
CRIU = (
    _value("--image-path", value="DIR", help="where the images are (default: ./checkpoint)"),
    _value("--work-path", value="DIR", help="where CRIU keeps its log (default: the image path)"),
    _switch("--tcp-established", help="open TCP connections, too"),
    _switch("--ext-unix-sk", help="unix sockets to the outside, too"),
    _switch("--shell-job", help="a terminal of the caller's, too"),
    _switch("--file-locks", help="file locks, too"),
    _value("--manage-cgroups-mode", value="MODE", help="CRIU's: soft, full, strict, ignore"),
)

COMMANDS = (
    Command(name="create", summary="make a container that waits for its start", usage="[FLAGS] ID", flags=MAKING, positional=1),
    Command(name="start", summary="run a created container's program", usage="ID", positional=1),
    Command(
        name="run",
        summary="create, start, wait, delete",
        usage="[FLAGS] ID",
        flags=(*MAKING, DETACH, _switch("--keep", help="do not delete it when it has ended")),
        positional=1,
    ),
    Command(name="state", summary="print a container's state as JSON", usage="ID", positional=1),
    Command(
        name="kill",
        summary="send a signal (default TERM)",
        usage="[FLAGS] ID [SIGNAL]",
        flags=(_switch("--all", "-a", help="to every process of the container"),),
        positional=-1,
    ),
    Command(
        name="delete",
        summary="remove a stopped container",
        usage="[FLAGS] ID",
        flags=(_switch("--force", "-f", help="kill it first if it runs"),),
        positional=1,
    ),
    Command(
        name="list",
        summary="list containers",
        usage="[FLAGS]",
        flags=(FORMAT, _switch("--quiet", "-q", help="print ids alone")),
        positional=0,
    ),
    Command(name="ps", summary="list a container's processes", usage="[FLAGS] ID [PS ARGS...]", flags=(FORMAT,), positional=-1),
    Command(
        name="exec",
        summary="run a process in a running container",
        usage="[FLAGS] ID [COMMAND [ARG...]]",
        flags=(
            CONSOLE,
            _value("--cwd", value="DIR", help="working directory"),
            _list("--env", "-e", value="NAME=VALUE", help="set a variable"),
            _switch("--tty", "-t", help="give it a terminal"),
            _value("--user", "-u", value="UID[:GID]", help="numbers alone"),
            _list("--additional-gids", "-g", value="GID", help="supplementary groups"),
            _value("--process", "-p", value="FILE", help="the process as JSON"),
            DETACH,
            PID_FILE,
            _value("--process-label", value="LABEL", help="SELinux label"),
            _value("--apparmor", value="PROFILE", help="AppArmor profile"),
            _switch("--no-new-privs", help="set no_new_privs"),
            _list("--cap", "-c", value="CAP", help="add a capability"),
            PRESERVE,
            _list("--cgroup", value="[CONTROLLER,...:]PATH", help="a cgroup below the container's"),
            _switch("--ignore-paused", help="even when the container is paused: the process waits until it goes on"),
            _switch("--no-subreaper", help="accepted for its callers"),
        ),
        positional=-1,
    ),
    Command(name="pause", summary="freeze a container", usage="ID", positional=1),
    Command(name="resume", summary="let a paused container go on", usage="ID", positional=1),
    Command(name="update", summary="change a container's limits", usage="[FLAGS] ID", flags=RESOURCES, positional=1),
    Command(
        name="events",
        summary="print OOM kills and statistics as they come",
        usage="[FLAGS] ID",
        flags=(_switch("--stats", help="print the statistics once"), _value("--interval", value="DURATION", help="between two statistics (default 5s)")),
        positional=1,
    ),
    Command(
        name="spec",
        summary="write a config.json to begin with",
        usage="[FLAGS]",
        flags=(BUNDLE, _switch("--rootless", help="for a user without privileges")),
        positional=0,
    ),
    Command(name="features", summary="print what this runtime supports as JSON", usage="", positional=0),
    Command(
        name="checkpoint",
        summary="save a running container by CRIU",
        usage="[FLAGS] ID",
        flags=(
            *CRIU,
            _switch("--leave-running", help="let it go on"),
            _value("--parent-path", value="DIR", help="images of an earlier --pre-dump"),
            _switch("--pre-dump", help="save memory alone, and let it go on"),
        ),
        positional=1,
    ),
    Command(
        name="restore",
        summary="make a container from what `checkpoint` saved",
        usage="[FLAGS] ID",
        flags=(*CRIU, *MAKING, DETACH),
        positional=1,
    ),
)
PLACES = {
    "create": "making", "start": "making", "run": "making", "exec": "execute", "state": "inspect", "list": "inspect", "ps": "inspect", "events": "inspect",
    "kill": "control", "delete": "control", "pause": "control", "resume": "control", "update": "control", "spec": "documents", "features": "documents",
    "checkpoint": "checkpoint", "restore": "checkpoint",
}  # fmt: skip
