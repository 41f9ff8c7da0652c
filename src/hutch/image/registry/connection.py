"""Requests to a registry, and how one says who one is.

Authentication is Docker's (distribution's spec/auth/token.md, RFC 7235): a 401 names a realm that gives tokens, or asks for
a password. Credentials go to the server that they were stored for, and to the realm that it named itself over the connection to
it, over TLS unless the server is spoken to without. A redirect's target gets none, and neither does a realm that it names.
"""

from __future__ import annotations

import binascii
import threading
from urllib.parse import urlencode, urlsplit

from hutch import jsontext
from hutch.errors import RegistryError
from hutch.image.registry import credentials as stored_credentials
from hutch.image.registry.challenge import challenges
from hutch.image.registry.http import AGAIN, ATTEMPTS, Broken, Response, Session, sleep, split, wait
from hutch.image.registry.settings import Endpoint, is_loopback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from hutch.image.registry.credentials import Credentials


class Access:
    """What is known of a registry by all who speak to it: its scheme, and the proofs of who we are, by scope. `attempts` is how
    often a request is tried that may succeed later."""

    def __init__(self, endpoint: Endpoint, host: str, given: Credentials | None = None, attempts: int = ATTEMPTS) -> None:
        self.endpoint, self.host, self.attempts = endpoint, host, attempts
        self.scheme = endpoint.schemes[0] if len(endpoint.schemes) == 1 else ""
        self.lock = threading.Lock()
        self.proofs: dict[str, str] = {}
        self._given = given

    def credentials(self, path: str) -> Credentials | None:
        """The credentials for a repository: those that were given for the registry, else those that are stored for this server.
        A mirror gets its own."""
        if self._given is not None and self.endpoint.registry == self.host:
            return self._given
        return stored_credentials.find(self.endpoint.registry, f"{self.endpoint.prefix}/{path}".strip("/"))

    def is_own(self, url: str) -> bool:
        """Whether an address is this server's, over the connection that its credentials are for."""
        parts = split(url)
        return (parts.scheme, parts.netloc) == (self.scheme, self.endpoint.host)


class Connection:
    """Authorised requests for one repository of a registry, for one thread at a time; `Registry` is what is asked."""

    def __init__(self, access: Access, path: str, actions: str = "pull") -> None:
        self.access, self.path, self.actions = access, path, actions
        self._session = Session(access.endpoint, access.scheme)
        self.name = f"{access.host}/{path}" if path else access.host

    def twin(self) -> Self:
        """The same repository over a connection of its own."""
        return type(self)(self.access, self.path, self.actions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def stop(self) -> None:
        """From another thread: end what is being waited for."""
        self._session.stop()

    # who we are

    @property
    def _scope(self) -> str:
        return f"repository:{self.path}:{self.actions}" if self.path else ""

    def _authorise(self, response: Response, extra: str = "") -> bool:
        """Find what a 401 asks for; whether there is something new to try."""
        scope = self._scope
        schemes = challenges(response.headers.get("www-authenticate", ""))
        who = self.access.credentials(self.path)
        with self.access.lock:
            known = self.access.proofs.get(scope)
            if known is not None and known != self._sent:
                return True  # another thread has just been there
            if "bearer" in schemes:
                self.access.proofs[scope] = f"Bearer {self._token(schemes['bearer'], scope + extra, who)}"
                return True
            if "basic" in schemes and who is not None and not who.token and known is None:
                self.access.proofs[scope] = f"Basic {_basic(who)}"
                return True
        return False

    def _token(self, asked: dict[str, str], scope: str, who: Credentials | None) -> str:
        realm = asked.get("realm", "")
        parts = split(realm)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RegistryError(f"{self.access.host}: names {realm[:80]!r} as the place for tokens")
        plain = parts.scheme == "http" and self.access.scheme == "https" and not is_loopback(parts.netloc)
        if plain and who is not None and self.access.endpoint.verify:
            raise RegistryError(f"{self.access.host}: wants the password sent to {realm} without TLS", "that is refused")
        query = {"service": asked["service"]} if "service" in asked else {}
        words = [item for item in scope.split(" ") if item] or [item for item in asked.get("scope", "").split(" ") if item]
        with _Closing(Session(self.access.endpoint, parts.scheme)) as session:
            if who is not None and who.token:
                form = {"grant_type": "refresh_token", "refresh_token": who.token, "client_id": "hutch", "scope": " ".join(words), **query}
                body = urlencode(form).encode()
                response = self._retried(
                    session, lambda: session.once("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body), "its token service"
                )
            else:
                pairs = [*query.items(), *(("scope", word) for word in words)]
                url = realm + (("&" if parts.query else "?") + urlencode(pairs) if pairs else "")
                headers = {"Authorization": f"Basic {_basic(who)}"} if who is not None else {}
                response = self._retried(session, lambda: session.follow("GET", url, headers), "its token service")
            if response.status in (401, 403):
                raise self._refused(who, response.status)
            data = self.json(response, "its token service")
        token = data.get("token") or data.get("access_token")
        if response.status != 200 or not isinstance(token, str) or not token.isprintable():
            raise RegistryError(f"{self.access.host}: its token service answers {response.status} without a token", status=response.status)
        return token

    def _refused(self, who: Credentials | None, status: int) -> RegistryError:
        if who is None:
            return RegistryError(f"{self.name}: does not exist, or wants to know who you are", f"`hutch login {self.access.endpoint.registry}`", status)
        return RegistryError(f"{self.name}: refuses {who.user!r}", f"`hutch login {self.access.endpoint.registry}` with other credentials", status)

    # requests

    _sent = ""

    def _url(self, rest: str) -> str:
        endpoint = self.access.endpoint
        return f"{self.access.scheme}://{endpoint.host}{endpoint.prefix}/v2/{rest}"

    def _find_scheme(self) -> None:
        """A registry that may speak plain HTTP is asked how it does."""
        problem = ""
        for scheme in self.access.endpoint.schemes:
            try:
                session = Session(self.access.endpoint, scheme)
                try:
                    response = session.once("GET", f"{scheme}://{self.access.endpoint.host}{self.access.endpoint.prefix}/v2/", {})
                    body = response.read(65536)
                finally:
                    session.close()
            except Broken as error:
                problem = problem or str(error)
                continue
            if scheme == "http" and response.status == 400 and b"HTTPS" in body:
                continue
            self.access.scheme = scheme
            return
        raise RegistryError(f"registry {self.access.host}: {problem or 'speaks neither HTTP nor HTTPS'}", _reach(self.access.endpoint, problem))

    def request(
        self, method: str, rest: str, headers: dict[str, str] | None = None, body: bytes | None = None, *, accept: tuple[int, ...] = (200,),
        again: bool = True, scope: str = "",
    ) -> Response:  # fmt: skip
        """A request below ``/v2/`` (or a whole URL), answered with one of `accept`; tried again where that may help.

        Raises RegistryError with the registry's own words.
        """
        if not self.access.scheme:
            self._find_scheme()
        url = rest if "://" in rest else self._url(rest)
        tried = attempt = 0
        while True:
            own = self.access.is_own(url)
            self._sent = self.access.proofs.get(self._scope, "") if own else ""
            proof = {"Authorization": self._sent} if self._sent else {}
            last = attempt >= self.access.attempts - 1
            try:
                response = self._session.follow(method, url, {**(headers or {}), **proof}, body)
                if response.status in AGAIN and again and not last and not self._session.stopped:
                    response.read()
                    sleep(self._session, wait(attempt, response))
                    attempt += 1
                    continue
            except Broken as error:
                if last or not again or self._session.stopped:
                    raise RegistryError(f"registry {self.access.host}: {error}", _reach(self.access.endpoint, str(error))) from None
                sleep(self._session, wait(attempt))
                attempt += 1
                continue
            # what it was sent on to has no say in where a password goes
            if response.status == 401 and self.access.is_own(response.url) and tried < 2:
                try:
                    response.read()
                except Broken:
                    pass
                tried += 1
                if self._authorise(response, scope):
                    continue
            if response.status in accept:
                return response
            raise self._wrong(response, method, url)

    def _retried(self, session: Session, ask: Callable[[], Response], what: str) -> Response:
        for attempt in range(self.access.attempts):
            try:
                response = ask()
                if response.status not in AGAIN or attempt == self.access.attempts - 1:
                    return response
                response.read()
                sleep(session, wait(attempt, response))
            except Broken as error:
                if attempt == self.access.attempts - 1:
                    raise RegistryError(f"registry {self.access.host}: {what}: {error}") from None
                sleep(session, wait(attempt))
        raise AssertionError

    def json(self, response: Response, what: str) -> dict[str, object]:
        """The object that an answer holds. Raises RegistryError for anything else."""
        try:
            found = jsontext.loads(response.read().decode("utf-8"))
        except (Broken, ValueError):
            found = None
        if not isinstance(found, dict):
            raise RegistryError(f"{self.access.host}: {what} answers {response.status} with something that is no JSON object", status=response.status)
        return found

    def _wrong(self, response: Response, method: str, url: str) -> RegistryError:
        try:
            text = _words(response.read(65536))
        except (Broken, RegistryError):
            text = ""
        status = response.status
        who = self.access.credentials(self.path) if status in (401, 403) else None
        if status == 401:
            return self._refused(who, status)
        if status == 403:
            return RegistryError(f"{self.name}: {'may not be used by ' + repr(who.user) if who else 'is forbidden'}{text and f' ({text})'}", None, status)
        if status == 429:
            return RegistryError(f"registry {self.access.host}: has had too many requests from here{text and f' ({text})'}", "try again later", status)
        return RegistryError(f"registry {self.access.host}: {method} {urlsplit(url).path}: answers {status}{text and f' ({text})'}", None, status)


class _Closing:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> Session:
        return self._session

    def __exit__(self, *_: object) -> None:
        self._session.close()


def _basic(who: Credentials) -> str:
    return binascii.b2a_base64(f"{who.user}:{who.password}".encode(), newline=False).decode()


def _reach(endpoint: Endpoint, problem: str) -> str | None:
    if "http" in endpoint.schemes or not any(word in problem for word in ("TLS", "certificate", "refused")):
        return None
    return "a registry without TLS, or with a certificate of its own, must be known to registries.toml or certs.d"


def _words(data: bytes) -> str:
    """A registry's own words for what is wrong (distribution-spec, "Error Codes"), on one line."""
    try:
        found = jsontext.loads(data.decode("utf-8"))
        first = found["errors"][0]
        text = str(first.get("message") or first.get("code") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        text = ""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text[:200]
