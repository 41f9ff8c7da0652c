"""The content store: blobs under the name of their digest, there as a whole or not at all.

``content/sha256/HEX`` holds manifests, configurations, layers as they were sent, and layers' plain tars. A blob is written
under ``ingest/`` and renamed when its digest has been verified. Who fetches one holds its ingest file (flock(2)), and nothing
else: another process that wants the same blob waits for it, takes over where it stopped, and holds up nobody.

Power may fail before the disk has everything. Waiting for the disk would hold up every first run, so what was written is
listed under ``unsettled/`` by the boot it was written in, and `settle` waits later. What an earlier boot has left there is
verified before anything else is done: it is whole, or it is gone.
"""

from __future__ import annotations

import fcntl
import os
import time

from hutch.errors import ImageError
from hutch.image.reference import is_digest
from hutch.image.store.directories import data_root, make_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

NEW = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

PRUNE = "`hutch system prune` removes what nothing needs"
RESERVE = 64 << 20  # bytes of the disk that are never filled


def file_name(digest: str) -> str:
    """A digest as one name: ``sha256-HEX``."""
    return digest.replace(":", "-")


def digest_of(data: bytes) -> str:
    """The SHA-256 digest of bytes, as descriptors write it."""
    import hashlib

    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def boot_id() -> str:
    """This boot's own number (random(4), /proc/sys/kernel/random/boot_id)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class DiskError(ImageError):
    """The disk cannot take more: nothing is wrong with what was to be written."""


def full(error: OSError) -> str | None:
    """The hint for an error of writing into the store: what helps when the disk, or the user's share of it, is full."""
    return PRUNE if error.errno in (28, 122) else None


class Content:
    """The blobs below a data directory. Opening it verifies what an earlier boot left unsettled."""

    def __init__(self, root: str | None = None) -> None:
        self.root = data_root(root)
        self._boot = ""
        for name in ("content", "content/sha256", "ingest", "unsettled", "layers", "images", "files"):
            make_private(f"{self.root}/{name}")
        self._recover()

    def path(self, digest: str) -> str:
        """Where a blob is, or would be. Raises ImageError for what is no digest."""
        if not is_digest(digest):
            raise ImageError(f"{digest[:90]!r} is no digest")
        algorithm, _, number = digest.partition(":")
        return f"{self.root}/content/{algorithm}/{number}"

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """A blob's size in bytes; 0 when it is not there."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return 0

    def read(self, digest: str, limit: int = 8 << 20) -> bytes:
        """A small blob. Raises ImageError when it is not there, or larger than `limit`."""
        try:
            with open(self.path(digest), "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise ImageError(f"{digest}: is not in the store", "pull the image again") from None
        if len(data) > limit:
            raise ImageError(f"{digest}: is larger than {limit} bytes")
        return data

    def put(self, data: bytes) -> str:
        """Store bytes; their digest."""
        digest = digest_of(data)
        if not self.has(digest):
            with self.new() as ingest:
                ingest.write(data)
                ingest.commit(digest)
        return digest

    def new(self) -> Ingest:
        """A blob whose digest is not known yet."""
        return Ingest(self, *self._own("new", lambda path: os.open(path, NEW | os.O_EXCL, 0o600)))

    def new_directory(self) -> tuple[int, str]:
        """(descriptor, path) of a directory that is this process's own as long as the descriptor is open."""

        def make(path: str) -> int:
            os.mkdir(path, 0o700)
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

        return self._own("tree", make)

    def _own(self, kind: str, make: Callable[[str], int]) -> tuple[int, str]:
        for _ in range(100):
            path = f"{self.root}/ingest/{kind}-{os.getpid()}-{os.urandom(6).hex()}"
            try:
                fd = make(path)
            except FileNotFoundError:
                continue  # it was swept before it was opened
            except OSError as error:
                raise DiskError(f"write into {self.root}: {error.strerror}", full(error)) from None
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd, path
            os.close(fd)  # it was swept before it was locked
        raise ImageError(f"write into {self.root}: what is made there disappears", "is something else removing files there?")

    def claim(self, digest: str, waiting: Callable[[], None] = lambda: None) -> Ingest | None:
        """The right to fetch a blob, with what an earlier attempt left of it; None when it is there.

        While another process fetches it, this waits, and calls `waiting` every now and then.
        """
        final, path = self.path(digest), f"{self.root}/ingest/{file_name(digest)}"
        while not os.path.exists(final):
            fd = os.open(path, NEW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                waiting()
                time.sleep(0.02)
                continue
            try:
                same = os.stat(path).st_ino == os.fstat(fd).st_ino
            except FileNotFoundError:
                same = False
            if same and not os.path.exists(final):
                return Ingest(self, fd, path)
            if same and not os.fstat(fd).st_size:
                _unlink(path)  # it is ours, and the blob is there already
            os.close(fd)  # whoever had it has finished meanwhile
        return None

    def mark(self, name: str) -> None:
        """List a file, by its path below the root, as not yet safe from a power failure. Must come before its rename."""
        self._boot = self._boot or boot_id()
        directory = f"{self.root}/unsettled/{self._boot}"
        for _ in range(100):
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:
                pass
            try:
                os.close(os.open(f"{directory}/{name.replace('/', '|')}", NEW, 0o600))
                return
            except FileNotFoundError:
                continue  # somebody has just settled everything, and removed the directory

    def settle(self) -> None:
        """Wait until the disk has everything that was written (fdatasync(2))."""
        for directory in self._unsettled():
            # what is listed and not there yet is still to be renamed: it stays on the list
            listed = [name for name in _listed(directory) if _sync(f"{self.root}/{name.replace('|', '/')}")]
            for place in ("content/sha256", "images", "layers"):
                _sync(f"{self.root}/{place}")
            for name in listed:
                _unlink(f"{directory}/{name}")
            try:
                os.rmdir(directory)
            except OSError:
                pass  # more has been written meanwhile, or somebody else has done the same

    def _unsettled(self) -> list[str]:
        return [f"{self.root}/unsettled/{boot}" for boot in sorted(os.listdir(f"{self.root}/unsettled"))]

    def _recover(self) -> None:
        left = self._unsettled()
        if not left:
            return
        boot = boot_id()
        if all(os.path.basename(directory) == boot for directory in left):
            return
        lock = os.open(f"{self.root}/unsettled", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # a second process that took away what the first had found bad could take what has come in its place
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._verify(boot)
        finally:
            os.close(lock)

    def _verify(self, boot: str) -> None:
        for directory in self._unsettled():
            if os.path.basename(directory) == boot:
                continue
            for name in _listed(directory):
                path = f"{self.root}/{name.replace('|', '/')}"
                if not self.sound(name.replace("|", "/")):
                    self._drop(path)
                else:
                    _sync(path)
                _unlink(f"{directory}/{name}")
            try:
                os.rmdir(directory)
            except OSError:
                pass  # somebody else is at it

    def _drop(self, path: str) -> None:
        """Take a file or a tree out of the store, and remove it as far as this process may."""
        going = f"{self.root}/ingest/going-{os.urandom(6).hex()}"
        try:
            os.rename(path, going)  # nobody takes it for whole, whatever of it stays
        except FileNotFoundError:
            return
        _remove(going)

    def sound(self, name: str) -> bool:
        """Whether a file of the store, by its path in it, is what its name says: a blob by its digest, a record by being one. A layer's index is
        not: it is made anew from the tar."""
        path = f"{self.root}/{name}"
        if name.startswith("content/"):
            try:
                return hash_file(path) == os.path.basename(path)
            except FileNotFoundError:
                return False
        if name.startswith("images/"):
            try:
                with open(path, "rb") as file:
                    return file.read().endswith(b"}\n")
            except OSError:
                return False
        return False

    def blobs(self) -> Iterator[tuple[str, os.stat_result]]:
        """(digest, stat) of every blob."""
        for algorithm in os.listdir(f"{self.root}/content"):
            with os.scandir(f"{self.root}/content/{algorithm}") as entries:
                for entry in entries:
                    digest = f"{algorithm}:{entry.name}"
                    if is_digest(digest):
                        yield digest, entry.stat()

    def room(self, size: int = 0) -> None:
        """Raise ImageError when the disk has no room for so many bytes, with a reserve for everybody else."""
        info = os.statvfs(self.root)
        free = info.f_bavail * info.f_frsize
        if free < size + RESERVE:
            raise DiskError(f"{self.root}: the disk is full ({free >> 20} MiB are free)", PRUNE)


class Ingest:
    """A blob that is being written. Closed without `commit`, a claimed one stays as far as it came, a new one is removed."""

    def __init__(self, content: Content, fd: int, path: str) -> None:
        self._content = content
        self.fd = fd
        self._path = path
        self._named = not os.path.basename(path).startswith("new-")
        self.size = os.fstat(fd).st_size
        self._since_check = 1 << 62
        os.lseek(fd, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Append bytes. Raises ImageError when the disk is full."""
        self._since_check += len(data)
        if self._since_check > 64 << 20:
            self._content.room(len(data))
            self._since_check = 0
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            raise DiskError(f"write into {self._content.root}: {error.strerror}", full(error)) from None
        self.size += len(data)

    def drop(self) -> None:
        """Forget what was written: it is not what it should be."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.size = 0

    def commit(self, digest: str) -> None:
        """Give it its name; whoever calls has verified the digest."""
        final = self._content.path(digest)
        os.makedirs(os.path.dirname(final), mode=0o700, exist_ok=True)
        self._content.mark(os.path.relpath(final, self._content.root))
        os.rename(self._path, final)
        self._path = ""

    def release(self) -> str:
        """The file's path, for whoever gives it another name than a digest's."""
        path, self._path = self._path, ""
        return path

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
        if self.fd < 0:
            return
        if self._path and (not self._named or not self.size):
            _unlink(self._path)
        os.close(self.fd)
        self.fd = -1


def hash_file(path: str) -> str:
    """The hexadecimal digest of a file: SHA-512's if its name is as long as one, else SHA-256's."""
    import hashlib

    machine = hashlib.sha512() if len(os.path.basename(path)) == 128 else hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            machine.update(piece)
    return machine.hexdigest()


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _sync(path: str) -> bool:
    """Wait until the disk has a file or a directory, or a layer's tree with all that is in it; whether it is there."""
    tree = path.endswith("/tree")
    try:
        os.lstat(path)
        fd = os.open(os.path.dirname(path) if tree else path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        if tree:
            from hutch.kernel import syscalls

            # not one by one: a layer's files may be devices, or unreadable for everybody but a container
            syscalls.syncfs(fd)
        else:
            os.fsync(fd)
    finally:
        os.close(fd)
    return True


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _remove(path: str) -> None:
    from hutch.kernel.trees import remove_tree

    if os.path.isdir(path):
        remove_tree(path)
    else:
        _unlink(path)
