"""Files that belong to a user's subordinate ids: made, read and removed by a helper that is root of a user namespace.

A container of an ordinary user has his own id as root, and his subordinate ids (subuid(5)) behind it. Files with those
owners can be made by him only inside a user namespace with that mapping (user_namespaces(7)), and not from a process with
threads: so a small Python process steps into one. Without subordinate ids everything is the user's own.
"""

from __future__ import annotations

import os
import sys

from hutch.errors import ImageError, UnsupportedError
from hutch.kernel import trees
from hutch.kernel.features import Features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from hutch.image.changes import Scope


def ranges(features: Features) -> bool:
    """Whether this user has subordinate ids, and the helpers that map them."""
    return not features.privileged and bool(features.subuid and features.subgid and features.newuidmap and features.newgidmap)


def unpack(pieces: Iterator[bytes], directory: str, features: Features, what: str) -> None:
    """Unpack a plain tar into a directory, with owners as a container of this user's will see them. Raises ImageError."""
    if not ranges(features):
        from hutch.image.tar.reader import Reader
        from hutch.image.unpack import Unpacker

        with Unpacker(directory, features.privileged) as unpacker:
            parser = Reader(unpacker)
            for piece in pieces:
                parser.feed(piece)
            parser.close()
        return
    with Helper(features, "unpack", directory) as helper:
        helper.send(pieces)
        helper.finish(what)


def remove_tree(path: str, features: Features) -> None:
    """Remove a tree, whoever its files belong to."""
    trees.remove_tree(path)
    if ranges(features) and os.path.lexists(path):
        with Helper(features, "remove", path) as helper:
            helper.finish(path)


def write_tree(root: int, scope: Scope, out: Callable[[bytes], object], features: Features, what: str) -> None:
    """Write a tree, by a descriptor of its root, as a tar, with owners as a container of this user's sees them."""
    words = [",".join(path.hex() for path in sorted(paths)) for paths in (scope.skip, scope.points)]
    flags = [str(int(scope.whiteouts)), str(int(scope.one_device)), scope.top.hex()]
    with Helper(features, "tree", str(root), *flags, *words, files=(root,)) as helper:
        helper.stdin.close()
        while piece := helper.stdout.read(1 << 20):
            out(piece)
        helper.finish(what)


class Helper:
    """A process that is root of a user namespace with this user's mapping; `job` is one of JOBS."""

    def __init__(self, features: Features, job: str, *arguments: str, files: tuple[int, ...] = ()) -> None:
        import subprocess

        place = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
        code = f"import sys; sys.path.insert(0, {place!r}); from hutch.image.mapped import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, job, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=files,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self.stdin, self.stdout = self._process.stdin, self._process.stdout
        if self.stdout.read(1) != b"u":
            raise self._error(f"a user namespace for {features.uid}")
        try:
            self._map(features)
            self.stdin.write(b"m")
            self.stdin.flush()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _map(self, features: Features) -> None:
        import subprocess

        assert features.subuid is not None and features.subgid is not None
        for program, own, sub in ((features.newuidmap, features.uid, features.subuid), (features.newgidmap, features.gid, features.subgid)):
            words = [program, str(self._process.pid), "0", str(own), "1", "1", str(sub.start), str(sub.count)]
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UnsupportedError(f"{program}: {done.stderr.strip() or 'failed'}", "`hutch doctor` says what subordinate ids need")

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self._process.stderr):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass
        self._process.kill()
        self._process.wait()

    def send(self, pieces: Iterable[bytes]) -> None:
        """Write to its input, and close it. A helper that has stopped listening says why in `finish`."""
        try:
            for piece in pieces:
                self.stdin.write(piece)
            self.stdin.close()
        except BrokenPipeError:
            pass

    def finish(self, what: str) -> None:
        """Wait for its end. Raises ImageError with what it says."""
        try:
            self.stdin.close()
        except BrokenPipeError:
            pass
        self.stdout.read()
        if self._process.wait():
            raise self._error(what)

    def _error(self, what: str) -> ImageError:
        stderr = self._process.stderr
        text = stderr.read().decode("utf-8", "replace").strip().rpartition("\n")[2] if stderr is not None else ""
        return ImageError(f"{what}: {text.removeprefix(what + ': ') or 'the helper in a user namespace died'}")


def _unpack(directory: str) -> None:
    from hutch.image.unpack import unpack

    unpack(sys.stdin.buffer, directory, owners=True)


def _remove(path: str) -> None:
    trees.remove_tree(path)
    if os.path.lexists(path):
        raise ImageError(f"{path}: cannot be removed")


def _write_tree(root: str, whiteouts: str, one_device: str, top: str, skip: str, points: str) -> None:
    from hutch.image import changes

    def paths(text: str) -> frozenset[bytes]:
        return frozenset(bytes.fromhex(item) for item in text.split(",") if item)

    scope = changes.Scope(
        skip=paths(skip), points=paths(points), top=bytes.fromhex(top), whiteouts=whiteouts == "1", one_device=one_device == "1"
    )  # fmt: skip
    changes.write(int(root), scope, sys.stdout.buffer.write)
    sys.stdout.buffer.flush()


JOBS: dict[str, Any] = {"unpack": _unpack, "remove": _remove, "tree": _write_tree}


def main() -> None:
    """The helper's own side: step into a user namespace, wait for its mapping, do the job."""
    from hutch.errors import HutchError
    from hutch.kernel import syscalls

    code = 1
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(1, b"u")
        if os.read(0, 1) == b"m":
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.umask(0o022)
            JOBS[sys.argv[1]](*sys.argv[2:])
            code = 0
    except HutchError as error:
        sys.stderr.write(f"{error.message}\n")
    except OSError as error:
        sys.stderr.write(f"{error.filename or ''}: {error.strerror}\n".lstrip(": "))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
