"""The examples of the README and of the documentation, as they stand there: they are checked by mypy --strict, and they run.

A page's examples are one program, in the page's order. What a page takes for granted is laid out here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.archives import link, member
from tests.conftest import HUTCH, REPO
from tests.hosts import Host, host  # noqa: F401
from tests.registry import base, make, serving
from tests.vm import kit

PAGES = sorted(str(path.relative_to(REPO)) for path in [REPO / "README.md", *REPO.glob("docs/**/*.md")] if "```python\n" in path.read_text())
MORE = [link(f"bin/{name}", "busybox") for name in ("date", "uname", "tail")]


def program(page: str) -> str:
    """A page's examples."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (REPO / page).read_text(), re.DOTALL))


def image() -> bytes:
    """The tar of what stands for Debian, and for somebody's program."""
    return base(*MORE, member("srv/warm-up", content=b"echo warm > /tmp/state\n"), member("srv/job", content=b"cat /tmp/state\n"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A user of their own: data, state, configuration and working directory."""
    found = Path("/var/tmp") / f"hutch-documented-{os.getpid()}"
    shutil.rmtree(found, ignore_errors=True)
    for name in ("data", "state", "config/hutch", "work"):
        (found / name).mkdir(parents=True)
    found.chmod(0o755)
    yield found
    shutil.rmtree(found)


def run(text: str, place: Path, prefix: tuple[str, ...] = (), **environment: str) -> str:
    """What a program prints; it ends well."""
    here = {"HUTCH_DATA": str(place / "data"), "HUTCH_STATE": str(place / "state"), "XDG_CONFIG_HOME": str(place / "config")}
    words = [*prefix, sys.executable, "-c", text]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, cwd=place / "work", env={**os.environ, **here, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def emulated(text: str) -> str:
    """Where /dev/kvm boots nothing, what the pages say to use instead."""
    return text.replace('isolation="vm"', 'isolation="vm", vm_accel="tcg"')


def test_pages():
    assert {"README.md", "docs/guide.md", "docs/images.md", "docs/machines.md", "docs/networks.md"} <= set(PAGES)


def test_types(tmp_path):
    """One run for all: mypy takes seconds to begin."""
    for number, page in enumerate(PAGES):
        (tmp_path / f"example_{number}.py").write_text(f"# {page}\n{program(page)}")
    words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.root
def test_readme(place):
    text = program("README.md")
    first, machine = text[: text.index('with hutch.Container("debian:12", isolation')], text[text.index('with hutch.Container("debian:12", isolation') :]
    with serving() as server:
        server.put(make(image()), "library/debian:12")
        (place / "config/hutch/registries.toml").write_text(f'[registry."docker.io"]\nmirrors = ["http://{server.host}"]\n')
        said = run(first + "print(r.stdout, r.exit_code, r.outcome)", place)
    assert said.startswith("working\ndone\n[") and said.count("prepared\n") == 20
    assert "Change(kind='added', path='/srv/job.py')" in said and said.endswith("42\n 0 exited\n")
    if kit.lacking():
        pytest.skip(kit.lacking())
    assert re.search(r"\b20\d\d\b", run("import hutch\n" + emulated(machine), place))
    assert [name for name in os.listdir(place / "state") if not name.startswith(".")] == []


@pytest.mark.root
def test_guide(place):
    environment = {**os.environ, "HUTCH_DATA": str(place / "data"), "HUTCH_STATE": str(place / "state")}
    subprocess.run([*HUTCH, "run", "-d", "--name", "web", "host", "sh", "-c", "echo hello; sleep 100"], check=True, env=environment, capture_output=True)
    for _ in range(500):
        if subprocess.run([*HUTCH, "logs", "web"], check=True, env=environment, capture_output=True).stdout:
            break
    assert run(program("docs/guide.md"), place) == "web running None\nhello\n\n"


@pytest.mark.root
def test_images(place):
    text = program("docs/images.md")
    with serving() as server:
        server.put(make(image()), "library/debian:12")
        (place / "config/hutch/registries.toml").write_text(f'[registry."docker.io"]\nmirrors = ["http://{server.host}"]\n')
        said = run(text.replace("registry.example.org", server.host), place)
        assert server.manifest("team/mine:1")
    assert "sha256:" in said and "debian:12 " in said and said.endswith(f"{place}/data/volumes/data/data ['data']\n")


@pytest.fixture
def store(host: Host) -> Callable[..., str]:  # noqa: F811
    """Make an image of a name on a host, and run examples there."""
    root = Path(host.environment["HUTCH_DATA"]).parent

    def at(text: str, *names: str) -> str:
        if names:
            (root / "image.tar").write_bytes(image())
        for name in names:
            host("import", str(root / "image.tar"), name)
        return host.python(text)

    return at


@pytest.mark.root
def test_networks(store):
    assert "inet 10.77.0.9/24" in store(program("docs/networks.md"))


@pytest.mark.root
@kit.needed
def test_machines(store, host):  # noqa: F811
    host("network", "create", "web")
    said = store(emulated(program("docs/machines.md")), "debian:12", "app:1")
    assert said.startswith("in [Change(kind='added', path='/srv/a')") and said.endswith("warm\n\n" * 10)


@pytest.mark.root
def test_vhost(place):
    if not os.path.exists("/dev/vhost-net"):
        pytest.skip("this host has no /dev/vhost-net")
    run(program("docs/rabbit-hole/2-kvm.md"), place, ("unshare", "-n"))
