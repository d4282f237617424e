"""
Listeners: sockets, TLS, the choice between HTTP/2 and HTTP/1.1 per connection, drain; with writer.py the IO.

Theory of operation: we accept the connections and hand each to hypercorn's `TCPServer`, the seam that its
own `asyncio/run.py` uses; the facts relied on are pinned in tests/integration/test_transport_hypercorn.py.
Accepting ourselves gives the moment before TLS begins, in which the peer's address is known and the ALPN
answer is not: there `accepts_h2` decides, so that any share of connections may speak HTTP/2. TLS is set up
by `connect_accepted_socket`, not by `StreamWriter.start_tls`, which on uvloop can lose an early ClientHello.
Cleartext HTTP/2, by prior knowledge or Upgrade, where it may not be spoken is answered 505 by a text.

An ASGI application served here must read a request's body to its end before it ends the answer: hypercorn
0.18 drops the whole HTTP/2 connection when DATA arrives for an answered stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.protocol.h2 import H2Protocol

from transport.streams import StreamTable
from transport.writer import GatheringWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.events import Event
    from hypercorn.typing import AppWrapper
    from starlette.types import ASGIApp, Receive, Scope, Send

    from transport.streams import StreamCounts

_log = logging.getLogger(__name__)

ACCEPT_PAUSE_S: Final = 0.1
"""How long nothing is accepted after the system refused to (out of descriptors or memory)."""
ABORT_AFTER_S: Final = 1.0
"""How long `close` waits for the requests of lost connections to end by themselves."""
REFUSED_BODY_S: Final = 5.0
"""How long the body of a refused request is read."""
MAX_HEADER_BYTES: Final = 32 * 1024
_FOR_EVER: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParams:
    """Where and how to listen."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    unix_path: Path | None = None
    """A Unix socket instead of host and port; its mode is 0600."""
    tls_certificate: Path | None = None
    """PEM chain; with `tls_key` the listener speaks TLS only."""
    tls_key: Path | None = None
    backlog: int = 1024
    keep_alive_s: float = 75.0
    """An idle connection is closed after it; also the time for the first request's headers."""
    handshake_timeout_s: float = 10.0
    max_connections: int = 4096
    """More are closed as they come."""
    max_streams: int = 8192
    """More requests at once, over all connections, are answered 503."""
    max_streams_per_connection: int = 256
    """HTTP/2's SETTINGS_MAX_CONCURRENT_STREAMS."""

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How many connections a listener has."""

    h2: int
    h1: int
    """HTTP/1.1, and those that have not said yet what they speak."""
    opened: int
    """Since the start."""


class EdgeServer:
    """
    One listener of one ASGI application.

    Args:
        app: The application; it gets no lifespan events.
        params: Where and how to listen.
        accepts_h2: May the connection from this peer ("127.0.0.1:54321", or "unix") speak HTTP/2?
    """

    def __init__(self, app: ASGIApp, *, params: ServerParams, accepts_h2: Callable[[str], bool]) -> None:
        self._app = app
        self._params = params
        self._accepts_h2 = accepts_h2
        self._config = _hypercorn_config(params)
        self._context = WorkerContext(None)
        self._tls: dict[bool, ssl.SSLContext] | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._live: dict[asyncio.Task[None], _Connection] = {}
        self._opened = 0
        self._streams = StreamTable(max_streams=params.max_streams)
        self.port = params.port
        """The port bound, once started."""

    async def start(self) -> str:
        """
        Listen.

        Returns:
            The address bound: "127.0.0.1:8000", "[::1]:8000" or "unix:/path".

        Raises:
            OSError: the address or the certificate cannot be used; says which and why.
        """
        if self._params.tls_certificate is not None:
            self._tls = {accepts: _tls_context(self._params, accepts_h2=accepts) for accepts in (True, False)}
        self._listener, address = await _listen(self._params)
        if self._params.unix_path is None:
            self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(self._listener))
        return address

    def connections(self) -> Connections:
        """Count the live connections by protocol."""
        h2 = sum(connection.is_h2 for connection in self._live.values())
        return Connections(h2=h2, h1=len(self._live) - h2, opened=self._opened)

    def streams(self) -> StreamCounts:
        """Count the requests being served."""
        return self._streams.counts(now_s=asyncio.get_running_loop().time())

    async def drain(self, timeout_s: float) -> bool:
        """
        Take nothing new, close idle connections, wait for the requests being served.

        Returns:
            Whether all of them ended in time.
        """
        await self._stop_accepting()
        await self._context.terminated.set()
        if self._live:
            await asyncio.wait(self._live, timeout=timeout_s)
        return not self._live

    async def close(self) -> None:
        """End everything now: what is being served is cancelled."""
        await self._stop_accepting()
        await self._context.terminated.set()
        # hypercorn takes a lost connection well and a cancelled task badly, which remains for what hangs.
        for connection in self._live.values():
            connection.abort()
        if self._live:
            await asyncio.wait(self._live, timeout=ABORT_AFTER_S)
        for task in self._live:
            task.cancel()
        if self._live:
            await asyncio.wait(self._live, timeout=ABORT_AFTER_S)

    async def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if self._params.unix_path is not None:
                self._params.unix_path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listener)
            except OSError as error:
                _log.warning("accept_failed", extra={"error": str(error)})
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._live) >= self._params.max_connections:
                accepted.close()
                continue
            self._opened += 1
            peer = _peer(accepted.family, address)
            connection = _Connection(
                self._app, accepted, peer=peer, accepts_h2=self._accepts_h2(peer), streams=self._streams
            )
            task = asyncio.create_task(self._serve(connection))
            self._live[task] = connection
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._live.pop(task).ended()

    async def _serve(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        try:
            reader, writer = await self._wrap(connection)
        except OSError:
            # The handshake failed, or the client went away in it (TimeoutError and SSLError are OSErrors).
            return
        try:
            app = cast("AppWrapper", connection)
            await _ClosingServer(app, loop, self._config, self._context, {}, reader, writer)
        except Exception:  # noqa: BLE001  (the top of a task: one connection's fault must not touch another)
            _log.exception("connection_failed", extra={"peer": connection.peer})

    async def _wrap(self, connection: _Connection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        tls = None if self._tls is None else self._tls[connection.accepts_h2]
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection.accepted,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self._params.handshake_timeout_s,
        )
        connection.connected(transport)
        return reader, GatheringWriter(transport, protocol, reader, loop)


class _ClosingServer(TCPServer):
    """
    Lets go of a connection when its client has, and of one that says nothing.

    Hypercorn 0.18 waits for the idle timer first, so that a closed HTTP/1.1 connection keeps its descriptor
    for keep_alive_s; and at the preface of cleartext HTTP/2 it stops that timer, which only a finished stream
    starts again: a connection without any would stay for ever, and hold a drain.
    """

    _is_timed = False

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Pass on what the protocol says; its first word as HTTP/2 starts the timer."""
        await super().protocol_send(event)
        protocol = self.protocol.protocol
        if not self._is_timed and isinstance(event, RawData) and isinstance(protocol, H2Protocol):
            self._is_timed = True
            if protocol.idle:
                await self.idle_task.restart(self._task_group, self._idle_timeout)


class _Connection:
    """What hypercorn calls for each request of one connection."""

    def __init__(
        self, app: ASGIApp, accepted: socket.socket, *, peer: str, accepts_h2: bool, streams: StreamTable
    ) -> None:
        self._app = app
        self.accepted = accepted
        self.peer = peer
        self.accepts_h2 = accepts_h2
        self._streams = streams
        self.is_h2 = False
        self._transport: asyncio.Transport | None = None

    def connected(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        self.is_h2 = tls is not None and tls.selected_alpn_protocol() == "h2"

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def ended(self) -> None:
        # A task cancelled before its first step, or within the handshake, has closed nothing.
        self.abort()
        self.accepted.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, *_spawn: Any) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        self.is_h2 = scope["http_version"] == "2"
        if self.is_h2 and not self.accepts_h2:
            await _refuse(receive, send, 505, "HTTP/2 is off for this connection: use HTTP/1.1\n")
            return
        stream = self._streams.open(is_h2=self.is_h2, now_s=asyncio.get_running_loop().time())
        if stream is None:
            await _refuse(receive, send, 503, "too many requests at once: try again later\n")
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams.close(stream)


async def _refuse(receive: Receive, send: Send, status: int, text: str) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFUSED_BODY_S):
            while (await receive()).get("more_body", False):
                pass
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _hypercorn_config(params: ServerParams) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = _log
    config.include_server_header = False
    config.keep_alive_timeout = params.keep_alive_s
    # By default the 1,000th request closes the connection, and the streams that still run on it.
    config.keep_alive_max_requests = _FOR_EVER
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.h2_max_header_list_size = MAX_HEADER_BYTES
    config.h2_max_concurrent_streams = params.max_streams_per_connection
    return config


def _tls_context(params: ServerParams, *, accepts_h2: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # RFC 9113 section 9.2: TLS 1.2 or newer, no compression, no cipher of its block list.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["h2", "http/1.1"] if accepts_h2 else ["http/1.1"])
    assert params.tls_certificate is not None
    try:
        context.load_cert_chain(params.tls_certificate, params.tls_key)
    except OSError as error:
        files = f"the TLS certificate {params.tls_certificate} with the key {params.tls_key}"
        raise OSError(error.errno, f"cannot use {files}: {error.strerror or error}") from None
    return context


async def _listen(params: ServerParams) -> tuple[socket.socket, str]:
    if params.unix_path is not None:
        return _listen_unix(params.unix_path, params.backlog), f"unix:{params.unix_path}"
    loop = asyncio.get_running_loop()
    address = _address(params.host, params.port)
    found = await loop.getaddrinfo(params.host, params.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, name = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bind(listener, name, params.backlog, address)
    return listener, _address(params.host, listener.getsockname()[1])


def _listen_unix(path: Path, backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode) and not _is_answered(path):
            path.unlink()  # left by a process that was killed
    _bind(listener, str(path), backlog, f"unix:{path}")
    return listener


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _bind(listener: socket.socket, name: Any, backlog: int, address: str) -> None:
    try:
        listener.bind(name)
        if listener.family == socket.AF_UNIX:
            Path(name).chmod(0o600)  # before listen: nobody can have connected
        listener.listen(backlog)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {address}: {reason}") from None


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _peer(family: int, address: Any) -> str:
    return "unix" if family == socket.AF_UNIX else _address(address[0], address[1])
