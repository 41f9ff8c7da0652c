"""The command line around the operations: run, list, ps, spec, logs, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import pytest

from tests.conformance.runtime import Runtime, alive, config, shell, until, wait

pytestmark = pytest.mark.root
clause = pytest.mark.clause
COMMANDS = ("runtime.md", "Operations")
SLEEP = ("sleep", "100")


@clause(*COMMANDS, "run: the exit code is the process'; a signal's is 128 more")
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)])
def test_exit_code_of_run(box, script, code):
    container = box(shell(script))
    assert container.run().code == code
    assert container.status == "", "run deletes the container"


@clause(*COMMANDS, "run: the exit code of a process that a signal ended")
@pytest.mark.parametrize(("number", "code"), [("KILL", 137), ("TERM", 143)])
def test_signalled_run(box, number, code):
    container = box(shell(f"kill -{number} $$; sleep 9", namespaces=("mount", "ipc", "uts", "network")))
    assert container.run().code == code


@clause(*COMMANDS, "run: signals of the caller go to the container's process")
def test_forwarded_signals(box):
    container = box(shell("trap 'exit 9' TERM; echo ready > /tmp/ready; while :; do sleep 0.02; done"))
    child = container.runtime.spawn("run", "--bundle", str(container.bundle), container.id, stdin=subprocess.DEVNULL)
    until((container.rootfs / "tmp/ready").exists, "the trap")
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 9


@clause(*COMMANDS, "run --detach returns when the process runs; --pid-file")
def test_detached_run(box):
    container = box(config(*SLEEP))
    container.run("--detach", "--pid-file", container.pid_file).ok()
    state = container.state()
    assert state["status"] == "running" and state["pid"] == container.init


@clause(*COMMANDS, "run --keep leaves the container, stopped")
def test_run_keep(box):
    container = box(config("true"))
    container.run("--keep").ok()
    assert container.status == "stopped"
    container.delete().ok()


@clause(*COMMANDS, "run: an error of create is one of run, and nothing is left")
def test_failing_run(box):
    container = box(config("/nowhere/program"))
    container.run().failed()
    assert container.status == "" and not container.left_cgroups()


@clause(*COMMANDS, "--no-pivot, --no-new-keyring, --no-subreaper are accepted")
@pytest.mark.parametrize("flag", ["--no-pivot", "--no-new-keyring", "--no-subreaper"])
def test_flags_of_run(box, flag):
    assert box(config("echo", "ok")).run(flag).lines() == ["ok"]


@clause(*COMMANDS, "short flags and values after an equals sign")
def test_forms_of_flags(box):
    container = box(config(*SLEEP))
    words = ["create", f"--bundle={container.bundle}", f"--pid-file={container.pid_file}", container.id]
    container.runtime.call(*words, files=(container.out_file, container.err_file)).ok()
    container.delete("-f").ok()
    container.wait()
    container.runtime.call("run", "-d", "-b", str(container.bundle), "--pid-file", container.pid_file, container.id).ok()
    assert container.status == "running"


@clause(*COMMANDS, "list: a table with ID, PID, STATUS, BUNDLE, CREATED, OWNER")
def test_list(box):
    one, two = box(config(*SLEEP)).up(), box(config(*SLEEP))
    two.create().ok()
    head, *rows = one.runtime.call("list").lines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    found = {row.split()[0]: row.split()[1:] for row in rows}
    assert found[one.id][:3] == [str(one.init), "running", str(one.bundle)] and found[one.id][4] == "root"
    assert found[two.id][1] == "created"


@clause(*COMMANDS, "list --format json and -q")
def test_list_forms(box):
    container = box(config(*SLEEP, annotations={"a": "b"})).up()
    found = {entry["id"]: entry for entry in container.runtime.call("list", "--format", "json").json()}[container.id]
    assert (found["pid"], found["status"], found["bundle"]) == (container.init, "running", str(container.bundle)) and found["owner"] == "root"
    assert container.id in container.runtime.call("list", "-q").lines()


@clause(*COMMANDS, "list of nothing is no error")
def test_empty_list(runtime, place):
    empty = Runtime(runtime.name, runtime.argv, str(place / "empty"))
    assert empty.call("list", "-q").lines() == []
    assert not empty.call("list", "-f", "json").json()


@clause(*COMMANDS, "--root: containers of one directory are not those of another")
def test_roots_are_apart(box, place):
    container = box(config(*SLEEP)).up()
    other = Runtime(container.runtime.name, container.runtime.argv, str(place / "other"))
    other.call("state", container.id).failed()
    assert container.id not in other.call("list", "-q").lines()


@clause(*COMMANDS, "ps: a table of the host's ps, and the pids as JSON")
def test_ps(box):
    container = box(shell("sleep 99 & echo up; wait")).up()
    until(container.out, "the child")
    pids = container.runtime.call("ps", "--format", "json", container.id).json()
    assert container.init in pids and len(pids) == 2
    head, *rows = container.call("ps").lines()
    assert "PID" in head.split()
    assert {int(row.split()[head.split().index("PID")]) for row in rows} == set(pids)


@clause(*COMMANDS, "spec: writes a config.json that can be run, and overwrites none")
def test_spec(box):
    container = box()
    container.runtime.call("spec", "--bundle", str(container.bundle)).ok()
    data = json.loads((container.bundle / "config.json").read_text())
    assert data["ociVersion"].startswith("1.") and data["root"]["path"] == "rootfs" and data["process"]["args"] == ["sh"]
    container.runtime.call("spec", "--bundle", str(container.bundle)).failed()
    data["process"] |= {"args": ["sh", "-c", "echo from spec; hostname"], "terminal": False}
    data["process"].pop("rlimits", None)
    data["linux"]["cgroupsPath"] = container.cgroup
    container.write(data)
    assert container.run().lines() == ["from spec", data["hostname"]]


@clause(*COMMANDS, "spec: in the current directory")
def test_spec_here(runtime, place):
    runtime.call("spec", cwd=str(place)).ok()
    assert json.loads((place / "config.json").read_text())["process"]["terminal"] is True


@clause("runtime.md", "Errors", "--log with --log-format json gets lines with level, msg and time")
def test_json_log(runtime, place):
    runtime.call("state", "hutch-conf-nobody", options=["--log", str(place / "log"), "--log-format", "json"]).failed()
    entries = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    assert entries and {"level", "msg", "time"} <= entries[-1].keys()
    assert entries[-1]["level"] == "error" and "hutch-conf-nobody" in " ".join(e["msg"] for e in entries) or "exist" in entries[-1]["msg"]


@clause("runtime.md", "Errors", "--log with text is written too; an unknown --log-format is an error")
def test_text_log(runtime, place):
    runtime.call("state", "hutch-conf-nobody", options=["--log", str(place / "log")]).failed()
    assert (place / "log").read_text().strip()
    runtime.call("list", options=["--log", str(place / "log"), "--log-format", "novel"]).failed()


@clause("runtime.md", "Warnings", "a warning goes to the log, and the operation goes on")
def test_warning_in_the_log(box, place):
    sets = dict.fromkeys(("bounding", "permitted", "effective"), ["CAP_CHOWN", "CAP_NOVEL"])
    container = box(config("true", process={"capabilities": sets}))
    container.run(options=["--log", str(place / "log"), "--log-format", "json"]).ok()
    entries = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    assert any(entry["level"].startswith("warn") and "CAP_NOVEL" in entry["msg"] for entry in entries)


@clause("runtime.md", "Errors", "an unknown command or flag is an error, with a message on stderr")
@pytest.mark.parametrize("words", [["novel"], ["state", "--novel", "x"], ["create", "--novel", "x"], ["list", "--format", "novel"]], ids=" ".join)
def test_wrong_words(runtime, words):
    result = runtime.call(*words)
    assert result.code != 0 and (result.err or result.out).strip()


@clause(*COMMANDS, "--version names the program and the specification; --help")
def test_version_and_help(runtime):
    lines = runtime.call("--version").lines()
    assert "version" in lines[0] and any(line.startswith("spec: 1.") for line in lines)
    assert "create" in runtime.call("--help").ok().out
    assert runtime.call("create", "--help").ok().out


@clause(*COMMANDS, "--debug is accepted")
def test_debug(box):
    container = box(config("true"))
    container.create(options=["--debug"]).ok()
    container.start(options=["--debug"]).ok()
    container.wait()


@clause(*COMMANDS, "two containers at once do not touch each other")
def test_two_at_once(box):
    one, two = box(config(*SLEEP)).up(), box(config(*SLEEP)).up()
    one.delete("--force").ok()
    one.wait()
    assert two.status == "running" and alive(two.init)


def criu_works() -> bool:
    return shutil.which("criu") is not None and subprocess.run(["criu", "check"], capture_output=True, check=False).returncode == 0


@clause(*COMMANDS, "checkpoint and restore")
def test_checkpoint_and_restore(box, place):
    if not criu_works():
        pytest.skip("unsupported: criu does not work on this kernel")
    container = box(shell("n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.05; done")).up()
    until((container.rootfs / "tmp/count").exists, "the first count")
    images = str(place / "images")
    os.mkdir(images)
    container.call("checkpoint", "--image-path", images).ok()
    wait(container.init)
    before = int((container.rootfs / "tmp/count").read_text())
    container.call("restore", "--detach", "--image-path", images, "--bundle", str(container.bundle), "--pid-file", container.pid_file).ok()
    until(lambda: int((container.rootfs / "tmp/count").read_text() or 0) > before, "a later count")


@clause(*COMMANDS, "checkpoint where criu does not work is an error, and the container goes on")
def test_failing_checkpoint(box, place):
    if criu_works():
        pytest.skip("unsupported: criu works here")
    container = box(config(*SLEEP)).up()
    container.call("checkpoint", "--image-path", str(place / "images")).failed()
    assert container.status == "running" and alive(container.init)
