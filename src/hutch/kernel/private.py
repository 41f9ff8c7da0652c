"""Directories that nobody else on this host can enter, and that nobody else can take first.

In a directory that all may write to (``/tmp``, ``/dev/shm``) a name that can be foreseen is a stranger's to make: then it locks
its user out, or, worse, is believed. So such a directory gets a random name, and the name is kept in a link where its
owner alone can write.
"""

from __future__ import annotations

import os
import stat

EPERM = 1


def directory(path: str) -> str:
    """Make a directory of mode 0700, or tighten this user's own, and return its path.

    Raises OSError; with EPERM for what is not a directory of this user's: a link, a file, or somebody else's.
    """
    try:
        check(path)
    except FileNotFoundError:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        check(path)
    return path


def check(path: str) -> None:
    """Raise OSError unless a directory is this user's and nobody else could have written to it; others are locked out of it."""
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise OSError(EPERM, "is not a directory of this user's alone", path)
    if info.st_mode & 0o077:
        os.chmod(path, 0o700)


def in_memory(link: str) -> str:
    """A private directory on /dev/shm whose name is kept in the symbolic link `link`, below a directory that its user alone can
    write to. It is made anew when it has gone, as after a boot. Without /dev/shm the directory is `link` itself. Raises OSError."""
    for _ in range(16):
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            target = ""
        except OSError:
            return directory(link)  # a directory already, or nothing of ours
        if target:
            try:
                check(target)
                return target
            except OSError:
                pass
        if not os.access("/dev/shm", os.W_OK):
            _unlink(link)
            return directory(link)
        made = f"/dev/shm/hutch-{os.urandom(12).hex()}"
        os.mkdir(made, 0o700)
        try:
            _point(link, target, made)
        except BaseException:
            os.rmdir(made)
            raise
    raise OSError(EPERM, "changes all the time", link)


def _point(link: str, before: str, target: str) -> None:
    """Let the link name `target`, unless another process has done so meanwhile: then its directory is used."""
    if not before:
        try:
            os.symlink(target, link)
        except FileExistsError:
            os.rmdir(target)
        return
    import fcntl

    parent = os.open(os.path.dirname(link), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)
        if os.path.islink(link) and os.readlink(link) == before:
            os.unlink(link)
            os.symlink(target, link)
        else:
            os.rmdir(target)
    finally:
        os.close(parent)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def runtime_directory(name: str) -> str:
    """Where this user's `name` is kept until the machine is booted again: below $XDG_RUNTIME_DIR if that is the user's, else on
    /dev/shm, by a link in the user's data directory ($XDG_DATA_HOME/hutch). Never made here; raises OSError."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        try:
            info = os.stat(runtime)
        except OSError:
            info = None
        if info is not None and info.st_uid == os.geteuid() and not info.st_mode & 0o022 and os.access(runtime, os.W_OK):
            return f"{runtime}/{name}"
    data = os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "hutch")
    os.makedirs(data, mode=0o700, exist_ok=True)
    info = os.lstat(data)
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise OSError(EPERM, "is not a directory of this user's alone", data)
    return in_memory(f"{data}/{name}.state")
