"""
HTTP/1.1 connections: hypercorn's protocol class behind our own asyncio shell.

Theory of operation: hypercorn's `H11Protocol` turns bytes into ASGI messages and back; it needs somebody who
reads (`handle`), somebody who writes (the `send` it is given), and somebody who starts applications
(`spawn_app`). Here one object is all three, so that timers, backpressure, drain and the loss of a connection
are ours: hypercorn's own shell spends two tasks on each request's idle timer, and waits for ever when a
client pipelines a request and vanishes before the answer to the first. The facts relied on are pinned in
tests/integration/test_transport_hypercorn.py. HTTP/2 never comes here, and an `Upgrade: h2c` is passed over.

An application may write to its stream without a task or a message for each part: `scope["extensions"]` has a
`wicketgate.stream`, as on HTTP/2.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final, cast

import h11
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol

from transport.asgi_stream import EXTENSION, RECEIVED
from transport.headers import list_bytes
from transport.http1_stream import Http1Stream, Inbox, refuse
from transport.instant import BUSY_HEADER, BUSY_TEXT, Instant, WholeRequest
from transport.writer import GatheringWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config
    from hypercorn.events import Event
    from starlette.types import ASGIApp, Message, Receive, Scope

    from transport.connection_counters import ConnectionCounters
    from transport.http1_settings import Http1Settings
    from transport.instant import Instants
    from transport.streams import StreamTable

_log = logging.getLogger(__name__)

READ_BYTES: Final = 64 * 1024
"""A connection whose bytes nobody takes is read no further."""
LINGER_S: Final = 1.0
"""How long a client that still sends may read our last answer: to close at once would reset it."""
FLUSH_S: Final = 10.0
"""How long the last bytes of a connection may take."""
CLOSE_S: Final = 0.25
"""How long a client to which all is sent may take to close its side."""
CANCEL_AFTER_S: Final = 1.0
"""How long the application of a lost connection may take to end by itself, as on HTTP/2."""
_BUSY: Final = Instant(
    status=503,
    headers=(
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(BUSY_TEXT)),
        BUSY_HEADER,
    ),
    body=BUSY_TEXT,
)


class _H11(H11Protocol):
    """Hypercorn's protocol without its ways to HTTP/2."""

    async def _check_protocol(self, event: h11.Request) -> None:
        pass


class Http1Connection(asyncio.Protocol):
    """
    One connection that speaks HTTP/1.1.

    Args:
        app: Called for each request.
        settings: Shared by the listener's connections.
        streams: Where requests are counted and bounded; one without a place is answered 503.
        counters: Shared by the listener's connections.
        client: Address and port; None for a Unix socket.
        server: Address and port, or the path of a Unix socket and None.
        scheme: http or https.
        on_closed: Called once, when the connection is gone and its application has ended.
        instants: What is answered at once, without the application.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Http1Settings,
        streams: StreamTable,
        counters: ConnectionCounters,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
        scheme: str,
        on_closed: Callable[[Http1Connection], None],
        instants: Instants | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._streams = streams
        self._counters = counters
        self._client = client
        self._server = server
        self._scheme = scheme
        self._on_closed = on_closed
        self._instants = instants
        self._loop = asyncio.get_running_loop()
        self._unread = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._serving: set[asyncio.Task[None]] = set()
        self._inbox: Inbox | None = None
        self._stream: Http1Stream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._is_idle = True
        """Nothing of a request has come since the last answer."""
        self._is_read = True
        self._received_s = 0.0
        self._is_draining = self._is_closing = self._is_lost = False

    @property
    def open_streams(self) -> int:
        """How many requests are not answered to the last byte."""
        return len(self._serving) or int(self._writer.unsent_bytes > 0)

    def drain(self) -> None:
        """Close the connection now, or after the answer that is on its way."""
        self._is_draining = True
        if self._is_idle:
            self._close()

    def abort(self) -> None:
        """End everything now."""
        self._transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the first request's headers are awaited."""
        self._transport = cast("asyncio.Transport", transport)
        self._writer = GatheringWriter(self._transport)
        self._h11 = _H11(
            cast("Any", None),  # the application: `spawn_app` knows it
            self._settings.config,
            self._settings.context,
            cast("Any", self),  # the task group: of its methods only `spawn_app` is called
            cast("Any", {}),
            self._scheme == "https",
            self._client,
            cast("Any", self._server),
            self._take,
        )
        self._set_timer(self._settings.header_timeout_s, self._give_up_headers)
        self._reading = self._loop.create_task(self._read())

    def data_received(self, data: bytes) -> None:
        """Answer at once, or keep bytes for the reading task; the first of a request start its deadline."""
        if self._is_closing:
            return
        self._received_s = time.monotonic()
        if (
            self._instants is not None
            and self._instants.may_know(data)
            and self._answer(self._instants, data)
        ):
            return
        if self._is_idle:
            self._is_idle = False
            self._set_timer(self._settings.header_timeout_s, self._give_up_headers)
        self._unread += data
        if len(self._unread) > READ_BYTES and self._is_read:
            self._is_read = False
            self._transport.pause_reading()
        self._news.set()

    def pause_writing(self) -> None:
        """Hold up what is sent by messages, and tell the stream."""
        self._writable.clear()
        self._stall = self._loop.call_later(self._settings.stall_s, self._transport.abort)
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        """Go on."""
        self._end_stall()
        self._writable.set()
        if self._stream is not None:
            self._stream.resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the application, which ends by itself; one that takes long to notice is cancelled."""
        self._is_lost = self._is_closing = True
        self._set_timer(None)
        self._end_stall()
        self._reading.cancel()
        self._writable.set()
        if self._inbox is not None:
            self._inbox.disconnect()
        if self._stream is not None:
            self._stream.lose()
        for task in self._serving:
            self._loop.call_later(CANCEL_AFTER_S, task.cancel)
        self._tell_if_over()

    # What hypercorn calls

    async def spawn_app(
        self, _app: object, _config: Config, scope: Scope, send: Callable[[Message | None], Awaitable[None]]
    ) -> Callable[[Message], Awaitable[None]]:
        """Start the application for one request; returns what its messages are put into."""
        inbox = self._inbox = Inbox()
        if scope["type"] == "http":
            method: str = scope["method"]
            stream = Http1Stream(
                cast("h11.Connection", self._h11.connection),
                self._writer,
                has_body=method != "HEAD",
                abort=self.abort,
            )
            if not self._writable.is_set():
                stream.pause()
            self._stream = scope["extensions"][EXTENSION] = stream
            cast("dict[str, Any]", scope)[RECEIVED] = self._received_s
        task = self._loop.create_task(self._serve(scope, inbox.get, send))
        self._serving.add(task)
        task.add_done_callback(self._served)
        return inbox.put

    async def _take(self, event: Event) -> None:
        """Do what the protocol asks for."""
        match event:
            case RawData(data=data):
                if not self._is_closing:
                    self._writer.write(data)
                if not self._writable.is_set():
                    await self._writable.wait()
            case Updated(idle=False):
                self._is_idle = False
                self._set_timer(None)
            case Updated():
                self._rest()
            case Closed():
                self._close()

    # The work

    async def _read(self) -> None:
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                data = bytes(self._unread)
                self._unread.clear()
                self._read_on()
                await self._h11.handle(RawData(data))
        except Exception:  # noqa: BLE001  (the top of a task: one connection's fault must not touch another)
            _log.exception("connection_failed")
            self._transport.abort()

    async def _serve(
        self, scope: Scope, receive: Receive, send: Callable[[Message | None], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        stream = self._streams.open(is_h2=False, now_s=self._loop.time())
        try:
            if scope["http_version"] not in ("1.1", "1.0"):
                text = b"HTTP/2 begins with a connection: use HTTP/1.1 on this one\n"
                await refuse(receive, send, 505, text, (b"connection", b"close"))
            elif _has_two_lengths(scope):
                text = b"a request has a content-length or a transfer-encoding, not both\n"
                await refuse(receive, send, 400, text, (b"connection", b"close"))
            elif list_bytes(scope["headers"]) > self._settings.max_header_bytes:
                # h11 bounds only those that are not complete; to read 64 KB of small ones takes 20 ms.
                text = b"the headers are too large\n"
                await refuse(receive, send, 431, text, (b"connection", b"close"))
            elif stream is None:
                await refuse(receive, send, 503, BUSY_TEXT, BUSY_HEADER)
            else:
                await self._app(scope, receive, send)
        except Exception:  # noqa: BLE001  (the top of a request)
            _log.exception("request_failed")
        finally:
            if stream is not None:
                self._streams.close(stream)
            await send(None)

    def _answer(self, instants: Instants, data: bytes) -> bool:
        """Answer a request that came alone and whole; says whether it was one that is answered at once."""
        if not self._is_idle or not self._writable.is_set():
            return False
        asked = WholeRequest.read(data, server=self._server, max_header_bytes=self._settings.max_header_bytes)
        answer = None if asked is None else instants.find(asked.scope)
        if asked is None or answer is None:
            return False
        stream = self._streams.open(is_h2=False, now_s=self._loop.time())
        dated = self._settings.config.response_headers("h11")
        self._writer.write(asked.answered(_BUSY if stream is None else answer, dated))
        self._writer.flush()
        if stream is not None:
            self._streams.close(stream)
            instants.took(time.monotonic() - self._received_s)
        if asked.is_last:
            self._close()
        else:
            self._set_timer(self._settings.keep_alive_s, self._close)
        return True

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._tell_if_over()

    def _tell_if_over(self) -> None:
        if self._is_lost and not self._serving:
            self._inbox = self._stream = None
            # They point back here: else a lost connection waits for the collector.
            self._h11 = self._reading = cast("Any", None)
            self._on_closed(self)

    def _rest(self) -> None:
        self._stream = None
        # Of a request that came before its turn, the headers are due as soon as it has its turn.
        self._is_idle = not (self._unread or self._h11.connection.trailing_data[0])
        if self._is_draining or self._is_closing:
            self._close()
        elif self._is_idle:
            self._set_timer(self._settings.keep_alive_s, self._close)
        else:
            self._set_timer(self._settings.header_timeout_s, self._give_up_headers)

    def _read_on(self) -> None:
        if not self._is_read:
            self._is_read = True
            self._transport.resume_reading()

    def _give_up_headers(self) -> None:
        self._counters.slow_headers += 1
        self._close()

    def _close(self) -> None:
        """Send what waits, and end; a client that has not ended its request is given time to read."""
        if self._is_closing:
            return
        self._is_closing = True
        self._give_up_s = self._loop.time() + FLUSH_S
        self._writer.flush()
        still_sends = self._h11.connection.their_state in (h11.SEND_BODY, h11.ERROR)
        if still_sends and self._transport.can_write_eof():
            self._read_on()
            with contextlib.suppress(OSError):
                self._transport.write_eof()
            self._set_timer(LINGER_S, self._insist)
        else:
            self._transport.close()
            self._set_timer(CLOSE_S, self._insist)

    def _insist(self) -> None:
        """End a connection whose close its client does not answer, as TLS awaits it, when all is sent."""
        if self._writer.unsent_bytes and self._loop.time() < self._give_up_s:
            self._set_timer(CLOSE_S, self._insist)
        else:
            self._transport.abort()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _set_timer(self, delay_s: float | None, act: Callable[[], None] = lambda: None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None else self._loop.call_later(delay_s, act)


def _has_two_lengths(scope: Scope) -> bool:
    """
    Say whether a proxy before us may have read the request's end elsewhere than h11 does.

    RFC 9112 section 6.1: it may be refused, and its connection must be closed; else what one takes for the
    body the other takes for the next request.
    """
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names
