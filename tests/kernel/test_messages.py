"""What is printed when something cannot be: it names what the user typed, and says the true cause."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
# The words of plans, of OCI configurations and of the host's cgroup files, which nobody typed.
INNER = re.compile(
    r"\w\[\d+\]|<[a-z]+(-\w+)*>|\blinux\.\w|\bprocess\.\w|clone mount tree|\battach \S+ on|/sys/fs/cgroup"
    r"|\bmake tmpfs|Traceback"
)


@pytest.fixture(scope="module")
def place():
    """Files and links to name."""
    found = Path(tempfile.mkdtemp(prefix="hutch-messages-", dir="/var/tmp"))
    found.chmod(0o755)
    (found / "directory").mkdir()
    (found / "file").write_text("")
    (found / "loop").symlink_to("loop")
    (found / "gone").symlink_to("nowhere")
    yield found
    shutil.rmtree(found)


MOUNTS = {
    "no source": (["-v", "{0}/none:/data"], ["{0}/none:/data", "{0}/none does not exist", "mkdir -p"]),
    "no source (mount)": (["--mount", "type=bind,src={0}/none,dst=/x"], ["{0}/none", "does not exist", "/x"]),
    "a relative source": (["-v", "./none:/data"], ["none:/data", "does not exist"]),
    "below a file": (["-v", "{0}/file/none:/data"], ["{0}/file", "/data"]),
    "a loop": (["-v", "{0}/loop:/data"], ["{0}/loop:/data", "symbolic link"]),
    "a link to nowhere": (["-v", "{0}/gone:/data"], ["{0}/gone", "does not exist"]),
    "a file over a directory": (["-v", "{0}/file:/etc"], ["{0}/file:/etc", "directory"]),
    "a directory over a file": (["-v", "{0}:/etc/passwd"], ["{0}:/etc/passwd", "directory"]),
    "below a device": (["-v", "{0}/file:/dev/null/x"], ["{0}/file:/dev/null/x", "/dev/null"]),
    "in sysfs": (["-v", "{0}/directory:/sys/x"], ["{0}/directory:/sys/x"]),
    "in procfs": (["-v", "{0}/directory:/proc/x"], ["{0}/directory:/proc/x"]),
    "a tmpfs over a file": (["--tmpfs", "/etc/passwd"], ["tmpfs", "/etc/passwd", "directory"]),
    "a tmpfs of no size": (["--tmpfs", "/x:size=bogus"], ["tmpfs", "/x", "bogus"]),
    "a tmpfs of no option": (["--tmpfs", "/x:nope"], ["tmpfs", "/x", "nope"]),
    "a device that is none": (["--device", "{0}/none"], ["device", "{0}/none"]),
    "a device in procfs": (["--device", "/dev/null:/proc/x"], ["/dev/null:/proc/x"]),
    "no env-file": (["--env-file", "{0}/none"], ["env-file", "{0}/none", "No such file"]),
    "an env-file that is a directory": (["--env-file", "{0}"], ["env-file", "{0}", "directory"]),
    "a workdir that is a file": (["-w", "/etc/passwd"], ["workdir", "/etc/passwd", "directory"]),
    "a workdir in procfs": (["-w", "/proc/none"], ["workdir", "/proc/none"]),
    "a read-only workdir": (["--read-only", "-w", "/etc/none/x"], ["workdir", "/etc/none/x", "read-only"]),
    "a user that cannot be": (["-u", "999999999"], ["999999999", "user"]),
    "no cpu": (["--cpuset-cpus", "999"], ["cpuset-cpus", "999"]),
    "no node": (["--cpuset-mems", "999"], ["cpuset-mems", "999"]),
    "a quota": (["--cpu-quota", "5"], ["cpu-quota", "5"]),
    "a period": (["--cpu-period", "5"], ["cpu-period", "5"]),
    "a weight": (["--blkio-weight", "5"], ["blkio-weight", "5"]),
    "a swappiness": (["--memory-swappiness", "1000"], ["memory-swappiness", "1000"]),
    "an oom score": (["--oom-score-adj", "5000"], ["oom-score-adj", "5000"]),
    "a rate of no disk": (["--device-read-bps", "/dev/null:1m"], ["device-read-bps", "/dev/null"]),
    "a limit above the hard one": (["--ulimit", "nofile=9999999999"], ["ulimit", "nofile"]),
    "a setting of the host": (["--sysctl", "kernel.none=1"], ["sysctl", "kernel.none"]),
    "no setting": (["--sysctl", "net.none=1"], ["sysctl", "net.none"]),
    "a setting's value": (["--sysctl", "net.ipv4.ip_forward=zz"], ["sysctl", "net.ipv4.ip_forward", "zz"]),
    "a cgroup elsewhere": (["--cgroup-parent", "/../x"], ["cgroup-parent", "/../x"]),
    "a key of cgroups": (["--cgroup-conf", "nope.nope=1"], ["cgroup-conf", "nope.nope"]),
    "an upper of no size": (["--upper-size", "1"], ["upper-size"]),
    "memory to start in": (["--memory", "5000"], ["memory", "5000"]),
    "a time": (["--time-offset", "boottime=99999999999999999999"], ["time-offset", "99999999999999999999"]),
}


@pytest.mark.parametrize("case", MOUNTS)
def test_what_was_typed(hutch_cli, place, case):
    """The flag or its value as it was given, the cause, and none of the plan's words."""
    flags, words = MOUNTS[case]
    done = hutch_cli("run", *(flag.format(place) for flag in flags), "host", "true", cwd=str(place))
    assert done.returncode in (125, 126, 127) and not done.stdout
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("hutch: warning:"))
    assert not INNER.search(said), said
    assert all(word.format(place).lower() in said.lower() for word in words), said


@pytest.mark.parametrize("flags", ["--tmpfs /dev", "--tmpfs /dev/", "-v {0}/directory:/dev"])
def test_a_second_mount_at_dev(hutch_cli, place, flags):
    """What is mounted on /dev, where Hutch mounts already: it works, or that is the message, not a link."""
    done = hutch_cli("run", *flags.format(place).split(), "host", "true")
    if done.returncode:
        assert "/dev" in done.stderr and "symbolic" not in done.stderr, done.stderr
        assert not INNER.search(done.stderr), done.stderr


@pytest.mark.parametrize("flags", ["--tmpfs /loop", "-v {0}:/loop", "--device /dev/null:/loop", "-w /loop"])
def test_a_link_in_the_image(hutch_cli, place, busybox_root, flags):
    """A link where the user wants something: the message names his place, not a system directory."""
    (busybox_root / "loop").symlink_to("loop")
    done = hutch_cli("run", *flags.format(place).split(), str(busybox_root), "true")
    assert done.returncode == 125 and "/loop" in done.stderr and "symbolic link" in done.stderr
    assert "system directory" not in done.stderr and not INNER.search(done.stderr), done.stderr


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_a_link_for_a_system_directory(hutch_cli, busybox_root, name):
    """An image whose /dev is a link: that is the cause, and it is said so."""
    (busybox_root / name).rmdir()
    (busybox_root / name).symlink_to("/etc")
    done = hutch_cli("run", str(busybox_root), "true")
    assert done.returncode == 125 and f"/{name}" in done.stderr and "symbolic link" in done.stderr
    assert not INNER.search(done.stderr), done.stderr


FLAGS = """
--gpus=all --link=a:b --restart=always --log-driver=none --log-opt=a=b --volumes-from=x --device-cgroup-rule=x
--platform=linux/amd64 --runtime=runc --storage-opt=a=b --health-cmd=x --no-healthcheck --attach=stdin
--annotation=a=b --blkio-weight-device=/dev/x:1 --cpu-rt-period=1 --detach-keys=ctrl-x --label-file=x
--link-local-ip=1.2.3.4 --oom-kill-disable --volume-driver=x --disable-content-trust --kernel-memory=1m
""".split()


def lacks(done: subprocess.CompletedProcess[str], word: str) -> None:
    """Check that an answer says so, and proposes nothing."""
    assert done.returncode == 125 and re.search(rf"has no {word}\b", done.stderr), done.stderr
    assert "did you mean" not in done.stderr, done.stderr


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_docker_has(hutch_cli, flag):
    """A flag of Docker's that Hutch lacks: that is said, and no other flag is proposed."""
    lacks(hutch_cli("run", flag, "host", "true"), flag.partition("=")[0])


COMMANDS = """
swarm build compose top wait rename update restart start create info events search context stack service node
secret config plugin buildx builder checkpoint trust manifest attach
""".split()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_docker_has(hutch_cli, command):
    """The same for a command."""
    lacks(hutch_cli(command, "x"), command)


OTHERS = """
cp -L x:/a b;cp -q x:/a b;ps --filter a=b;ps -n 3;logs --since 1m x;logs -t x;exec -d x true;rm -v x
stats --no-stream;volume create -o a=b xx;network create --attachable xx;pull -a x
""".strip().replace("\n", ";").split(";")  # fmt: skip


@pytest.mark.parametrize("words", OTHERS)
def test_flags_of_other_commands(hutch_cli, words):
    """The same for flags of commands other than run, by their short names, too."""
    lacks(hutch_cli(*words.split()), next(word for word in words.split() if word.startswith("-")))


@pytest.mark.parametrize(("words", "hint"), [("rnu x", "run"), ("run --memry 1 x", "--memory"), ("imagse", "images")])
def test_a_slip_of_the_finger(hutch_cli, words, hint):
    """What nobody has is still answered with the nearest word."""
    assert f"did you mean {hint}?" in hutch_cli(*words.split()).stderr


def test_a_mode_that_docker_has(hutch_cli):
    """A value of Docker's that Hutch lacks: --ipc container:x, --pid container:x are named."""
    for flag in ("--ipc", "--pid"):
        done = hutch_cli("run", flag, "container:x", "host", "true")
        assert done.returncode == 125 and "container:x" in done.stderr, done.stderr


def test_an_ordinary_user_is_told_too(as_user, place):
    """A directory that an ordinary user may not reach, and one that is missing."""
    (place / "private/inner").mkdir(parents=True)
    (place / "private").chmod(0o700)
    for source, cause in ((place / "private/inner", "Permission denied"), (place / "none", "does not exist")):
        done = as_user("-m", "hutch.cli", "run", "-v", f"{source}:/data", "host", "true")
        assert done.returncode == 125 and f"{source}" in done.stderr and cause in done.stderr, done.stderr
        assert not INNER.search(done.stderr), done.stderr
