"""The flags of every command: one table for parsing, help and completion."""

from __future__ import annotations

from hutch.cli.parse import Command, Flag


def _flag(names: str, help_: str, value: str = "", kind: str = "", values: str = "", group: str = "") -> Flag:
    return Flag(names=tuple(names.split()), kind=kind or ("value" if value else "switch"), help=help_, value=value, values=tuple(values.split()), group=group)


CONTAINER, LIMITS, FILES, SECURITY, NETWORK, NAMESPACES, MACHINE = "container", "limits", "files", "security", "network", "namespaces", "machine"

RUN_FLAGS = (
    _flag("-i --interactive", "keep standard input open", group=CONTAINER),
    _flag("-t --tty", "give the container a terminal", group=CONTAINER),
    _flag("-d --detach", "run in the background and print the id", group=CONTAINER),
    _flag("--rm", "remove the record of a detached container when it ends (others are always removed)", group=CONTAINER),
    _flag("--name", "a name for it", "NAME", group=CONTAINER),
    _flag("-e --env", "set a variable, or pass one of this shell's on", "NAME[=VALUE]", "list", group=CONTAINER),
    _flag("--env-file", "variables from a file, a line each", "FILE", "list", group=CONTAINER),
    _flag("-w --workdir", "working directory, made if missing", "DIR", group=CONTAINER),
    _flag("-u --user", "user and group by name or number", "USER[:GROUP]", group=CONTAINER),
    _flag("--group-add", "a further group", "GROUP", "list", group=CONTAINER),
    _flag("-h --hostname", "host name (default: the id)", "NAME", group=CONTAINER),
    _flag("--domainname", "NIS domain name", "NAME", group=CONTAINER),
    _flag("--add-host", "a line of /etc/hosts", "NAME:ADDRESS", "list", group=CONTAINER),
    _flag("--entrypoint", "the program instead of the image's entrypoint", "PROGRAM", group=CONTAINER),
    _flag("--init", "a PID 1 that reaps and passes signals on", group=CONTAINER),
    _flag("-l --label", "a label on its record", "NAME=VALUE", "list", group=CONTAINER),
    _flag("--stop-signal", "what `hutch stop` sends (default: TERM)", "SIGNAL", group=CONTAINER),
    _flag("--stop-timeout", "seconds after which `hutch stop` kills (default: 10)", "SECONDS", group=CONTAINER),
    _flag("--timeout", "kill everything after so many seconds", "SECONDS", group=CONTAINER),
    _flag("--cidfile", "write the id to a file that must not exist", "FILE", group=CONTAINER),
    _flag("--pull", "fetch the image: missing (default), always or never", "WHEN", values="missing always never", group=CONTAINER),
    _flag("-q --quiet", "no progress of what is fetched", group=CONTAINER),
    _flag("--sig-proxy", "pass signals on (default: true)", group=CONTAINER),
    _flag("-m --memory", "memory limit, such as 512m", "SIZE", group=LIMITS),
    _flag("--memory-swap", "memory and swap together; -1: no limit on swap", "SIZE", group=LIMITS),
    _flag("--memory-reservation", "what it keeps when memory is short", "SIZE", group=LIMITS),
    _flag("--memory-swappiness", "0 to 100 (v1)", "N", group=LIMITS),
    _flag("--cpus", "number of CPUs, such as 0.5", "N", group=LIMITS),
    _flag("-c --cpu-shares", "relative weight (default: 1024)", "N", group=LIMITS),
    _flag("--cpu-period", "length of a CPU period in µs", "N", group=LIMITS),
    _flag("--cpu-quota", "CPU time in each period in µs", "N", group=LIMITS),
    _flag("--cpuset-cpus", "CPUs that it may use, such as 0-1", "LIST", group=LIMITS),
    _flag("--cpuset-mems", "memory nodes that it may use", "LIST", group=LIMITS),
    _flag("--pids-limit", "how many processes", "N", group=LIMITS),
    _flag("--blkio-weight", "relative I/O weight, 10 to 1000", "N", group=LIMITS),
    _flag("--device-read-bps", "read rate of a device", "DEVICE:RATE", "list", group=LIMITS),
    _flag("--device-write-bps", "write rate of a device", "DEVICE:RATE", "list", group=LIMITS),
    _flag("--device-read-iops", "reads a second of a device", "DEVICE:N", "list", group=LIMITS),
    _flag("--device-write-iops", "writes a second of a device", "DEVICE:N", "list", group=LIMITS),
    _flag("--cgroup-conf", "a cgroup v2 key, such as memory.high=256M", "KEY=VALUE", "list", group=LIMITS),
    _flag("--cgroup-parent", "the cgroup to make its own in", "PATH", group=LIMITS),
    _flag("--cgroup-manager", "who makes the cgroup: cgroupfs or systemd", "NAME", values="cgroupfs systemd", group=LIMITS),
    _flag("--oom-score-adj", "-1000 to 1000", "N", group=LIMITS),
    _flag("--ulimit", "a resource limit, such as nofile=1024:2048", "NAME=SOFT[:HARD]", "list", group=LIMITS),
    _flag("--shm-size", "size of /dev/shm (default: 64m)", "SIZE", group=LIMITS),
    _flag("-v --volume", "a directory or file of the host, or a volume by its name", "SOURCE:CONTAINER[:ro]", "list", group=FILES),
    _flag("--mount", "type=bind|volume|image|tmpfs,source=…,target=…[,readonly]", "SPEC", "list", group=FILES),
    _flag("--tmpfs", "an empty directory in memory", "DIR[:OPTIONS]", "list", group=FILES),
    _flag("--device", "a device of the host", "DEVICE[:PATH][:rwm]", "list", group=FILES),
    _flag("--read-only", "nothing of the root can be written", group=FILES),
    _flag("--upper", "keep changes in memory (tmpfs) or on disk (default for detached ones)", "WHERE", values="tmpfs disk", group=FILES),
    _flag("--upper-size", "at most so much is kept in memory", "SIZE", group=FILES),
    _flag("--cap-add", "grant a capability (ALL: every one)", "CAP", "list", group=SECURITY),
    _flag("--cap-drop", "take a capability away (ALL: every one)", "CAP", "list", group=SECURITY),
    _flag(
        "--security-opt", "seccomp=FILE|compat|unconfined, no-new-privileges[=false]", "OPTION", "list",
        values="seccomp=compat seccomp=unconfined no-new-privileges no-new-privileges=false", group=SECURITY,
    ),
    _flag("--privileged", "every capability and device-less confinement off: no sandbox", group=SECURITY),
    _flag("--sysctl", "a kernel setting of its namespaces", "NAME=VALUE", "list", group=SECURITY),
    _flag("--network --net", "none, host, bridge, a network by its name, or device:INTERFACE", "NETWORK[:ip=…,alias=…]", "list",
        values="none host bridge", group=NETWORK),
    _flag("--network-alias --net-alias", "a further name on the network", "NAME", "list", group=NETWORK),
    _flag("--ip", "its address on the network", "ADDRESS", group=NETWORK),
    _flag("--ip6", "its IPv6 address on the network", "ADDRESS", group=NETWORK),
    _flag("--mac-address", "its interface's MAC", "MAC", group=NETWORK),
    _flag("-p --publish", "pass a port of this host's on: 8080:80, 127.0.0.1:8080:80/udp", "[[ADDRESS:]HOST:]PORT[/PROTOCOL]", "list", group=NETWORK),
    _flag("-P --publish-all", "pass free ports of this host's on to all that the image exposes", group=NETWORK),
    _flag("--expose", "a port for --publish-all", "PORT[/PROTOCOL]", "list", group=NETWORK),
    _flag("--egress", "none, all, or what may be reached: pypi.org:443, *.example.org, 10.0.0.0/8:53/udp", "POLICY", "list", values="none all", group=NETWORK),
    _flag("--dns", "who answers questions about other names than the network's", "ADDRESS", "list", group=NETWORK),
    _flag("--dns-search", "a domain in which short names are looked for (.: none)", "DOMAIN", "list", group=NETWORK),
    _flag("--dns-option", "an option of resolv.conf(5)", "OPTION", "list", group=NETWORK),
    _flag("--isolation", "namespaces of this kernel (default), or vm: a kernel of its own", "HOW", values="namespaces vm", group=MACHINE),
    _flag("--vm-accel", "kvm (default), or tcg: emulated in software, and no security boundary", "HOW", values="kvm tcg", group=MACHINE),
    _flag("--vm-root", "shared with this host (default), or disk: of its own, as a snapshot needs", "HOW", values="shared disk", group=MACHINE),
    _flag("--kernel", "the machine's kernel (default: this host's, or the newest of /boot)", "FILE", group=MACHINE),
    _flag("--pid", "private or host", "MODE", values="private host", group=NAMESPACES),
    _flag("--ipc", "private or host", "MODE", values="private host", group=NAMESPACES),
    _flag("--uts", "private or host", "MODE", values="private host", group=NAMESPACES),
    _flag("--cgroupns", "private or host", "MODE", values="private host", group=NAMESPACES),
    _flag("--userns", "auto, private, single (one id) or host (none)", "MODE", values="auto private single host", group=NAMESPACES),
    _flag("--time-offset", "a clock ahead of the host's, in seconds", "monotonic|boottime=N", "list", group=NAMESPACES),
)  # fmt: skip

IMAGE_HELP = """IMAGE is a name such as debian:12, which is pulled if it is missing; `host` (this machine's own programs, copy on write: homes,
secrets and run-time state are not there, and nothing is written back); or a path that begins with /, ./ or ../: a directory, a
root file system's tar, an OCI layout, or an archive of `docker save`.

Exit codes are Docker's: the command's own; 125 when the container could not be made, 126 when its program cannot be run, 127
when there is none; 128+N for a death by signal N (137: killed, for one by the memory limit)."""

COMMANDS = (
    Command(name="run", summary="Run a command in a new container.", usage="[FLAGS] IMAGE [COMMAND [ARG...]]", flags=RUN_FLAGS, details=IMAGE_HELP),
    Command(
        name="exec", summary="Run a command in a container that runs.", usage="[FLAGS] CONTAINER COMMAND [ARG...]",
        flags=(
            _flag("-i --interactive", "keep standard input open"),
            _flag("-t --tty", "give the command a terminal"),
            _flag("-e --env", "set a variable", "NAME[=VALUE]", "list"),
            _flag("-w --workdir", "working directory", "DIR"),
            _flag("-u --user", "user and group by name or number", "USER[:GROUP]"),
            _flag("--privileged", "every capability"),
        ),
    ),
    Command(
        name="ps", summary="List what runs now.", usage="[FLAGS]",
        flags=(
            _flag("-a --all", "detached containers that have ended, too"),
            _flag("-q --quiet", "ids alone"),
            _flag("--no-trunc", "whole commands"),
            _flag("--json", "as JSON, a line each"),
        ),
    ),
    Command(name="port", summary="Print where a container's ports are published.", usage="CONTAINER [PORT[/PROTOCOL]]"),
    Command(name="logs", summary="Print what a detached container has written.", usage="[-f] CONTAINER", flags=(_flag("-f --follow", "go on as it grows"),)),
    Command(name="kill", summary="Send a signal to containers.", usage="[-s SIGNAL] CONTAINER...", flags=(_flag("-s --signal", "default: KILL", "SIGNAL"),)),
    Command(
        name="stop", summary="Ask containers to end, and kill those that do not.", usage="[-s SIGNAL] [-t SECONDS] CONTAINER...",
        flags=(
            _flag("-s --signal", "what to send first (default: the container's --stop-signal, its image's, or TERM)", "SIGNAL"),
            _flag("-t --time", "how long to wait (default: the container's --stop-timeout, or 10; 0: not at all, -1: for ever)", "SECONDS"),
        ),
    ),
    Command(name="pause", summary="Freeze containers.", usage="CONTAINER..."),
    Command(name="unpause", summary="Let frozen containers go on.", usage="CONTAINER..."),
    Command(name="rm", summary="Remove detached containers that have ended.", usage="[-f] CONTAINER...", flags=(_flag("-f --force", "kill those that run"),)),
    Command(name="stats", summary="Show what containers use.", usage="[CONTAINER...]", flags=(_flag("--json", "as JSON, a line each"),)),
    Command(
        name="plan", summary="Print the plan of a container, without making it.", usage="[FLAGS] IMAGE [COMMAND...]  |  hutch plan --bundle DIR",
        details="Takes the flags of `hutch run`. Each line is an operation: its lane, its number, where it comes from, what it does.",
        flags=(
            *RUN_FLAGS,
            _flag("--bundle", "the plan of an OCI bundle's config.json", "DIR"),
            _flag("--json", "as JSON"),
            _flag("--lint", "check the plan and say what is wrong with it"),
        ),
    ),
    Command(name="doctor", summary="Say what this kernel and this user can do.", usage="[--json]", flags=(_flag("--json", "as JSON"),)),
    Command(name="completion", summary="Print a shell's completion script.", usage="bash|zsh|fish"),
    Command(name="version", summary="Print the version.", usage=""),
)  # fmt: skip
