"""The command line without a container: words to values, values to settings, help, completion."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from hutch import jsontext
from hutch.cli import completion, flags, image_flags, main, request
from hutch.cli.flags import RUN_FLAGS
from hutch.cli.parse import HELP, Command, Flag, help_text, parse
from hutch.engine.spec import arguments, options, syntax, units
from hutch.engine.spec.check import check
from hutch.engine.spec.configuration import capability_set
from hutch.engine.spec.settings import Attachment, Bind, Settings, Tmpfs, Ulimit
from hutch.errors import HutchError, UsageError

COMMANDS = (*flags.COMMANDS, *image_flags.COMMANDS)
RUN = next(command for command in COMMANDS if command.name == "run")


# The parser


@pytest.mark.parametrize(
    ("words", "values", "rest"),
    [
        ("", {}, []),
        ("host", {}, ["host"]),
        ("-it host bash", {"interactive": True, "tty": True}, ["host", "bash"]),
        ("-ti host", {"interactive": True, "tty": True}, ["host"]),
        ("-e A=B host", {"env": ["A=B"]}, ["host"]),
        ("-eA=B host", {"env": ["A=B"]}, ["host"]),
        ("-e=A=B host", {"env": ["A=B"]}, ["host"]),
        ("-ite A=B -e C host", {"interactive": True, "tty": True, "env": ["A=B", "C"]}, ["host"]),
        ("--env A=B --env=C=D host", {"env": ["A=B", "C=D"]}, ["host"]),
        ("-m64m host", {"memory": "64m"}, ["host"]),
        ("-m=64m host", {"memory": "64m"}, ["host"]),
        ("--memory=64m --memory 32m host", {"memory": "32m"}, ["host"]),
        ("--name= host", {"name": ""}, ["host"]),
        ("--name -x host", {"name": "-x"}, ["host"]),
        ("--init host", {"init": True}, ["host"]),
        ("--init=true host", {"init": True}, ["host"]),
        ("--init=false host", {"init": False}, ["host"]),
        ("--init=0 --rm=T host", {"init": False, "rm": True}, ["host"]),
        ("-i=false host", {"interactive": False}, ["host"]),
        ("host -it --memory 5", {}, ["host", "-it", "--memory", "5"]),
        ("-- host", {}, ["host"]),
        ("-i -- -t", {"interactive": True}, ["-t"]),
        ("host --", {}, ["host", "--"]),
        ("- x", {}, ["-", "x"]),
        ("--net host host", {"network": ["host"]}, ["host"]),
        ("--help", {"help": True}, []),
    ],
)
def test_parse(words, values, rest):
    assert parse(RUN, words.split()) == (values, rest)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("--memry 5", "run: unknown flag --memry", "did you mean --memory?"),
        ("--memry=5", "run: unknown flag --memry", "did you mean --memory?"),
        ("--zzzzzzz", "run: unknown flag --zzzzzzz", "`hutch run --help` shows the flags"),
        ("-Z", "run: unknown flag -Z", None),
        ("-iZ", "run: unknown flag -Z (in -iZ)", None),
        ("--memory", "--memory: a value is missing", "`hutch run --help` shows the flags"),
        ("-e", "-e: a value is missing", None),
        ("--init=maybe", "--init: expected true or false, got 'maybe'", None),
        ("--init=", "--init: expected true or false, got ''", None),
        ("-i=x", "-i: expected true or false, got 'x'", None),
    ],
)
def test_parse_refuses(words, message, hint):
    with pytest.raises(UsageError) as caught:
        parse(RUN, words.split())
    assert caught.value.message == message
    assert hint is None or caught.value.hint == hint


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.lists(st.text("-=ietmhAB ", max_size=6), max_size=5))
def test_parse_is_total(words):
    try:
        _, rest = parse(RUN, words)
    except UsageError:
        return
    assert rest == words[len(words) - len(rest) :]


def test_tables_are_sound():
    assert len({c.name for c in COMMANDS}) == len(COMMANDS)
    assert {c.name for c in COMMANDS} == set(main.PLACES)
    assert set(main.ALIASES.values()) <= set(main.PLACES)
    for command in COMMANDS:
        names = [name for flag in (*command.flags, HELP) for name in flag.names]
        assert len(set(names)) == len(names), command.name
        keys = [flag.key for flag in command.flags]
        assert len(set(keys)) == len(keys)
        for flag in command.flags:
            assert flag.kind in ("switch", "value", "list") and flag.help and (flag.kind == "switch") == (not flag.value)


def test_key():
    assert Flag(names=("-e", "--env-file"), kind="list", help="x").key == "env_file"
    assert Flag(names=("-x",), kind="switch", help="x").key == "x"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_help(command):
    text = help_text(command)
    assert text.startswith(f"usage: hutch {command.name}") and command.summary in text
    for flag in (*command.flags, HELP):
        assert ", ".join(flag.names) in text and flag.help in text
    for line in text.splitlines():
        assert len(line) <= 130 and line == line.rstrip(), line


def test_help_breaks_long_names():
    command = Command(
        name="x", summary="s", usage="", flags=(Flag(names=("--" + "a" * 40,), kind="switch", help="long"), Flag(names=("-b",), kind="switch", help="short"))
    )
    assert f"  --{'a' * 40}\n{' ' * 38}long" in help_text(command)


def test_overview():
    text = main.overview()
    for command in COMMANDS:
        assert f"\n  {command.name}" in text


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["help", "run"], ["run", "--help"], ["version"], ["--version"], ["completion", "bash"]])
def test_main_prints(words, capsys):
    assert main.main(words) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["rnu"], "unknown command 'rnu'\nhint: did you mean run?"), (["completion", "tcsh"], "expected bash, zsh or fish"), (["run"], "no image")],
)
def test_main_complains(words, message, capsys):
    assert main.main(words) == 125
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


# Completion


def script(shell: str, capsys) -> str:
    assert completion.completion({}, [shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_parses(shell, capsys):
    text = script(shell, capsys)
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    for command in COMMANDS:
        assert command.name in text
        for flag in command.flags:
            assert all(name in text for name in flag.names)


def test_bash_completion_works(capsys):
    text = script("bash", capsys)
    tries = {
        "COMP_WORDS=(hutch ru); COMP_CWORD=1": "run",
        "COMP_WORDS=(hutch run --memory-sw); COMP_CWORD=2": "--memory-swap --memory-swappiness",
        "COMP_WORDS=(hutch run --network h); COMP_CWORD=3": "host",
        "COMP_WORDS=(hutch exec --us); COMP_CWORD=2": "--user",
    }
    for words, expected in tries.items():
        shell = f"{text}\n{words}; _hutch; echo ${{COMPREPLY[*]}}"
        done = subprocess.run(["bash", "-c", shell], text=True, capture_output=True, check=False)
        assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_fish_completion_quotes(capsys):
    """fish reads '…' as a POSIX shell does, apart from \\': a summary with an apostrophe ends the word too early."""
    told = {text.replace("'", "") for c in COMMANDS for text in (c.summary, *(f.help for f in (*c.flags, HELP)))} | {"hutch", "-f"}
    for line in script("fish", capsys).splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[:3] == ["complete", "-c", "hutch"]
            assert words[-1].replace("'", "") in told, line


# Units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("1", 1), ("1b", 1), ("1k", 1024), ("1K", 1024), ("1kb", 1024), ("1KiB", 1024), ("512m", 512 << 20), ("2g", 2 << 30), ("1t", 1 << 40), ("1.5g", 3 << 29),
        ("0.5k", 512), (" 5m ", 5 << 20), ("-1", -1), (7, 7), (-1, -1), (0, 0),
    ],
)  # fmt: skip
def test_size(text, value):
    assert units.size(text) == value


@pytest.mark.parametrize("text", ["", "m", "-2", "-1m", "1x", "1mm", "1 2", "ten", "nan", "inf", "1e400", "0x10", "--1", "1kbb", "1i", True, False, -2, -5])
def test_size_refused(text):
    with pytest.raises(UsageError, match="^memory: expected a size"):
        units.size(text, "memory")


@given(number=st.integers(0, 2**22), unit=st.sampled_from(["", "b", "k", "kb", "KiB", "m", "MB", "g", "GiB", "t"]))
def test_sizes(number, unit):
    factor = 1024 ** " kmgt".index((unit.lower() or " ")[0].replace("b", " "))
    assert units.size(f"{number}{unit}") == number * factor


@pytest.mark.parametrize("text", ["9007199254740993", "9223372036854771712", "18014398509481985"])
def test_sizes_are_whole(text):
    """A number of bytes passes through no float: 2**53 + 1 is not 2**53, and v1's own "unlimited" is a size."""
    assert units.size(text) == int(text)


@given(hundredths=st.integers(1, 6400))
def test_cpus(hundredths):
    """0.29 CPUs are 29000 µs of each 100 ms, and not 28999."""
    text = f"{hundredths // 100}.{hundredths % 100:02}"
    assert units.cpus(text) == units.cpus(hundredths / 100) == hundredths * 1000


@pytest.mark.parametrize("value", ["", "x", "0.009", "-1", "nan", "inf", "1e9", math.nan])
def test_cpus_refused(value):
    with pytest.raises(UsageError, match="^cpus: expected a number of CPUs"):
        units.cpus(value)


# Values


def of(line: str) -> Settings:
    return request.settings(*parse(RUN, shlex.split(line)))


def web(**extras):
    return {"network": "web", "attachments": (Attachment(network="web", **extras),)}


# any block device: nothing is done with it
DEVICE = next((str(path) for path in sorted(Path("/dev").iterdir()) if path.is_block_device()), "/dev/null")
MAJOR, MINOR = os.major(os.stat(DEVICE).st_rdev), os.minor(os.stat(DEVICE).st_rdev)

# Each flag: the words, and what they change
SETTINGS: dict[str, tuple[str, dict[str, object]]] = {
    "interactive": ("-i", {"interactive": True}),
    "tty": ("-t", {"terminal": True}),
    "name": ("--name box", {"name": "box"}),
    "env": ("-e A=B -e C=D=E", {"env": ("A=B", "C=D=E")}),
    "workdir": ("-w /work", {"workdir": "/work"}),
    "user": ("-u anna:audio", {"user": "anna:audio"}),
    "group_add": ("--group-add audio --group-add 5", {"groups": ("audio", "5")}),
    "hostname": ("-h box", {"hostname": "box"}),
    "domainname": ("--domainname d", {"domainname": "d"}),
    "add_host": ("--add-host db:10.0.0.1", {"extra_hosts": ("db:10.0.0.1",)}),
    "entrypoint": ("--entrypoint sh", {"entrypoint": ("sh",)}),
    "init": ("--init", {"init": True}),
    "label": ("-l a=b -l c", {"labels": {"a": "b", "c": ""}}),
    "stop_signal": ("--stop-signal INT", {"stop_signal": "INT"}),
    "stop_timeout": ("--stop-timeout 3", {"stop_timeout": 3.0}),
    "memory": ("-m 64m", {"memory": 64 << 20}),
    "memory_swap": ("-m 64m --memory-swap -1", {"memory": 64 << 20, "memory_swap": -1}),
    "memory_reservation": ("--memory-reservation 1g", {"memory_reservation": 1 << 30}),
    "memory_swappiness": ("--memory-swappiness 10", {"memory_swappiness": 10}),
    "cpus": ("--cpus 1.5", {"cpu_quota": 150000}),
    "cpu_shares": ("-c 512", {"cpu_shares": 512}),
    "cpu_period": ("--cpu-period 50000", {"cpu_period": 50000}),
    "cpu_quota": ("--cpu-quota 20000", {"cpu_quota": 20000}),
    "cpuset_cpus": ("--cpuset-cpus 0-1", {"cpuset_cpus": "0-1"}),
    "cpuset_mems": ("--cpuset-mems 0", {"cpuset_mems": "0"}),
    "pids_limit": ("--pids-limit 9", {"pids": 9}),
    "blkio_weight": ("--blkio-weight 500", {"blkio_weight": 500}),
    "device_read_bps": (f"--device-read-bps {DEVICE}:1m", {"device_rates": (("read_bps", MAJOR, MINOR, 1 << 20),)}),
    "device_write_bps": (f"--device-write-bps {DEVICE}:2k", {"device_rates": (("write_bps", MAJOR, MINOR, 2048),)}),
    "device_read_iops": (f"--device-read-iops {DEVICE}:5", {"device_rates": (("read_iops", MAJOR, MINOR, 5),)}),
    "device_write_iops": (f"--device-write-iops {DEVICE}:6", {"device_rates": (("write_iops", MAJOR, MINOR, 6),)}),
    "cgroup_conf": ("--cgroup-conf memory.high=1M", {"unified": {"memory.high": "1M"}}),
    "cgroup_parent": ("--cgroup-parent /a", {"cgroup_parent": "/a"}),
    "cgroup_manager": ("--cgroup-manager systemd", {"systemd": True}),
    "oom_score_adj": ("--oom-score-adj 100", {"oom_score_adj": 100}),
    "ulimit": ("--ulimit nofile=10:20 --ulimit core=-1", {"ulimits": (Ulimit(name="nofile", soft=10, hard=20), Ulimit(name="core", soft=-1, hard=-1))}),
    "shm_size": ("--shm-size 1m", {"shm_size": 1 << 20}),
    "volume": ("-v /a:/b -v /c:/d:ro,rslave", {"binds": (Bind(source="/a", target="/b"), Bind(source="/c", target="/d", readonly=True, options=("rslave",)))}),
    "mount": (
        "--mount type=bind,src=/a,dst=/b,readonly --mount type=tmpfs,target=/t,tmpfs-size=1m",
        {"binds": (Bind(source="/a", target="/b", readonly=True),), "tmpfs": (Tmpfs(target="/t", options=("size=1048576",)),)},
    ),
    "tmpfs": ("--tmpfs /a --tmpfs /b:size=1m,mode=700", {"tmpfs": (Tmpfs(target="/a"), Tmpfs(target="/b", options=("size=1m", "mode=700")))}),
    "device": (f"--device {DEVICE} --device {DEVICE}:/dev/x:r", {"devices": ((DEVICE, DEVICE, "rwm"), (DEVICE, "/dev/x", "r"))}),
    "read_only": ("--read-only", {"readonly": True}),
    "upper": ("--upper disk", {"upper": "disk"}),
    "upper_size": ("--upper-size 1m", {"upper_size": 1 << 20}),
    "cap_add": ("--cap-add NET_ADMIN", {"cap_add": ("NET_ADMIN",)}),
    "cap_drop": ("--cap-drop ALL", {"cap_drop": ("ALL",)}),
    "security_opt": ("--security-opt seccomp=unconfined --security-opt no-new-privileges=false", {"seccomp": "unconfined", "no_new_privileges": False}),
    "privileged": ("--privileged", {"privileged": True}),
    "sysctl": ("--sysctl net.core.somaxconn=5", {"sysctls": {"net.core.somaxconn": "5"}}),
    "network": ("--network host", {"network": "host"}),
    "ip": ("--network web --ip 10.0.0.2", web(ip="10.0.0.2")),
    "ip6": ("--network web --ip6 fd00::2", web(ip6="fd00::2")),
    "mac_address": ("--network web --mac-address 02:00:00:00:00:01", web(mac_address="02:00:00:00:00:01")),
    "network_alias": ("--network web:alias=a,ip=10.0.0.3 --net-alias b", web(aliases=("a", "b"), ip="10.0.0.3")),
    "publish": ("-p 8080:80 -p 53/udp", {"network": "bridge", "attachments": (Attachment(network="bridge"),), "ports": ("8080:80", "53/udp")}),
    "publish_all": ("-P --network web", {**web(), "publish_all": True}),
    "egress": ("--network web --egress a.org:443 --egress 10.0.0.0/8,b.org", {**web(), "egress": ("a.org:443", "10.0.0.0/8,b.org")}),
    "expose": ("--expose 80", {"expose": ("80",)}),
    "dns": ("--dns 10.0.0.1 --dns ::1", {"dns": ("10.0.0.1", "::1")}),
    "dns_search": ("--dns-search .", {"dns_search": (".",)}),
    "dns_option": ("--dns-option ndots:2", {"dns_options": ("ndots:2",)}),
    "pid": ("--pid host", {"pid": "host"}),
    "ipc": ("--ipc host", {"ipc": "host"}),
    "uts": ("--uts host", {"uts": "host"}),
    "cgroupns": ("--cgroupns host", {"cgroupns": "host"}),
    "userns": ("--userns single", {"userns": "single"}),
    "time_offset": ("--time-offset monotonic=5 --time-offset boottime=-6", {"time_offsets": {"monotonic": 5, "boottime": -6}}),
}
SETTINGS |= {
    "isolation": ("--isolation vm", {"isolation": "vm"}),
    "vm_accel": ("--isolation vm --vm-accel tcg", {"isolation": "vm", "vm_accel": "tcg"}),
    "vm_root": ("--isolation vm --vm-root disk", {"isolation": "vm", "vm_root": "disk"}),
    "kernel": ("--isolation vm --kernel /boot/vmlinuz", {"isolation": "vm", "kernel": "/boot/vmlinuz"}),
}
# Flags of the command itself: cli/run.py reads them
ELSEWHERE = {"detach", "rm", "pull", "quiet", "timeout", "cidfile", "sig_proxy", "env_file"}


@pytest.mark.parametrize("key", SETTINGS)
def test_settings(key):
    line, expected = SETTINGS[key]
    assert of(f"{line} host true") == Settings(image="host", command=("true",), **expected)
    check(of(f"{line} host true"))


def test_every_flag_does_something():
    """A flag that is taken and changes nothing is a lie: each is in `Settings` or read by `hutch run`."""
    assert {flag.key for flag in RUN_FLAGS} - set(SETTINGS) - ELSEWHERE == set()


def test_defaults():
    assert of("host") == Settings(image="host")
    assert of("host sh -c 'a b'").command == ("sh", "-c", "a b")
    with pytest.raises(UsageError, match="no image"):
        of("")


def test_empty_entrypoint_clears_the_images():
    """Docker's --entrypoint "": the image's is not run."""
    assert of('--entrypoint "" host true').entrypoint == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--memory x", "memory: expected a size such as 512m, got 'x'"),
        ("--pids-limit many", "pids-limit: expected a whole number, got 'many'"),
        ("--cpus -1", "cpus: expected a number of CPUs"),
        ("--device-read-bps /dev/null:1m", "device-read-bps: /dev/null: is no block device"),
        ("--cpus 1 --cpu-quota 5", "cpus: stands for --cpu-quota"),
        ("--cgroup-manager x", "cgroup-manager: expected cgroupfs or systemd, got 'x'"),
        ("--sysctl a", "sysctl: expected NAME=VALUE, got 'a'"),
        ("--sysctl =a", "sysctl: expected NAME=VALUE, got '=a'"),
        ("--cgroup-conf x", "cgroup-conf: expected NAME=VALUE"),
        ("--time-offset monotonic=x", "time-offset: expected a whole number"),
        ("--security-opt apparmor=x", "security-opt: 'apparmor=x' is not supported"),
        ("--ulimit speed=1", "ulimit: unknown limit 'speed'"),
        ("--ulimit nofile", "ulimit nofile: expected a whole number"),
        ("--ulimit nofile=-5", "ulimit: expected nofile=SOFT[:HARD], got 'nofile=-5'"),
        ("--ulimit nofile=5:4", "ulimit: the soft limit of nofile is above the hard one"),
        ("--ulimit nofile=unlimited:4", "ulimit: the soft limit of nofile is above"),
        ("--ulimit nofile=1:2:3", "ulimit nofile: expected a whole number"),
        ("-v a", "mount: expected SOURCE:TARGET"),
        ("-v vol:/a:shared", "mount: unknown option 'shared' for a volume"),
        ("-v +vol:/a", "volume '+vol': expected"),
        ("-v :/a", "mount: expected SOURCE:TARGET"),
        ("-v /a:", "mount: expected SOURCE:TARGET"),
        ("--mount ''", "mount: no target in ''"),
        ("--mount type=bind,target=/a", "mount: no source in"),
        ("--mount type=npipe,source=a,target=/a", "mount: type 'npipe' is not supported"),
        ("--mount type=bind,source=/a,target=/b,wings=2", "mount: unknown field 'wings'"),
        ("--device null", "device: expected /dev/NAME"),
        ("--device /dev/a:/dev/b:/dev/c", "device: expected /dev/NAME"),
        ("--device /dev/a:x", "device: expected /dev/NAME"),
        ("--device /dev/a:", "device: expected /dev/NAME"),
        ("--device-read-bps /dev/null", "device-read-bps: expected DEVICE:RATE"),
        ("--device-read-bps /dev/no-such:5", "device-read-bps: /dev/no-such: No such file or directory"),
        ("-e =x", "env: expected NAME=VALUE, got '=x'"),
        ("-e ''", "env: expected NAME=VALUE, got ''"),
        ("--env-file /no/such", "env-file /no/such: No such file or directory"),
        ("--network host --ip 10.0.0.2", "ip, mac-address, network-alias: need a network to be on"),
        ("--mac-address 02:00:00:00:00:01", "ip, mac-address, network-alias: need a network to be on"),
        ("--network-alias a", "ip, mac-address, network-alias: need a network"),
        ("--network none:alias=a", "ip, mac-address, network-alias: need a network"),
        ("--network web --network host", "network host: goes with no other network"),
        ("--network none --network web", "network none: goes with no other network"),
        ("--network web:speed=5", "network: unknown option 'speed=5'"),
        ("--network alias=5", "network: no name"),
    ],
)
def test_settings_refused(line, message):
    with pytest.raises(UsageError) as caught:
        of(f"{line} host true")
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("text", ["/dev/a::r", "/dev/a:b:r", "/dev/a:dev/b:rw"])
def test_device_target_is_absolute(text):
    with pytest.raises(UsageError):
        syntax.device(text)


@pytest.mark.parametrize("text", ["maybe", "ture", "False!", "2"])
def test_no_new_privileges_is_not_switched_off_by_a_slip(text):
    with pytest.raises(UsageError):
        request.security([f"no-new-privileges={text}"])


@pytest.mark.parametrize("text", ["True", "TRUE", "t"])
def test_no_new_privileges_as_other_switches(text):
    """--init=TRUE is true; so is this."""
    assert request.security([f"no-new-privileges={text}"]) == ("default", True)


def test_security():
    assert request.security([]) == ("default", True)
    assert request.security(["no-new-privileges", "label=disable", "apparmor:unconfined"]) == ("default", True)
    assert request.security(["no-new-privileges:false"]) == ("default", False)
    assert request.security(["seccomp=builtin"]) == ("default", True)
    assert request.security(["seccomp=p.json"]) == (os.path.abspath("p.json"), True)


def test_security_path_with_a_colon():
    assert request.security(["seccomp=/a:b.json"])[0] == "/a:b.json"


@pytest.mark.parametrize("text", [f"nofile={2**64}", f"nofile=5:{2**64 + 5}"])
def test_ulimit_beyond_64_bits(text):
    """2**64 becomes 0 on its way to the kernel."""
    with pytest.raises(UsageError):
        syntax.ulimit(text)


@hypothesis_settings(max_examples=200, deadline=None)
@given(soft=st.integers(-2, 100), hard=st.integers(-2, 100))
def test_ulimits(soft, hard):
    try:
        found = syntax.ulimit(f"nofile={soft}:{hard}")
    except UsageError:
        assert soft < -1 or hard < -1 or (hard != -1 and (soft == -1 or soft > hard))
    else:
        assert (found.soft, found.hard) == (soft, hard)
        assert hard == -1 or 0 <= soft <= hard


@pytest.mark.parametrize("flag", ["--shm-size -1", "--upper-size -1", f"--device-read-bps {DEVICE}:-1", "--memory-reservation -1 --shm-size -1"])
def test_minus_one_is_a_size_only_where_it_means_something(flag):
    with pytest.raises(UsageError):
        check(of(f"{flag} host true"))


@pytest.mark.parametrize("text", ["5", "0.5", "1s", "2.5s"])
def test_seconds(text):
    assert request.seconds(text, "timeout") == float(text.rstrip("s"))
    assert request.seconds(None, "timeout") is None


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "s", "nan", "inf", "1e10"])
def test_seconds_refused(text):
    with pytest.raises(UsageError, match="^timeout: expected seconds above 0"):
        request.seconds(text, "timeout")


# Environment


def test_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSED", "on")
    monkeypatch.delenv("ABSENT", raising=False)
    path = tmp_path / "env"
    path.write_text("# comment\n\n  A=1\nB= two words \nC=\nPASSED\nABSENT\nURL=http://x/?a=b#c\nA=2\n")
    assert request.environment({"env_file": [str(path)], "env": ["D=4", "PASSED", "ABSENT", "E="]}) == (
        "A=1", "B= two words ", "C=", "PASSED=on", "URL=http://x/?a=b#c", "A=2", "D=4", "PASSED=on", "E=",
    )  # fmt: skip


def test_environment_file_refused(tmp_path):
    (tmp_path / "blank").write_text("A B=1\n")
    with pytest.raises(UsageError, match="a name may not contain a blank"):
        request.environment({"env_file": [str(tmp_path / "blank")]})
    (tmp_path / "binary").write_bytes(b"A=\xff\n")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        request.environment({"env_file": [str(tmp_path / "binary")]})
    with pytest.raises(UsageError, match="Is a directory"):
        request.environment({"env_file": [str(tmp_path)]})


def test_environment_file_lines_end_at_newlines(tmp_path):
    path = tmp_path / "env"
    path.write_text("A=one\u2028two\x0cthree\nB=4\r\n", newline="")
    found = request.environment({"env_file": [str(path)]})
    assert found[0] == "A=one\u2028two\x0cthree" and len(found) == 2


# Settings by keyword, and their checks


def test_keywords():
    found = options.settings(
        "host", ("true",),
        {"env": {"A": "1"}, "memory": "1m", "cpus": 0.5, "cpuset": "0", "user": 5, "groups": [7, "audio"], "mounts": ["/a:/b:ro", Tmpfs(target="/t")], "tmpfs": "/x:size=1m",
         "capabilities": ["KILL"], "ulimits": {"nofile": 5, "core": (1, 2)}, "entrypoint": ["sh"], "labels": {"a": "b"}, "hostname": None},
    )  # fmt: skip
    assert found == Settings(
        image="host", command=("true",), env=("A=1",), memory=1 << 20, cpu_quota=50000, cpuset_cpus="0", user="5", groups=("7", "audio"),
        binds=(Bind(source="/a", target="/b", readonly=True),), tmpfs=(Tmpfs(target="/t"), Tmpfs(target="/x", options=("size=1m",))), cap_drop=("ALL",), cap_add=("KILL",),
        ulimits=(Ulimit(name="nofile", soft=5, hard=5), Ulimit(name="core", soft=1, hard=2)), entrypoint=("sh",), labels={"a": "b"},
    )  # fmt: skip
    with pytest.raises(UsageError, match="unknown option 'memroy'"):
        options.settings("host", (), {"memroy": 1})


def test_command_of():
    assert arguments.command(["a", os.fsencode("b") and "b"]) == ("a", "b")
    for wrong in ("ls -l", b"ls", 5, None, [1]):
        with pytest.raises(UsageError):
            arguments.command(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "web"}, "network web: is named with others"),
        ({"network": "host", "ports": ("80",)}, "publish: network host has no ports"),
        ({"dns": ("localhost",)}, "dns: expected an address"),
        ({"dns_search": ("a b",)}, "dns-search: expected a word"),
        ({"pid": "container:x"}, "pid: expected private or host"),
        ({"userns": "keep-id"}, "userns: expected"),
        ({"upper": "ram"}, "upper: expected"),
        ({"name": "-x"}, "name: expected up to 63 letters"),
        ({"name": "a/b"}, "name: expected"),
        ({"hostname": "a" * 64}, "hostname: expected"),
        ({"workdir": "x"}, "workdir: expected an absolute path"),
        ({"env": ("=x",)}, "env: expected NAME=VALUE"),
        ({"env": ("A=\0",)}, "env: expected"),
        ({"command": ("a\0",)}, "command: an argument contains a NUL"),
        ({"binds": (Bind(source="/a", target="/"),)}, "mount: expected an absolute path below the root as target"),
        ({"binds": (Bind(source="/a", target="b"),)}, "mount: expected an absolute path below the root"),
        ({"binds": (Bind(source="a", target="/b"),)}, "mount: expected an absolute path as source"),
        ({"tmpfs": (Tmpfs(target=""),)}, "mount: expected an absolute path"),
        ({"memory": 4095}, "memory: the least is one page"),
        ({"memory_swap": 5}, "memory-swap: "),
        ({"memory": 8192, "memory_swap": 4096}, "memory-swap: is memory and swap together, and below"),
        ({"cap_add": ("FLY",)}, "unknown capability 'FLY'"),
    ],
)
def test_check(changes, message):
    with pytest.raises(UsageError) as caught:
        check(Settings(image="host", **changes))
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    "changes",
    [
        {"binds": (Bind(source="/etc\0/harmless", target="/b"),)},
        {"binds": (Bind(source="/a", target="/b\0c"),)},
        {"tmpfs": (Tmpfs(target="/b\0c"),)},
        {"workdir": "/b\0c"},
    ],
    ids=["source", "target", "tmpfs", "workdir"],
)
def test_check_refuses_nul(changes):
    """The executor's paths end at a NUL: a caller that checked ``/etc\\0/harmless`` has not checked ``/etc``."""
    with pytest.raises(UsageError):
        check(Settings(image="host", **changes))


def test_capabilities():
    def caps(**changes: object) -> tuple[str, ...]:
        return capability_set(Settings(image="host", **changes))

    assert len(caps()) == 14
    assert caps(cap_drop=("ALL",)) == () and caps(cap_drop=("all",), cap_add=("kill",)) == ("CAP_KILL",)
    assert len(caps(cap_add=("ALL",))) == 41 and "CAP_SYS_ADMIN" not in caps(cap_add=("ALL",), cap_drop=("SYS_ADMIN",))
    assert "CAP_NET_ADMIN" in caps(cap_add=("net_admin",)) and len(caps(privileged=True)) == 41
    assert "CAP_KILL" not in caps(cap_drop=("CAP_KILL",))


# JSON


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_json(value):
    import json

    assert json.loads(jsontext.dumps(value)) == value


def test_json_refuses():
    for wrong in (object(), {1, 2}, b"x"):
        with pytest.raises(TypeError, match="has no JSON form"):
            jsontext.dumps(wrong)
    assert jsontext.dumps(os.fsdecode(b"\xff")) == '"\\udcff"'


def test_errors_have_hints():
    error = HutchError("it broke", "mend it")
    assert str(error) == "it broke\nhint: mend it" and error.exit_code == 125
    assert str(HutchError("it broke")) == "it broke"
