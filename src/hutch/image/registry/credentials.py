"""Who we are to a registry: Hutch's own file, Docker's and Podman's, and Docker's credential helpers (docker-credential-*).

The files have one form (Docker's config.json): ``auths`` by host with ``base64(user:password)``, ``credHelpers`` by host,
``credsStore`` for all. Hutch reads all of them and writes its own alone.
"""

from __future__ import annotations

import binascii
import os

from hutch import jsontext
from hutch.errors import RegistryError
from hutch.image.reference import DOCKER_HUB
from hutch.image.registry.settings import config_home
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io", DOCKER_HUB)


class Credentials(Record):
    """A user's name and password, or a token that stands for both."""

    user: str
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"  # a password has no place in a log


def own_file() -> str:
    """Where `hutch login` writes."""
    return os.environ.get("HUTCH_AUTH_FILE") or f"{config_home()}/auth.json"


def _files() -> tuple[str, ...]:
    docker = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    containers = os.environ.get("REGISTRY_AUTH_FILE") or f"{runtime}/containers/auth.json"
    return own_file(), containers, f"{docker}/config.json", os.path.expanduser("~/.config/containers/auth.json")


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(1 << 20)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}") from None
    try:
        found = jsontext.loads(text) if text.strip() else {}
    except ValueError as error:
        raise RegistryError(f"{path}: is not JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _keys(host: str, path: str) -> list[str]:
    """What a repository may be listed under: the most particular first (containers-auth.json(5))."""
    parts = path.split("/") if path else []
    keys = ["/".join([host, *parts[:n]]) for n in range(len(parts), 0, -1)]
    keys += list(HUB_KEYS) if host == DOCKER_HUB else [host, f"https://{host}", f"http://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
    return keys


def find(host: str, path: str = "") -> Credentials | None:
    """The credentials for a registry, from the first file that has some. Raises RegistryError for a file that is none."""
    for file in _files():
        data = _read(file)
        auths, helpers = data.get("auths"), data.get("credHelpers")
        for key in _keys(host, path):
            entry = auths.get(key) if isinstance(auths, dict) else None
            found = _decode(entry, file, key) if isinstance(entry, dict) else None
            if found is not None:
                return found
        for key in _keys(host, path):
            if isinstance(helpers, dict) and isinstance(helpers.get(key), str):
                return _helper(helpers[key], key)
        if isinstance(data.get("credsStore"), str) and data["credsStore"]:
            found = _helper(data["credsStore"], HUB_KEYS[0] if host == DOCKER_HUB else host)
            if found is not None:
                return found
    return None


def _decode(entry: dict[str, Any], file: str, key: str) -> Credentials | None:
    if isinstance(entry.get("identitytoken"), str) and entry["identitytoken"]:
        return Credentials(user="<token>", token=entry["identitytoken"])
    if isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
        return Credentials(user=entry["username"], password=entry["password"])
    text = entry.get("auth")
    if not isinstance(text, str) or not text:
        return None
    try:
        user, colon, password = binascii.a2b_base64(text).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user = colon = password = ""
    if not colon:
        raise RegistryError(f"{file}: the entry of {key} is no base64 of USER:PASSWORD")
    return Credentials(user=user, password=password.rstrip("\0"))


def _helper(name: str, server: str) -> Credentials | None:
    """Ask docker-credential-NAME (github.com/docker/docker-credential-helpers): the server on its input, JSON on its output."""
    import subprocess

    if "/" in name or not name:
        raise RegistryError(f"credential helper {name!r}: is no name of a program")
    try:
        done = subprocess.run([f"docker-credential-{name}", "get"], input=server.encode(), capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        raise RegistryError(f"docker-credential-{name}: is named by the configuration and not installed") from None
    except subprocess.TimeoutExpired:
        raise RegistryError(f"docker-credential-{name}: did not answer within 60 s") from None
    if done.returncode:
        text = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
        if "not found" in text:
            return None
        raise RegistryError(f"docker-credential-{name}: {text.splitlines()[0] if text else f'exit code {done.returncode}'}")
    try:
        data = jsontext.loads(done.stdout.decode("utf-8"))
        user, secret = str(data["Username"]), str(data["Secret"])
    except (ValueError, KeyError, TypeError):
        raise RegistryError(f"docker-credential-{name}: its answer is not what the protocol says") from None
    return Credentials(user=user, token=secret) if user == "<token>" else Credentials(user=user, password=secret)


def _write(data: dict[str, Any]) -> None:
    path = own_file()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fresh = f"{path}.{os.getpid()}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(jsontext.dumps(data, indent=1) + "\n")
    os.rename(fresh, path)


def store(host: str, user: str, password: str) -> str:
    """Remember credentials in Hutch's own file, readable by this user alone; its path."""
    data = _read(own_file())
    auths = data.get("auths")
    entries = auths if isinstance(auths, dict) else {}
    entries[HUB_KEYS[0] if host == DOCKER_HUB else host] = {"auth": binascii.b2a_base64(f"{user}:{password}".encode(), newline=False).decode()}
    _write({**data, "auths": entries})
    return own_file()


def forget(host: str) -> bool:
    """Remove credentials from Hutch's own file; whether there were any."""
    data = _read(own_file())
    entries = data.get("auths")
    key = HUB_KEYS[0] if host == DOCKER_HUB else host
    if not isinstance(entries, dict) or entries.pop(key, None) is None:
        return False
    _write(data)
    return True
