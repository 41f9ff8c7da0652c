"""What a container changed: its upper directories against the layers below them (overlayfs.rst)."""

from __future__ import annotations

import os
import stat

from hutch.errors import HutchError
from hutch.image.layers import marks, unmounted
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from hutch.image.layers.unmounted import Layers
    from hutch.image.rootfs import Rootfs


PATH_MAX = 4096
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Change(Record):
    """A difference to the layers below: `kind` is "added", "changed" or "deleted"; `path` is the container's."""

    kind: Literal["added", "changed", "deleted"]
    path: str


def changes(base: int, rootfs: Rootfs, own: frozenset[str], disk: bool) -> Iterator[Change]:
    """What a container changed: its upper directories (by `base`, the descriptor of what holds them) against the layers.

    `own` are paths that Hutch itself put there. Directories that only hold changes are left out, as nothing of them changed.
    """
    for number, view in enumerate(rootfs.views):
        if view.recursive_bind or view.stacked:
            continue
        try:
            upper = os.open(f"upper-{number}" if disk else f"upper/{number}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=base)
        except FileNotFoundError:
            continue
        try:
            layers = unmounted.Layers(rootfs, view.lowers)
            try:
                hidden = frozenset(item.path for item in view.hidden)
                yield from _walk_upper(upper, view.path.rstrip("/"), layers, own, hidden)
            finally:
                layers.close()
        finally:
            os.close(upper)
    if not (len(rootfs.views) == 1 and rootfs.views[0].path == "/"):
        root = os.open("root", os.O_RDONLY | os.O_DIRECTORY, dir_fd=base)
        try:
            made = {path for path, _ in (*rootfs.directories, *rootfs.links)}
            made |= {view.path.lstrip("/") for view in rootfs.views}
            yield from _walk_root(root, made, own)
            for path in sorted(made):
                try:
                    os.stat(path, dir_fd=root, follow_symlinks=False)
                except FileNotFoundError:
                    yield Change(kind="deleted", path=f"/{path}")
        finally:
            os.close(root)


def stacked(uppers: list[int], rootfs: Rootfs, own: frozenset[str]) -> Iterator[Change]:
    """What several upper directories, the oldest first, make of an image together."""
    layers = unmounted.Layers(rootfs, rootfs.views[0].lowers)
    found: dict[str, Change] = {}

    def forget(path: str) -> None:
        """What an older one had there, a newer one has removed."""
        for known in [known for known in found if known == path or known.startswith(path + "/")]:
            del found[known]

    try:
        for upper in uppers:
            for change in list(_walk_upper(upper, "", layers, own, frozenset(), forget)):
                found[change.path] = change
    finally:
        layers.close()
    yield from found.values()


class _Descent:
    """A walk down a tree that a container made, as deep as it likes: two descriptors at a time, and no recursion."""

    def __init__(self, top: int) -> None:
        self.fd = os.dup(top)
        self._names: list[list[str]] = []
        self._known: list[tuple[int, int]] = []
        self.prefixes: list[str] = []
        self._enter(self.fd, "")

    def _enter(self, fd: int, prefix: str) -> None:
        if len(prefix) > PATH_MAX:
            raise HutchError(f"{prefix[:60]}…: is nested too deeply: no path may have more than {PATH_MAX} bytes")
        info = os.fstat(fd)
        self._names.append(sorted(os.listdir(fd), reverse=True))
        self._known.append((info.st_dev, info.st_ino))
        self.prefixes.append(prefix)

    def down(self, name: str) -> int:
        """Go into a directory; its descriptor."""
        inside = os.open(name, DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = inside
        self._enter(inside, f"{self.prefixes[-1]}{name}/")
        return inside

    def names(self) -> Iterator[str]:
        """Every name, by its directory's order: those of a directory that `down` went into come next."""
        try:
            while self._names:
                if self._names[-1]:
                    yield self._names[-1].pop()
                    continue
                self._names.pop()
                self._known.pop()
                self.prefixes.pop()
                if self._names:
                    self._up()
        finally:
            os.close(self.fd)

    def _up(self) -> None:
        above = os.open("..", DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = above
        info = os.fstat(above)
        if (info.st_dev, info.st_ino) != self._known[-1]:
            raise HutchError(f"{self.prefixes[-1]}: was moved while it was read", "pause the container first")


def _walk_upper(
    directory: int, top: str, layers: Layers | None, own: frozenset[str], hidden: frozenset[str],
    forget: Callable[[str], None] = lambda _: None,
) -> Iterator[Change]:  # fmt: skip
    walk = _Descent(directory)
    below_here = [layers]  # of each directory on the way: the layers, or None where it hides them
    for name in walk.names():
        del below_here[len(walk.prefixes) :]
        relative = f"{walk.prefixes[-1]}{name}"
        path = f"{top}/{relative}"
        try:
            info = os.stat(name, dir_fd=walk.fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # gone meanwhile
        found = below_here[-1]
        below = None if relative in hidden or found is None else found.find(relative)
        if marks.is_whiteout(info):
            forget(path)
            if below is not None or path in own:
                yield Change(kind="deleted", path=path)
            continue
        existed = below is not None or path in own
        if not stat.S_ISDIR(info.st_mode):
            yield Change(kind="changed" if existed else "added", path=path)
            continue
        opaque = marks.is_opaque(walk.down(name))
        if opaque:
            forget(path)
        if not existed:
            yield Change(kind="added", path=path)
        elif below is not None and (opaque or not stat.S_ISDIR(below.mode) or stat.S_IMODE(below.mode) != stat.S_IMODE(info.st_mode)):
            yield Change(kind="changed", path=path)
        below_here.append(None if opaque else found)


def _walk_root(directory: int, made: set[str], own: frozenset[str]) -> Iterator[Change]:
    walk = _Descent(directory)
    for name in walk.names():
        relative = f"{walk.prefixes[-1]}{name}"
        try:
            mode = os.stat(name, dir_fd=walk.fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue
        if relative not in made and f"/{relative}" not in own:
            yield Change(kind="added", path=f"/{relative}")
        if stat.S_ISDIR(mode):
            walk.down(name)
