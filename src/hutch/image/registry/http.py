"""HTTP as registries need it: one connection, requests that are tried again, redirects that carry no credentials away."""

from __future__ import annotations

import http.client
import os
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from hutch.errors import RegistryError
from hutch.image.registry.settings import Endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ATTEMPTS = 5
FIRST_WAIT = 0.2  # seconds, doubled with each attempt
LONGEST_WAIT = 30.0
TIMEOUT = 30.0  # seconds without a byte
AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
REDIRECTS = frozenset((301, 302, 303, 307, 308))
BODY_LIMIT = 16 << 20
PIECE = 1 << 18


class Broken(Exception):
    """A connection that could not be made, or ended too early: may be tried again."""


class Response:
    """An answer: `status`, `headers` by their names in lower case, `url` that it came from, and its body."""

    def __init__(self, status: int, headers: dict[str, str], url: str, raw: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.url, self._raw = status, headers, url, raw

    def read(self, limit: int = BODY_LIMIT) -> bytes:
        """The whole body. Raises RegistryError for one that is larger, Broken for one that is cut."""
        return b"".join(self.pieces(limit))

    def pieces(self, limit: int = 1 << 62) -> Iterator[bytes]:
        """The body as it comes."""
        left = limit
        while True:
            try:
                piece = self._raw.read1(PIECE)  # what has come is kept if the rest does not
            except (http.client.HTTPException, OSError, ValueError) as error:
                raise Broken(_reason(error)) from None
            if not piece:
                if self._raw.length:  # fewer bytes than were announced
                    raise Broken("the connection was cut")
                self._raw.close()  # which read1() leaves to others; the connection can be used again
                return
            left -= len(piece)
            if left < 0:
                raise RegistryError(f"{self.url}: answers with more than {limit} bytes")
            yield piece


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__


def split(url: str) -> SplitResult:
    """The parts of an address that somebody else gave; one that is none has no parts."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


class Session:
    """Requests to one registry, and to where it redirects, over connections that are kept. For one thread at a time."""

    def __init__(self, endpoint: Endpoint, scheme: str) -> None:
        self.endpoint, self.scheme = endpoint, scheme
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._stopped = False

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def stop(self) -> None:
        """From another thread: end whatever a request waits for, and try nothing again."""
        self._stopped = True
        for connection in list(self._connections.values()):
            sock = connection.sock
            if sock is not None:
                try:
                    sock.shutdown(2)
                except OSError:
                    pass

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def _connect(self, scheme: str, host: str) -> http.client.HTTPConnection:
        found = self._connections.get((scheme, host))
        if found is None:
            if scheme == "https":
                found = http.client.HTTPSConnection(host, timeout=TIMEOUT, context=_context(self.endpoint, host))
            else:
                found = http.client.HTTPConnection(host, timeout=TIMEOUT)
            self._connections[scheme, host] = found
        return found

    def once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
        """One request, without following anything. Raises Broken."""
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        for fresh in (False, True):
            try:
                connection = self._connect(parts.scheme, parts.netloc)
            except (http.client.InvalidURL, ValueError):
                raise RegistryError(f"{parts.netloc[:80]!r} is no host") from None
            reused = connection.sock is not None
            try:
                connection.request(method, target, body=body, headers={"User-Agent": "hutch", **headers})
                raw = connection.getresponse()
                return Response(raw.status, {name.lower(): value for name, value in raw.getheaders()}, url, raw)
            except (http.client.HTTPException, OSError, ValueError) as error:
                connection.close()
                self._connections.pop((parts.scheme, parts.netloc), None)
                if reused and not fresh and not self._stopped:
                    continue  # a kept connection that the server has closed meanwhile
                raise Broken(f"{parts.scheme}://{parts.netloc}: {_explain(error)}") from None
        raise AssertionError

    def follow(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
        """A request, and where it is sent on to. What proves who we are goes to the host it is for and to no other."""
        for _ in range(10):
            response = self.once(method, url, headers, body)
            if response.status not in REDIRECTS or method not in ("GET", "HEAD"):
                return response
            place = response.headers.get("location")
            if not place:
                return response
            for _ in response.pieces(BODY_LIMIT):
                pass
            here = urlsplit(url)
            try:
                target = urljoin(url, place)
            except ValueError:
                target = place
            there = split(target)
            if there.scheme not in ("http", "https") or not there.netloc:
                raise RegistryError(f"{here.netloc}: redirects to {target[:80]!r}, which is no place")
            if here.scheme == "https" and there.scheme == "http" and self.endpoint.verify:
                raise RegistryError(f"{here.netloc}: redirects from https to http, which nobody may", "see `insecure` in registries.toml")
            if (here.scheme, here.netloc) != (there.scheme, there.netloc):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
        raise RegistryError(f"{urlsplit(url).netloc}: redirects without end")


def wait(attempt: int, response: Response | None = None) -> float:
    """How long to wait before the next attempt, in seconds: what the server asks for, or twice as long as the last time."""
    if response is not None:
        asked = response.headers.get("retry-after", "")
        if asked.isascii() and asked.isdigit():
            return min(float(asked), LONGEST_WAIT)
    return min(FIRST_WAIT * float(2**attempt) * (0.75 + os.urandom(1)[0] / 512), LONGEST_WAIT)


def sleep(session: Session, seconds: float) -> None:
    """Sleep, unless the session is stopped."""
    end = time.monotonic() + seconds
    while not session.stopped and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def _explain(error: BaseException) -> str:
    name = type(error).__name__
    if name == "SSLCertVerificationError":
        return f"its certificate is not trusted ({getattr(error, 'verify_message', '') or error})"
    if name == "gaierror":
        return "the host's name cannot be resolved"
    if name.startswith("SSL"):
        return f"TLS failed ({getattr(error, 'reason', None) or error})"
    if name in ("RemoteDisconnected", "BadStatusLine"):
        return "the connection was closed without an answer"
    return _reason(error)


def _context(endpoint: Endpoint, host: str):  # type: ignore[no-untyped-def]
    """The TLS settings for a host: the system's authorities, and those in certs.d for the registry itself."""
    import ssl

    context = ssl.create_default_context()
    if host != endpoint.host:
        return context
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for directory in endpoint.certificates:
        for name in sorted(os.listdir(directory)):
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(f"{directory}/{name}")
                elif name.endswith(".cert"):
                    context.load_cert_chain(f"{directory}/{name}", f"{directory}/{name[:-5]}.key")
            except (OSError, ssl.SSLError) as error:
                raise RegistryError(f"{directory}/{name}: {error}") from None
    return context
