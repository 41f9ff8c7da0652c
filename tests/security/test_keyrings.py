"""Session keyrings: nobody else's keys are in a container, and its keys are nobody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hutch
from tests.conformance import runtime as rt
from tests.conftest import HUTCH
from tests.security import test_oci_tools as tools

pytestmark = pytest.mark.root
place, boxes = tools.place, tools.boxes

tools.SOURCES["keys"] = r"""
enum { ADD = 248, KEYCTL = 250, SESSION = -3, JOIN = 1, SETPERM = 5, SEARCH = 10, READ = 11 };
static void say(const char *name)
{
    char value[64] = {0};
    long key = syscall(KEYCTL, SEARCH, SESSION, "user", name, 0);
    if (key > 0 && syscall(KEYCTL, READ, key, value, 63) < 0) strcpy(value, "unreadable");
    printf("%s=%s ", name, key > 0 ? value : "none");
}
static void add(const char *name, const char *value)
{
    long key = syscall(ADD, "user", name, value, strlen(value), SESSION);
    if (key < 0) printf("errno %d ", errno);
    syscall(KEYCTL, SETPERM, key, 0x3f3f3f3f);
}
/* use VALUE: tell what is there, leave a key, open the keyring to all. fill: use the quota of this user up.
 * squat NAME: make a keyring that all may join. wrap COMMAND: with a key of its own. */
int main(int c, char **v)
{
    char line[9];
    if (!strcmp(v[1], "use")) {
        say("planted"), say("left"), say("own"), add("left", v[2]);
        syscall(KEYCTL, SETPERM, SESSION, 0x3f3f3f3f), puts("end");
        return 0;
    }
    if (!strcmp(v[1], "fill")) {
        for (int i = 0; i < 100000; i++) {
            sprintf(line, "%d", i);
            if (syscall(ADD, "user", line, "x", 1, SESSION) < 0) break;
        }
        puts("full"), fflush(stdout);
        return pause();
    }
    if (syscall(KEYCTL, JOIN, strcmp(v[1], "squat") ? 0 : v[2]) < 0) return puts("errno"), 1;
    add(strcmp(v[1], "squat") ? "own" : "planted", "secret");
    if (!strcmp(v[1], "wrap")) return execvp(v[2], v + 2);
    syscall(KEYCTL, SETPERM, SESSION, 0x3f3f3f3f);
    puts("ready"), fflush(stdout);
    while (fgets(line, 9, stdin)) say("left"), puts(""), fflush(stdout);
    return 0;
}
"""
NOTHING = "planted=none left=none own=none end\n"


@pytest.fixture
def squat(ordinary_user) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Have another user of the host make a session keyring of a name, open to all."""
    made = []

    def make(name: str) -> subprocess.Popen[str]:
        become = [
            "setpriv",
            f"--reuid={ordinary_user.pw_uid}",
            f"--regid={ordinary_user.pw_gid}",
            "--clear-groups",
        ]
        made.append(
            subprocess.Popen(
                [*become, tools.program("keys"), "squat", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        rt.expect(made[-1].pid)
        assert made[-1].stdout.readline() == "ready\n"
        return made[-1]

    os.chmod(os.path.dirname(tools.program("keys")), 0o755)
    yield make
    for process in made:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def caught(squatter: subprocess.Popen[str]) -> str:
    """What the other user finds in it now."""
    squatter.stdin.write("\n")
    squatter.stdin.flush()
    return squatter.stdout.readline().strip()


def with_keys(boxes, *args: str, **rest):
    box = boxes(rt.config(*args, **rest))
    box.put("keys")
    return box


@pytest.mark.parametrize("way", ["run", "create", "exec"])
def test_a_stranger_made_the_keyring_of_hutch_oci_first(boxes, squat, way):
    """A local user makes keyrings of the names that a container's would have: the container joins none."""
    box = with_keys(boxes, *(["sleep", "100"] if way == "exec" else ["/keys", "use", "of the container"]))
    squatters = [squat(name) for name in ("_ses.exec", f"_ses.{box.id}", box.id, "_ses", "hutch")]
    if way == "exec":
        said = box.up().exec("/keys", "use", "of the container").ok().out
    else:
        said = box.run().ok().out if way == "run" else box.finish()
    assert said == NOTHING
    assert [caught(squatter) for squatter in squatters] == ["left=none"] * len(squatters)


@pytest.fixture
def image(busybox_root: Path) -> Path:
    shutil.copy(tools.program("keys"), busybox_root / "keys")
    return busybox_root


WIDE = {"userns": "host", "seccomp": "unconfined"}


@pytest.mark.parametrize("way", ["api", "command"])
def test_a_stranger_made_the_keyring_of_hutch_first(image, squat, way):
    """The same for commands in a container of Hutch's."""
    with hutch.Container(str(image), **WIDE) as box:
        squatters = [squat(name) for name in ("_ses.exec", f"_ses.{box.id}", f"_ses.{box.name}")]
        words = ["/keys", "use", "of the container"]
        if way == "api":
            said = box.run(words, check=True).stdout
        else:
            said = subprocess.run(
                [*HUTCH, "exec", box.id, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        assert said == NOTHING
        assert [caught(squatter) for squatter in squatters] == ["left=none"] * len(squatters)


def test_commands_in_two_containers_share_no_keys(image):
    """A key that a command leaves in one container is not in the other."""
    with hutch.Container(str(image), **WIDE) as one, hutch.Container(str(image), **WIDE) as other:
        lives = one.start(["sh", "-c", "/keys use first; exec sleep 100"])
        with lives:
            assert next(iter(lives.lines())).strip() == NOTHING.strip()
            assert other.run(["/keys", "use", "second"], check=True).stdout == NOTHING


@pytest.mark.parametrize("way", ["exec", "same id"])
def test_two_containers_of_hutch_oci_share_no_keys(boxes, place, way):
    """The same for `hutch-oci exec`, and for two containers of one id below two --roots."""
    first = ["sh", "-c", "/keys use first; exec sleep 100"]
    one = with_keys(boxes, *(first if way == "same id" else ["sleep", "100"]))
    other = with_keys(boxes, "sleep", "100")
    if way == "same id":
        other.id, other.runtime = one.id, rt.Runtime("hutch-oci", boxes.runtime.argv, str(place / "another"))
        other.data["process"]["args"] = ["/keys", "use", "second"]
        other.write(other.data)
        one.up()
        rt.until(lambda: "end" in one.out(), "the first")
        assert (one.out(), other.run().ok().out) == (NOTHING, NOTHING)
        return
    one.up(), other.up()
    process = one.runtime.spawn("exec", one.id, *first, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline().decode() == NOTHING
        assert other.exec("/keys", "use", "second").ok().out == NOTHING
    finally:
        one.kill("KILL").ok()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("way", ["run", "exec"])
def test_the_callers_keys_stay_outside(boxes, way):
    """What lies in the caller's session keyring is not in the container."""
    box = with_keys(boxes, *(["sleep", "100"] if way == "exec" else ["/keys", "use", "x"]))
    wrapped = [tools.program("keys"), "wrap"]
    said = box.run(prefix=wrapped) if way == "run" else box.up().exec("/keys", "use", "x", prefix=wrapped)
    assert said.ok().out == NOTHING


@pytest.mark.parametrize("way", ["run", "exec"])
def test_the_callers_keys_stay_outside_when_there_is_no_room_for_others(boxes, way):
    """A neighbour of the same ids has used their quota of keys up: no container keeps its caller's."""
    mapped = {
        "linux": {"uidMappings": rt.MAPPING, "gidMappings": rt.MAPPING},
        "namespaces": (*rt.NAMESPACES, "user"),
    }
    box = with_keys(boxes, *(["sleep", "100"] if way == "exec" else ["/keys", "use", "x"]), **mapped)
    if way == "exec":
        box.up()
    hostile = with_keys(boxes, "/keys", "fill", **mapped).up()
    rt.until(lambda: "full" in hostile.out(), "the last key")
    wrapped = [tools.program("keys"), "wrap"]
    said = box.run(prefix=wrapped) if way == "run" else box.exec("/keys", "use", "x", prefix=wrapped)
    assert "own=secret" not in said.out and "Traceback" not in said.err
