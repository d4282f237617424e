"""
A stream writer that sends what is written in one go, once nothing more is coming.

The tokens of one engine step reach a connection as one write per stream, some turns of the event loop apart,
and on loopback each is a system call of up to 60 us that wakes the reader. Here they wait for the first turn
in which nothing was added.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

MOST_BYTES: Final = 64 * 1024
"""More is sent at once: so much memory a connection may hold, and a long body must feel its reader."""
MOST_TURNS: Final = 16
"""A stream of writes without a pause is sent at last."""


class GatheringWriter(asyncio.StreamWriter):
    """Gathers writes over a few turns of the event loop; for all else a StreamWriter."""

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.StreamReaderProtocol,
        reader: asyncio.StreamReader,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(transport, protocol, reader, loop)
        self._call_soon = loop.call_soon
        self._gathered = bytearray()
        self._is_waiting = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes; they are sent when nothing more comes, or when they are many."""
        self._gathered += data
        if len(self._gathered) > MOST_BYTES:
            self._send()
        elif not self._is_waiting:
            self._is_waiting = True
            self._look(0, MOST_TURNS)

    def write_eof(self) -> None:
        """Send what waits, and say that nothing follows."""
        self._send()
        super().write_eof()

    def close(self) -> None:
        """Send what waits, and close."""
        self._send()
        super().close()

    def _look(self, seen_bytes: int, turns: int) -> None:
        if turns and len(self._gathered) > seen_bytes:
            self._call_soon(self._look, len(self._gathered), turns - 1)
            return
        self._is_waiting = False
        self._send()

    def _send(self) -> None:
        if self._gathered:
            data, self._gathered = self._gathered, bytearray()
            # The reading side hears of a connection that is gone.
            with contextlib.suppress(ConnectionError, RuntimeError):
                super().write(data)
