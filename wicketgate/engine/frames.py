"""Frames on a byte stream: each is a body behind a 4-byte little-endian length."""

from __future__ import annotations

import struct
from typing import Final

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""A longer message is a broken peer."""

_LENGTH = struct.Struct("<I")


class WireError(ValueError):
    """The peer sent what cannot be a message."""


def framed(body: bytes) -> bytes:
    """Put its length in front of a message body, as `Splitter` takes it off."""
    return _LENGTH.pack(len(body)) + body


class Splitter:
    """Cuts a byte stream into message bodies; keeps the rest for the next call."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """
        Add received bytes and return the bodies that are complete.

        Raises:
            WireError: a length is over MAX_MESSAGE_BYTES.
        """
        self._buffer += data
        bodies = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > MAX_MESSAGE_BYTES:
                raise WireError(f"a message of {length} bytes is over the bound of {MAX_MESSAGE_BYTES}")
            end = at + _LENGTH.size + length
            if end > len(self._buffer):
                break
            bodies.append(bytes(self._buffer[at + _LENGTH.size : end]))
            at = end
        del self._buffer[:at]
        return bodies
