"""A name in the image's place to a root file system, and a user's name to its ids there."""

from __future__ import annotations

import os
import stat
import time

from hutch.errors import ImageError, UsageError
from hutch.image import host
from hutch.image.rootfs import Rootfs, View
from hutch.kernel.features import Features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.oci.config import User

_FILE_LIMIT = 4 << 20  # bytes of a passwd file that are looked at: a hostile one may be of any size
_resolved: dict[str, tuple[float, Features, Rootfs]] = {}


def resolve(name: str, features: Features) -> Rootfs:
    """``host``, or a path (``/``, ``./``, ``../``) to a directory, a tar archive, an OCI layout, a saved image.

    Raises ImageError, with what would be right.
    """
    if name == "host":
        cached = _resolved.get(name)
        now = time.monotonic()
        if cached is not None and cached[1] is features and now - cached[0] < host.SCAN_SECONDS:
            return cached[2]
        fresh = host.resolve(features)
        # the same object for the same content: what was compiled for it stays good
        rootfs = cached[2] if cached is not None and cached[1] is features and cached[2] == fresh else fresh
        _resolved[name] = (now, features, rootfs)
        return rootfs
    if not name.startswith(("/", "./", "../")) and name not in (".", ".."):
        raise ImageError(
            f"image {name!r}: image names are not supported yet", "use `host`, or a path that begins with /, ./ or ../ to a directory or an archive"
        )
    path = os.path.realpath(name)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ImageError(f"image {name}: {error.strerror}") from None
    if stat.S_ISDIR(mode) and not os.path.exists(f"{path}/oci-layout"):
        return _directory(name, path)
    from hutch.image import archive

    return archive.resolve(name, path, features)


def _directory(name: str, path: str) -> Rootfs:
    cached = _resolved.get(path)
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if not os.access(path, os.R_OK | os.X_OK):
        raise ImageError(f"image {name}: this user may not read the directory")
    rootfs = Rootfs(name=name, views=(View(path="/", lowers=(path,), mode=mode),))
    if cached is not None and cached[2] == rootfs:
        return cached[2]
    _resolved[path] = (0.0, None, rootfs)  # type: ignore[assignment]
    return rootfs


def read_in(rootfs: Rootfs, path: str) -> str | None:
    """A file of the root file system, as its topmost layer has it; bounded, and never outside the layer."""
    from hutch.kernel import syscalls

    for view in rootfs.views:
        top = view.path.rstrip("/")
        if not path.startswith(top + "/"):
            continue
        for lower in view.lowers:
            directory = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = syscalls.openat2(
                    directory, path[len(top) + 1 :], os.O_RDONLY | os.O_NONBLOCK,
                    resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS,
                )  # fmt: skip
            except OSError:
                continue
            finally:
                os.close(directory)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                return None
            with open(fd, "rb") as file:
                return file.read(_FILE_LIMIT).decode("utf-8", "replace")
    return None


def user(text: str, groups: tuple[str, ...], rootfs: Rootfs) -> tuple[User, str]:
    """``name|uid[:group|gid]`` as the root file system's own /etc/passwd and /etc/group have it; and its home.

    Numbers need no entry. Raises UsageError for a name that does not exist, and for a number out of range: a name that
    looks like a number is one (crun's CVE-2026-30892 was a parser that was not sure).
    """
    from hutch.oci.config import User

    name, colon, group = text.partition(":")
    if (colon and not group) or (not name and colon):
        raise UsageError(f"user: expected USER or USER:GROUP, got {text!r}")
    if not text and not groups:
        return User(), "/root"
    uid, gid, home, extra = 0, 0, "/root", []
    passwd = (read_in(rootfs, "/etc/passwd") or "").split("\n")
    if name:
        entry = _entry(passwd, name)
        if name.isascii() and name.isdigit():
            uid, home = _number(name, "user"), "/"
            if entry:
                gid, home = _number(entry[3], "user"), entry[5] or "/"
        elif entry is None:
            raise UsageError(f"user: {name!r} is not in the image's /etc/passwd", "a number needs no entry there")
        else:
            uid, gid, home = _number(entry[2], "user"), _number(entry[3], "user"), entry[5] or "/"
    else:
        entry = None
    lines = (read_in(rootfs, "/etc/group") or "").split("\n")
    if group:
        gid = _group(lines, group)
    elif entry is not None:
        for line in lines:
            fields = line.split(":")
            if len(fields) > 3 and entry[0] in fields[3].split(",") and _is_number(fields[2]):
                extra.append(_number(fields[2], "group"))
    extra += [_group(lines, item) for item in groups]
    return User(uid=uid, gid=gid, additional_gids=tuple(dict.fromkeys(extra))), home


def _entry(lines: list[str], name: str) -> list[str] | None:
    number = name.isascii() and name.isdigit()
    for line in lines:
        fields = line.split(":")
        if len(fields) >= 6 and fields[2 if number else 0] == name and _is_number(fields[2]) and _is_number(fields[3]):
            return fields
    return None


def _group(lines: list[str], name: str) -> int:
    if name.isascii() and name.isdigit():
        return _number(name, "group")
    for line in lines:
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == name and _is_number(fields[2]):
            return _number(fields[2], "group")
    raise UsageError(f"group: {name!r} is not in the image's /etc/group", "a number needs no entry there")


def _is_number(text: str) -> bool:
    """ASCII digits, and no more of them than an id has: int() takes other scripts' and refuses very many."""
    return text.isascii() and text.isdigit() and len(text) <= 10


def _number(text: str, what: str) -> int:
    if not _is_number(text) or int(text) > 2**31 - 1:
        shown = text if len(text) <= 20 else text[:19] + "…"
        raise UsageError(f"{what}: {shown} is not an id from 0 to {2**31 - 1}")
    return int(text)
