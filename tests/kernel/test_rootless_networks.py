"""Networks of an ordinary user: what the others' tests ask of root's, asked of a user's, each host a network namespace."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import system_python
from tests.hosts import Host, processes, refused, until
from tests.kernel.test_connecting import (
    test_from_python_and_by_several_at_once,
    test_on_and_off,
    test_the_holder_is_killed,
    test_whoever_connects_is_killed,
)
from tests.kernel.test_egress import (
    test_by_address,
    test_by_name_one_host_is_reached_and_no_other,
    test_what_was_refused_is_counted_and_ports_still_work,
    world,
)
from tests.kernel.test_kernelview import test_a_container_and_its_network, test_a_container_without_a_network
from tests.kernel.test_names import (
    test_hosts,
    test_names_and_aliases_of_ones_own_network_alone,
    test_other_names_are_asked_for_elsewhere,
    test_several_containers_share_an_alias,
)
from tests.kernel.test_ports import (
    test_a_port_in_use_is_reported_before_anything_starts,
    test_a_server_is_reached,
    test_free_ports,
    test_much_at_once,
    test_the_hosts_own_rules_hold,
)

__all__ = [
    "test_a_container_and_its_network",
    "test_a_container_without_a_network",
    "test_a_port_in_use_is_reported_before_anything_starts",
    "test_a_server_is_reached",
    "test_by_address",
    "test_by_name_one_host_is_reached_and_no_other",
    "test_free_ports",
    "test_from_python_and_by_several_at_once",
    "test_hosts",
    "test_much_at_once",
    "test_names_and_aliases_of_ones_own_network_alone",
    "test_on_and_off",
    "test_other_names_are_asked_for_elsewhere",
    "test_several_containers_share_an_alias",
    "test_the_holder_is_killed",
    "test_the_hosts_own_rules_hold",
    "test_what_was_refused_is_counted_and_ports_still_work",
    "test_whoever_connects_is_killed",
    "world",
]
pytestmark = pytest.mark.root


class UserHost(Host):
    """A host on which the commands are an ordinary user's."""

    def __init__(self, place: Path, user: str, source: Path) -> None:
        super().__init__(place)
        keep = ("HUTCH_DATA", "HUTCH_STATE")
        self.environment = {
            **{name: self.environment[name] for name in keep}, "HOME": str(place), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(source),
        }  # fmt: skip
        self.user = user
        self.interpreter = system_python()

    def command(self, *words: str) -> list[str]:
        return [*self.prefix(), system_python(), "-m", "hutch.cli", *words]

    def prefix(self) -> list[str]:
        return [*super().prefix(), "setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--init-groups"]


@pytest.fixture
def host(ordinary_user, public_source) -> Iterator[UserHost]:
    place = Path(tempfile.mkdtemp(prefix="hutch-host-", dir="/var/tmp"))
    os.chown(place, ordinary_user.pw_uid, ordinary_user.pw_gid)
    found = UserHost(place, ordinary_user.pw_name, public_source)
    yield found
    for name in found("ps", "-aq").split():
        found("rm", "-f", name)
    until(lambda: found("ps", "-aq") == "" and not [name for name in os.listdir(place / "state") if name[0] != "."])
    until(lambda: not standing_by(place))
    assert found.empty()
    found.close()
    shutil.rmtree(place)


@pytest.mark.parametrize("what", ["usernet", "pasta", "names", "all of them"])
def test_who_stands_by_is_killed(world, what):
    """What runs goes on, or does so again with the next command; and nothing is left at the end (the fixture looks)."""
    place = Path(world.environment["HUTCH_DATA"])
    world("network", "create", "mine")
    box = ("run", "-d", "--name", "box", "--network", "mine", "--network-alias", "store", "--dns", "192.0.2.2", "host", "sleep", "1000")
    world(*box)
    reach = ("python3", "-c", "import socket; print(socket.create_connection(('web.example', 80), timeout=5).recv(99).decode())")
    assert world("exec", "box", *reach) == "198.51.100.7:80\n"
    pasta = int((place / "networks/.pasta").read_text())
    for pid in {
        "usernet": processes(place, "hutch-usernet"), "pasta": [pasta], "names": processes(place, "hutch-names"),
        "all of them": [*processes(place, "hutch-usernet"), pasta, *processes(place, "hutch-names")],
    }[what]:  # fmt: skip
        os.kill(pid, 9)
    time.sleep(2)  # who is younger may be about to be made known by its own start
    other = ("run", "--network", "mine", "--dns", "192.0.2.2", "host")
    assert world(*other, "sh", "-c", "busybox ping -c 1 -W 2 store >/dev/null && echo reached") == "reached\n"
    assert world(*other, *reach) == world("exec", "box", *reach) == "198.51.100.7:80\n"


def test_a_container_that_began_without_a_network_gets_none(host):
    host("network", "create", "mine")
    host("run", "-d", "--name", "box", "host", "sleep", "1000")
    refused(host.try_("network", "connect", "mine", "box"), "was started without a network", "without root", "--network bridge at its start")


def test_everything_is_killed(world):
    world("network", "create", "mine")
    for number in range(3):
        world("run", "-d", "--name", f"box{number}", "--network", "mine", "-p", f"{8080 + number}:80", "host", "sleep", "1000")
    for line in world("ps", "--json").splitlines():
        os.kill(json.loads(line)["executor"], 9)
    for pid in processes(Path(world.environment["HUTCH_DATA"]), "hutch-usernet"):
        os.kill(pid, 9)
    assert world("network", "prune") == "mine\n"
    assert world("run", "--network", "bridge", "-p", "8080:80", "host", "echo", "again") == "again\n"


def test_what_a_user_may_not(host):
    refused(host.try_("run", "--network", "device:uplink", "host", "true"), "lent by root alone")
    host("network", "create", "--internal", "closed")
    assert host("run", "--network", "closed", "host", "sh", "-c", "ip -4 route show default; ip -br -4 addr | grep -c eth0") == "1\n"
    low = host.try_("run", "-p", "80:80", "host", "true")
    assert low.returncode == 0 or "ip_unprivileged_port_start" in low.stderr  # what this host's sysctl says
    listed = host("run", "--network", "bridge", "--userns", "single", "host", "sh", "-c", "cat /proc/self/uid_map; ip -br -4 addr | grep -c eth0")
    assert listed.split()[:1] == ["0"] and listed.split()[2:] == ["1", "1"]


def standing_by(place: Path) -> list[str]:
    """The processes of a data directory: those that hold its locks, and pasta."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            held = [os.readlink(f"/proc/{name}/fd/{fd}") for fd in os.listdir(f"/proc/{name}/fd")]
        except OSError:
            continue
        if str(place).encode() in words or any(path.startswith(str(place)) for path in held):
            found.append(words.decode(errors="replace"))
    return found
