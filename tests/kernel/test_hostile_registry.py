"""A registry that fails, lies and attacks: a clear error, a store that stays sound, and the next pull from a good one works."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hutch.engine.images import images
from hutch.engine.reports import storage
from hutch.errors import HutchError, ImageError, RegistryError
from hutch.image.registry import http
from tests.archives import ARCHITECTURE, member, sha256, tar
from tests.conftest import HUTCH
from tests.registry import INDEX, LAYER, MANIFEST, OTHER, PASSWORD, USER, Image, authority, base, big, compressed, index, make, manifest, noise, simple

pytestmark = pytest.mark.root


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has had enough
            self.close_connection = True

    def do(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length) if length else None
        liar: Liar = self.server.liar
        with liar.lock:
            liar.asked.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        for begin, answer in list(liar.lies.items()):
            if self.path.startswith(begin) and answer(self):
                return
        self.good()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do

    def good(self) -> None:
        """As a registry should answer."""
        liar: Liar = self.server.liar
        parts = self.path.split("/")
        if self.path == "/v2/":
            return self.send(200, b"{}")
        target = parts[-1]
        if "manifests" in parts and (target in liar.tags or target in liar.manifests):
            raw, kind = liar.manifests[liar.tags.get(target, target)]
            return self.send(200, raw, Content_Type=kind, Docker_Content_Digest=sha256(raw))
        if "blobs" in parts and target in liar.blobs:
            return self.blob(liar.blobs[target])
        return self.send(404, b'{"errors":[{"code":"UNKNOWN","message":"nothing of the kind"}]}')

    def blob(self, data: bytes) -> None:
        begin = self.begin
        if begin >= len(data) > 0:
            return self.send(416)
        if begin:
            return self.send(206, data[begin:], Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")
        return self.send(200, data)

    @property
    def begin(self) -> int:
        """What Range asks for."""
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])

    def send(self, status: int, body: bytes = b"", *, length: int = -1, **headers: str) -> bool:
        """An answer; `length` is what is said of the body, cut there when it has more and the connection when it has less."""
        said = len(body) if length < 0 else length
        self.send_response(status)
        for name, value in {"Content_Length": str(said), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:said])
        if said > len(body):
            self.cut()
        return True

    def cut(self) -> bool:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


class Liar:
    """A registry in a thread: good, but for its `lies`: what answers a path that begins so, or says False to leave it be."""

    def __init__(self, tls: ssl.SSLContext | None = None):
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.tags: dict[str, str] = {}
        self.lies: dict[str, Callable[[Handler], bool]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.liar = self
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def put(self, image: Image, tag: str = "1") -> str:
        """Have an image; the name."""
        self.blobs |= image.blobs
        self.manifests[image.digest] = image.raw, image.media_type
        self.tags[tag] = image.digest
        for part in image.parts:
            self.put(part, part.digest)
        return f"{self.host}/x:{tag}"

    def raw(self, data: bytes, kind: str = MANIFEST) -> str:
        return self.put(Image(data, kind, {}))

    def lie(self, path: str, answer: Callable[[Handler], object], times: int = 1 << 30) -> None:
        """Answer so for a path below the repository, a number of times."""
        left = [times]

        def one(handler: Handler) -> bool:
            with self.lock:
                left[0] -= 1
                if left[0] < 0:
                    return False
            return answer(handler) is not False

        self.lies[f"/v2/x/{path}"] = one

    def requests(self, path: str) -> list[dict[str, str]]:
        """The headers of every request for a path below the repository."""
        return [headers for _, asked, headers in self.asked if asked.startswith(f"/v2/x/{path}")]


@pytest.fixture
def liar() -> Iterator[Liar]:
    found = Liar()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store of the test's own. At the end it is sound, holds nothing half made but what can be gone on with, and a good pull works."""
    place = Path(tempfile.mkdtemp(prefix="hutch-store-", dir="/var/tmp"))
    place.chmod(0o711)
    for name, value in {"HUTCH_DATA": "data", "HOME": "home", "XDG_CONFIG_HOME": "home/.config", "XDG_RUNTIME_DIR": "home/run", "DOCKER_CONFIG": "home/.docker"}.items():  # fmt: skip
        monkeypatch.setenv(name, str(place / value))
    for name in ("HUTCH_AUTH_FILE", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http, "FIRST_WAIT", 0.005)
    monkeypatch.setattr(http, "TIMEOUT", 5.0)
    threads = threading.active_count()
    yield place / "data"
    try:
        assert not list(storage.check())
        left = [path.name for path in place.glob("data/ingest/*")]
        assert all(name.startswith("sha256-") for name in left), left
        assert not list(place.glob("data/leases/*"))
        good = Liar()
        try:
            assert pull(good.put(simple("good"))).id == simple("good").config
        finally:
            good.close()
        assert not list(storage.check())
        until(lambda: threading.active_count() <= threads)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pull(name: str, **options) -> images.Image:
    return images.pull(name, **options).result()


def fails(name: str, *words: str, kind: type[HutchError] = ImageError, **options) -> str:
    """A pull that ends with an error which says what is wrong, on one line, and leaves no image."""
    with pytest.raises(kind) as caught:
        pull(name, **options)
    message = caught.value.message
    shown = ascii(message)[:1000]  # a report of a failure must not do what the message tries to
    plain = message.isprintable() and len(message) < 1000
    assert plain, shown
    for word in words:
        found = word in message
        assert found, shown
    assert images.every() == []
    return message


def all_fail(cases: Iterable[Callable[[], object]]) -> None:
    """Every one of the cases; what is wrong with which is told at the end."""
    wrong = {}
    for number, case in enumerate(cases):
        try:
            case()
        except BaseException as error:
            wrong[number] = ascii(f"{type(error).__name__}: {error}")[:400]
    assert not wrong


def blob_of(image: Image, number: int = -1) -> str:
    return image.layers[number]


# connections that fail


def test_a_connection_that_is_cut_is_made_again_and_goes_on_where_it_was(liar):
    image = big("cut", layers=1)
    name, digest = liar.put(image), blob_of(image)
    data = image.blobs[digest]
    cuts = [300_000, 600_000, 900_000]

    def cut(handler: Handler) -> bool:
        if not cuts:
            return False
        begin, end = handler.begin, cuts.pop(0)
        headers = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        return handler.send(206 if begin else 200, data[begin:end], length=len(data) - begin, **headers)

    liar.lie(f"blobs/{digest}", cut)
    pull(name)
    ranges = [headers.get("range") for headers in liar.requests(f"blobs/{digest}")]
    assert ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_server_that_ignores_range_is_read_from_its_beginning_again(liar):
    image = big("no-range", layers=1)
    name, digest = liar.put(image), blob_of(image)
    data = image.blobs[digest]
    liar.lies[f"/v2/x/blobs/{digest}"] = _first_cut(data, lambda handler: handler.send(200, data))
    pull(name)
    assert [headers.get("range") for headers in liar.requests(f"blobs/{digest}")] == [None, "bytes=500000-"]


def _first_cut(data: bytes, then: Callable[[Handler], bool]) -> Callable[[Handler], bool]:
    first = [True]

    def answer(handler: Handler) -> bool:
        if first and first.pop():
            return handler.send(200, data[:500_000], length=len(data))
        return then(handler)

    return answer


@pytest.mark.parametrize("said", ["bytes 0-{end}/{size}", "bytes 499999-{end}/{size}", "nonsense", "", "bytes -5-{end}/{size}"])
def test_another_range_than_was_asked_for_is_not_taken(liar, said):
    image = big("range", layers=1)
    name, digest = liar.put(image), blob_of(image)
    data = image.blobs[digest]
    header = said.format(end=len(data) - 1, size=len(data))
    liar.lies[f"/v2/x/blobs/{digest}"] = _first_cut(data, lambda handler: handler.send(206, data[500_000:], Content_Range=header))
    fails(name, "was asked for bytes from 500000", kind=RegistryError)
    liar.lies.clear()
    pull(name)


def test_a_registry_that_always_cuts_is_given_up_and_what_came_is_kept(liar, store):
    image = big("always", layers=1)
    name, digest = liar.put(image), blob_of(image)
    data = image.blobs[digest]

    def drip(handler: Handler) -> bool:
        begin = handler.begin
        if begin >= 3000:
            return handler.cut()
        headers = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        return handler.send(206 if begin else 200, data[begin : begin + 1000], length=len(data) - begin, **headers)

    liar.lie(f"blobs/{digest}", drip)
    fails(name, "the connection was", kind=RegistryError)
    assert (store / "ingest" / digest.replace(":", "-")).stat().st_size == 3000
    liar.lies.clear()
    pull(name)
    assert liar.requests(f"blobs/{digest}")[-1]["range"] == "bytes=3000-"


def test_a_stalled_connection_is_given_up_and_made_again(liar, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.2)
    image = big("stalls", layers=1)
    name, digest = liar.put(image), blob_of(image)
    data = image.blobs[digest]

    def stall(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:400_000])
        liar.released.wait(20)
        return handler.cut()

    liar.lie(f"blobs/{digest}", stall, times=1)
    begun = time.monotonic()
    pull(name)
    assert time.monotonic() - begun < 5
    assert 100_000 < int(liar.requests(f"blobs/{digest}")[-1]["range"].removeprefix("bytes=").rstrip("-")) <= 400_000


@pytest.mark.parametrize("what", ["manifests/1", "blobs/"])
def test_a_registry_that_never_answers_is_an_error_in_time(liar, monkeypatch, what):
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    name = liar.put(simple())
    liar.lie(what, lambda handler: liar.released.wait(20) and handler.cut())
    begun = time.monotonic()
    fails(name, "no answer within 0.1 s", kind=RegistryError)
    assert time.monotonic() - begun < 5


def test_closing_a_pull_that_is_stalled_does_not_wait_for_it(liar):
    image = big("close", layers=1)
    name, digest = liar.put(image), blob_of(image)

    def stall(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(image.blobs[digest])))
        handler.end_headers()
        handler.wfile.write(image.blobs[digest][:500_000])
        liar.released.wait(20)
        return handler.cut()

    liar.lie(f"blobs/{digest}", stall, times=1)
    going = images.pull(name)
    for step in going:
        if step.digest == digest and step.status == "fetching":
            break
    begun = time.monotonic()
    going.close()
    assert time.monotonic() - begun < 2 and images.every() == []
    pull(name)
    assert int(liar.requests(f"blobs/{digest}")[-1]["range"].removeprefix("bytes=").rstrip("-")) > 0


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_trouble_that_passes_is_waited_for(liar, status):
    name = liar.put(simple())
    for what in ("manifests/1", "blobs/"):
        liar.lie(what, lambda handler: handler.send(status, b'{"errors":[{"message":"not now"}]}'), times=2)
    assert pull(name).id == simple().config


def test_retry_after_is_kept_to(liar):
    name = liar.put(simple())
    liar.lie("manifests/1", lambda handler: handler.send(429, Retry_After="1"), times=1)
    begun = time.monotonic()
    pull(name)
    assert 0.9 < time.monotonic() - begun < 4


@pytest.mark.parametrize("value", ["-5", "1e9", "soon", "99999999999999999999", "²"])
def test_a_retry_after_that_makes_no_sense_holds_up_nobody(liar, monkeypatch, value):
    monkeypatch.setattr(http, "LONGEST_WAIT", 0.05)
    name = liar.put(simple())
    liar.lie("manifests/1", lambda handler: handler.send(503, Retry_After=value), times=1)
    pull(name)


def test_trouble_that_stays_is_told_in_the_registrys_own_words(liar):
    name = liar.put(simple())
    liar.lie("manifests/1", lambda handler: handler.send(429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"go \\u001b[31maway\\n"}]}', Retry_After="0"))
    assert "\x1b" not in fails(name, "too many requests", "away", kind=RegistryError)
    liar.lie("manifests/1", lambda handler: handler.send(500, b"<html>" + b"x" * 100_000))
    fails(name, "500", kind=RegistryError)
    liar.lie("manifests/1", lambda handler: handler.send(403, b'{"errors":[]}'))
    fails(name, "forbidden", kind=RegistryError)


# redirects


def test_a_redirect_is_followed_and_no_password_goes_along(liar):
    image = simple("redirect")
    name = liar.put(image)
    other = Liar()
    try:
        other.blobs = liar.blobs
        want = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

        def guard(handler: Handler) -> bool:
            if handler.headers.get("Authorization") == want:
                if "/blobs/" in handler.path:
                    return handler.send(307, Location=f"http://{other.host}{handler.path}?signature=5")
                return False
            return handler.send(401, WWW_Authenticate='Basic realm="x"')

        other.lies["/v2/x/blobs/"] = lambda handler: handler.blob(other.blobs[handler.path.rpartition("/")[2].partition("?")[0]]) or True
        liar.lies["/v2/x/"] = guard
        pull(name, credentials=(USER, PASSWORD))
        assert len(other.asked) == 2 and all("authorization" not in headers for _, _, headers in other.asked)
        assert all("signature=5" in path for _, path, _ in other.asked)
    finally:
        other.close()


NOWHERE = [
    ("/v2/x/manifests/1", "redirects without end"),
    ("file:///etc/passwd", "which is no place"),
    ("ftp://127.0.0.1/x", "which is no place"),
    ("gopher://127.0.0.1:25/", "which is no place"),
    ("http://", ""),
    ("http:///etc/passwd", ""),
    ("http://[::1", ""),
    ("http://127.0.0.1:99999/", ""),
    ("http://127.0.0.1:port/", ""),
    ("http://127.0.0.1:1/", ""),
    ("//\x01bad/", ""),
    ("/v2/x/a b\x7f", ""),
    ("http://" + "a" * 70_000, ""),
]


def test_redirects_to_nowhere_are_followed_no_further(liar):
    def one(place: str, word: str) -> None:
        liar.lie("manifests/1", lambda handler: handler.send(302, Location=place))
        fails(name, word, kind=RegistryError)

    name = liar.put(simple())
    all_fail(functools.partial(one, *case) for case in NOWHERE)


# what is not what it should be


def test_a_manifest_of_another_digest_is_not_taken(liar):
    image = simple("digest")
    liar.put(image)
    liar.manifests[image.digest] = simple("other").raw, MANIFEST
    fails(f"{liar.host}/x@{image.digest}", "does not have the digest", kind=RegistryError)
    liar.lie("manifests/1", lambda handler: handler.send(200, image.raw, Content_Type=MANIFEST, Docker_Content_Digest=f"sha256:{'0' * 64}"))
    fails(f"{liar.host}/x:1", "does not have the digest", kind=RegistryError)


def test_blobs_of_another_digest_are_not_taken_and_not_kept(liar, store):
    image = big("wrong", layers=1)
    name = liar.put(image)
    data = image.blobs[blob_of(image)]
    liar.blobs[blob_of(image)] = data[:-20] + b"x" * 20
    fails(name, "does not have the digest")
    assert not list(store.glob("ingest/*"))
    liar.blobs[blob_of(image)] = data
    pull(name)


def test_a_layer_that_is_not_what_the_configuration_says_is_not_taken(liar):
    good, other = make(base(), tar(member("a", content=b"1"))), make(base(), tar(member("a", content=b"2")))
    data = good.manifest
    mixed = manifest(data["config"], other.manifest["layers"], {**good.blobs, **other.blobs})
    fails(liar.put(mixed), "does not have the digest", "configuration")


@pytest.mark.parametrize("size", [-1, +1, -500_000, +500_000, +(1 << 40)])
def test_a_size_that_is_wrong_in_the_manifest_is_not_taken(liar, size):
    image = big("size", layers=1)
    data = image.manifest
    data["layers"][1]["size"] += size
    liar.put(image)
    fails(liar.put(manifest(data["config"], data["layers"], image.blobs), "wrong"), "larger than" if size < 0 else "bytes instead of")
    assert pull(f"{liar.host}/x:1").id == image.config


@pytest.mark.parametrize("size", [-1, +1, +(1 << 30)])
def test_a_configuration_of_another_size_is_not_taken(liar, size):
    image = simple("config-size")
    data = image.manifest
    data["config"]["size"] += size
    fails(liar.put(manifest(data["config"], data["layers"], image.blobs)))


def test_a_blob_that_never_ends_is_not_read_to_its_end(liar):
    image = simple("endless")
    name = liar.put(image)

    def endless(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 50))
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))

    for digest in (image.config, blob_of(image)):
        liar.lies.clear()
        liar.lie(f"blobs/{digest}", endless)
        fails(name)


def layer_of(blob: bytes, plain: bytes, kind: str = "gzip") -> Image:
    """An image of a blob that is not what it should be inside."""
    image = make(base(), plain)
    data = image.manifest
    data["layers"][1] = {"mediaType": f"{LAYER}+{kind}", "digest": sha256(blob), "size": len(blob)}
    return manifest(data["config"], data["layers"], {**image.blobs, sha256(blob): blob})


PLAIN = tar(member("file", content=noise(200_000)))


@pytest.mark.parametrize(
    "blob",
    [
        compressed(PLAIN, "gzip")[:-1000], compressed(PLAIN, "gzip")[:-4], compressed(PLAIN, "zstd")[:-1000], compressed(PLAIN, "gzip")[:5], b"",
        compressed(PLAIN, "gzip") + b"more", compressed(PLAIN, "gzip")[:50_000] + b"\xff" * 1000 + compressed(PLAIN, "gzip")[51_000:],
        gzip.compress(b"no tar at all" * 1000), gzip.compress(bytes(2048)), b"\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff", b"\xfd7zXZ\0" + b"x" * 100,
    ],
    ids="cut checksum zstd-cut head empty more damaged no-tar zeros zstd-head xz".split(),
)  # fmt: skip
def test_a_layer_that_is_broken_inside_is_not_taken_and_not_kept(liar, store, blob):
    fails(liar.put(layer_of(blob, PLAIN)))
    assert not list(store.glob(f"ingest/sha256-{sha256(blob)[7:]}"))


def test_a_layer_that_inflates_without_end_fills_neither_memory_nor_disk(liar, store):
    bomb = gzip.compress(bytes(64 << 20), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fails(liar.put(layer_of(bomb, PLAIN)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert not list(store.glob("ingest/*"))


def test_an_index_that_lies_about_its_platform_is_not_believed(liar):
    other = simple("other", platform=OTHER)
    entry = other.entry(platform={"os": "linux", "architecture": ARCHITECTURE})
    fails(liar.put(index(other, entries=[entry])), OTHER, "is wanted")
    fails(liar.put(index(other, entries=[{key: value for key, value in entry.items() if key != "platform"}])), OTHER)
    fails(liar.put(other), OTHER)


def test_an_index_that_lies_about_a_manifests_size_or_type(liar):
    image = simple("typed")
    fails(liar.put(index(image, entries=[{**image.entry(), "size": 5}])), "its index says 5")
    fails(liar.put(index(image, entries=[{**image.entry(), "mediaType": INDEX}])))


def test_indexes_in_indexes_end_somewhere(liar):
    image = simple("nested")
    for _ in range(3):
        image = index(image, entries=[{key: value for key, value in image.entry().items() if key != "platform"}])
        image.platform = ""
    assert pull(liar.put(image)).id == simple("nested").config
    images.remove(f"{liar.host}/x:1")
    for _ in range(3):
        image = index(image, entries=[image.entry()])
        image.platform = ""
    fails(liar.put(image), "nested too deeply")


def test_a_manifest_of_a_gigabyte_is_not_read(liar):
    def huge(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 30))
        handler.send_header("Content-Type", MANIFEST)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * (1 << 16))

    liar.lie("manifests/1", huge)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fails(f"{liar.host}/x:1", "more than", kind=RegistryError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


def image_json(**changes: object) -> bytes:
    return json.dumps({**simple().manifest, **changes}).encode()


LAYERS, CONFIG = simple().manifest["layers"], simple().manifest["config"]


NO_MANIFESTS = [
    b"", b"{", b"null", b"[]", b"5", b'"text"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900, b"9" * 10_000,
    b'{"schemaVersion":2,"layers":[],"config":' + b"[" * 500 + b"]" * 500 + b"}", b'{"schemaVersion":1,"fsLayers":[]}', b"NaN",
    image_json(layers={}), image_json(layers=[5]), image_json(layers=[{}]), image_json(layers=None), image_json(layers=LAYERS * 501), image_json(config=None),
    image_json(config={**CONFIG, "digest": "sha256:../../../../etc/passwd"}), image_json(config={**CONFIG, "digest": 5}),
    image_json(config={**CONFIG, "digest": "md5:" + "0" * 32}), image_json(config={**CONFIG, "digest": "sha256:" + "A" * 64}),
    image_json(config={**CONFIG, "size": -1}), image_json(config={**CONFIG, "size": 1.5}), image_json(config={**CONFIG, "size": "5"}),
    image_json(config={**CONFIG, "size": True}), image_json(config={**CONFIG, "size": 10**400}), image_json(config={**CONFIG, "size": 1 << 62}),
    image_json(config={**CONFIG, "size": 1 << 49}), image_json(layers=[{**LAYERS[0], "size": 1 << 80}]), image_json(layers=[{**LAYERS[0], "size": None}]),
    image_json(layers=[{**LAYERS[0], "mediaType": "x\x1b[31m"}]), image_json(layers=[{**LAYERS[0], "mediaType": 5}]),
    image_json(layers=[{**LAYERS[0], "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]), image_json(manifests=[]),
    image_json(config={**CONFIG, "mediaType": "\ud800"}), image_json(config={**CONFIG, "mediaType": "x" * 100_000}), image_json(annotations=[]), image_json(layers=[]),
    image_json(subject=5), image_json(mediaType=INDEX), image_json(mediaType="application/x\x1b[2J"), image_json(layers=LAYERS + LAYERS),
]  # fmt: skip
NO_TYPES = [5, [1], {"a": 1}, True, "x" * 100_000, "\ud800", "\x1b]0;title\x07"]


def test_manifests_that_are_none(liar):
    def one(data: bytes, kind: str) -> None:
        liar.tags["1"] = sha256(data)
        liar.manifests[sha256(data)] = data, kind
        fails(f"{liar.host}/x:1")

    liar.put(simple())
    every = [*NO_MANIFESTS, *(image_json(mediaType=own) for own in NO_TYPES)]
    all_fail(functools.partial(one, data, kind) for data in every for kind in (MANIFEST, "text/plain"))


NO_INDEXES = [
    [5], [None], [{}], [{"digest": "x"}], {}, [{**CONFIG, "platform": {"os": "linux\x1b[31m\n", "architecture": "x" * 100_000}}],
    [{**CONFIG, "platform": 5, "mediaType": "x"}], [{**CONFIG, "platform": {"os": [[]], "architecture": {}}}], [CONFIG] * 10_001,
]  # fmt: skip


def test_indexes_that_are_none(liar):
    def one(entries: object) -> None:
        fails(liar.raw(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode(), INDEX))

    all_fail(functools.partial(one, entries) for entries in NO_INDEXES)


def configured(**changes: object) -> Image:
    image = simple()
    raw = json.dumps({**json.loads(image.blobs[image.config]), **changes}).encode()
    return with_config(raw)


def with_config(raw: bytes) -> Image:
    image = simple()
    head = {**image.manifest["config"], "digest": sha256(raw), "size": len(raw)}
    return manifest(head, image.manifest["layers"], {**image.blobs, sha256(raw): raw})


NO_CONFIGURATIONS = [
    with_config(b""), with_config(b"{"), with_config(b"[" * 100_000), with_config(b"[]"), with_config(b"{}"), configured(rootfs=None), configured(rootfs={"diff_ids": {}}),
    configured(rootfs={"diff_ids": [5]}), configured(rootfs={"diff_ids": ["sha256:../x"]}), configured(rootfs={"diff_ids": []}), configured(config=[5]),
    configured(config={"Env": 5}), configured(config={"Cmd": [5]}), configured(config={"Entrypoint": ["a\0b"]}), configured(config={"User": ["root"]}),
    configured(config={"WorkingDir": "/\x1b[31m"}), configured(config={"Labels": [1]}), configured(config={"User": "a\nb"}), configured(os="windows"), configured(architecture=5),
]  # fmt: skip


def test_configurations_that_are_none(liar):
    all_fail(functools.partial(lambda image: fails(liar.put(image)), image) for image in NO_CONFIGURATIONS)


ODD = {
    "surrogates": configured(config={"Env": ["PATH=/bin", "A=\ud800"], "Cmd": ["/bin/true"]}, history=[{"created_by": "\ud800\x1b[31m"}], author="\ud800", created="\ud800"),
    "deep": with_config(simple().blobs[simple().config][:-1] + b',"deep":' + b"[" * 600 + b"]" * 600 + b"}"),
    "deep label": configured(config={"Labels": {"a": json.loads("[" * 300 + "]" * 300)}}),
    "history": configured(history=[{"created_by": "\x1b]0;title\x07\x1b[2J", "comment": "\x1b[31m", "created": "\x1b[1m"}]),
    "odd types": configured(history=5, created=[5], author={}, container=5),
}  # fmt: skip


@pytest.mark.parametrize("what", list(ODD))
def test_an_odd_configuration_neither_crashes_a_command_nor_writes_to_the_terminal(liar, hutch_cli, what):
    name = liar.put(ODD[what])
    try:
        pull(name)
    except ImageError:  # as good
        return
    wrong = []
    history, listing = "{{.CreatedBy}} {{.Comment}} {{.CreatedAt}}", "{{.CreatedAt}} {{.Platform}}"
    run = ["run", "--pull", "never", "--entrypoint", "/bin/true"]
    commands = [
        ["images"], ["images", "--format", listing], ["history", "--no-trunc", name], ["history", "--format", history, name], ["inspect", name],
        [*run, name], ["system", "df"], [*run, "-d", "--name", "odd", name], ["commit", "odd", "odd:1"], ["inspect", "odd:1"], ["history", "odd:1"], ["rm", "-f", "odd"],
    ]  # fmt: skip
    for words in commands:
        done = hutch_cli(*words)
        if "Traceback" in done.stderr or "\x1b" in done.stdout + done.stderr or done.returncode not in (0, 1, 125):
            wrong.append((words[0], ascii(done.stdout[-200:]), ascii(done.stderr[-300:])))
    assert not wrong


# who one is


def bearer(liar: Liar, realm: str) -> Callable[[Handler], bool]:
    def guard(handler: Handler) -> bool:
        if handler.headers.get("Authorization") == "Bearer good":
            return False
        return handler.send(401, WWW_Authenticate=f'Bearer realm="{realm}",service="tests",scope="repository:x:pull"')

    return guard


def test_a_token_is_fetched_and_used(liar):
    name = liar.put(simple("token"))
    liar.lies["/v2/"] = bearer(liar, f"http://{liar.host}/token")
    liar.lies["/token"] = lambda handler: handler.send(200, b'{"token":"good"}')
    assert pull(name).id == simple("token").config
    asked = [path for _, path, _ in liar.asked if path.startswith("/token")]
    assert len(asked) == 1 and "service=tests" in asked[0] and "scope=repository%3Ax%3Apull" in asked[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b'{"token":5}',
        b'{"token":"a\\nb: c"}',
        b"[" * 100_000,
        b'{"token":"' + b"x" * 200_000 + b'"}',
        b'{"token":"bad"}',
        b'{"token":"\xc3\xbc\xe2\x82\xac"}',
    ],
    ids="nothing empty number header deep long wrong beyond-latin".split(),
)
def test_a_token_service_that_answers_nonsense(liar, answer):
    name = liar.put(simple())
    liar.lies["/v2/"] = bearer(liar, f"http://{liar.host}/token")
    liar.lies["/token"] = lambda handler: handler.send(200, answer)
    fails(name, kind=RegistryError)
    assert len(liar.asked) < 20


@pytest.mark.parametrize(
    "realm", ["", "file:///etc/passwd", "ftp://x/", "/token", "http://", "http://[::1", "http://127.0.0.1:99999/", "\x01", "http://127.0.0.1:1/ x"]
)
def test_a_realm_that_is_no_place(liar, realm):
    name = liar.put(simple())
    liar.lies["/v2/"] = bearer(liar, realm)
    fails(name, kind=RegistryError)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer realm", "Basic", "=,=,", '"', "Negotiate x", 'Bearer realm="' + "\\" * 5000, "a=b" * 5000])
def test_a_challenge_that_is_none(liar, header):
    name = liar.put(simple())
    liar.lies["/v2/"] = lambda handler: handler.send(401, WWW_Authenticate=header)
    fails(name, kind=RegistryError)
    assert len(liar.asked) < 20


@pytest.fixture
def tls(store) -> Iterator[Liar]:
    """The same over TLS, with a certificate that is known."""
    place = store.parent / "tls"
    place.mkdir()
    ca, certificate, key = authority(place)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    found = Liar(context)
    known = store.parent / "home/.config/hutch/certs.d" / found.host
    known.mkdir(parents=True)
    shutil.copy(ca, known / "ca.crt")
    yield found
    found.close()


def test_no_password_is_sent_to_a_realm_without_tls(tls, monkeypatch):
    """Not even to one that is another machine's by name alone: nothing is looked up, nothing is sent."""
    name = tls.put(simple())
    tls.lies["/v2/"] = bearer(tls, "http://tokens.example.org/token")
    reached: list[object] = []
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda address, *rest, **more: reached.append(address) or real(address, *rest, **more))
    fails(name, "without TLS", kind=RegistryError, credentials=(USER, PASSWORD))
    assert all(address[0] == "127.0.0.1" for address in reached)


def test_a_redirect_away_from_tls_is_refused(tls, liar):
    name = tls.put(simple())
    liar.put(simple())
    tls.lie("manifests/1", lambda handler: handler.send(307, Location=f"http://{liar.host}/v2/x/manifests/1"))
    fails(name, "from https to http", kind=RegistryError)
    assert not liar.asked


# pushes


def test_a_lost_chunk_is_sent_again_from_where_the_registry_is(liar, monkeypatch):
    from hutch.image.registry import client

    monkeypatch.setattr(client, "CHUNK", 200_000)
    image = big("lost", layers=1)
    pull(liar.put(image))
    got: dict[str, bytearray] = {}
    lose = [2, 4]
    patches = [0]
    target = Liar()

    class Receiver(Handler):
        def do_POST(self) -> None:
            got[f"u{len(got)}"] = bytearray()
            self.send(202, Location=f"/v2/x/blobs/uploads/u{len(got) - 1}")

        def do_PATCH(self) -> None:
            part = got[self.path.rpartition("/")[2]]
            data = self.rfile.read(int(self.headers["Content-Length"]))
            patches[0] += 1
            if patches[0] in lose:  # half of it arrives
                part += data[: len(data) // 2]
                self.cut()
                return
            begin = int(self.headers["Content-Range"].partition("-")[0])
            if begin != len(part):
                self.send(416)
                return
            part += data
            self.send(202, Location=self.path, Range=f"0-{len(part) - 1}")

        def do_GET(self) -> None:
            if "/uploads/" in self.path:
                part = got[self.path.rpartition("/")[2]]
                self.send(204, Location=self.path, Range=f"0-{len(part) - 1}")
            else:
                self.send(200, b"{}")

        def do_HEAD(self) -> None:
            self.send(404)

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "digest=" in self.path:
                part = got[self.path.rpartition("/")[2].partition("?")[0]]
                assert hashlib.sha256(part).hexdigest() in self.path
            else:
                got["manifest"] = bytearray(data)
            self.send(201)

    try:
        target.server.RequestHandlerClass = Receiver
        list(images.push(f"{liar.host}/x:1", f"{target.host}/x:1"))
    finally:
        target.close()
    assert bytes(got["manifest"]) == image.raw and {bytes(part) for part in got.values()} >= set(image.blobs.values()) and patches[0] > 6


@pytest.mark.parametrize("status", [401, 403, 404, 413, 500])
def test_a_push_that_is_refused_is_told(liar, status):
    pull(liar.put(simple()))
    liar.lies["/v2/x/blobs/uploads/"] = lambda handler: handler.send(status, b'{"errors":[{"message":"no room here"}]}')
    liar.lie("blobs/", lambda handler: handler.command == "HEAD" and handler.send(404))
    with pytest.raises(RegistryError) as caught:
        list(images.push(f"{liar.host}/x:1", f"{liar.host}/x:2"))
    assert "\n" not in caught.value.message


# being killed


def test_a_killed_pull_is_gone_on_with_by_the_next(liar, store):
    image = big("killed", layers=1, size=4 << 20)
    name, digest = liar.put(image), blob_of(image)
    data = image.blobs[digest]
    half = threading.Event()

    def stall(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        handler.wfile.flush()
        half.set()
        liar.released.wait(20)
        return handler.cut()

    liar.lie(f"blobs/{digest}", stall, times=1)
    process = subprocess.Popen([*HUTCH, "pull", name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert half.wait(20)
    partial = store / "ingest" / digest.replace(":", "-")
    until(lambda: partial.exists() and partial.stat().st_size > len(data) // 4)
    waiting = subprocess.Popen([*HUTCH, "pull", name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = iter(waiting.stderr.readline, "")
    assert any("waiting for another pull" in line for line in lines) and len(liar.requests(f"blobs/{digest}")) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = waiting.communicate(timeout=20)
    assert waiting.returncode == 0, said
    begin = int(liar.requests(f"blobs/{digest}")[-1]["range"].removeprefix("bytes=").rstrip("-"))
    assert len(data) // 4 < begin <= len(data) // 2 and images.get(name).id == image.config
    for path in store.glob("ingest/new-*"):
        assert str(process.pid) in path.name
    images.prune()  # what the dead one had begun
    assert not list(store.glob("ingest/*"))


def test_an_interrupted_pull_ends_at_once_and_leaves_its_part(liar, store):
    image = big("interrupted", layers=1)
    name, digest = liar.put(image), blob_of(image)

    def stall(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(image.blobs[digest])))
        handler.end_headers()
        handler.wfile.write(image.blobs[digest][:600_000])
        liar.released.wait(20)
        return handler.cut()

    liar.lie(f"blobs/{digest}", stall, times=1)
    process = subprocess.Popen([*HUTCH, "pull", name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partial = store / "ingest" / digest.replace(":", "-")
    until(lambda: partial.exists() and partial.stat().st_size > 0)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - begun < 5 and "Traceback" not in said[1], said
    assert partial.stat().st_size > 0
    pull(name)
    assert "range" in liar.requests(f"blobs/{digest}")[-1]
