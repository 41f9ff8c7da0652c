"""OCI runtimes side by side: `run` of a prepared bundle, and a container's life step by step as an engine takes it: create,
start, exec, delete."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

from contest import Contestant, Missing, Shop, spawn
from peers import LIMITED, TRUE, UNIFIED, ask, need

STEPS = ("create", "start", "exec", "delete")
HERE = Path(__file__).resolve().parent


class Runtime:
    """An OCI runtime: what to call it by, and its bundles."""

    def __init__(self, shop: Shop, name: str, program: str, detour: tuple[str, ...] = ()) -> None:
        self.name = name
        self.base = [*detour, program, "--root", f"{shop.directory}/oci-{name}"]
        self.true, self.sleep = bundle(shop, f"oci-{name}", [TRUE]), bundle(shop, f"oci-{name}-sleep", ["/usr/bin/sleep", "600"])
        self.steps = {step: Contestant(f"{name} {step}", f"of a prepared bundle; {LIMITED}") for step in STEPS}

    def contestant(self) -> Contestant:
        """`run` of the bundle."""
        return Contestant(f"{self.name} run", f"prepared bundle of true and libc; {LIMITED}", [*self.base, "run", "--bundle", self.true, "bench"], every=2)

    def life(self, keep: bool = True) -> None:
        """One container from create to delete, each step timed. Raises RuntimeError when a step fails."""
        arguments = {"create": ["--bundle", self.sleep, "life"], "start": ["life"], "exec": ["life", TRUE], "delete": ["--force", "life"]}
        try:
            for step in STEPS:
                began = time.perf_counter()
                spawn([*self.base, step, *arguments[step]])
                if keep:
                    self.steps[step].seconds.append(time.perf_counter() - began)
        except RuntimeError:
            subprocess.run([*self.base, "delete", "--force", "life"], capture_output=True, check=False)
            raise


def bundle(shop: Shop, name: str, args: list[str]) -> str:
    """A bundle that is the same for every runtime: runc's own configuration, with the limits."""
    directory = shop.directory / name
    directory.mkdir()
    ask(need("runc"), "spec", "--bundle", str(directory))
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["process"].update(terminal=False, args=args)
    config["root"]["path"] = str(shop.root)
    config["linux"].setdefault("resources", {}).update(memory={"limit": 512 << 20}, cpu={"quota": 100000, "period": 100000}, pids={"limit": 64})
    config["linux"]["cgroupsPath"] = f"/{shop.cgroup}/{name}"
    path.write_text(json.dumps(config))
    return str(directory)


def runtimes(shop: Shop, ours: str) -> list[Runtime]:
    """Hutch's, and the peers on PATH."""
    detour: tuple[str, ...] = ()
    if os.path.ismount(UNIFIED):
        detour = (need("unshare"), "--mount", "/bin/sh", "-c", f'umount {UNIFIED}; exec "$@"', "sh")
    found = [Runtime(shop, "hutch-oci", ours)]
    for name, way in (("runc", ()), ("crun", detour)):
        try:
            found.append(Runtime(shop, name, need(name), way))
        except Missing as error:
            shop.notes.append(f"{name}: left out: {error}")
    return found


def measure_lives(found: list[Runtime], rounds: int, seconds: float, notes: list[str]) -> list[Runtime]:
    """Lives in turns, in another order each round; those that fail drop out."""
    running = []
    for runtime in found:
        try:
            runtime.life(keep=False)
        except (RuntimeError, OSError) as error:
            notes.append(f"{runtime.name}: left out: {error}")
        else:
            running.append(runtime)
    deadline = time.monotonic() + seconds
    for _ in range(rounds):
        random.shuffle(running)
        for runtime in list(running):
            try:
                runtime.life()
            except (RuntimeError, OSError) as error:
                notes.append(f"{runtime.name}: dropped out: {error}")
                running.remove(runtime)
        if time.monotonic() > deadline:
            break
    return running
