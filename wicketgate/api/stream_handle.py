"""
Where the bytes of a streamed answer go: straight to the connection, or by ASGI sends of the same face.

Our own HTTP/2 connections put a handle in the scope (transport/asgi_stream.py); its `write` never waits, and
what all streams of a connection write in one turn of the loop goes out at once. Elsewhere `AsgiHandle` stands
in.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Send

PAUSE_BYTES: Final = 64 * 1024
"""So much unsent, and tokens had better wait as tokens: their deltas merge."""
RESUME_BYTES: Final = 16 * 1024


class StreamHandle(Protocol):
    """Takes the body of an answer whose status was sent."""

    on_resume: Callable[[], None] | None
    """Called when `is_paused` has become false again."""
    on_closed: Callable[[], None] | None
    """Called when the client has reset the stream or lost its connection."""
    is_gone: bool
    """Whether it has."""

    @property
    def is_paused(self) -> bool:
        """Whether so much is unsent that nothing more should be written."""

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""

    def write(self, data: bytes) -> None:
        """Send a part of the answer, without waiting."""

    def end(self, data: bytes = b"") -> None:
        """Send the last part, and the end with it."""

    def abort(self) -> None:
        """Reset the stream; what is unsent is dropped."""


class AsgiHandle:
    """
    The same over ASGI's `send`, which is awaited by `run`.

    Everything that was written while a send was under way goes out in the next one.
    """

    def __init__(self, send: Send) -> None:
        self.on_resume: Callable[[], None] | None = None
        self.on_closed: Callable[[], None] | None = None
        """Never called: whoever waits in `receive` hears of it."""
        self.is_gone = False
        self.is_paused = False
        self._send = send
        self._waiting = bytearray()
        self._sending_bytes = 0
        self._is_ended = False
        self._is_aborted = False
        self._wake = asyncio.Event()

    @property
    def unsent_bytes(self) -> int:
        """What the server has not taken yet."""
        return len(self._waiting) + self._sending_bytes

    def write(self, data: bytes) -> None:
        """Send a part of the answer, without waiting."""
        self._waiting += data
        self.is_paused = self.is_paused or self.unsent_bytes > PAUSE_BYTES
        self._wake.set()

    def end(self, data: bytes = b"") -> None:
        """Send the last part, and the end with it."""
        self._is_ended = True
        self.write(data)

    def abort(self) -> None:
        """End without an end: the server sees to it that the client does not take it for one."""
        self._is_aborted = True
        self._waiting.clear()
        self._wake.set()

    async def run(self) -> None:
        """Send what is written, until the end has been sent."""
        is_over = False
        while not is_over:
            await self._wake.wait()
            self._wake.clear()
            if self._is_aborted:
                return
            is_over = self._is_ended
            data, self._waiting = bytes(self._waiting), bytearray()
            self._sending_bytes = len(data)
            await self._send({"type": "http.response.body", "body": data, "more_body": not is_over})
            self._sending_bytes = 0
            self._resume()

    def _resume(self) -> None:
        if self.is_paused and self.unsent_bytes < RESUME_BYTES:
            self.is_paused = False
            if self.on_resume is not None:
                self.on_resume()
