"""Images: from nothing to the first command beside podman and docker, branches of a container, the index of a layer."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import peers
from contest import Contestant, Missing, Shop

import hutch
from hutch.engine.images import images

CACHE = Path(__file__).resolve().parent.parent / ".cache"
NAME = "debian:bench"


def debian() -> Path:
    """Debian's root file system as a tar, made once (mmdebstrap), and kept."""
    path = CACHE / "bench-debian.tar"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        print("images: making a Debian root file system", flush=True)
        fresh = path.with_suffix(f".{os.getpid()}.tar")
        done = subprocess.run([peers.need("mmdebstrap"), "--quiet", "--variant=minbase", "bookworm", str(fresh)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"mmdebstrap: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
        fresh.rename(path)
    return path


def registry(shop: Shop) -> str:
    """Debian's docker-registry on loopback, with the image in it; its host and port."""
    program = peers.need("docker-registry")
    directory = shop.directory / "registry"
    directory.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}}}}}\nhttp: {{addr: {host}}}\n"
    (directory / "config.yml").write_text(settings)
    process = subprocess.Popen(
        [program, "serve", str(directory / "config.yml")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    shop.stack.callback(process.wait)
    shop.stack.callback(process.terminate)
    plain = debian().read_bytes()
    layer = gzip.compress(plain, 6, mtime=0)
    digests = {"layer": hashlib.sha256(layer).hexdigest()}
    config = json.dumps({
        "architecture": images.architecture(), "os": "linux", "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
    }).encode()  # fmt: skip
    digests["config"] = hashlib.sha256(config).hexdigest()
    oci = "application/vnd.oci.image"
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": f"{oci}.manifest.v1+json",
        "config": {"mediaType": f"{oci}.config.v1+json", "digest": f"sha256:{digests['config']}", "size": len(config)},
        "layers": [{"mediaType": f"{oci}.layer.v1.tar+gzip", "digest": f"sha256:{digests['layer']}", "size": len(layer)}],
    }).encode()  # fmt: skip
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://{host}/v2/").close()
            break
        except OSError:
            time.sleep(0.05)
    for name, data in (("layer", layer), ("config", config)):
        _send("POST", f"http://{host}/v2/debian/blobs/uploads/", b"", digest=f"sha256:{digests[name]}", blob=data)
    _send("PUT", f"http://{host}/v2/debian/manifests/bench", manifest, kind=f"{oci}.manifest.v1+json")
    return host


def _send(method: str, url: str, data: bytes, *, kind: str = "application/octet-stream", digest: str = "", blob: bytes = b"") -> None:
    request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(request) as answer:
        place = answer.headers["Location"]
    if digest:
        joint = "&" if "?" in place else "?"
        _send("PUT", f"{place}{joint}digest={digest}", blob)


def cold_runs(shop: Shop, program: str, rounds: int, notes: list[str]) -> list[Contestant]:
    """`run` of an image that the store has not, in turns; every store is emptied before each."""
    host = registry(shop)
    image = f"{host}/{NAME}"
    ours = {**os.environ, "HUTCH_DATA": f"{shop.directory}/cold-data"}
    found = [Contestant("hutch run (cold)", "pull, index, run `true`", [program, "run", "--quiet", image, "true"])]
    empty = {"hutch run (cold)": lambda: shutil.rmtree(ours["HUTCH_DATA"], ignore_errors=True)}
    for name, base_of in (("podman", peers.podman_base), ("docker", peers.docker_base)):
        try:
            base = base_of(shop, f"{name}-cold")
        except (Missing, OSError, subprocess.SubprocessError) as error:
            notes.append(f"{name}, cold: left out: {error}")
            continue
        more = ["--tls-verify=false", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"] if name == "podman" else []
        found.append(Contestant(f"{name} run (cold)", "pull, unpack, run `true`", [*base, "run", "--rm", "--quiet", "--network", "none", *more, image, "true"]))
        empty[f"{name} run (cold)"] = lambda base=base: subprocess.run([*base, "rmi", "--force", image], capture_output=True, check=False)  # type: ignore[misc]
    for number in range(rounds):
        for contestant in found:
            empty[contestant.name]()
            os.sync()  # what the last one wrote is not this one's to wait for
            began = time.perf_counter()
            done = subprocess.run(list(contestant.argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ours, check=False, timeout=120)
            if done.returncode:
                raise Missing(f"{contestant.name}: {done.stderr.strip().splitlines()[-1:]}")
            if number:  # the first round warms the registry and the programs
                contestant.seconds.append(time.perf_counter() - began)
    for clean in empty.values():
        clean()
    return found


def fork_times(count: int = 20) -> dict[int, float]:
    """Seconds for each of `count` branches, by the bytes of the changes that the container holds."""
    found = {}
    image = str(debian())
    for size in (1 << 20, 1 << 30):
        with hutch.Container(image) as box:
            box.run(["sh", "-c", f"head -c {size} /dev/zero > /var/changes"]).check()
            for child in box.fork(2):  # what is only done once
                child.close()
            began = time.perf_counter()
            children = box.fork(count)
            found[size] = (time.perf_counter() - began) / count
            for child in children:
                child.close()
    return found


def index_time(shop: Shop) -> dict[str, float]:
    """Seconds to read a layer's tar and write its index, the best of five; its MiB and its files."""
    from hutch.image.layers.erofs import writer
    from hutch.image.layers.tree import Tree
    from hutch.image.tar.reader import Reader

    path = debian()
    best, files = 1e9, 0
    for _ in range(5):
        began = time.perf_counter()
        tree = Tree()
        reader = Reader(tree)
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(1 << 20):
                reader.feed(piece)
        reader.close()
        (shop.directory / "index").write_bytes(writer.index(tree.root, path.stat().st_size, lambda *_: b""))
        best = min(best, time.perf_counter() - began)
        files = tree.count
    return {"mib": path.stat().st_size >> 20, "files": files, "seconds": round(best, 3)}
