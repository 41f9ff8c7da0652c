"""Files that belong to a user's subordinate ids: made, read and removed by a helper that is root of a user namespace.

A container of an ordinary user has his own id as root, and his subordinate ids (subuid(5)) behind it. Files with those
owners can be made by him only inside a user namespace with that mapping (user_namespaces(7)), and not from a process with
threads: so a small Python process steps into one. Without subordinate ids everything is the user's own.
"""

from __future__ import annotations

import os
import sys

from hutch import errors
from hutch.errors import HutchError, ImageError, UnsupportedError
from hutch.kernel import trees
from hutch.kernel.features import Features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hutch.image.layers.changes import Scope


def ranges(features: Features) -> bool:
    """Whether this user has subordinate ids, and the helpers that map them."""
    return not features.privileged and bool(features.subuid and features.subgid and features.newuidmap and features.newgidmap)


def unpack(pieces: Iterator[bytes], directory: str, features: Features, what: str) -> None:
    """Unpack a plain tar into a directory, with owners as a container of this user's will see them. Raises ImageError."""
    if not ranges(features):
        from hutch.image.layers.unpack import Unpacker
        from hutch.image.tar.reader import Reader

        with Unpacker(directory, features.privileged) as unpacker:
            parser = Reader(unpacker)
            for piece in pieces:
                parser.feed(piece)
            parser.close()
        return
    with Helper(features, "hutch.image.layers.mapped:unpack_here", (directory,)) as helper:
        helper.send(pieces)
        helper.finish(what)


def remove_tree(path: str, features: Features) -> None:
    """Remove a tree, whoever its files belong to."""
    trees.remove_tree(path)
    if ranges(features) and os.path.lexists(path):
        with Helper(features, "hutch.image.layers.mapped:remove_here", (path,)) as helper:
            helper.finish(path)


def write_tree(root: int, scope: Scope, out: Callable[[bytes], object], features: Features, what: str) -> None:
    """Write a tree, by a descriptor of its root, as a tar, with owners as a container of this user's sees them."""
    with Helper(features, "hutch.image.layers.mapped:write_tree_here", (root, scope), (root,)) as helper:
        helper.receive(out)
        helper.finish(what)


def unpack_here(directory: str) -> None:
    """The helper's side of `unpack`."""
    from hutch.image.layers.unpack import unpack

    unpack(sys.stdin.buffer, directory, owners=True)


def remove_here(path: str) -> None:
    """The helper's side of `remove_tree`."""
    trees.remove_tree(path)
    if os.path.lexists(path):
        raise ImageError(f"{path}: cannot be removed")


def write_tree_here(root: int, scope: Scope) -> None:
    """The helper's side of `write_tree`."""
    from hutch.image.layers import changes

    changes.write(root, scope, sys.stdout.buffer.write)


class Helper:
    """A process that is root of a user namespace with this user's mapping, and calls one function there.

    `job` is "module:function"; it gets `arguments`, reads what is sent from standard input, and prints what is received.
    `files` are descriptors that it inherits. What it raises, `finish` raises.
    """

    def __init__(self, features: Features, job: str, arguments: tuple[object, ...], files: tuple[int, ...] = ()) -> None:
        import pickle
        import subprocess

        from hutch.helpers.command import command

        self._process = subprocess.Popen(
            [*command("hutch.image.layers.mapped"), job],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=files,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        try:
            if self._stdout.read(1) != b"u":
                raise self._error(f"a user namespace for {features.uid}")
            map_ids(self._process.pid, features)
            given = pickle.dumps(arguments)
            self._stdin.write(b"m" + len(given).to_bytes(4, "little") + given)
            self._stdin.flush()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._stdin, self._stdout, self._process.stderr):
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
                self._stdin.write(piece)
            self._stdin.close()
        except BrokenPipeError:
            pass

    def receive(self, out: Callable[[bytes], object]) -> None:
        """Give it no more input, and hand on what it prints, to its end."""
        self.send(())
        while piece := self._stdout.read(1 << 20):
            out(piece)

    def finish(self, what: str) -> None:
        """Wait for its end. Raises what it raised; an OSError as an ImageError that names `what`."""
        self.receive(lambda _: None)
        if self._process.wait():
            raise self._error(what)

    def _error(self, what: str) -> HutchError:
        from hutch import jsontext

        stderr = self._process.stderr
        text = stderr.read().decode("utf-8", "replace").strip().rpartition("\n")[2] if stderr is not None else ""
        try:
            said = jsontext.loads(text)
            kind, message, hint = getattr(errors, said["kind"], ImageError), str(said["message"]), said["hint"]
        except (ValueError, TypeError, LookupError, ImportError):
            kind, message, hint = ImageError, "the helper in a user namespace died", None
        return kind(message, hint) if message.startswith(what) or kind is not ImageError else ImageError(f"{what}: {message}", hint)


def map_ids(pid: int, features: Features) -> None:
    """Map this user's ids into the new user namespace of a process: its own as root, its subordinate ones behind it. Raises
    UnsupportedError."""
    if not ranges(features):
        # user_namespaces(7): without privileges one id alone can be mapped, and a gid once setgroups is denied
        for name, text in (("setgroups", "deny"), ("gid_map", f"0 {features.gid} 1"), ("uid_map", f"0 {features.uid} 1")):
            try:
                with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                    file.write(text)
            except OSError as error:
                raise UnsupportedError(f"{name} of a user namespace: {error.strerror}", "`hutch doctor` says what user namespaces need") from None
        return
    import subprocess

    assert features.subuid is not None and features.subgid is not None
    for program, own, sub in ((features.newuidmap, features.uid, features.subuid), (features.newgidmap, features.gid, features.subgid)):
        words = [program, str(pid), "0", str(own), "1", "1", str(sub.start), str(sub.count)]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnsupportedError(f"{program}: {done.stderr.strip() or 'failed'}", "`hutch doctor` says what subordinate ids need")


def main() -> None:
    """The helper's own side: step into a user namespace, wait for its mapping, do the job."""
    code = 1
    try:
        code = _work()
    except HutchError as error:
        _complain(type(error).__name__, error.message, error.hint)
    except OSError as error:
        _complain("ImageError", f"{error.filename or ''}: {error.strerror}".removeprefix(": "), None)
    except RecursionError:
        _complain("ImageError", "the tree is nested too deeply", None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _work() -> int:
    import importlib
    import pickle

    from hutch.kernel import syscalls

    syscalls.unshare(syscalls.CLONE_NEWUSER)
    os.write(1, b"u")
    if os.read(0, 1) != b"m":
        return 1
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.umask(0o022)
    arguments = pickle.loads(sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), "little")))
    module, _, function = sys.argv[1].partition(":")
    getattr(importlib.import_module(module), function)(*arguments)
    return 0


def _complain(kind: str, message: str, hint: str | None) -> None:
    from hutch import jsontext

    sys.stderr.write(jsontext.dumps({"kind": kind, "message": message, "hint": hint}) + "\n")
