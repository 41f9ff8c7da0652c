"""Where registries are, and how they may be spoken to: mirrors, plain HTTP, certificates.

``registries.toml`` in /etc/hutch and ~/.config/hutch (the user's wins), a table for each host::

    [registry."docker.io"]
    mirrors = ["https://mirror.example.org"]

    [registry."registry.lan:5000"]
    insecure = true          # plain HTTP, or a certificate that nobody vouches for

Certificates are looked for where Docker and Podman have them: ``certs.d/HOST/*.crt`` (and ``NAME.cert`` with ``NAME.key``
for the client) in ~/.config/hutch, /etc/hutch, ~/.config/containers, /etc/containers and /etc/docker.
"""

from __future__ import annotations

import os

from hutch.errors import UsageError
from hutch.image.reference import DOCKER_HUB
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HUB = "registry-1.docker.io"


class Endpoint(Record):
    """A server that has a registry's images: `schemes` are tried in turn, `host` with port, `prefix` of its paths.

    `certificates` are directories that may hold some for it. `verify` False takes any certificate. `registry` is the name that
    credentials for it are stored under: a mirror's own, and never that of the registry that it mirrors.
    """

    host: str
    registry: str
    schemes: tuple[str, ...] = ("https",)
    prefix: str = ""
    verify: bool = True
    certificates: tuple[str, ...] = ()


def config_home() -> str:
    """The user's own configuration directory."""
    return os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "hutch")


def _tables() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for directory in ("/etc/hutch", config_home()):
        path = f"{directory}/registries.toml"
        if not os.path.exists(path):
            continue
        import tomllib

        try:
            with open(path, "rb") as file:
                tables = tomllib.load(file).get("registry", {})
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: {error}") from None
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise UsageError(f'{path}: expected tables [registry."HOST"]')
        for host, table in tables.items():
            unknown = sorted(set(table) - {"mirrors", "insecure"})
            if unknown:
                raise UsageError(f"{path}: registry.{host}: unknown setting {unknown[0]!r}", "mirrors and insecure are known")
            mirrors = table.get("mirrors", [])
            if not isinstance(mirrors, list) or not all(isinstance(item, str) for item in mirrors) or not isinstance(table.get("insecure", False), bool):
                raise UsageError(f"{path}: registry.{host}: mirrors is a list of texts, and insecure true or false")
            found.setdefault(host, {}).update(table)
    return found


def is_loopback(host: str) -> bool:
    """Whether a host (with or without port) is this machine by its name or number."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return name in ("localhost", "[::1]", "::1") or (name.startswith("127.") and all(part.isdigit() for part in name.split(".")))


def _certificates(host: str) -> tuple[str, ...]:
    places = (config_home(), "/etc/hutch", os.path.expanduser("~/.config/containers"), "/etc/containers", "/etc/docker")
    return tuple(path for place in places if os.path.isdir(path := f"{place}/certs.d/{host}"))


def endpoint(host: str, insecure: bool = False) -> Endpoint:
    """The server behind a host's name. This machine's own may speak plain HTTP, as everywhere."""
    schemes = ("http", "https") if is_loopback(host) else ("https", "http") if insecure else ("https",)
    return Endpoint(host=HUB if host == DOCKER_HUB else host, registry=host, schemes=schemes, verify=not insecure, certificates=_certificates(host))


def endpoints(host: str) -> tuple[Endpoint, ...]:
    """The servers to pull from, in turn: a registry's mirrors, and itself. Raises UsageError for a configuration that is none."""
    tables = _tables()
    table = tables.get(host, {})
    found = []
    for mirror in table.get("mirrors", []):
        scheme, separator, rest = mirror.partition("://")
        scheme, rest = (scheme, rest) if separator else ("https", mirror)
        name, _, prefix = rest.rstrip("/").partition("/")
        if scheme not in ("http", "https") or not name:
            raise UsageError(f"registries.toml: mirror {mirror!r} of {host}: expected http(s)://HOST[/PATH]")
        insecure = bool(tables.get(name, {}).get("insecure"))
        found.append(
            Endpoint(
                host=name, registry=name, schemes=(scheme,), prefix=f"/{prefix}" if prefix else "", verify=not insecure,
                certificates=_certificates(name),
            )
        )  # fmt: skip
    return (*found, endpoint(host, bool(table.get("insecure"))))


def own(host: str) -> Endpoint:
    """The server to push to: the registry itself."""
    return endpoints(host)[-1]
