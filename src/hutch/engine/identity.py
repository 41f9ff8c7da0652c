"""What differs from one container to the next: its id and the moment of its making."""

from __future__ import annotations

import os
import time

ID_LENGTH = 12
PLACEHOLDER = "zQ7vXw0hKj3T"  # as long as an id, and neither an id nor a word that anybody writes
CREATED = "7301928465.918273"
PORT = "zQ"  # and three digits: as long as the longest port
ADDRESS = "zQ7v.Xw0h.Kj3T."  # as long as the longest IPv4 address


def new_id() -> str:
    """Twelve random hexadecimal digits."""
    return os.urandom(ID_LENGTH // 2).hex()


def personalise(template: bytes) -> tuple[str, bytes]:
    """A new id, and an encoded plan with it and the time in the placeholders' place. Nothing moves: both are as long."""
    identity = new_id()
    encoded = template.replace(PLACEHOLDER.encode(), identity.encode())
    return identity, encoded.replace(CREATED.encode(), f"{time.time():017.6f}".encode())
