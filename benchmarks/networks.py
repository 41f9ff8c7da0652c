"""Networks: a container with all of them beside docker's and podman's, and bytes per second. Runs in a network namespace of its own, as
the other engines write rules into theirs: ``unshare --net python benchmarks/networks.py DIRECTORY CGROUP ROUNDS``. Prints JSON."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import peers
from contest import Missing, Shop

import hutch
from hutch.kernel.netlink import route

SERVER = """
import socket
s = socket.create_server(("", 5001)); buffer = bytearray(1 << 20)
while True:
    c, _ = s.accept()
    while c.recv_into(buffer): pass
    c.sendall(b"done"); c.close()
"""
CLIENT = """
import socket, sys, time
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30); data = bytes(1 << 20); began = time.perf_counter(); sent = 0
while time.perf_counter() - began < 1.5: c.sendall(data); sent += len(data)
c.shutdown(socket.SHUT_WR); c.recv(4); print(sent / (time.perf_counter() - began) / 1e9)
"""
LIBRARIES = [f"/{name}" for name in ("usr", "bin", "lib", "lib64") if os.path.isdir(f"/{name}")]
PODMAN_LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]


def timed(action: Callable[[], object], count: int) -> list[float]:
    found = []
    for number in range(count + 1):
        began = time.perf_counter()
        action()
        if number:
            found.append(time.perf_counter() - began)
    return found


def ready(address: str, port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Missing(f"{address}:{port} does not answer")


def through(address: str, port: int) -> float:
    """GB/s from this host."""
    words = [sys.executable, "-c", CLIENT, address, str(port)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout)


class Rates(NamedTuple):
    """How many GB/s there are now, between two containers and through a published port: to be asked in turn with the others', as this
    machine's speed changes from one minute to the next."""

    between: Callable[[], float]
    port: Callable[[], float]


@contextlib.contextmanager
def ours(found: dict[str, Any], rounds: int) -> Iterator[Rates]:
    hutch.networks.create("bench")
    found["alone"] = timed(lambda: hutch.run("host", ["true"], network="bench", ports=["8080:80"]).check(), rounds)
    with hutch.start("host", ["python3", "-c", SERVER], network="bench", name="server", ports=["5001:5001"]):
        ready("127.0.0.1", 5001)
        found["beside"] = timed(lambda: hutch.run("host", ["true"], network="bench", ports=["8080:80"]).check(), rounds)
        client = ["python3", "-c", CLIENT, "server", "5001"]
        yield Rates(lambda: float(hutch.run("host", client, network="bench").check().stdout), lambda: through("127.0.0.1", 5001))
    hutch.networks.remove("bench")


@contextlib.contextmanager
def theirs(found: dict[str, Any], base: list[str], more: list[str], rounds: int, archive: str, published: int) -> Iterator[Rates]:
    peers.ask(*base, "import", archive, "bench")
    peers.ask(*base, "network", "create", "bench")
    run = [*base, "run", "--rm", "--network", "bench", *more]
    with_python = [word for path in LIBRARIES for word in ("-v", f"{path}:{path}:ro")]
    found["alone"] = timed(lambda: peers.ask(*run, "-p", "127.0.0.1:8081:80", "bench", peers.TRUE), rounds)
    server = ["--detach", "--name", "server", *with_python, "-p", f"127.0.0.1:{published}:5001", "bench", "/usr/bin/python3", "-c", SERVER]
    peers.ask(*run, *server)
    shown = json.loads(peers.ask(*base, "inspect", "server"))[0]["NetworkSettings"]["Networks"]["bench"]["IPAddress"]
    ready(shown, 5001)
    found["beside"] = timed(lambda: peers.ask(*run, "-p", "127.0.0.1:8081:80", "bench", peers.TRUE), rounds)
    client = [*run, *with_python, "bench", "/usr/bin/python3", "-c", CLIENT, shown, "5001"]
    try:
        yield Rates(lambda: float(peers.ask(*client)), lambda: through("127.0.0.1", published))
    finally:
        for words in (("rm", "--force", "server"), ("network", "rm", "bench")):
            subprocess.run([*base, *words], capture_output=True, check=False)


def main() -> None:
    directory, cgroup, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    notes: list[str] = []
    with route.Route() as here:  # what a host has: a loopback, an interface, a way out
        here.do(route.set_link(name="lo", up=True))
        here.do(route.veth("uplink", "beyond"))
        for name in ("uplink", "beyond"):
            here.do(route.set_link(name=name, up=True))
        link = here.link("uplink")
        assert link is not None
        here.do(route.new_address(link.index, "192.0.2.1", 24))
        here.do(route.new_route(gateway="192.0.2.2"))
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        os.environ.update(HUTCH_DATA=f"{directory}/data", HUTCH_STATE=f"{directory}/state")
        shop = Shop(directory, stack, notes, cgroup)
        archive = str(shop.archive)
        rates: dict[str, Rates] = {"hutch": stack.enter_context(ours(found.setdefault("hutch", {}), rounds))}
        for name, base_of, more, published in (
            ("docker", lambda: peers.docker_base(shop, "docker", networks=True), [], 5002),
            ("podman", lambda: peers.podman_base(shop, "podman"), PODMAN_LIMITS, 5003),
        ):
            times: dict[str, Any] = {}
            try:
                base = base_of()
                if name == "docker":  # which drops everybody else's packets, and has a chain for those who mind
                    for way in ("-i", "-o"):
                        peers.ask("iptables", "-I", "DOCKER-USER", way, "hutch-+", "-j", "ACCEPT")
                if name == "podman":
                    stack.callback(subprocess.run, [*base, "rm", "--all", "--force", "--time", "0"], capture_output=True, check=False)
                rates[name] = stack.enter_context(theirs(times, base, more, max(3, rounds // 8), archive, published))
                found[name] = times
            except (Missing, OSError, subprocess.SubprocessError) as error:
                notes.append(f"{name}, with a network: left out: {error}")
        for _ in range(max(4, rounds // 5)):
            for name, now in rates.items():
                found[name].setdefault("between", []).append(now.between())
                found[name].setdefault("port", []).append(now.port())
    for item in found.values():
        for key in ("alone", "beside", "between", "port"):
            item[key] = statistics.median(item[key])
    print(json.dumps({"found": found, "notes": notes}))


if __name__ == "__main__":
    main()
