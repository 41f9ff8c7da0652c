"""What a container has made of its image, whoever started it."""

from __future__ import annotations

from hutch.errors import HutchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import BinaryIO, TypeVar

    from hutch.engine.containers.filesystem import Target
    from hutch.engine.files.changes import Change
    from hutch.engine.images.images import Image

    T = TypeVar("T")


class Changed:
    """A container whose files can be reached: what is the same for one of this process's and for one that is known by its record."""

    def target(self) -> Target:
        """Its files, for copies and commits. Close it after use. Raises StateError, UnsupportedError when they are out of reach."""
        raise NotImplementedError

    def diff(self) -> list[Change]:
        """What changed against the layers below, by path: added, changed, deleted. Raises HutchError."""
        from hutch.engine.containers import filesystem

        with self.target() as target:
            return guarded("diff", lambda: filesystem.diff(target))

    def commit(self, name: str = "", *, changes: Iterable[str] = (), author: str = "", message: str = "", pause: bool = True) -> Image:
        """An image of the container's image and of what was changed here, under a name. `changes` are instructions of a
        Dockerfile (``CMD ["sh"]``). The same changes give the same layer. Raises UsageError, ImageError, HutchError."""
        from hutch.engine.containers import filesystem

        with self.target() as target:
            return filesystem.commit(target, name, changes=changes, author=author, message=message, pause=pause)

    def export(self, out: BinaryIO) -> None:
        """Write the root file system, without what is mounted in it, as a tar. Raises HutchError."""
        from hutch.engine.containers import filesystem

        with self.target() as target:
            filesystem.export(target, out.write)


def guarded(what: str, action: Callable[[], T]) -> T:
    """What an action gives. Raises HutchError in place of what the kernel or Python said of a tree."""
    try:
        return action()
    except RecursionError:
        raise HutchError(f"{what}: the tree is nested too deeply") from None
    except OSError as error:
        raise HutchError(f"{what}: {error.filename or ''}: {error.strerror}") from None
