"""What a new container's volumes begin with: what its image has where they are mounted, as with Docker."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile

from hutch.engine.files.export import owners_of, write_tree
from hutch.engine.launch import launching, prepare
from hutch.engine.spec.settings import Settings
from hutch.image.layers import changes, mapped, unmounted
from hutch.kernel import syscalls
from hutch.kernel.features import features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.volumes.volumes import Volume
    from hutch.image.rootfs import Rootfs


def fill(volume: Volume, rootfs: Rootfs, target: str) -> None:
    """Begin an empty volume with what the image has at the path where it is mounted.

    It is filled in place, under its lock, which every container on it holds: one that is in use is left alone, and who wants it
    meanwhile waits. What a killed process left half filled is begun anew.
    """
    begun = f"{os.path.dirname(volume.path)}/filling"
    if os.listdir(volume.path) and not os.path.exists(begun):
        return
    found = None if rootfs.name == "host" else unmounted.find(rootfs, target)
    if found is None or not stat.S_ISDIR(found.mode):
        return
    lock = os.open(volume.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(begun):
            _empty(volume)
        elif os.listdir(volume.path):
            return  # somebody else has filled it
        os.close(os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            _copy(rootfs, target, volume.path)
        except BaseException:
            _empty(volume)
            raise
        finally:
            os.unlink(begun)
    except BlockingIOError:
        return  # a container is on it, or somebody fills it
    finally:
        os.close(lock)


def _empty(volume: Volume) -> None:
    """Begin a volume anew that nobody is on."""
    mapped.remove_tree(volume.path, features())
    os.mkdir(volume.path, 0o755)


def _copy(rootfs: Rootfs, target: str, into: str) -> None:
    """Copy a directory of an image to an empty one of the host, with owners as containers see them on an idmapped mount: from a
    container, which has its layers as one."""
    prepared = prepare.prepare(Settings(image=rootfs.name), idle=True, rootfs=rootfs)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        execution = launching.launch(prepared, stdin=null, stdout=null, stderr=null)
    finally:
        os.close(null)
    with execution:
        execution.wait_ready()
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
        try:
            fd = syscalls.openat2(execution.descriptors["container-root"], target.lstrip("/") or ".", os.O_RDONLY | os.O_DIRECTORY, 0, resolve)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return  # /proc, /dev: nothing of the image
        try:
            uids, gids = owners_of(prepared.facts)
            scope = changes.Scope(uids=uids, gids=gids, whiteouts=False, one_device=True, top=b".")
            with tempfile.TemporaryFile(dir=os.path.dirname(into)) as archive:
                write_tree(fd, prepared.id, scope, archive.write)
                archive.seek(0)
                mapped.unpack(iter(lambda: archive.read(1 << 20), b""), into, features(), f"volume at {target}")
        finally:
            os.close(fd)
