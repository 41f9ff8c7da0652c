"""Where messages go: errors to standard error, everything to ``--log`` as well, in the format that engines read."""

from __future__ import annotations

import os
import time

from hutch import jsontext
from hutch.cli.output import warn


class Log:
    """A log that is a file, standard error, or both. Each message is one write, so that several runtimes may share a file."""

    def __init__(self) -> None:
        self.path = ""
        self.json = False
        self.debug = False

    def notice(self, level: str, text: str) -> None:
        """Log a message; `level` is "debug", "info", "warning" or "error"."""
        if level == "debug" and not self.debug:
            return
        if level == "error" or not self.path:
            self._to_stderr(level, text)
        if self.path:
            try:
                fd = self._open()
                try:
                    os.write(fd, self._line(level, text).encode("utf-8", "replace"))
                finally:
                    os.close(fd)
            except OSError as error:
                warn(f"hutch-oci: --log {self.path}: {error.strerror}")

    def _open(self) -> int:
        """The log, a link to it not followed: what others can write to is no place for a file that root appends to. A fifo, or a pipe,
        that nobody reads keeps nobody waiting."""
        for fd, names in ((1, ("/dev/stdout", "/proc/self/fd/1")), (2, ("/dev/stderr", "/proc/self/fd/2"))):
            if self.path in names:
                return os.dup(fd)
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o644)

    def _to_stderr(self, level: str, text: str) -> None:
        prefix = "" if level == "error" else f"{level}: "
        try:
            warn(f"hutch-oci: {prefix}{text}")
        except OSError:
            pass

    def _line(self, level: str, text: str) -> str:
        t = time.gmtime()
        now = f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}Z"
        if self.json:
            return jsontext.dumps({"level": level, "msg": text, "time": now}) + "\n"
        return f"time={now} level={level} msg={jsontext.dumps(text)}\n"
