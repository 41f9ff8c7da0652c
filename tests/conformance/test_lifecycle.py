"""The operations of runtime.md and what is between them."""

from __future__ import annotations

import json
import os

import pytest

from tests.conformance.runtime import alive, config, shell, until

pytestmark = pytest.mark.root
clause = pytest.mark.clause
SLEEP = ("sleep", "100")


@clause("runtime.md", "Create", "the user-specified code MUST NOT be run at this time; the status MUST be created")
def test_create_does_not_run_the_code(box):
    container = box(shell("echo run > /tmp/mark; sleep 100"))
    container.create().ok()
    state = container.state()
    assert state["status"] == "created" and alive(state["pid"])
    assert not (container.rootfs / "tmp/mark").exists()
    container.start().ok()
    assert container.status == "running"
    until(lambda: (container.rootfs / "tmp/mark").exists(), "the mark")


@clause("runtime.md", "State", "ociVersion, id, status, pid, bundle, annotations")
def test_state_fields(box):
    container = box(config(*SLEEP, annotations={"org.example.key": "value", "empty": ""}))
    container.create().ok()
    state = container.state()
    assert state["id"] == container.id and state["bundle"] == str(container.bundle)
    assert state["ociVersion"].split(".")[0] == "1" and len(state["ociVersion"].split(".")) >= 3
    assert state["annotations"].items() >= {"org.example.key": "value", "empty": ""}.items()
    assert isinstance(state["pid"], int) and os.path.exists(f"/proc/{state['pid']}")
    assert state["status"] == "created"


@clause("runtime.md", "State", "the status is created, running, stopped; pid is the main process as seen by the host")
def test_status_transitions(box):
    container = box(config(*SLEEP))
    container.create().ok()
    pid = container.pid
    assert container.status == "created"
    container.start().ok()
    assert container.status == "running" and container.pid == pid
    container.kill("KILL").ok()
    container.wait_status("stopped")
    assert container.wait() == -9
    assert container.status == "stopped"
    container.delete().ok()
    container.call("state").failed()


@clause("runtime.md", "State", "paused is a status of the runtime's own for a state that is not defined above")
def test_paused_is_a_status(box):
    container = box(config(*SLEEP)).up()
    container.call("pause").ok()
    assert container.status == "paused"
    container.call("resume").ok()
    assert container.status == "running"


@clause("runtime.md", "Operations", "a container that does not exist MUST generate an error")
@pytest.mark.parametrize("words", [["state"], ["start"], ["delete"], ["kill"], ["exec", "true"], ["pause"], ["resume"], ["ps"], ["update", "--memory=1M"]])
def test_unknown_container(runtime, words):
    tail = ["KILL"] if words == ["kill"] else ["true"] if words[0] == "exec" else []
    options = words[1:] if words[0] == "update" else []
    runtime.call(words[0], *options, "hutch-conf-nobody", *tail).failed()


@clause("runtime.md", "Operations", "delete --force of a container that does not exist is no error, as callers clean up twice")
def test_force_delete_of_nothing(runtime):
    runtime.call("delete", "--force", "hutch-conf-nobody").ok()


@clause("runtime.md", "Operations", "MUST generate an error if it is not provided the ID of a container")
@pytest.mark.parametrize("command", ["state", "create", "start", "kill", "delete"])
def test_no_id(runtime, command):
    runtime.call(command).failed()


@clause("runtime.md", "Create", "an ID that is not unique MUST generate an error and a new container MUST NOT be created")
def test_duplicate_id(box):
    container = box(config(*SLEEP)).up()
    pid = container.pid
    second = box(config("true"))
    second.id = container.id
    second.create().failed()
    assert container.status == "running" and container.pid == pid


@clause("runtime.md", "Create", "an ID that is not valid MUST generate an error")
@pytest.mark.parametrize("name", ["a/b", "../hutch-conf-up", "", "a b", "a\nb", ".", ".."], ids=repr)
def test_invalid_id(runtime, box, name):
    container = box(config("true"))
    container.id = name
    try:
        container.create().failed()
    finally:
        runtime.call("delete", "--force", name)
        container.id = "hutch-conf-none"


@clause("runtime.md", "Create", "an ID may have letters, digits, _, +, - and .")
def test_valid_id(box):
    container = box(config("true"))
    container.id = f"hutch-conf-A_b+c.d-{os.getpid()}"
    container.run().ok()


@clause("runtime.md", "Create", "MUST generate an error if there is no bundle there")
@pytest.mark.parametrize("kind", ["no directory", "no config", "not json", "wrong type"])
def test_broken_bundles(box, kind):
    container = box()
    if kind == "not json":
        (container.bundle / "config.json").write_text("{")
    elif kind == "wrong type":
        (container.bundle / "config.json").write_text(json.dumps({**config("true"), "root": 7}))
    bundle = "/var/tmp/hutch-conf-nowhere" if kind == "no directory" else str(container.bundle)
    container.call("create", "--bundle", bundle).failed()
    assert container.status == ""


@clause("runtime.md", "Create", "the bundle is the current directory when none is given")
def test_the_bundle_is_the_current_directory(box):
    container = box(config("echo", "here"))
    assert container.runtime.call("run", container.id, cwd=str(container.bundle)).lines() == ["here"]


@clause("runtime.md", "Create", "changes made to config.json after this operation will not have an effect")
def test_config_is_read_once(box):
    container = box(config("echo", "first"))
    container.create().ok()
    container.write(config("echo", "second"))
    container.start().ok()
    container.wait()
    assert container.out() == "first\n"


@clause("runtime.md", "Errors", "an error MUST leave the environment as if the operation were never attempted")
def test_failed_create_leaves_nothing(box):
    container = box(config("true", mounts=[{"destination": "/x", "type": "bind", "source": "/nowhere/at/all", "options": ["bind"]}]))
    container.create().failed()
    assert container.status == ""
    assert not container.left_cgroups()
    container.write(config("echo", "again", linux={"cgroupsPath": container.cgroup}))
    assert container.run().lines() == ["again"]


@clause("config.md", "Process", "a program that does not exist is an error, at the latest of start")
@pytest.mark.parametrize("program", ["/nowhere/program", "nowhere", "/etc/passwd", "/tmp"])
def test_no_program(box, program):
    container = box(config(program))
    if container.create().code == 0:
        container.start().failed()


@clause("runtime.md", "Start", "an already started container: no effect on it, and an error")
def test_start_twice(box):
    container = box(config(*SLEEP)).up()
    pid = container.pid
    container.start().failed()
    assert container.status == "running" and container.pid == pid and alive(pid)


@clause("runtime.md", "Start", "a container that has stopped cannot be started again")
def test_start_a_stopped_one(box):
    container = box(config("true")).up()
    container.wait()
    container.wait_status("stopped")
    container.start().failed()


@clause("config.md", "Process", "process is REQUIRED when start is called")
def test_start_without_process(box):
    data = config("true")
    del data["process"]
    container = box(data)
    if container.create().code == 0:
        container.start().failed()


@clause("runtime.md", "Kill", "MUST send the signal to the container's process")
@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "10"])
def test_signals_by_name_and_number(box, name):
    container = box(shell("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.02; done")).up()
    until(lambda: container.out() == "ready\n", "the trap")
    container.kill(name).ok()
    assert container.wait() == 3
    assert container.out() == "ready\ngot\n"


@clause("runtime.md", "Kill", "the signal is TERM when none is given")
def test_the_default_signal(box):
    container = box(shell("trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done")).up()
    until(lambda: container.out() == "ready\n", "the trap")
    container.call("kill").ok()
    assert container.wait() == 4


@clause("runtime.md", "Kill", "an unknown signal is an error")
@pytest.mark.parametrize("name", ["SIGNOTHING", "999", "-1x"])
def test_unknown_signal(box, name):
    container = box(config(*SLEEP)).up()
    container.kill(name).failed()
    assert container.status == "running"


@clause("runtime.md", "Kill", "a container that is not running: no effect and an error")
def test_kill_a_stopped_one(box):
    container = box(config("true")).up()
    container.wait()
    container.wait_status("stopped")
    container.kill("KILL").failed("not running", "stopped", "process not found", "no such process")


@clause("runtime.md", "Kill", "a created container can be killed, and is stopped then")
def test_kill_a_created_one(box):
    container = box(config(*SLEEP))
    container.create().ok()
    container.kill("KILL").ok()
    container.wait_status("stopped")
    container.wait()


@clause("runtime.md", "Kill", "--all reaches every process of the container")
def test_kill_all(box):
    container = box(shell("sleep 99 & sleep 99 & echo $!; wait"))
    container.up()
    until(container.out, "the children")
    pids = container.processes()
    assert len(pids) >= 3
    container.kill("KILL", "--all").ok()
    container.wait()
    until(lambda: not any(alive(p) for p in pids), "the end of all")


@clause("runtime.md", "Delete", "what a container without a pid namespace left running ends with it")
@pytest.mark.parametrize("way", ["kill --all", "delete"])
def test_processes_that_stay(box, way):
    container = box(shell("sleep 99 & echo $!", namespaces=("mount", "ipc", "uts", "network", "cgroup"))).up()
    assert container.wait() == 0
    pid = int(container.out())
    assert alive(pid)
    container.wait_status("stopped")
    (container.kill("KILL", "--all") if way == "kill --all" else container.delete()).ok()
    until(lambda: not alive(pid), "the end of what stayed")


@clause("runtime.md", "Delete", "a container whose process is still running MUST generate an error")
def test_delete_a_running_one(box):
    container = box(config(*SLEEP)).up()
    container.delete().failed()
    assert container.status == "running"


@clause("runtime.md", "Delete", "a created container can be deleted without force")
def test_delete_a_created_one(box):
    container = box(config(*SLEEP))
    container.create().ok()
    container.delete().ok()
    container.wait()
    assert container.status == ""


@clause("runtime.md", "Delete", "--force kills first")
def test_force_delete(box):
    container = box(shell("trap '' TERM; sleep 100")).up()
    container.delete("--force").ok()
    assert container.wait() == -9
    container.call("state").failed()


@clause("runtime.md", "Delete", "MUST delete the resources that were created during the create step; the ID MAY be used again")
def test_delete_leaves_nothing(box):
    container = box(config("true"))
    for _ in range(2):
        container.up()
        container.wait()
        container.wait_status("stopped")
        container.delete().ok()
        assert not container.left_cgroups()
        assert os.listdir(container.runtime.root) in ([], ["exec.fifo"])


@clause("runtime.md", "Delete", "resources associated with the container, but not created by it, MUST NOT be deleted")
def test_delete_keeps_the_bundle(box):
    container = box(shell("echo kept > /tmp/file"))
    container.up()
    container.wait()
    container.delete().ok()
    assert (container.rootfs / "tmp/file").read_text() == "kept\n" and (container.bundle / "config.json").exists()


@clause("runtime.md", "Create", "--pid-file holds the pid of the main process")
def test_pid_file(box, place):
    container = box(config(*SLEEP))
    container.create("--pid-file", str(place / "pid")).ok()
    assert int((place / "pid").read_text()) == container.pid


@clause("runtime.md", "Lifecycle", "the exit code is seen by the process that the container is re-parented to")
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$; sleep 9", -15)])
def test_exit_codes_for_a_shim(box, script, code):
    # the first process of a pid namespace does not die of its own TERM
    container = box(shell(script, namespaces=("mount", "ipc", "uts", "network"))).up()
    assert container.wait() == code


@clause("runtime.md", "Lifecycle", "the streams of create are those of the process")
def test_streams(box):
    container = box(shell("echo out; echo err >&2; cat"))
    container.up()
    assert container.wait() == 0
    assert container.out() == "out\n" and container.err().endswith("err\n")
