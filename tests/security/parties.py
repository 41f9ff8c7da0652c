"""Servers that listen for secrets: a registry, those it leads to, and those that they name."""

from __future__ import annotations

import base64
import io
import json
import ssl
from collections.abc import Callable

from tests.kernel.test_hostile_registry import Handler, Liar
from tests.registry import PASSWORD, USER

IDENTITY = "an-identity-token"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
TOKEN = "a-token-of-the-registrys"
PROOFS = (f"Basic {BASIC}", f"Bearer {TOKEN}")
SECRETS = [text.encode() for text in (PASSWORD, BASIC, IDENTITY, TOKEN)]
Answer = Callable[[Handler], object]


class Witness(Handler):
    """Keeps every byte of what it is asked, bodies included."""

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.liar.heard.append(f"{self.command} {self.path}\n{self.headers}".encode() + body)
        stream, self.rfile = self.rfile, io.BytesIO(body)
        try:
            super().do()
        finally:
            self.rfile = stream

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do


class Party(Liar):
    """A server that may hear a secret: `heard` are its requests."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.heard: list[bytes] = []
        self.server.RequestHandlerClass = Witness

    @property
    def secrets(self) -> list[bytes]:
        """The requests that have a secret."""
        return [request for request in self.heard if any(secret in request for secret in SECRETS)]

    def wants(self, challenge: str, path: str = "/v2/", takes: tuple[str, ...] = PROOFS) -> None:
        """Answer 401 to all but these proofs."""

        def guard(handler: Handler) -> bool:
            if handler.headers.get("Authorization") in takes:
                return False
            return handler.send(401, b"{}", WWW_Authenticate=challenge)

        self.lies[path] = guard

    def gives_tokens(self, token: str = TOKEN, path: str = "/token") -> str:
        """Be a token service; its realm."""
        answer = json.dumps({"token": token, "access_token": token}).encode()
        self.lies[path] = lambda handler: handler.send(200, answer)
        return f"http://{self.host}{path}"


def told(*parties: Party) -> list[str]:
    """What those who should hear no secret were asked with one."""
    return [request.partition(b"\n")[0].decode() for party in parties for request in party.secrets]


class Either(Party):
    """A registry over TLS that hears what is sent to its port without."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        plain = self.server.get_request

        def accept():
            connection, address = plain()
            connection.settimeout(5)
            if connection.recv(1, 2) == b"\x16":  # MSG_PEEK: a handshake begins so
                connection = context.wrap_socket(connection, server_side=True)
                return connection, address
            self.heard.append(b"PLAIN " + connection.recv(65536))
            raise OSError("spoken to without TLS")

        self.server.get_request = accept

    @property
    def overheard(self) -> list[bytes]:
        return [request for request in self.secrets if request.startswith(b"PLAIN ")]
