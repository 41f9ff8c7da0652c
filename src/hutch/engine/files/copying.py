"""Copies as `docker cp` makes them: where they end depends on what is there."""

from __future__ import annotations

import os
import stat
import sys

from hutch.engine.files.files import FILE_OR_DIRECTORY, Files
from hutch.engine.files.hostside import write_all
from hutch.errors import HutchError, UsageError
from hutch.image.layers import changes, mapped
from hutch.image.tar.header import DIRECTORY, REGULAR, SYMLINK, Member, path_of, show
from hutch.image.tar.reader import Reader
from hutch.image.tar.writer import Writer
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, Protocol

    from hutch.engine.files.export import Owners
    from hutch.engine.records.live import Live
    from hutch.kernel.features import Features

    class Target(Protocol):
        """A container whose files somebody wants."""

        name: str
        live: Live
        features: Features

        @property
        def root(self) -> int:
            """A descriptor of its root directory."""
            ...

        def ids(self) -> tuple[Owners, Owners]:
            """Its files' owners on disk."""
            ...


class Place(Record):
    """A container's files: a descriptor of its root directory, its root's ids, and what maps the owners of its files."""

    root: int
    name: str
    uid: int = 0
    gid: int = 0
    uids: tuple[tuple[int, int, int], ...] = ()
    gids: tuple[tuple[int, int, int], ...] = ()

    @property
    def files(self) -> Files:
        """They."""
        return Files(self.root, self.uid, self.gid)


def copy_in(container: Target, source: str, target: str) -> None:
    """A file or a tree of the host into a container. Raises HutchError, UsageError."""
    _do(container, "put", source, target)


def copy_out(container: Target, source: str, target: str) -> None:
    """A file or a tree of a container to the host. Raises HutchError, UsageError."""
    _do(container, "get", source, target)


def archive_out(container: Target, source: str, out: Callable[[bytes], object]) -> None:
    """A file or a tree of a container as a tar, under its own name. Raises HutchError."""
    _do(container, "pack", source, out=out)


def archive_in(container: Target, stream: BinaryIO, target: str) -> None:
    """Unpack a tar below a directory of a container. Raises HutchError, ImageError."""
    _do(container, "unpack", target, stream=stream)


def _do(container: Target, verb: str, *paths: str, stream: BinaryIO | None = None, out: Callable[[bytes], object] = lambda _: None) -> None:
    facts = container.live.facts
    if container.features.privileged:
        uids, gids = container.ids()
        place = Place(root=container.root, name=container.name, uid=facts.root_uid, gid=facts.root_gid, uids=uids, gids=gids)
        _guarded(place, verb, paths, stream, out)
        return
    # a container's root reads and writes whatever belongs to it: its user can do so only as root of a user namespace
    place = Place(root=container.root, name=container.name)
    with mapped.Helper(container.features, "hutch.engine.files.copying:inside", (place, verb, paths), (container.root,)) as helper:
        helper.send(iter(lambda: stream.read(1 << 20), b"") if stream is not None else ())
        helper.receive(out)
        helper.finish(f"cp {container.name}")


def inside(place: Place, verb: str, paths: tuple[str, ...]) -> None:
    """Do a copy in this process, with its standard input and output as the archive."""
    _guarded(place, verb, paths, sys.stdin.buffer, sys.stdout.buffer.write)


def _guarded(place: Place, verb: str, paths: tuple[str, ...], stream: BinaryIO | None, out: Callable[[bytes], object]) -> None:
    try:
        if verb == "put":
            _put(place, *paths)
        elif verb == "get":
            _get(place, *paths)
        elif verb == "pack":
            _pack(place, paths[0], out)
        elif stream is not None:
            _unpack(place, paths[0], stream)
    except RecursionError:
        raise HutchError(f"cp {place.name}: the tree is nested too deeply") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HutchError(f"cp {place.name}: {error.filename or ''}: {error.strerror}") from None


def _plain(path: str) -> str:
    """A path without the slashes and single dots at its end: ``a/.`` is ``a``, and ``a.`` is ``a.``."""
    while path.endswith("/.") or (path.endswith("/") and path != "/"):
        path = path[:-2] + "/" * (path == "/.") if path.endswith("/.") else path[:-1]
    return path


def _name(path: str) -> str:
    """What a copy of a container's file is called: the last name of its path, by the words alone; "" for the root."""
    return os.path.basename(os.path.normpath("/" + path))


def _put(place: Place, source: str, target: str) -> None:
    try:
        mode = os.stat(source).st_mode
    except OSError as error:
        raise UsageError(f"cp {source}: {error.strerror}") from None
    content = source.endswith("/.") or source == "."
    name = os.path.basename(os.path.normpath(source))
    there = place.files.inside.kind(target)
    if stat.S_ISDIR(there):
        if not content:
            target = f"{target.rstrip('/')}/{name if name not in ('.', '..') else os.path.basename(os.path.realpath(source))}"
    elif there and stat.S_ISDIR(mode):
        raise UsageError(f"cp {source}: is a directory, and {target} in the container is none")
    elif not there and target.endswith("/") and not stat.S_ISDIR(mode):
        raise UsageError(f"cp {source}: there is no directory {target} in the container")
    elif not there:
        parent = target.rstrip("/").rpartition("/")[0] or "/"
        if not stat.S_ISDIR(place.files.inside.kind(parent)):
            raise UsageError(f"cp {source}: there is no directory {parent} in the container")
    place.files.put(os.path.realpath(source) if not stat.S_ISDIR(mode) else _plain(source), target)


def _get(place: Place, source: str, target: str) -> None:
    kind = place.files.inside.kind(source)
    if not kind:
        raise HutchError(f"cp {place.name}:{source}: does not exist in the container")
    content = source.endswith("/.") or source == "." or not _name(source)
    if os.path.isdir(target):
        if not content:
            place.files.get(source, target, _name(source))
            return
    elif os.path.lexists(target) and stat.S_ISDIR(kind):
        raise UsageError(f"cp {place.name}:{source}: is a directory, and {target} is none")
    elif not os.path.isdir(os.path.dirname(target.rstrip("/")) or ".") or (target.endswith("/") and not stat.S_ISDIR(kind)):
        raise UsageError(f"cp {place.name}:{source}: there is no directory {target if target.endswith('/') else os.path.dirname(target)}")
    place.files.get(source, target)


def _pack(place: Place, source: str, out: Callable[[bytes], object]) -> None:
    try:
        fd = place.files.inside.open(source, FILE_OR_DIRECTORY)
    except HutchError as error:
        raise HutchError(f"cp {place.name}:{error.message}") from None
    try:
        info = os.fstat(fd)
        name = os.fsencode(_name(source))
        if stat.S_ISDIR(info.st_mode):
            changes.write(fd, changes.Scope(uids=place.uids, gids=place.gids, whiteouts=False, top=name), out)
        else:
            writer = Writer(out)
            owner = (changes.mapped(info.st_uid, place.uids), changes.mapped(info.st_gid, place.gids))
            member = Member(name, REGULAR, stat.S_IMODE(info.st_mode), *owner, info.st_mtime_ns, info.st_size)
            writer.add(member, changes.pieces(fd, info.st_size))
            writer.close()
    finally:
        os.close(fd)


class _Into:
    """A sink that puts an archive's members into a container, below a directory. Files and directories get the container's
    root as their owner; devices and what else a copy does not make are left out."""

    wants = True

    def __init__(self, files: Files, target: str) -> None:
        self._files, self._target = files, target.rstrip("/")
        self._member: Member | None = None
        self._fd = -1

    def member(self, member: Member) -> None:
        self.finish()
        parts = path_of(member.name)
        path = f"{self._target}/{os.fsdecode(b'/'.join(parts))}".rstrip("/")
        if member.kind == DIRECTORY and parts:
            self._files.make_directory(path, member.mode)
        elif member.kind == SYMLINK:
            self._files.link(path, os.fsdecode(member.link))
        elif member.kind == REGULAR:
            if member.sparse is not None:
                raise UsageError(f"cp: {show(member.name)} is stored as a sparse file, which a copy does not take")
            self._fd = self._files.create(path)
            self._member, self._path = member, path

    def data(self, piece: bytes) -> None:
        write_all(self._fd, iter((piece,)))

    def finish(self) -> None:
        """The last file is whole, or will never be."""
        if self._member is None:
            return
        try:
            self._files.inside.change_mode(self._fd, self._member.mode, self._path)
        finally:
            os.close(self._fd)
            self._member = None


def _unpack(place: Place, target: str, stream: BinaryIO) -> None:
    if not stat.S_ISDIR(place.files.inside.kind(target)):
        raise UsageError(f"cp -: there is no directory {target} in the container")
    sink = _Into(place.files, target)
    try:
        reader = Reader(sink)
        while piece := stream.read(1 << 20):
            reader.feed(piece)
        reader.close()
    finally:
        sink.finish()
