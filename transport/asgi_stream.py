"""
One HTTP/2 request as an ASGI application sees it: receive, send, and the direct handle beside them.

The handle is the same object: `write`, `end` and `abort` never wait, so that whoever has events for many
streams at once, as a decode step has, writes them all in one turn of the loop, and each connection sends
them in one go. `send` does the same and waits while the stream is paused.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Protocol
from wsgiref.handlers import format_date_time

from h2.errors import ErrorCodes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from transport.connection import Connection

    Message = MutableMapping[str, Any]
    Scope = MutableMapping[str, Any]
    App = Callable[
        [Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
    ]

EXTENSION: Final = "wicketgate.stream"
"""The handle's name in `scope["extensions"]`."""
RECEIVED: Final = "wicketgate.received"
"""Key of a scope: when the bytes of the request's headers were read from the socket, on `time.monotonic`."""
SLICE_BYTES: Final = 64 * 1024
"""Of a large body so much is copied at a time."""


class Link(Protocol):
    """What a stream needs of its connection's shell."""

    connection: Connection

    def flush_soon(self) -> None:
        """See that what is written is sent at the end of this turn."""


class AsgiStream:
    """
    One request and its answer.

    Args:
        link: The connection.
        stream_id: Its number on it.
        is_complete: The request has no body.
    """

    __slots__ = (
        "_body",
        "_has_started",
        "_is_complete",
        "_is_ended",
        "_is_told",
        "_link",
        "_receiving",
        "_sending",
        "id",
        "is_gone",
        "on_closed",
        "on_resume",
        "task",
    )

    def __init__(self, link: Link, stream_id: int, *, is_complete: bool) -> None:
        self._link = link
        self.id = stream_id
        self.task: asyncio.Task[None] | None = None
        """The application's."""
        self.on_resume: Callable[[], None] | None = None
        """Called when a paused stream may be written to again."""
        self.on_closed: Callable[[], None] | None = None
        """Called when the client has reset the stream, or its connection is lost."""
        self._body: list[bytes] = []
        self._is_complete = is_complete
        self._has_started = False
        self._is_ended = False
        self.is_gone = False
        """The client has reset the stream, or its connection is lost."""
        self._is_told = False
        self._receiving: asyncio.Future[None] | None = None
        self._sending: asyncio.Future[None] | None = None

    # The direct handle

    @property
    def is_paused(self) -> bool:
        """Whether too much is unsent; `on_resume` is called when it is no longer."""
        return self._link.connection.is_paused(self.id)

    @property
    def unsent_bytes(self) -> int:
        """How many bytes of the answer wait."""
        return self._link.connection.unsent_of(self.id)

    def write(self, data: bytes) -> None:
        """Send bytes of an answer that has started; never waits."""
        self._link.connection.write(self.id, data)
        self._link.flush_soon()

    def end(self, data: bytes = b"") -> None:
        """End the answer, after its last bytes."""
        self._is_ended = True
        self._link.connection.end(self.id, data)
        self._link.flush_soon()
        _wake(self._receiving)

    def abort(self) -> None:
        """Reset the stream: what is unsent is lost."""
        self._reset(ErrorCodes.CANCEL)

    # ASGI

    async def receive(self) -> Message:
        """Return the next part of the request; or that the answer has ended, or the client has left."""
        while not (self.is_gone or self._is_ended):
            if not self._is_told and (self._body or self._is_complete):
                data = b"".join(self._body)
                self._body.clear()
                self._is_told = self._is_complete
                self._link.connection.consumed(self.id, len(data))
                self._link.flush_soon()
                return {"type": "http.request", "body": data, "more_body": not self._is_told}
            self._receiving = asyncio.get_running_loop().create_future()
            try:
                await self._receiving
            finally:
                self._receiving = None
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """
        Send a part of the answer; returns when more may follow.

        Raises:
            RuntimeError: the message may not come now.
            ValueError: a header may not be sent.
        """
        kind = message["type"]
        if kind == "http.response.start" and not self._has_started:
            headers = list(message.get("headers", ()))
            if not any(name.lower() == b"date" for name, _ in headers):
                headers.append(date_header())
            self._link.connection.respond(self.id, status=message["status"], headers=headers)
            self._has_started = True
            self._link.flush_soon()
        elif kind == "http.response.body" and self._has_started and not self._is_ended:
            await self._send_body(message.get("body", b""))
            if not message.get("more_body", False):
                self.end()
        else:
            raise RuntimeError(f"{kind} may not be sent now")

    # What the connection tells

    def receive_body(self, data: bytes) -> None:
        """Take a part of the request's body."""
        self._body.append(data)
        _wake(self._receiving)

    def complete(self) -> None:
        """Note that the request's body has ended."""
        self._is_complete = True
        _wake(self._receiving)

    def resume(self) -> None:
        """Note that there is room again."""
        _wake(self._sending)
        if self.on_resume is not None:
            self.on_resume()

    def leave(self) -> None:
        """Note that the client has reset the stream, or its connection is lost."""
        self.is_gone = True
        _wake(self._receiving)
        _wake(self._sending)
        if self.on_closed is not None:
            self.on_closed()

    def returned(self) -> None:
        """Note that the application has returned, or failed: what is not ended ends badly."""
        if self.is_gone or self._is_ended:
            return
        if self._has_started:
            self._reset(ErrorCodes.INTERNAL_ERROR)
        else:
            self.refuse(500, b"internal server error\n")

    def refuse(self, status: int, text: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Answer with a text of our own."""
        fields = ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text)))
        self._link.connection.respond(self.id, status=status, headers=(*fields, *headers))
        self.end(text)

    async def _send_body(self, body: bytes) -> None:
        for start in range(0, len(body), SLICE_BYTES):
            self.write(body[start : start + SLICE_BYTES] if start or len(body) > SLICE_BYTES else body)
            while self.is_paused and not self.is_gone:
                self._sending = asyncio.get_running_loop().create_future()
                try:
                    await self._sending
                finally:
                    self._sending = None

    def _reset(self, code: ErrorCodes) -> None:
        self._is_ended = True
        self._link.connection.reset(self.id, code)
        self._link.flush_soon()
        _wake(self._receiving)


def date_header() -> tuple[bytes, bytes]:
    """Return the header that every answer has."""
    return b"date", format_date_time(time.time()).encode()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
