"""A registry's API (OCI distribution-spec 1.1): manifests, blobs, uploads, referrers."""

from __future__ import annotations

from urllib.parse import quote, urlencode, urljoin, urlsplit

from hutch.errors import RegistryError
from hutch.image.manifest import ACCEPTED, MANIFEST_LIMIT, OCI_INDEX, Descriptor, Index, parse
from hutch.image.reference import Reference, is_digest
from hutch.image.registry.connection import Access, Connection
from hutch.image.registry.http import AGAIN, ATTEMPTS, Broken, Response, sleep, wait
from hutch.image.registry.settings import Endpoint
from hutch.image.store.content import digest_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hutch.image.registry.credentials import Credentials

CHUNK = 16 << 20  # of an upload


class Registry(Connection):
    """One repository of a registry, for one thread at a time. `twin` gives another thread its own."""

    # what is there

    def ping(self) -> None:
        """Whether it is a registry, and takes our credentials. Raises RegistryError."""
        self.request("GET", "").read()

    def manifest(self, target: str) -> tuple[bytes, str, str]:
        """(bytes, media type, digest) of a manifest by tag or digest. Raises RegistryError; for a digest, they are verified."""
        headers = {"Accept": ", ".join(ACCEPTED)}
        failures, data = 0, b""
        while True:
            response = self.request("GET", f"{self.path}/manifests/{target}", headers, accept=(200, 404))
            if response.status == 404:
                response.read()
                raise RegistryError(f"image {self.name}{'@' if is_digest(target) else ':'}{target}: does not exist", None, 404)
            try:
                data = response.read(MANIFEST_LIMIT)
                break
            except Broken as error:
                failures += 1
                if failures >= self.access.attempts:
                    raise RegistryError(f"registry {self.access.host}: {error}") from None
                sleep(self._session, wait(failures))
        digest = digest_of(data)
        if is_digest(target) and target.startswith("sha512:"):
            import hashlib

            digest = f"sha512:{hashlib.sha512(data).hexdigest()}"
        said = target if is_digest(target) else response.headers.get("docker-content-digest", digest)
        if said.partition(":")[0] == digest.partition(":")[0] and said != digest:
            raise RegistryError(f"{self.name}: what was sent does not have the digest {said[:80]}", "the registry, or something on the way, is damaged")
        return data, response.headers.get("content-type", "").partition(";")[0].strip(), digest

    def blob(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `offset` on. A connection that is cut, or stalls, is made again and goes on where it was.

        Raises RegistryError when nothing comes in several attempts.
        """
        failures = 0
        while True:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            response = self.request("GET", f"{self.path}/blobs/{digest}", headers, accept=(200, 206, 404, 416))
            if response.status == 404:
                response.read()
                raise RegistryError(f"{self.name}: has no blob {digest}", "the image is incomplete there", 404)
            if response.status == 416:
                response.read()
                return  # nothing is left; whoever counts will see
            skip = offset if response.status == 200 else 0
            if response.status == 206:
                begin = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
                if begin != str(offset):
                    raise RegistryError(f"registry {self.access.host}: was asked for bytes from {offset}, and sends some from {begin[:20]!r}")
            try:
                for piece in response.pieces():
                    if skip >= len(piece):
                        skip -= len(piece)
                        continue
                    part = piece[skip:] if skip else piece
                    skip = 0
                    offset += len(part)
                    failures = 0
                    yield part
                return
            except Broken as error:
                self._session.close()
                failures += 1
                if failures >= self.access.attempts or self._session.stopped:
                    raise RegistryError(f"registry {self.access.host}: {error}, {failures} times", "what was fetched is kept: try again") from None
                sleep(self._session, wait(failures))

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        response = self.request("HEAD", f"{self.path}/blobs/{digest}", accept=(200, 404))
        response.read()
        return response.status == 200

    def has_manifest(self, target: str) -> str:
        """The digest of a manifest by tag or digest, as the registry says it; "" when it is not there."""
        response = self.request("HEAD", f"{self.path}/manifests/{target}", {"Accept": ", ".join(ACCEPTED)}, accept=(200, 404))
        response.read()
        return (response.headers.get("docker-content-digest") or target) if response.status == 200 else ""

    def tags(self) -> list[str]:
        """The tags of the repository."""
        found: list[str] = []
        rest = f"{self.path}/tags/list"
        while rest and len(found) < 100_000:
            response = self.request("GET", rest)
            data = self.json(response, "its list of tags")
            tags = data.get("tags")
            found += [str(tag) for tag in tags] if isinstance(tags, list) else []
            link = response.headers.get("link", "")
            rest = urljoin(response.url, link[link.index("<") + 1 : link.index(">")]) if 'rel="next"' in link and "<" in link else ""
        return found

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """What refers to a manifest: signatures, attestations (distribution-spec, "Listing Referrers", with its fallback)."""
        response = self.request("GET", f"{self.path}/referrers/{digest}", accept=(200, 404))
        data, kind = response.read(MANIFEST_LIMIT), response.headers.get("content-type", "")
        if response.status == 404 or OCI_INDEX not in kind:
            try:
                data, _, _ = self.manifest(digest.replace(":", "-"))
            except RegistryError as error:
                if error.status == 404:
                    return ()
                raise
        found = parse(data, f"{self.name}: referrers of {digest}", OCI_INDEX)
        return found.manifests if isinstance(found, Index) else ()

    # what is sent there

    def put_manifest(self, target: str, data: bytes, media_type: str) -> None:
        """Store a manifest under a tag or its digest. Raises RegistryError."""
        response = self.request("PUT", f"{self.path}/manifests/{target}", {"Content-Type": media_type}, data, accept=(200, 201, 202))
        response.read()

    def mount(self, digest: str, source: str) -> bool:
        """Take a blob over from another repository of the same registry, without sending it; whether that was done."""
        query = urlencode({"mount": digest, "from": source})
        response = self.request(
            "POST", f"{self.path}/blobs/uploads/?{query}", {"Content-Length": "0"}, accept=(201, 202, 401, 403, 404), scope=f" repository:{source}:pull"
        )
        response.read()
        if response.status == 202 and response.headers.get("location"):
            # it began an upload instead: that one is given up
            self.request("DELETE", urljoin(response.url, response.headers["location"]), accept=(200, 202, 204, 404, 405)).read()
        return response.status == 201

    def put_blob(self, digest: str, size: int, read: Callable[[int, int], bytes]) -> Iterator[int]:
        """Store a blob in chunks, and say after each how far it is; `read(offset, length)` gives its bytes.

        A chunk that is lost on the way is sent again, from where the registry says that it is. Raises RegistryError.
        """
        response = self.request("POST", f"{self.path}/blobs/uploads/", {"Content-Length": "0"}, accept=(202,))
        response.read()
        place = self._location(response)
        offset, failures = 0, 0
        while offset < size:
            data = read(offset, min(CHUNK, size - offset))
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{offset}-{offset + len(data) - 1}"}
            try:
                response = self.request("PATCH", place, headers, data, accept=(202, 416), again=False)
                response.read()
                if response.status == 202:
                    place = self._location(response)
                    offset += len(data)
                    failures = 0
                    yield offset
                    continue
                failures += 1
            except (RegistryError, Broken) as error:
                status = error.status if isinstance(error, RegistryError) else 0
                failures += 1
                if failures >= self.access.attempts or (status and status not in AGAIN) or self._session.stopped:
                    raise
                sleep(self._session, wait(failures))
            if failures >= self.access.attempts:
                raise RegistryError(f"registry {self.access.host}: takes no chunk of {digest} from {offset} on")
            response = self.request("GET", place, accept=(204, 202, 200))
            response.read()
            place = self._location(response) if response.headers.get("location") else place
            end = response.headers.get("range", "").removeprefix("bytes=").rpartition("-")[2]
            offset = int(end) + 1 if end.isdigit() and int(end) else 0
        joint = "&" if urlsplit(place).query else "?"
        response = self.request("PUT", f"{place}{joint}digest={quote(digest, safe='')}", {"Content-Length": "0"}, accept=(201, 204))
        response.read()

    def _location(self, response: Response) -> str:
        place = response.headers.get("location")
        if not place:
            raise RegistryError(f"registry {self.access.host}: begins an upload without saying where")
        target = urljoin(response.url, place)
        here, there = urlsplit(response.url), urlsplit(target)
        if there.scheme == "http" and here.scheme == "https" and self.access.endpoint.verify:
            target = target.replace("http://", "https://", 1)  # registries behind a proxy that ends TLS say so
        return target


def connect(
    reference: Reference, endpoint: Endpoint, actions: str = "pull", given: Credentials | None = None, attempts: int = ATTEMPTS
) -> Registry:  # fmt: skip
    """A repository on one of its registry's servers."""
    return Registry(Access(endpoint, reference.host, given, attempts), reference.path, actions)
