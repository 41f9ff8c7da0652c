"""Names of images, as everyone writes them: ``[HOST[:PORT]/]PATH[:TAG][@DIGEST]``.

Docker's defaulting (distribution/reference): a name without a host is Docker Hub's, one without a path there is below
``library/``, and one without a tag means ``latest``.
"""

from __future__ import annotations

from hutch.errors import UsageError
from hutch.record import Record

DOCKER_HUB = "docker.io"
LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
WORD = LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_.-")
HEX = frozenset("0123456789abcdef")
DIGEST_LENGTHS = {"sha256": 64, "sha512": 128}


class Reference(Record):
    """A complete name: `host` (with port), `path`, and a `tag`, a `digest` or both."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.path}" + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def repository(self) -> str:
        """The name without tag and digest."""
        return f"{self.host}/{self.path}"

    @property
    def familiar(self) -> str:
        """As people write it: Docker Hub's host and ``library/`` left out."""
        whole = str(self)
        short = whole.removeprefix(f"{DOCKER_HUB}/")
        for text in (short.removeprefix("library/"), short):
            try:
                if text != whole and parse(text, tag=bool(self.tag)) == self:
                    return text
            except UsageError:
                continue
        return whole

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag


def is_digest(text: object) -> bool:
    """Whether a text is ``sha256:…`` or ``sha512:…`` with as many hexadecimal digits as that has (image-spec, descriptor.md)."""
    if not isinstance(text, str):
        return False
    algorithm, _, number = text.partition(":")
    return len(number) == DIGEST_LENGTHS.get(algorithm, -1) and not set(number) - HEX


def _component(text: str) -> bool:
    """Lower case letters and digits, with single separators between them: ``.``, ``_``, ``__`` or dashes."""
    if not text or not set(text) <= LOWER | set("._-") or text[0] not in LOWER or text[-1] not in LOWER:
        return False
    run = ""
    for letter in text:
        run = "" if letter in LOWER else run + letter
        if run and run not in (".", "_", "__") and set(run) != {"-"}:
            return False
    return True


def _host(text: str) -> bool:
    name, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        name, port = text, ""
    if (colon and not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536)) or not name:
        return False
    if name.startswith("[") and name.endswith("]"):
        return bool(name[1:-1]) and not set(name[1:-1].lower()) - (HEX | {":"})
    return all(part and set(part) <= (WORD - {"_", "."}) and part[0] != "-" and part[-1] != "-" for part in name.split("."))


def require_text(text: object) -> None:
    """Raise UsageError for what is no text, and so no image's name."""
    if not isinstance(text, str):
        raise UsageError(f"image {text!r}: is no text")


def parse(text: str, *, tag: bool = True) -> Reference:
    """A complete reference from what a person wrote. Raises UsageError.

    `tag` False leaves a missing tag out instead of making it ``latest``.
    """

    def wrong(why: str) -> UsageError:
        return UsageError(f"image {text!r}: {why}", "expected [HOST[:PORT]/]NAME[:TAG][@sha256:…]")

    require_text(text)
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise wrong(f"{digest!r} is no digest")
    head, colon, found = rest.rpartition(":")
    name, found = (head, found) if colon and "/" not in found else (rest, "")
    if colon and name == head and not (found and set(found) <= WORD and found[0] not in ".-" and len(found) <= 128):
        raise wrong(f"{found!r} is no tag")
    host, slash, path = name.partition("/")
    if not slash or not (set(host) & set(".:") or host == "localhost" or host.lower() != host):
        host, path = DOCKER_HUB, name
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = DOCKER_HUB
    if len(text) == 64 and not set(text) - HEX:
        raise wrong("64 hexadecimal digits are an id, and no name")
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not _host(host):
        raise wrong(f"{host!r} is no host")
    if not path or len(name) > 255:
        raise wrong("it has no name" if not path else "its name is too long")
    if not all(_component(part) for part in path.split("/")):
        lower = path.lower() != path
        raise wrong("a name has lower case letters only" if lower else f"{path!r} is no name")
    return Reference(host=host, path=path, tag=found or ("" if digest or not tag else "latest"), digest=digest)
