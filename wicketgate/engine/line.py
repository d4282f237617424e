"""The gateway's end of the socket to one host."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from wicketgate.engine.frames import Splitter, WireError
from wicketgate.engine.wire import decode_from_host, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.engine.supervision import FreezeWatch
    from wicketgate.engine.wire import FromHost, ToHost

log = logging.getLogger(__name__)


class HostLine(asyncio.Protocol):
    """Cuts what arrives into messages, and remembers what is known of this one host."""

    def __init__(self, receive: Callable[[HostLine, FromHost], None]) -> None:
        self._receive = receive
        self._splitter = Splitter()
        self._transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()
        """Set when the host's end is closed."""
        self.watch: FreezeWatch | None = None
        """Set when the host is ready."""
        self.fatal = ""
        """Why the host, or we with it, gave up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not instances of it

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that are complete; called by the event loop."""
        if self.watch is not None:
            self.watch.heard()
        try:
            messages = [decode_from_host(body) for body in self._splitter.feed(data)]
        except WireError as error:
            self.fatal = f"the host sent what is no message: {error}"
            self.close()
            return
        for message in messages:
            try:
                self._receive(self, message)
            except Exception:  # raised by who listens to steps and states; the host is not to blame
                log.exception("engine_message_failed")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio names it
        """Note the end; called by the event loop."""
        self.lost.set()

    def send(self, message: ToHost) -> None:
        """Send a message, unless the line is closed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    def close(self) -> None:
        """Drop the line and whatever it still carries."""
        if self._transport is not None:
            self._transport.abort()
