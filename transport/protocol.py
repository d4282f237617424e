"""
The asyncio shell of an HTTP/2 connection: bytes from the loop in, ASGI calls out, one write per turn of the
loop.

Whatever the applications write within a turn is sent together at its end, as one write to the socket; what is
known without them (transport/instant.py) as soon as the bytes that asked for it are read. While the socket
takes no more nothing is made for it, and the streams fill up to their marks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from transport.asgi_stream import EXTENSION, RECEIVED, AsgiStream, date_header
from transport.connection import Connection
from transport.events import (
    BodyEnded,
    BodyReceived,
    Closed,
    Event,
    RequestReceived,
    StreamReset,
    StreamResumed,
)
from transport.headers import scope_of
from transport.instant import BUSY_HEADER, BUSY_TEXT
from transport.wire import ConnectionParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transport.asgi_stream import App
    from transport.counters import Counters
    from transport.instant import Instants
    from transport.streams import Stream, StreamTable

__all__ = ["ConnectionParams", "H2Protocol"]

_log = logging.getLogger(__name__)

CANCEL_AFTER_S: Final = 1.0
"""An application whose client has left may end by itself so long."""
CLOSE_AFTER_S: Final = 1.0
"""A client may take so long to read the last bytes."""
LONG_TURN_S: Final = 0.005
"""A client whose bytes take longer waits as long again: an answer to another takes some three turns."""
WRITE_BUFFER_BYTES: Final = 64 * 1024
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


class H2Protocol(asyncio.Protocol):
    """
    One HTTP/2 connection of an ASGI application.

    Args:
        app: The application. Its call ends the answer before it returns; else the stream is reset.
        params: Limits.
        streams: Where its requests are counted, with those of other connections.
        counters: Where it counts.
        client: The other end, for the scope.
        server: This end, for the scope.
        scheme: "http" or "https".
        on_closed: Called once, when the connection is lost and the last call of the application has ended.
        instants: What is answered at once, without the application.
    """

    def __init__(
        self,
        app: App,
        *,
        params: ConnectionParams,
        streams: StreamTable,
        counters: Counters,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
        scheme: str,
        on_closed: Callable[[H2Protocol], None],
        instants: Instants | None = None,
    ) -> None:
        self._app = app
        self._params = params
        self._table = streams
        self._client, self._server, self._scheme = client, server, scheme
        self._on_closed = on_closed
        self._instants = instants
        self._answered = 0
        """Requests answered at once whose answers are not sent yet."""
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self.connection = Connection(params, now_s=self._now(), counters=counters)
        self._streams: dict[int, AsgiStream] = {}
        self._transport: asyncio.Transport | None = None
        self._is_flush_due = False
        self._is_full = False
        self._received_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf
        self._aborting: asyncio.TimerHandle | None = None

    @property
    def open_streams(self) -> int:
        """How many requests are being served."""
        return len(self._streams)

    def drain(self) -> None:
        """Take no new streams; the connection ends when its last one has."""
        self.connection.drain(now_s=self._now())
        self._act(self.connection.take_events())

    def abort(self) -> None:
        """Drop the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def flush_soon(self) -> None:
        """Send what is written when this turn of the loop is over."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._act(())

    def data_received(self, data: bytes) -> None:
        """Take bytes; with very many frames at once, others have their turn in between."""
        began_s = self._received_s = time.monotonic()
        self._act(self.connection.receive(data, now_s=self._now()))
        # Not by the loop's time: uvloop's stands still within a turn.
        took_s = time.monotonic() - began_s
        is_long = took_s > LONG_TURN_S
        must_wait = (self.connection.has_unread or is_long) and not self.connection.is_over
        if must_wait and self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_later(took_s if is_long else 0.0, self._read_on)

    def pause_writing(self) -> None:
        """Hold everything back until the socket takes more."""
        self._is_full = True
        self._abort_in(self._params.stall_s)

    def resume_writing(self) -> None:
        """Go on."""
        self._is_full = False
        if self._aborting is not None and not self.connection.is_over:
            self._aborting.cancel()
            self._aborting = None
        self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        """Tell every stream."""
        self.connection.lost()
        self._transport = None
        for timer in (self._timer, self._aborting):
            if timer is not None:
                timer.cancel()
        self._act(self.connection.take_events())
        self._end_if_done()

    # Turns

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._transport is None or (self._is_full and not self.connection.is_over):
            return
        data = self.connection.to_send(now_s=self._now())
        if data:
            self._transport.write(data)
        self._act(self.connection.take_events())

    def _act(self, events: Iterable[Event]) -> None:
        """Turn events into calls, and see to what is due after them."""
        for event in events:
            self._hear(event)
        if self._answered and self._instants is not None:
            self._send_answers(self._instants)
        if self.connection.has_output:
            self.flush_soon()
        elif self.connection.is_over and self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            self._abort_in(CLOSE_AFTER_S)
        deadline_s = self.connection.deadline_s
        if deadline_s < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline_s, self._advance)
            # Not asked of the timer: for a time that has passed, uvloop's does not know it.
            self._timer_s = deadline_s

    def _abort_in(self, delay_s: float) -> None:
        if self._aborting is not None:
            self._aborting.cancel()
        self._aborting = self._loop.call_later(delay_s, self.abort)

    def _advance(self) -> None:
        self._timer = None
        self._timer_s = inf
        self._act(self.connection.advance(now_s=self._now()))

    def _read_on(self) -> None:
        if self._transport is None:
            return
        self._transport.resume_reading()
        self.data_received(b"")

    def _hear(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._open(event)
            case Closed():
                for stream in self._streams.values():
                    self._leave(stream)
            case _:
                if (asked := self._streams.get(event.stream_id)) is not None:
                    self._tell(asked, event)

    # Requests

    def _tell(
        self, stream: AsgiStream, event: BodyReceived | BodyEnded | StreamResumed | StreamReset
    ) -> None:
        match event:
            case BodyReceived(data=data):
                stream.receive_body(data)
            case BodyEnded():
                stream.complete()
            case StreamResumed():
                stream.resume()
            case StreamReset():
                self._leave(stream)

    def _open(self, event: RequestReceived) -> None:
        stream = AsgiStream(self, event.stream_id, is_complete=event.is_complete)
        scope = scope_of(event.headers)
        if scope is None:
            stream.refuse(400, b"this request has no usable path\n")
            return
        entry = self._table.open(is_h2=True, now_s=self._now())
        if entry is None:
            stream.refuse(503, BUSY_TEXT, (BUSY_HEADER,))
            return
        scope.update(
            type="http",
            asgi=_ASGI,
            http_version="2",
            scheme=self._scheme,
            root_path="",
            client=self._client,
            server=self._server,
            extensions={EXTENSION: stream},
        )
        scope[RECEIVED] = self._received_s
        if event.is_complete and self._answer(event.stream_id, scope):
            self._table.close(entry)
            return
        if (b"expect", b"100-continue") in event.headers:
            self.connection.respond(event.stream_id, status=100, headers=())
        self._streams[event.stream_id] = stream
        stream.task = self._loop.create_task(self._run(stream, scope, entry))

    def _answer(self, stream_id: int, scope: dict[str, Any]) -> bool:
        """Answer a request at once, if the socket takes more; says whether it was one that is so answered."""
        answer = None if self._instants is None or self._is_full else self._instants.find(scope)
        if answer is None:
            return False
        headers = (*answer.headers, date_header())
        self.connection.respond(stream_id, status=answer.status, headers=headers)
        self.connection.end(stream_id, answer.body)
        self._answered += 1
        return True

    def _send_answers(self, instants: Instants) -> None:
        answered, self._answered = self._answered, 0
        self._flush()
        took_s = time.monotonic() - self._received_s
        for _ in range(answered):
            instants.took(took_s)

    async def _run(self, stream: AsgiStream, scope: dict[str, Any], entry: Stream) -> None:
        try:
            await self._app(scope, stream.receive, stream.send)
        except Exception:  # noqa: BLE001  (the top of a request: its fault must not touch another)
            _log.exception("request_failed")
        finally:
            stream.returned()
            del self._streams[stream.id]
            self._table.close(entry)
            self._end_if_done()

    def _leave(self, stream: AsgiStream) -> None:
        if stream.is_gone:
            return
        stream.leave()
        if stream.task is not None:
            cancelling = self._loop.call_later(CANCEL_AFTER_S, stream.task.cancel)
            stream.task.add_done_callback(lambda _: cancelling.cancel())

    def _end_if_done(self) -> None:
        if self._transport is None and not self._streams:
            self._on_closed(self)
