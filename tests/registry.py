"""A real registry (Debian's docker-registry) on this machine alone, and images to fill it with that need no network.

An image is made in memory, as blobs by their digests: it can be pushed, written as a layout, and served by a registry of the
test's own that lies about it."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.archives import ARCHITECTURE, Entry, directory, link, member, sha256, tar

USER, PASSWORD = "anna", "secret"
HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"  # bcrypt of the password, at its least cost
OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"
MANIFEST, INDEX, CONFIG, LAYER = (f"{OCI}.{kind}" for kind in ("manifest.v1+json", "index.v1+json", "config.v1+json", "layer.v1.tar"))
DOCKER_MANIFEST, DOCKER_LIST = (f"{DOCKER}.distribution.manifest.{kind}v2+json" for kind in ("", "list."))
DOCKER_CONFIG, DOCKER_LAYER = f"{DOCKER}.container.image.v1+json", f"{DOCKER}.image.rootfs.diff.tar.gzip"
PLATFORM = f"linux/{ARCHITECTURE}"
OTHER = "linux/riscv64" if ARCHITECTURE != "riscv64" else "linux/amd64"
APPLETS = "sh cat chmod echo env false find grep head id ls mkdir mv pwd rm sleep stat touch true wc".split()


# images


class Image:
    """A manifest or an index, with every blob that it needs."""

    def __init__(self, raw: bytes, media_type: str, blobs: dict[str, bytes], parts: tuple[Image, ...] = (), platform: str = ""):
        self.raw, self.media_type, self.blobs, self.parts, self.platform = raw, media_type, blobs, parts, platform
        self.digest = sha256(raw)

    @property
    def manifest(self) -> dict:
        return json.loads(self.raw)

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in self.manifest["layers"]]

    @property
    def config(self) -> str:
        return self.manifest["config"]["digest"]

    @property
    def every(self) -> dict[str, bytes]:
        """Manifests and blobs alike."""
        found = {self.digest: self.raw, **self.blobs}
        for part in self.parts:
            found |= part.every
        return found

    def entry(self, **more: object) -> dict:
        """The descriptor that an index has of it."""
        names = dict(zip(("os", "architecture", "variant"), self.platform.split("/"), strict=False))
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.raw), **({"platform": names} if names["os"] else {}), **more}

    def write(self, place: Path, tag: str = "latest") -> Path:
        """A layout of it, as `skopeo copy oci:PLACE:TAG` takes it."""
        (place / "blobs/sha256").mkdir(parents=True)
        for digest, data in self.every.items():
            (place / "blobs/sha256" / digest[7:]).write_bytes(data)
        (place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        entry = self.entry(annotations={"org.opencontainers.image.ref.name": tag})
        (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return place


@functools.cache
def compressed(raw: bytes, how: str) -> bytes:
    return {"gzip": lambda: gzip.compress(raw, 1, mtime=0), "zstd": lambda: zstandard.compress(raw, 1), "": lambda: raw}[how]()


def make(*tars: bytes, how: str = "gzip", docker: bool = False, platform: str = PLATFORM, config: dict | None = None, **more: object) -> Image:
    """An image of layers, the lowest first; `config` is the part that says how to run it, `more` the rest of the configuration."""
    layers, blobs = [], {}
    for raw in tars:
        blob = compressed(raw, how)
        blobs[sha256(blob)] = blob
        kind = DOCKER_LAYER if docker else LAYER + (f"+{how}" if how else "")
        layers.append({"mediaType": kind, "digest": sha256(blob), "size": len(blob)})
    system, machine = platform.split("/")[:2]
    own = {"created": "2024-01-02T03:04:05Z", "architecture": machine, "os": system, "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], **(config or {})}}
    raw = json.dumps({**own, "rootfs": {"type": "layers", "diff_ids": [sha256(raw) for raw in tars]}, **more}).encode()
    blobs[sha256(raw)] = raw
    head = {"mediaType": DOCKER_CONFIG if docker else CONFIG, "digest": sha256(raw), "size": len(raw)}
    return manifest(head, layers, blobs, docker, platform)


def manifest(config: dict, layers: list[dict], blobs: dict[str, bytes], docker: bool = False, platform: str = PLATFORM, **more: object) -> Image:
    kind = DOCKER_MANIFEST if docker else MANIFEST
    # as no program here writes it: whoever sends it on must not have written it anew
    raw = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers, **more}, indent=3).encode()
    return Image(raw, kind, blobs, platform=platform)


def index(*images: Image, docker: bool = False, entries: list[dict] | None = None) -> Image:
    """Several images under one name."""
    kind = DOCKER_LIST if docker else INDEX
    rows = entries if entries is not None else [image.entry() for image in images]
    return Image(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": rows}, indent=3).encode(), kind, {}, images)


@functools.cache
def base(*more: Entry) -> bytes:
    """The tar of a root file system of a static busybox."""
    passwd, group = b"root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n", b"root:x:0:\nanna:x:1000:\naudio:x:29:anna\n"
    busybox = Path("/bin/busybox").read_bytes()
    owned = {"uid": 1000, "gid": 1000}
    return tar(
        *map(directory, ("bin", "dev", "etc", "home", "proc", "root", "sys", "data")), directory("tmp", 0o1777),
        member("home/anna", b"5", mode=0o755, **owned), member("data/first", content=b"from the image\n", **owned), directory("data/deep"),
        member("data/deep/second", content=b"deeper\n"), member("bin/busybox", content=busybox, mode=0o755), *(link(f"bin/{name}", "busybox") for name in APPLETS),
        member("etc/passwd", content=passwd), member("etc/group", content=group), *more,
    )  # fmt: skip


def noise(size: int, seed: str = "") -> bytes:
    """Bytes that no compression makes smaller, always the same ones."""
    return hashlib.shake_128(seed.encode()).digest(size)


def simple(mark: str = "", **options: object) -> Image:
    """One layer; `mark` makes another image of it, which shares the layer."""
    return make(base(), config={"Labels": {"mark": mark}}, **options)


def layered(count: int = 120) -> Image:
    """Many layers: each adds a file of its own, and replaces one that all have."""
    tops = [tar(member(f"l/{n}", content=b"%d\n" % n), member("last", content=b"%d\n" % n)) for n in range(1, count)]
    return make(base(), *tops)


def many_files(count: int = 2000) -> Image:
    return make(base(), tar(directory("many"), *(member(f"many/{n}", content=b"%d" % n) for n in range(count))))


def whiteouts() -> Image:
    """Layers that take away what those below have: a file, a directory, what a directory held, and a name that comes back."""
    return make(
        base(),
        tar(directory("w"), *(member(f"w/{name}", content=b"1") for name in "abc"), directory("w/d"), member("w/d/old", content=b"1"), directory("gone")),
        tar(member("w/.wh.a"), member("w/d/.wh..wh..opq"), member("w/d/new", content=b"2"), member(".wh.gone"), member("w/.wh.b")),
        tar(member("w/b", content=b"3"), member("w/.wh.c"), member("gone", content=b"a file now")),
    )


def big(seed: str = "", layers: int = 2, size: int = 1 << 20) -> Image:
    """Layers that take a moment on their way."""
    return make(base(), *(tar(member(f"noise-{n}", content=noise(size, f"{seed}{n}"))) for n in range(layers)), config={"Labels": {"seed": seed}})


# the registry


def authority(place: Path) -> tuple[Path, Path, Path]:
    """(an authority's certificate, one that it has signed for this machine, that one's key)."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=an authority of the tests")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (place / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server.crt"
    )
    return place / "ca.crt", place / "server.crt", place / "server.key"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """A registry that runs until it is closed: open to all, or with a password (`USER`, `PASSWORD`), plain or with TLS."""

    def __init__(self, place: Path, *, password: bool = False, tls: bool = False):
        self.place, self.password, self.tls = place, password, tls
        self.storage, self.log = place / "storage", place / "log"
        self.storage.mkdir(parents=True)
        self.address = ("127.0.0.1", free_port())
        self.host = f"127.0.0.1:{self.address[1]}"
        settings: dict = {"addr": self.host}
        if tls:
            self.ca, certificate, key = authority(place)
            settings["tls"] = {"certificate": str(certificate), "key": str(key)}
        lines = {"version": 0.1, "log": {"level": "warn"}, "http": settings, "storage": {"filesystem": {"rootdirectory": str(self.storage)}, "delete": {"enabled": True}}}  # fmt: skip
        if password:
            (place / "htpasswd").write_text(HTPASSWD)
            lines["auth"] = {"htpasswd": {"realm": "tests", "path": str(place / "htpasswd")}}
        self.config = place / "config.yml"
        self.config.write_text(json.dumps(lines))  # YAML contains JSON
        self.start()

    def start(self) -> None:
        with open(self.log, "ab") as log:
            words = ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(self.config)]
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
            )
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(self.address, 1):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no registry: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.place, ignore_errors=True)

    # what it has

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            connection.request(method, path, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def put(self, image: Image, name: str) -> str:
        """Push an image as it is; the complete name."""
        repository, _, tag = name.partition(":")
        for part in image.parts:
            self.put(part, f"{repository}:{part.digest}")
        for digest, data in image.blobs.items():
            if self.ask("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
                continue
            place = self.ask("POST", f"/v2/{repository}/blobs/uploads/")[1]["location"].partition(self.host)[2]
            status, _, said = self.ask("PUT", f"{place}&digest={digest}", data, Content_Type="application/octet-stream")
            assert status == 201, said
        status, _, said = self.ask("PUT", f"/v2/{repository}/manifests/{tag}", image.raw, Content_Type=image.media_type)
        assert status == 201, said
        return f"{self.host}/{name}"

    def manifest(self, name: str) -> tuple[bytes, str]:
        """A manifest's bytes and type."""
        repository, _, tag = name.partition(":")
        accept = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST))
        status, headers, data = self.ask("GET", f"/v2/{repository}/manifests/{tag}", Accept=accept)
        assert status == 200, data
        return data, headers["content-type"]

    def blob(self, repository: str, digest: str) -> bytes:
        status, _, data = self.ask("GET", f"/v2/{repository}/blobs/{digest}")
        assert status == 200, data
        return data

    def has(self, repository: str, digest: str) -> bool:
        return self.ask("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200

    def blobs(self) -> set[str]:
        """Everything that its disk has, whichever repository it belongs to."""
        return {f"sha256:{path.parent.name}" for path in self.storage.glob("docker/registry/v2/blobs/sha256/*/*/data")}

    # what it was asked for

    def mark(self) -> int:
        """A place in its log."""
        return self.log.stat().st_size

    def asked(self, since: int = 0, method: str = "", agent: str = "hutch") -> list[tuple[str, str, int, int]]:
        """(method, path, status, bytes) of the requests of one client, from its log."""
        found = []
        for line in self.log.read_bytes()[since:].decode(errors="replace").splitlines():
            parts = line.split('"')
            if len(parts) < 6 or not parts[5].startswith(agent):
                continue
            verb, path = parts[1].split(" ")[:2]
            status, size = parts[2].split()[:2]
            if verb == method or not method:
                found.append((verb, path, int(status), int(size)))
        return found

    def fetched(self, since: int = 0) -> list[str]:
        """The digests of the blobs that were fetched, one entry a request."""
        return [path.rpartition("/")[2] for _, path, _, _ in self.asked(since, "GET") if "/blobs/" in path]


def need_registry() -> None:
    for program in ("docker-registry", "setpriv"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs a static busybox")


@contextlib.contextmanager
def serving(**options: bool) -> Iterator[Server]:
    """A registry for the time of a block."""
    need_registry()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/var/tmp"  # it waits for the disk after every blob
    server = Server(Path(tempfile.mkdtemp(prefix="hutch-registry-", dir=memory)) / "registry", **options)
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(server.place.parent, ignore_errors=True)
