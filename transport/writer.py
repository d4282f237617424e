"""
A connection's writes, gathered into one for each turn of the event loop, and how much waits for the reader.

The headers, the first event and the end of a short answer are written one by one in a turn; on loopback each
would be a system call of up to 60 us that wakes the reader.
"""

from __future__ import annotations

import asyncio
from typing import Final

MOST_BYTES: Final = 64 * 1024
"""More is sent at once: so much memory a connection may hold, and a long body must feel its reader."""
PAUSE_BYTES: Final = 64 * 1024
"""Above so much unsent the system's `pause_writing` comes, and `resume_writing` below a quarter of it."""


class GatheringWriter:
    """
    Gathers what is written to a transport until the end of the turn.

    Args:
        transport: Its marks for pausing are set here.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=PAUSE_BYTES, low=PAUSE_BYTES // 4)
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._parts: list[bytes] = []
        self._gathered_bytes = 0

    @property
    def unsent_bytes(self) -> int:
        """What the system has not taken yet."""
        return self._gathered_bytes + self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Take bytes; they are sent at the end of the turn, or now when they are many."""
        if not self._parts:
            self._call_soon(self.flush)
        self._parts.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes > MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            self._gathered_bytes = 0
            if not self._transport.is_closing():
                self._transport.write(data)
