"""One request on HTTP/1.1: its body as messages, its answer written past them, and its refusal."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import h11

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Send

    from transport.writer import GatheringWriter

MOST_MESSAGES: Final = 8
"""So many parts of a body, of at most 64 KB each, wait for an application that does not read."""
REFUSED_BODY_S: Final = 5.0
"""How long the body of a refused request is read."""


class Inbox:
    """What comes for an application: the parts of a body, then the disconnect."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue(MOST_MESSAGES)
        self._is_over = False

    async def put(self, message: Message) -> None:
        """Take a part of the body when there is room for it, and the end at once."""
        if message["type"] == "http.request":
            await self._messages.put(message)
        else:
            self.disconnect()

    def disconnect(self) -> None:
        """Say that nothing follows: what nobody has read is thrown away."""
        self._is_over = True
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                self._messages.get_nowait()
        self._messages.put_nowait({"type": "http.disconnect"})

    async def get(self) -> Message:
        """Return the next message; after the end always the disconnect."""
        if self._is_over and self._messages.empty():
            return {"type": "http.disconnect"}
        return await self._messages.get()


class Http1Stream:
    """
    The answer of one request, once its headers were sent by `http.response.start`.

    Args:
        connection: h11's, which knows how the body is framed.
        writer: Of the connection.
        has_body: False for the answer of a HEAD.
        abort: Ends the connection.
    """

    def __init__(
        self,
        connection: h11.Connection,
        writer: GatheringWriter,
        *,
        has_body: bool,
        abort: Callable[[], None],
    ) -> None:
        self.is_paused = False
        """The client does not read as fast as is written."""
        self.on_resume: Callable[[], None] | None = None
        """Called when it has read nearly all."""
        self.on_closed: Callable[[], None] | None = None
        """Called when the connection was lost before the end."""
        self.is_gone = False
        """Whether it was."""
        self._connection = connection
        self._writer = writer
        self._has_body = has_body
        self._abort = abort
        self._is_open = True

    @property
    def unsent_bytes(self) -> int:
        """What the system has not taken yet."""
        return self._writer.unsent_bytes

    def write(self, data: bytes) -> None:
        """Send a part of the answer; never waits."""
        if self._is_open and data and self._has_body:
            self._writer.write(self._connection.send(h11.Data(data=data)))

    def end(self, data: bytes = b"") -> None:
        """Send the last part of the answer."""
        self.write(data)
        if self._is_open:
            self._is_open = False
            self._writer.write(self._connection.send(h11.EndOfMessage()))

    def abort(self) -> None:
        """End the connection: HTTP/1.1 cannot break off one answer in another way."""
        self._is_open = False
        self._abort()

    # What the connection calls

    def pause(self) -> None:
        """The client reads too slowly."""
        self.is_paused = True

    def resume(self) -> None:
        """The client has read nearly all."""
        self.is_paused = False
        if self._is_open and self.on_resume is not None:
            self.on_resume()

    def lose(self) -> None:
        """The connection is gone."""
        if self._is_open:
            self._is_open = False
            self.is_gone = True
            if self.on_closed is not None:
                self.on_closed()


async def refuse(receive: Receive, send: Send, status: int, text: bytes, header: tuple[bytes, bytes]) -> None:
    """Answer a request with a text of our own, when its body has come or takes too long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFUSED_BODY_S):
            while (await receive()).get("more_body", False):
                pass
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(text)),
        header,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text, "more_body": False})
