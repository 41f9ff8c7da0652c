"""A descriptor of /dev/kvm's family, and the ioctls on it."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


class Device:
    """A descriptor that is closed at the end of a ``with``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ioctl(self, request: int, argument: int | ctypes.Array[ctypes.c_char] = 0) -> int:
        """ioctl(2), with the interpreter's lock released. Raises OSError."""
        pointer = argument if isinstance(argument, int) else ctypes.addressof(argument)
        result: int = _libc.ioctl(self._fd, request, pointer)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _give(self, request: int, data: bytes) -> int:
        return self._ioctl(request, ctypes.create_string_buffer(data, len(data)))

    def _get(self, request: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        self._ioctl(request, buffer)
        return buffer.raw

    def _exchange(self, request: int, data: bytes) -> bytes:
        buffer = ctypes.create_string_buffer(data, len(data))
        self._ioctl(request, buffer)
        return buffer.raw

    @staticmethod
    def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
        return ctypes.create_string_buffer(data, len(data))
