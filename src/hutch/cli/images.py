"""`hutch pull`, `push`, `images` and their kin."""

from __future__ import annotations

import os
import sys

from hutch.cli.manage import ago, scaled
from hutch.cli.output import ask, binary, exact, table, tell
from hutch.cli.progress import show
from hutch.cli.template import Template
from hutch.engine.images import images as nouns
from hutch.errors import ImageError, StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from hutch.engine.images.images import Image


def one(rest: list[str], command: str, what: str) -> str:
    """The only argument of a command. Raises UsageError."""
    if len(rest) != 1:
        raise UsageError(f"{command}: expected one {what}, got {len(rest)}", f"`hutch {command} --help`")
    return rest[0]


def some(rest: list[str], command: str, what: str) -> list[str]:
    """One argument at the least. Raises UsageError."""
    if not rest:
        raise UsageError(f"{command}: expected {what}", f"`hutch {command} --help`")
    return rest


def size(number: int) -> str:
    """As Docker writes it: decimal units, three digits."""
    return scaled(number, 1000, ("B", "kB", "MB", "GB"), 3)


def pull(values: dict[str, Any], rest: list[str]) -> int:
    """Fetch an image, and print its complete name."""
    name = one(rest, "pull", "image")
    show(nouns.pull(name, platform=values.get("platform", "")), quiet=bool(values.get("quiet")))
    nouns.settle()
    found = nouns.get(name)
    tell(found.reference if found.reference.count("@") or values.get("quiet") else f"{found.reference} {found.digest}")
    return 0


def push(values: dict[str, Any], rest: list[str]) -> int:
    """Send an image."""
    if not 1 <= len(rest) <= 2:
        raise UsageError("push: expected an image, and perhaps another name for it", "`hutch push --help`")
    last = show(nouns.push(rest[0], rest[1] if len(rest) > 1 else ""), quiet=bool(values.get("quiet")))
    tell(last)
    return 0


def images(values: dict[str, Any], rest: list[str]) -> int:
    """List the images."""
    if len(rest) > 1:
        raise UsageError(f"images: unexpected argument {rest[1]!r}")
    found = [image for image in nouns.every() if _matches(image, rest[0] if rest else "", values.get("filter", ()))]
    if values.get("quiet"):
        for identity in dict.fromkeys(image.id if values.get("no_trunc") else image.short_id for image in found):
            tell(identity)
        return 0
    rows = [_fields(image, bool(values.get("no_trunc"))) for image in found]
    if values.get("format"):
        Template(values["format"]).print(rows)
        return 0
    columns = ["Repository", "Tag", *(["Digest"] if values.get("digests") else []), "ID", "CreatedSince", "Size"]
    titles = {"ID": "IMAGE ID", "CreatedSince": "CREATED"}
    tell(*table([tuple(titles.get(c, c.upper()) for c in columns), *(tuple(row[c] for c in columns) for row in rows)]))
    return 0


def _fields(image: Image, whole: bool) -> dict[str, str]:
    name, _, digest = image.name.partition("@")
    repository, tag = name, "<none>"
    if ":" in name.rpartition("/")[2]:
        repository, _, tag = name.rpartition(":")
    return {
        "Repository": repository, "Tag": tag, "ID": image.id if whole else image.short_id, "Digest": digest or image.digest,
        "CreatedSince": f"{ago(_seconds(image.created))} ago" if _seconds(image.created) else "-", "CreatedAt": image.created,
        "Size": size(image.size), "Reference": image.reference, "Platform": image.platform,
    }  # fmt: skip


def _seconds(text: str) -> float:
    """RFC 3339 in seconds since 1970; 0 for what is none."""
    import calendar
    import time

    try:
        return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return 0.0


def _matches(image: Image, wanted: str, filters: list[str]) -> bool:
    import fnmatch

    def named(pattern: str) -> bool:
        names = {image.name, image.name.rpartition(":")[0], image.reference, image.reference.rpartition(":")[0]}
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)

    if wanted and not named(wanted):
        return False
    for item in filters:
        key, _, value = item.partition("=")
        if key == "reference":
            good = named(value)
        elif key == "label":
            name, equals, text = value.partition("=")
            good = name in image.labels and (not equals or image.labels[name] == text)
        elif key == "dangling":
            good = image.reference.startswith("<none>") == (value in ("true", "1"))
        elif key in ("before", "since"):
            other = nouns.get(value)
            good = image.created < other.created if key == "before" else image.created > other.created
        else:
            raise UsageError(f"filter: unknown filter {key!r}", "reference, label, dangling, before and since are known")
        if not good:
            return False
    return True


def rmi(values: dict[str, Any], rest: list[str]) -> int:
    """Remove images; 1 when one could not be."""
    from hutch.cli.main import complain

    code = 0
    for name in some(rest, "rmi", "an image"):
        try:
            for removed in nouns.remove(name, force=bool(values.get("force"))):
                tell(f"removed: {removed}")
        except ImageError as error:
            complain(error)
            code = 1
    return code


def tag(_: dict[str, Any], rest: list[str]) -> int:
    """Give an image another name."""
    if len(rest) != 2:
        raise UsageError("tag: expected an image and its new name", "`hutch tag debian:12 mine:1`")
    nouns.tag(rest[0], rest[1])
    return 0


def history(values: dict[str, Any], rest: list[str]) -> int:
    """Show how an image was made."""
    rows = []
    for layer in nouns.history(one(rest, "history", "image")):
        text = " ".join(layer.created_by.split())
        if len(text) > 60 and not values.get("no_trunc"):
            text = text[:59] + "…"
        since = f"{ago(_seconds(layer.created))} ago" if _seconds(layer.created) else "-"
        rows.append(
            {
                "ID": layer.digest or "<none>",
                "CreatedSince": since,
                "CreatedAt": layer.created,
                "CreatedBy": text,
                "Size": size(layer.size),
                "Comment": layer.comment,
            }
        )
    if values.get("quiet"):
        for row in rows:
            tell(row["ID"])
    elif values.get("format"):
        Template(values["format"]).print(rows)
    else:
        tell(*table([("CREATED", "CREATED BY", "SIZE", "COMMENT"), *((r["CreatedSince"], r["CreatedBy"], r["Size"], r["Comment"]) for r in rows)]))
    return 0


def _out(values: dict[str, Any], command: str) -> tuple[BinaryIO, str]:
    """Where an archive goes, and the file that becomes it when it is whole."""
    path = values.get("output")
    if path:
        fresh = f"{path}.{os.getpid()}.part"
        return open(fresh, "xb"), path
    out = binary()
    if out.isatty():
        raise UsageError(f"{command}: standard output is a terminal", "give a file with -o, or a pipe")
    return out, ""


def _write(values: dict[str, Any], command: str, write) -> int:  # type: ignore[no-untyped-def]
    out, path = _out(values, command)
    try:
        write(out)
        out.flush()
        if path:
            os.rename(out.name, path)
    finally:
        if path:
            out.close()
            if os.path.exists(out.name):
                os.unlink(out.name)
    return 0


def save(values: dict[str, Any], rest: list[str]) -> int:
    """Write images into an archive."""
    wanted = some(rest, "save", "an image")
    return _write(values, "save", lambda out: nouns.save(wanted, out))


def load(values: dict[str, Any], rest: list[str]) -> int:
    """Bring an archive's images into the store."""
    if rest:
        raise UsageError(f"load: unexpected argument {rest[0]!r}", "-i names a file")
    source = values.get("input")
    if not source and sys.stdin.isatty():
        raise UsageError("load: standard input is a terminal", "-i names a file")
    for image in nouns.load(source or sys.stdin.buffer):
        if not values.get("quiet"):
            tell(f"loaded: {image.name if not image.name.startswith('<none>') else image.id}")
    return 0


def import_(values: dict[str, Any], rest: list[str]) -> int:
    """Make an image of a root file system."""
    if not 1 <= len(rest) <= 2:
        raise UsageError("import: expected a file (or -), and perhaps a name", "`hutch import root.tar mine:1`")
    source = sys.stdin.buffer if rest[0] == "-" else rest[0]
    found = nouns.import_(source, rest[1] if len(rest) > 1 else "", changes=values.get("change", ()), message=values.get("message", ""))
    tell(found.id)
    return 0


def export(values: dict[str, Any], rest: list[str]) -> int:
    """Write a container's root file system."""
    from hutch.engine.containers import filesystem
    from hutch.engine.records import state

    running = state.find(one(rest, "export", "container"))
    with filesystem.of_record(running) as target:
        return _write(values, "export", lambda out: filesystem.export(target, out.write))


def commit(values: dict[str, Any], rest: list[str]) -> int:
    """Make an image of a container's changes, and print its id."""
    from hutch.engine.containers import filesystem
    from hutch.engine.records import state

    if not 1 <= len(rest) <= 2:
        raise UsageError("commit: expected a container, and perhaps a name", "`hutch commit web mine:2`")
    with filesystem.of_record(state.find(rest[0])) as target:
        found = filesystem.commit(
            target, rest[1] if len(rest) > 1 else "", changes=values.get("change", ()), author=values.get("author", ""),
            message=values.get("message", ""), pause=values.get("pause", True),
        )  # fmt: skip
    tell(found.id)
    return 0


def diff(_: dict[str, Any], rest: list[str]) -> int:
    """List what a container changed."""
    from hutch.engine.containers import filesystem
    from hutch.engine.records import state

    with filesystem.of_record(state.find(one(rest, "diff", "container"))) as target:
        found = filesystem.diff(target)
    for change in found:
        tell(f"{change.kind[0].upper()} {change.path}")
    return 0


def inspect(values: dict[str, Any], rest: list[str]) -> int:
    """All that is known, as JSON; 1 when something does not exist."""
    if values.get("kernel"):
        from hutch.engine.reports import kernelview

        for name in some(rest, "inspect", "a container"):
            tell(*kernelview.of_container(name).lines())
        return 0
    from hutch.engine.reports import documents

    kind = values.get("type", "")
    if kind not in ("", "image", "container", "volume"):
        raise UsageError(f"type: expected image, container or volume, got {kind!r}")
    found, code = [], 0
    for name in some(rest, "inspect", "a name"):
        try:
            found.append(documents.inspect(name, kind))
        except (ImageError, StateError) as error:
            from hutch.cli.main import complain

            complain(error)
            code = 1
    if values.get("format") and values["format"] != "json":
        Template(values["format"]).print(found)
    else:
        from hutch import jsontext

        exact(jsontext.dumps(found, indent=1))
    return code


def login(values: dict[str, Any], rest: list[str]) -> int:
    """Remember credentials that a registry takes."""
    from hutch.engine.images import registries

    if len(rest) > 1:
        raise UsageError(f"login: unexpected argument {rest[1]!r}")
    host = rest[0] if rest else "docker.io"
    user, password = values.get("username", ""), values.get("password", "")
    if values.get("password_stdin"):
        if not user or password:
            raise UsageError("login: --password-stdin needs --username, and no --password")
        password = sys.stdin.readline().rstrip("\r\n")
    if not user or not password:
        if not sys.stdin.isatty():
            raise UsageError("login: no password was given", "--username and --password-stdin, or a terminal to ask on")
        import getpass

        user = user or ask("Username: ")
        password = password or getpass.getpass("Password: ")
    path = registries.login(host, user, password)
    tell(f"logged in to {host}; remembered in {path}")
    return 0


def logout(_: dict[str, Any], rest: list[str]) -> int:
    """Forget credentials."""
    from hutch.engine.images import registries

    host = rest[0] if rest else "docker.io"
    if not registries.logout(host):
        raise ImageError(f"logout {host}: Hutch remembers no credentials for it")
    tell(f"logged out of {host}")
    return 0
