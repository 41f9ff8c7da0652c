"""Chapter 3's networks: the labs find what the chapter says, by Hutch's messages and by ip's commands alike, as root and as a user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOLE = Path(__file__).resolve().parents[2] / "docs/rabbit-hole"
SCRIPT = HOLE / "networks.py"
EXPECTED = {
    "pair": {"before": "Network is unreachable", "after": "reply", "the other way": "reply"},
    "bridge": {"one to two": "reply", "one to three": "reply", "one to the host": "reply", "unplugged": "nothing", "the others": "reply"},
    "nat": {
        "at first": "Network is unreachable", "with a route": "nothing", "with forwarding": "nothing", "with masquerading": "reply",
        "from outside": "Network is unreachable",
    },
}  # fmt: skip


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.root
@pytest.mark.parametrize("name", EXPECTED)
def test_both_ways_are_the_same(name):
    before = sorted(os.listdir("/sys/class/net"))
    accounts = []
    for words in ((), ("--by-ip",)):
        done = run("--json", name, *words)
        assert done.returncode == 0 and not done.stderr, done.stderr
        accounts.append(json.loads(done.stdout)[name])
    assert accounts[0] == accounts[1] and accounts[0]["found"] == EXPECTED[name]
    assert sorted(os.listdir("/sys/class/net")) == before


@pytest.mark.root
def test_what_the_chapter_prints():
    """The console that the chapter shows is what is printed, but for the numbers of descriptors."""

    def lines(text: str) -> list[str]:
        return [line.partition("namespace=")[0].rstrip() for line in text.splitlines()]

    shown = (HOLE / "3-networks.md").read_text().partition("networks.py pair\n")[2].partition("```")[0]
    assert lines(run("pair").stdout.rstrip()) == lines(shown)


def test_as_an_ordinary_user(as_user, tmp_path):
    script = Path(f"/var/tmp/book-networks-{os.getpid()}.py")
    shutil.copy(SCRIPT, script)
    script.chmod(0o644)
    try:
        done = as_user(str(script), "--json", "pair", "bridge")
    finally:
        script.unlink()
    if "a user namespace" in done.stderr:
        pytest.skip("an ordinary user may make no user namespace here")
    assert done.returncode == 0, done.stderr
    assert {name: account["found"] for name, account in json.loads(done.stdout).items()} == {name: EXPECTED[name] for name in ("pair", "bridge")}


def test_what_makes_no_sense_is_refused():
    for words in (["nonsense"], ["--nonsense"], ["pair", "--quick"]):
        done = run(*words)
        assert done.returncode == 2 and "not one of pair bridge nat" in done.stderr and not done.stdout
