"""The six kinds of hooks: when, where, with what, and what follows when one fails."""

from __future__ import annotations

import json
import os

import pytest

from tests.conformance.runtime import config, shell, until

pytestmark = pytest.mark.root
clause = pytest.mark.clause
CREATING = ("prestart", "createRuntime", "createContainer")
KINDS = (*CREATING, "startContainer", "poststart", "poststop")
HOST = ("prestart", "createRuntime", "poststart", "poststop")
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
WAIT = "while :; do sleep 0.05; done"


def hook(script: str, **rest) -> dict:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": [PATH], **rest}


@pytest.fixture
def shared(place):
    """A directory that has the same path on the host and in the container."""
    directory = place / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def hooked(script: str, shared, hooks: dict, **rest) -> dict:
    mount = {"destination": str(shared), "type": "bind", "source": str(shared), "options": ["bind"]}
    return shell(script, hooks=hooks, mounts=[mount], **rest)


def log(shared) -> list[str]:
    path = shared / "log"
    return path.read_text().split() if path.exists() else []


def say(shared, word: str) -> str:
    return f"echo {word} >> {shared}/log"


def whole_life(container) -> None:
    container.up()
    container.kill("KILL").ok()
    container.wait()
    container.wait_status("stopped")
    container.delete().ok()


@clause(
    "config.md", "POSIX-platform Hooks", "MUST be called in the listed order; prestart, createRuntime, createContainer, startContainer, poststart, poststop"
)
def test_order(box, shared):
    hooks = {kind: [hook(say(shared, f"{kind}{n}")) for n in (1, 2)] for kind in KINDS}
    container = box(hooked(f"{say(shared, 'process')}; {WAIT}", shared, hooks))
    container.create().ok()
    created = [f"{kind}{n}" for kind in CREATING for n in (1, 2)]
    assert log(shared) == created
    container.start().ok()
    until(lambda: "process" in log(shared), "the process")
    started = log(shared)[len(created) :]
    assert [w for w in started if w != "process"] == ["startContainer1", "startContainer2", "poststart1", "poststart2"]
    assert started.index("process") >= 2, "the process does not run before the startContainer hooks"
    container.kill("KILL").ok()
    container.wait()
    assert "poststop1" not in log(shared)
    container.delete().ok()
    assert log(shared)[-2:] == ["poststop1", "poststop2"]


@clause("config.md", "POSIX-platform Hooks", "run calls all of them too")
def test_hooks_of_run(box, shared):
    hooks = {kind: [hook(say(shared, kind))] for kind in KINDS}
    box(hooked("true", shared, hooks)).run().ok()
    assert log(shared) == list(KINDS)


NAMES = ("net", "uts", "ipc", "mnt")


class Life:
    """What every kind of hook saw in one life of a container, from create to delete."""

    def __init__(self, box, shared):
        def look(kind: str) -> dict:
            links = "; ".join(f"readlink /proc/self/ns/{name}" for name in NAMES)
            script = f'cat > {shared}/{kind}.state; echo "$0|$1" > {shared}/{kind}.args; env > {shared}/{kind}.env; ({links}) > {shared}/{kind}.ns'
            return {"path": "/bin/sh", "args": ["sh", "-c", script, "zero", "one two"], "env": [PATH, "KEY=a b"]}

        container = box(hooked(WAIT, shared, {kind: [look(kind)] for kind in KINDS}, annotations={"org.example": "yes"}))
        container.up()
        self.id, self.bundle, self.pid = container.id, str(container.bundle), container.init
        self.inside = [os.readlink(f"/proc/{container.init}/ns/{name}") for name in NAMES]
        self.host = [os.readlink(f"/proc/self/ns/{name}") for name in NAMES]
        container.kill("KILL").ok()
        container.wait()
        container.delete().ok()
        self.states = {kind: json.loads((shared / f"{kind}.state").read_text()) for kind in KINDS}
        self.args, self.env, self.namespaces = (
            {kind: (shared / f"{kind}.{part}").read_text().splitlines() for kind in KINDS} for part in ("args", "env", "ns")
        )


LIVES: dict[str, Life] = {}


@pytest.fixture
def life(runtime, box, shared):
    """One life for each runtime, that several tests look at."""
    if runtime.name not in LIVES:
        LIVES[runtime.name] = Life(box, shared)
    return LIVES[runtime.name]


@clause("config.md", "POSIX-platform Hooks", "the state MUST be passed to hooks over stdin: id, bundle, annotations, ociVersion, and the pid on the host")
@pytest.mark.parametrize("kind", KINDS)
def test_state_on_stdin(life, kind):
    state = life.states[kind]
    assert (state["id"], state["bundle"]) == (life.id, life.bundle)
    assert state["annotations"].get("org.example") == "yes" and state["ociVersion"].startswith("1.")
    assert state.get("pid") == life.pid or kind not in ("prestart", "createRuntime", "poststart")


@clause("runtime.md", "State", "the status that hooks see: creating, then created, running, stopped")
@pytest.mark.parametrize(("kind", "status"), [*((kind, "creating") for kind in CREATING), ("startContainer", "created"), ("poststart", "running"),
                                              ("poststop", "stopped")])  # fmt: skip
def test_status_on_stdin(life, kind, status):
    assert life.states[kind]["status"] == status


@clause("config.md", "POSIX-platform Hooks", "args and env have the semantics of execv's argv and environ")
@pytest.mark.parametrize("kind", KINDS)
def test_arguments_and_environment(life, kind):
    assert life.args[kind] == ["zero|one two"]
    assert {PATH, "KEY=a b"} <= set(life.env[kind])
    assert {line.split("=")[0] for line in life.env[kind]} <= {"PATH", "KEY", "PWD", "SHLVL", "_", "OLDPWD"}


@clause(
    "config.md",
    "POSIX-platform Hooks",
    "prestart, createRuntime, poststart, poststop in the runtime namespace; createContainer, startContainer in the container's",
)
@pytest.mark.parametrize("kind", KINDS)
def test_namespaces(life, kind):
    seen = life.namespaces[kind]
    if kind in HOST:  # a peer that is run in a mount namespace of its own has that one
        assert seen[:3] == life.host[:3] and seen[3] != life.inside[3]
    else:
        assert seen == life.inside


@clause("config.md", "POSIX-platform Hooks", "argv has the path alone when there are no args")
def test_no_arguments(box, shared):
    script = shared / "hook"
    script.write_text(f'#!/bin/sh\necho "$0 $#" > {shared}/args\n')
    script.chmod(0o755)
    whole_life(box(hooked(WAIT, shared, {"createRuntime": [{"path": str(script)}]})))
    assert (shared / "args").read_text() == f"{script} 0\n"


@clause("config.md", "POSIX-platform Hooks", "path MUST be absolute")
def test_relative_path(box):
    container = box(config("true", hooks={"createRuntime": [{"path": "bin/sh", "args": ["sh", "-c", "true"]}]}))
    container.create().failed()
    assert container.status == ""


@clause("config.md", "POSIX-platform Hooks", "a hook that cannot be executed fails")
@pytest.mark.parametrize("kind", [*CREATING, "startContainer"])
def test_missing_program(box, kind):
    container = box(config("true", hooks={kind: [{"path": "/nowhere/hook"}]}))
    result = container.create()
    (container.start() if result.code == 0 and kind == "startContainer" else result).failed()


@clause("config.md", "POSIX-platform Hooks", "timeout is the number of seconds before aborting the hook")
def test_timeout(box, shared):
    container = box(hooked("true", shared, {"createRuntime": [hook("exec sleep 50", timeout=1), hook(say(shared, "second"))]}))
    container.create().failed()
    assert container.status == "" and log(shared) == []


@clause("config.md", "POSIX-platform Hooks", "if set, timeout MUST be greater than zero")
def test_invalid_timeout(box, shared):
    container = box(hooked("true", shared, {"createRuntime": [hook(say(shared, "ran"), timeout=-1)]}))
    container.create().failed()


@clause("runtime.md", "Lifecycle", "if a hook of create fails: an error, and the container is stopped and destroyed")
@pytest.mark.parametrize("kind", CREATING)
def test_failing_hooks_of_create(box, shared, kind):
    later = KINDS[KINDS.index(kind) + 1 : -1]
    hooks = {kind: [hook("exit 3"), hook(say(shared, "second"))], **{k: [hook(say(shared, k))] for k in later}}
    container = box(hooked(say(shared, "process"), shared, hooks))
    container.create().failed()
    assert container.status == "" and log(shared) == []
    assert not container.left_cgroups()


@clause("runtime.md", "Lifecycle", "after a failing hook of create the poststop hooks MUST be invoked")
@pytest.mark.parametrize("kind", CREATING)
def test_poststop_after_a_failed_create(box, shared, kind):
    container = box(hooked("true", shared, {kind: [hook("exit 3")], "poststop": [hook(say(shared, "poststop"))]}))
    container.create().failed()
    assert log(shared) == ["poststop"]


@clause("runtime.md", "Lifecycle", "if a startContainer hook fails: an error, and the container is stopped; the process never runs")
def test_failing_start_container(box, shared):
    hooks = {"startContainer": [hook("exit 3"), hook(say(shared, "second"))], "poststart": [hook(say(shared, "poststart"))]}
    container = box(hooked(say(shared, "process"), shared, hooks))
    container.create().ok()
    container.start().failed()
    until(lambda: container.status in ("", "stopped"), "the end")
    assert log(shared) == []


@clause("runtime.md", "Lifecycle", "if a poststart hook fails: an error, and the container is stopped")
def test_failing_poststart(box, shared):
    container = box(hooked(WAIT, shared, {"poststart": [hook("exit 3"), hook(say(shared, "second"))]}))
    container.create().ok()
    container.start().failed()
    until(lambda: container.status in ("", "stopped"), "the end")
    assert log(shared) == []


@clause("runtime.md", "Lifecycle", "if a poststop hook fails: a warning, and the remaining hooks and the lifecycle continue")
def test_failing_poststop(box, shared):
    container = box(hooked(WAIT, shared, {"poststop": [hook("exit 3"), hook(say(shared, "second"))]}))
    whole_life(container)
    assert log(shared) == ["second"] and container.status == ""


@clause("config.md", "CreateRuntime Hooks", "called after the namespaces have been created: the network can be made here")
@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_the_namespaces_exist_already(box, shared, kind):
    script = f"""pid=$(sed 's/.*"pid": *\\([0-9]*\\).*/\\1/' | head -1); readlink /proc/$pid/ns/net > {shared}/net; nsenter -t $pid -n ip link set lo up"""
    container = box(hooked("cat /sys/class/net/lo/flags || ip link show lo; sleep 100", shared, {kind: [hook(script)]}))
    container.up()
    assert (shared / "net").read_text().strip() == os.readlink(f"/proc/{container.init}/ns/net")
    until(lambda: "UP" in container.out(), "a loopback that is up")


@clause("config.md", "CreateContainer Hooks", "the path resolves in the runtime namespace; called after the mounts are set up and before pivot_root")
def test_create_container_is_before_pivot(box, shared):
    script = shared / "hook"
    script.write_text(f"#!/bin/sh\ncat /proc/self/mountinfo > {shared}/mounts; test -d {shared.parent} && echo host > {shared}/where\n")
    script.chmod(0o755)
    data = hooked("true", shared, {"createContainer": [{"path": str(script), "env": [PATH]}]})
    data["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    container = box(data)
    container.run().ok()
    assert (shared / "where").read_text() == "host\n"
    assert f" {container.rootfs}/tmp " in (shared / "mounts").read_text()


@clause("config.md", "CreateContainer Hooks", "what a hook mounts below the root's path is the container's")
def test_create_container_adds_a_mount(box, shared):
    container = box()
    script = f"mount -t tmpfs added {container.rootfs}/tmp && echo mark > {container.rootfs}/tmp/mark"
    data = hooked("cat /tmp/mark", shared, {"createContainer": [hook(script)]})
    container.write(data | {"linux": data["linux"] | {"cgroupsPath": container.cgroup}})
    assert container.run().lines() == ["mark"]
    assert not (container.rootfs / "tmp/mark").exists()


@clause("config.md", "StartContainer Hooks", "the path resolves in the container namespace; executed before the process")
def test_start_container_resolves_inside(box, shared):
    container = box(hooked("cat /tmp/mark", shared, {"startContainer": [{"path": "/only-inside", "env": ["PATH=/bin"]}]}))
    script = container.rootfs / "only-inside"
    script.write_text("#!/bin/sh\necho inside > /tmp/mark\n")
    script.chmod(0o755)
    assert container.run().lines() == ["inside"]


@clause("config.md", "Poststop", "called after the container is deleted but before delete returns")
def test_poststop_sees_no_process(box, shared):
    container = box(hooked(WAIT, shared, {"poststop": [hook(f"kill -0 $(cat {shared}/pid) 2>/dev/null && echo there >> {shared}/log; {say(shared, 'done')}")]}))
    container.up()
    (shared / "pid").write_text(str(container.init))
    container.kill("KILL").ok()
    container.wait()
    container.delete().ok()
    assert log(shared) == ["done"]
