"""What the HTTP/1.1 connections of a server share: hypercorn's settings, and our deadlines."""

from __future__ import annotations

import logging
from typing import Final

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

_FOR_EVER: Final = 2**31


class Http1Settings:
    """
    What the HTTP/1.1 connections of a listener share.

    Args:
        keep_alive_s: An idle connection is closed after it.
        header_timeout_s: From the first byte of a request to the end of its headers; also for that byte.
        stall_s: A client that takes nothing of what waits for it is let go after it.
        max_header_bytes: More are answered 431.
    """

    def __init__(
        self, *, keep_alive_s: float, header_timeout_s: float, stall_s: float, max_header_bytes: int
    ) -> None:
        self.keep_alive_s = keep_alive_s
        self.stall_s = stall_s
        self.header_timeout_s = header_timeout_s
        self.max_header_bytes = max_header_bytes
        self.context = WorkerContext(None)
        self.config = Config()
        self.config.accesslog = None
        self.config.errorlog = logging.getLogger(__name__)
        self.config.include_server_header = False
        self.config.h11_max_incomplete_size = max_header_bytes
        # By default the 1,000th request closes the connection.
        self.config.keep_alive_max_requests = _FOR_EVER

    def drain(self) -> None:
        """Have every answer that begins from now on say `connection: close`."""
        self.config.keep_alive_max_requests = 0
