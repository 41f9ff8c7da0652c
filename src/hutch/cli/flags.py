"""The flags of every command: one table for parsing, help and completion."""

from __future__ import annotations

from hutch.cli.parse import Command, Flag


def flag(names: str, help_: str, value: str = "", kind: str = "", values: str = "", group: str = "") -> Flag:
    """A flag: its names, its help, the word for its value."""
    return Flag(names=tuple(names.split()), kind=kind or ("value" if value else "switch"), help=help_, value=value, values=tuple(values.split()), group=group)


CONTAINER, LIMITS, FILES, SECURITY, NETWORK, NAMESPACES, MACHINE = "container", "limits", "files", "security", "network", "namespaces", "machine"

RUN_FLAGS = (
    flag("-i --interactive", "keep standard input open", group=CONTAINER),
    flag("-t --tty", "give the container a terminal", group=CONTAINER),
    flag("-d --detach", "run in the background and print the id", group=CONTAINER),
    flag("--rm", "remove the record of a detached container when it ends (others are always removed)", group=CONTAINER),
    flag("--name", "a name for it", "NAME", group=CONTAINER),
    flag("-e --env", "set a variable, or pass one of this shell's on", "NAME[=VALUE]", "list", group=CONTAINER),
    flag("--env-file", "variables from a file, a line each", "FILE", "list", group=CONTAINER),
    flag("-w --workdir", "working directory, made if missing", "DIR", group=CONTAINER),
    flag("-u --user", "user and group by name or number", "USER[:GROUP]", group=CONTAINER),
    flag("--group-add", "a further group", "GROUP", "list", group=CONTAINER),
    flag("-h --hostname", "host name (default: the id)", "NAME", group=CONTAINER),
    flag("--domainname", "NIS domain name", "NAME", group=CONTAINER),
    flag("--add-host", "a line of /etc/hosts", "NAME:ADDRESS", "list", group=CONTAINER),
    flag("--entrypoint", "the program instead of the image's entrypoint", "PROGRAM", group=CONTAINER),
    flag("--init", "a PID 1 that reaps and passes signals on", group=CONTAINER),
    flag("-l --label", "a label on its record", "NAME=VALUE", "list", group=CONTAINER),
    flag("--stop-signal", "what `hutch stop` sends (default: TERM)", "SIGNAL", group=CONTAINER),
    flag("--stop-timeout", "seconds after which `hutch stop` kills (default: 10)", "SECONDS", group=CONTAINER),
    flag("--timeout", "kill everything after so many seconds", "SECONDS", group=CONTAINER),
    flag("--cidfile", "write the id to a file that must not exist", "FILE", group=CONTAINER),
    flag("--pull", "fetch the image: missing (default), always or never", "WHEN", values="missing always never", group=CONTAINER),
    flag("-q --quiet", "no progress of what is fetched", group=CONTAINER),
    flag("--sig-proxy", "pass signals on (default: true)", group=CONTAINER),
    flag("-m --memory", "memory limit, such as 512m", "SIZE", group=LIMITS),
    flag("--memory-swap", "memory and swap together; -1: no limit on swap", "SIZE", group=LIMITS),
    flag("--memory-reservation", "what it keeps when memory is short", "SIZE", group=LIMITS),
    flag("--memory-swappiness", "0 to 100 (v1)", "N", group=LIMITS),
    flag("--cpus", "number of CPUs, such as 0.5", "N", group=LIMITS),
    flag("-c --cpu-shares", "relative weight (default: 1024)", "N", group=LIMITS),
    flag("--cpu-period", "length of a CPU period in µs", "N", group=LIMITS),
    flag("--cpu-quota", "CPU time in each period in µs", "N", group=LIMITS),
    flag("--cpuset-cpus", "CPUs that it may use, such as 0-1", "LIST", group=LIMITS),
    flag("--cpuset-mems", "memory nodes that it may use", "LIST", group=LIMITS),
    flag("--pids-limit", "how many processes", "N", group=LIMITS),
    flag("--blkio-weight", "relative I/O weight, 10 to 1000", "N", group=LIMITS),
    flag("--device-read-bps", "read rate of a device", "DEVICE:RATE", "list", group=LIMITS),
    flag("--device-write-bps", "write rate of a device", "DEVICE:RATE", "list", group=LIMITS),
    flag("--device-read-iops", "reads a second of a device", "DEVICE:N", "list", group=LIMITS),
    flag("--device-write-iops", "writes a second of a device", "DEVICE:N", "list", group=LIMITS),
    flag("--cgroup-conf", "a cgroup v2 key, such as memory.high=256M", "KEY=VALUE", "list", group=LIMITS),
    flag("--cgroup-parent", "the cgroup to make its own in", "PATH", group=LIMITS),
    flag("--cgroup-manager", "who makes the cgroup: cgroupfs or systemd", "NAME", values="cgroupfs systemd", group=LIMITS),
    flag("--oom-score-adj", "-1000 to 1000", "N", group=LIMITS),
    flag("--ulimit", "a resource limit, such as nofile=1024:2048", "NAME=SOFT[:HARD]", "list", group=LIMITS),
    flag("--shm-size", "size of /dev/shm (default: 64m)", "SIZE", group=LIMITS),
    flag("-v --volume", "a directory or file of the host, or a volume by its name", "SOURCE:CONTAINER[:ro]", "list", group=FILES),
    flag("--mount", "type=bind|volume|image|tmpfs,source=…,target=…[,readonly]", "SPEC", "list", group=FILES),
    flag("--tmpfs", "an empty directory in memory", "DIR[:OPTIONS]", "list", group=FILES),
    flag("--device", "a device of the host", "DEVICE[:PATH][:rwm]", "list", group=FILES),
    flag("--read-only", "nothing of the root can be written", group=FILES),
    flag("--upper", "keep changes in memory (tmpfs) or on disk (default for detached ones)", "WHERE", values="tmpfs disk", group=FILES),
    flag("--upper-size", "at most so much is kept in memory", "SIZE", group=FILES),
    flag("--cap-add", "grant a capability (ALL: every one)", "CAP", "list", group=SECURITY),
    flag("--cap-drop", "take a capability away (ALL: every one)", "CAP", "list", group=SECURITY),
    flag(
        "--security-opt", "seccomp=FILE|compat|unconfined, no-new-privileges[=false]", "OPTION", "list",
        values="seccomp=compat seccomp=unconfined no-new-privileges no-new-privileges=false", group=SECURITY,
    ),
    flag("--privileged", "every capability and device-less confinement off: no sandbox", group=SECURITY),
    flag("--sysctl", "a kernel setting of its namespaces", "NAME=VALUE", "list", group=SECURITY),
    flag("--network --net", "none, host, bridge, a network by its name, or device:INTERFACE", "NETWORK[:ip=…,alias=…]", "list",
        values="none host bridge", group=NETWORK),
    flag("--network-alias --net-alias", "a further name on the network", "NAME", "list", group=NETWORK),
    flag("--ip", "its address on the network", "ADDRESS", group=NETWORK),
    flag("--ip6", "its IPv6 address on the network", "ADDRESS", group=NETWORK),
    flag("--mac-address", "its interface's MAC", "MAC", group=NETWORK),
    flag("-p --publish", "pass a port of this host's on: 8080:80, 127.0.0.1:8080:80/udp", "[[ADDRESS:]HOST:]PORT[/PROTOCOL]", "list", group=NETWORK),
    flag("-P --publish-all", "pass free ports of this host's on to all that the image exposes", group=NETWORK),
    flag("--expose", "a port for --publish-all", "PORT[/PROTOCOL]", "list", group=NETWORK),
    flag("--egress", "none, all, or what may be reached: pypi.org:443, *.example.org, 10.0.0.0/8:53/udp", "POLICY", "list", values="none all", group=NETWORK),
    flag("--dns", "who answers questions about other names than the network's", "ADDRESS", "list", group=NETWORK),
    flag("--dns-search", "a domain in which short names are looked for (.: none)", "DOMAIN", "list", group=NETWORK),
    flag("--dns-option", "an option of resolv.conf(5)", "OPTION", "list", group=NETWORK),
    flag("--isolation", "namespaces of this kernel (default), or vm: a kernel of its own", "HOW", values="namespaces vm", group=MACHINE),
    flag("--vm-accel", "kvm (default), or tcg: emulated in software, and no security boundary", "HOW", values="kvm tcg", group=MACHINE),
    flag("--vm-root", "shared with this host (default), or disk: of its own, as a snapshot needs", "HOW", values="shared disk", group=MACHINE),
    flag("--kernel", "the machine's kernel (default: this host's, or the newest of /boot)", "FILE", group=MACHINE),
    flag("--pid", "private or host", "MODE", values="private host", group=NAMESPACES),
    flag("--ipc", "private or host", "MODE", values="private host", group=NAMESPACES),
    flag("--uts", "private or host", "MODE", values="private host", group=NAMESPACES),
    flag("--cgroupns", "private or host", "MODE", values="private host", group=NAMESPACES),
    flag("--userns", "auto, private, single (one id) or host (none)", "MODE", values="auto private single host", group=NAMESPACES),
    flag("--time-offset", "a clock ahead of the host's, in seconds", "monotonic|boottime=N", "list", group=NAMESPACES),
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
            flag("-i --interactive", "keep standard input open"),
            flag("-t --tty", "give the command a terminal"),
            flag("-e --env", "set a variable", "NAME[=VALUE]", "list"),
            flag("-w --workdir", "working directory", "DIR"),
            flag("-u --user", "user and group by name or number", "USER[:GROUP]"),
            flag("--privileged", "every capability"),
        ),
    ),
    Command(
        name="ps", summary="List what runs now.", usage="[FLAGS]",
        flags=(
            flag("-a --all", "detached containers that have ended, too"),
            flag("-q --quiet", "ids alone"),
            flag("--no-trunc", "whole commands"),
            flag("--json", "as JSON, a line each"),
        ),
    ),
    Command(name="port", summary="Print where a container's ports are published.", usage="CONTAINER [PORT[/PROTOCOL]]"),
    Command(name="logs", summary="Print what a detached container has written.", usage="[-f] CONTAINER", flags=(flag("-f --follow", "go on as it grows"),)),
    Command(name="kill", summary="Send a signal to containers.", usage="[-s SIGNAL] CONTAINER...", flags=(flag("-s --signal", "default: KILL", "SIGNAL"),)),
    Command(
        name="stop", summary="Ask containers to end, and kill those that do not.", usage="[-s SIGNAL] [-t SECONDS] CONTAINER...",
        flags=(
            flag("-s --signal", "what to send first (default: the container's --stop-signal, its image's, or TERM)", "SIGNAL"),
            flag("-t --time", "how long to wait (default: the container's --stop-timeout, or 10; 0: not at all, -1: for ever)", "SECONDS"),
        ),
    ),
    Command(name="pause", summary="Freeze containers.", usage="CONTAINER..."),
    Command(name="unpause", summary="Let frozen containers go on.", usage="CONTAINER..."),
    Command(name="rm", summary="Remove detached containers that have ended.", usage="[-f] CONTAINER...", flags=(flag("-f --force", "kill those that run"),)),
    Command(name="stats", summary="Show what containers use.", usage="[CONTAINER...]", flags=(flag("--json", "as JSON, a line each"),)),
    Command(
        name="plan", summary="Print the plan of a container, without making it.", usage="[FLAGS] IMAGE [COMMAND...]  |  hutch plan --bundle DIR",
        details="Takes the flags of `hutch run`. Each line is an operation: its lane, its number, where it comes from, what it does.",
        flags=(
            *RUN_FLAGS,
            flag("--bundle", "the plan of an OCI bundle's config.json", "DIR"),
            flag("--json", "as JSON"),
            flag("--lint", "check the plan and say what is wrong with it"),
        ),
    ),
    Command(name="doctor", summary="Say what this kernel and this user can do.", usage="[--json]", flags=(flag("--json", "as JSON"),)),
    Command(name="completion", summary="Print a shell's completion script.", usage="bash|zsh|fish"),
    Command(name="version", summary="Print the version.", usage=""),
)  # fmt: skip
