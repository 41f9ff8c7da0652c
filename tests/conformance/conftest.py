"""The runtimes under test, the bundles given to them, and the table of what came out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conformance import outside, runtime as rt
from tests.conformance.differences import reason_for
from tests.conformance.table import HEADING, Table
from tests.conftest import REPO, SRC, is_root, system_python

HUTCH = "hutch-oci"
OWN = REPO / ".venv/bin/hutch-oci"
WITHOUT_HYBRID = ["unshare", "-m", "sh", "-c", 'umount /sys/fs/cgroup/unified; exec "$@"', "sh"]
TABLE = Table()


def known_runtimes() -> dict[str, list[str]]:
    """Each runtime's name and the words that its command begins with."""
    if path := os.environ.get("HUTCH_CONFORMANCE_RUNTIME"):
        return {os.path.basename(path): _words(os.path.basename(path), path)}
    found = {HUTCH: [str(OWN)]}
    for name in ("runc", "crun"):
        if path := shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"):
            found[name] = _words(name, path)
    return found


def _words(name: str, path: str) -> list[str]:
    # crun refuses a hierarchy of v2 beside those of v1
    hybrid = name == "crun" and os.path.exists("/sys/fs/cgroup/unified/cgroup.controllers")
    return [*WITHOUT_HYBRID, path] if hybrid else [path]


RUNTIMES = known_runtimes()


UNEXPLAINED = "not in the list of known differences: a newer version, or a race of its own"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clause(document, section, text): the clause of the specification that a test proves")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in ("runtime", "rootless"):
        if name in metafunc.fixturenames:
            metafunc.parametrize("which", list(RUNTIMES), scope="session")
            return


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        which = getattr(item, "callspec", None) and item.callspec.params.get("which")
        if which and item.get_closest_marker("clause"):
            reason = reason_for(which, item.module.__name__.rpartition(".test_")[2], test_name(item).removeprefix("test_"))
            if reason is None and not which.startswith("hutch"):
                reason = UNEXPLAINED  # a peer's failure is seen in the table; it does not fail a change to Hutch
            if reason is not None:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=False))


def test_name(item: pytest.Item) -> str:
    """A test's name without its runtime."""
    function, _, rest = item.name.partition("[")
    words = rest.removesuffix("]").split("-") if rest else []
    which = item.callspec.params["which"].split("-")
    for at in range(len(words)):
        if words[at : at + len(which)] == which:
            del words[at : at + len(which)]
            break
    return f"{function}[{'-'.join(words)}]" if words else function


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    marker = item.get_closest_marker("clause")
    which = getattr(item, "callspec", None) and item.callspec.params.get("which")
    if marker and which:
        document, section = marker.args[:2]
        report.user_properties.append(("conformance", [f"{document}: {section}", test_name(item).removeprefix("test_"), which]))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport):
    """A known difference is a word of its own: the table says which, and the summary need not say it again."""
    if not hasattr(report, "wasxfail") or not any(key == "conformance" for key, _ in report.user_properties):
        return None
    if report.passed:
        return "passed", ".", "PASSED"
    if report.skipped:
        return ("unsupported", "u", "UNSUPPORTED") if report.wasxfail.startswith("unsupported:") else ("differs", "d", "DIFFERS")
    return None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    place = next((value for key, value in report.user_properties if key == "conformance"), None)
    if place is None or (report.when != "call" and report.passed):
        return
    reason = getattr(report, "wasxfail", "")
    if report.passed:
        outcome = "pass"
    elif report.skipped and hasattr(report, "wasxfail"):
        outcome = "unsupported" if reason.startswith("unsupported:") else "differs"
    elif report.skipped:
        outcome, reason = "unsupported", str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")
    else:
        outcome = "fail"
    TABLE.add(*place, outcome, reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not TABLE.cells:
        return
    terminalreporter.section(HEADING)
    for line in TABLE.lines(full=config.get_verbosity() > 0):
        terminalreporter.write_line(line.rstrip())
    if reasons := TABLE.reasons():
        terminalreporter.write_line("")
        for line in reasons:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def states():
    """A directory of each runtime's own state, of root and of the ordinary user."""
    place = Path(tempfile.mkdtemp(prefix="hutch-conf-state-", dir="/var/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def users_source(ordinary_user, states):
    """A copy of the sources: the checkout may lie where the ordinary user cannot go."""
    source = states / "src"
    shutil.copytree(SRC, source, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a+rX", str(source)], check=True)
    return source


@pytest.fixture
def runtime(which, states, shim):
    """A runtime of root's."""
    if not is_root():
        pytest.skip("needs root")
    root = states / which
    root.mkdir(exist_ok=True)
    return rt.Runtime(which, RUNTIMES[which], str(root))


@pytest.fixture
def rootless(which, states, shim, ordinary_user, users_source):
    """The same runtime as an ordinary user runs it."""
    home = states / f"{which}-user"
    for part in (home, home / "run", home / "root"):
        part.mkdir(mode=0o700, exist_ok=True)
        os.chown(part, ordinary_user.pw_uid, ordinary_user.pw_gid)
    become = ["setpriv", f"--reuid={ordinary_user.pw_uid}", f"--regid={ordinary_user.pw_gid}", "--init-groups"]
    words = RUNTIMES[which]
    if which == HUTCH and words[-1] == str(OWN):
        words = [system_python(), "-m", "hutch.cli.oci"]
    environment = {"HOME": ordinary_user.pw_dir, "USER": ordinary_user.pw_name, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                   "XDG_RUNTIME_DIR": str(home / "run"), "PYTHONPATH": str(users_source)}  # fmt: skip
    return rt.Runtime(which, [*words[:-1], *become, words[-1]] if words[:-1] == WITHOUT_HYBRID else [*become, *words], str(home / "root"),
                      environment=environment, user=ordinary_user)  # fmt: skip


@pytest.fixture
def shim():
    """Be the parent of the containers for the time of a test, and reap what was left to it."""
    rt.adopt(True)
    yield
    rt.adopt(False)
    rt.reap()


@pytest.fixture
def place():
    """A directory that every user may look into."""
    path = Path(tempfile.mkdtemp(prefix="hc-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _factory(runtime: rt.Runtime, place: Path):
    made: list[rt.Container] = []

    def make(data=None) -> rt.Container:
        container = rt.Container(runtime, place, data)
        made.append(container)
        return container

    yield make
    for container in reversed(made):
        container.cleanup()


@pytest.fixture
def box(runtime, place):
    """Make a bundle: ``box(shell("id")).run()``; whatever became of it is deleted at the end."""
    yield from _factory(runtime, place)


@pytest.fixture
def user_box(rootless, place):
    yield from _factory(rootless, place)


@pytest.fixture
def console(place):
    made = outside.Console(place)
    yield made
    made.close()


@pytest.fixture
def holder():
    """Processes with namespaces of their own: ``holder("net", "uts")``."""
    made: list[outside.Holder] = []

    def make(*kinds: str) -> outside.Holder:
        made.append(outside.Holder(*kinds))
        return made[-1]

    yield make
    for one in made:
        one.close()
