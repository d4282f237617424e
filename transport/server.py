"""
One server of one ASGI application: its sockets, its certificate, its counts, its drain and its end.

HTTP/2 (transport/protocol.py) and HTTP/1.1 (transport/http1.py) are spoken on every socket. Accepting here
gives the moment before TLS begins, in which the peer's address is known and the ALPN answer is not: there
`accepts_h2` decides, so that any share of connections may speak HTTP/2.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from transport.connection_counters import ConnectionCounters
from transport.counters import Counters
from transport.forwarded import forwarded_client
from transport.newcomers import NewcomerParams
from transport.reception import Reception
from transport.sockets import adopt, listen_tcp, listen_unix
from transport.streams import StreamTable
from transport.tls import Certificate

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from transport.forwarded import ForwardedKind, Network
    from transport.instant import Instants
    from transport.sockets import Listener
    from transport.streams import StreamCounts

DEFAULT_HOST: Final = "127.0.0.1"
DEADLINE_GRACE_S: Final = 1.0
"""How long streams that were told to end at the deadline of a drain may take for their last words."""
ABORT_S: Final = 2.0
"""How long `close` waits for applications of lost connections: they are cancelled in half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParams:
    """Where and how to listen."""

    host: str | None = None
    """None: 127.0.0.1 where neither `unix_path` nor `sockets` are given, else not on TCP."""
    port: int = 0
    """0 takes a free one."""
    unix_path: Path | None = None
    """A Unix socket, beside or instead of TCP."""
    unix_mode: int = 0o600
    """Who may connect to it."""
    sockets: tuple[socket.socket, ...] = ()
    """Sockets that listen already: those that systemd or launchd opened."""
    tls_certificate: Path | None = None
    """PEM chain; with `tls_key` TLS only is spoken."""
    tls_key: Path | None = None
    backlog: int = 1024
    keep_alive_s: float = 75.0
    """An idle connection is closed after it."""
    header_timeout_s: float = 5.0
    """For a PROXY header, a connection's first bytes, HTTP/2's preface, and the headers of each request."""
    stall_s: float = 60.0
    """A client that takes nothing of what waits for it is let go after it."""
    handshake_timeout_s: float = 10.0
    max_connections: int = 4096
    """More are closed as they come."""
    newcomers: NewcomerParams = field(default_factory=NewcomerParams)
    """What strangers may hold: connections of one address, and those that have not said what they speak."""
    max_streams: int = 8192
    """More requests at once, over all connections, are refused."""
    max_streams_per_connection: int = 256
    """HTTP/2's SETTINGS_MAX_CONCURRENT_STREAMS."""
    proxy_trusted: tuple[Network, ...] = ()
    """Networks of the proxies before us. Who may connect to the Unix socket is trusted."""
    proxy_protocol: bool = False
    """Each connection of a trusted proxy begins with a PROXY header; those of others have none."""
    forwarded: ForwardedKind | None = None
    """Headers of trusted proxies that say who asked."""

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        is_behind_proxy = self.proxy_protocol or self.forwarded is not None
        if is_behind_proxy and not self.proxy_trusted and self.unix_path is None:
            raise ValueError("proxy_protocol and forwarded need proxy_trusted, the proxies' networks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How many connections a server has."""

    h2: int
    h1: int
    """HTTP/1.1, and those that have not said yet what they speak."""
    opened: int
    """Since the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeCounters:
    """What a server has done since its start: the counters themselves, which go on."""

    h2: Counters
    connections: ConnectionCounters


class EdgeServer:
    """
    A server of one ASGI application.

    Args:
        app: The application; it gets no lifespan events.
        params: Where and how to listen.
        accepts_h2: May the connection from this peer ("127.0.0.1:54321", or "unix") speak HTTP/2?
        instants: What is answered at once, without the application.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        params: ServerParams,
        accepts_h2: Callable[[str], bool],
        instants: Instants | None = None,
    ) -> None:
        self._app = app if params.forwarded is None else _forwarding(app, params, params.forwarded)
        self._params = params
        self._accepts_h2 = accepts_h2
        self._instants = instants
        self._streams = StreamTable(max_streams=params.max_streams)
        self._counters = EdgeCounters(h2=Counters(), connections=ConnectionCounters())
        self._certificate: Certificate | None = None
        self._reception: Reception | None = None
        self._listeners: list[Listener] = []
        self._accepting: list[asyncio.Task[None]] = []
        self.port = params.port
        """The first TCP port bound, once started."""
        self.addresses: tuple[str, ...] = ()
        """Where it listens, once started: TCP first, then the Unix socket, then what was activated."""

    async def start(self) -> str:
        """
        Listen.

        Returns:
            The first address bound: "127.0.0.1:8000", "[::1]:8000" or "unix:/path".

        Raises:
            OSError: an address or the certificate cannot be used; says which and why. Nothing listens then.
        """
        params = self._params
        if params.tls_certificate is not None and params.tls_key is not None:
            self._certificate = Certificate(params.tls_certificate, params.tls_key)
        try:
            await self._listen()
        except OSError:
            self._close_listeners()
            raise
        self._reception = Reception(
            self._app,
            params=params,
            certificate=self._certificate,
            streams=self._streams,
            counters=self._counters.connections,
            h2_counters=self._counters.h2,
            accepts_h2=self._accepts_h2,
            newcomers=params.newcomers,
            instants=self._instants,
        )
        self._accepting = [
            asyncio.create_task(self._reception.accept_from(listener.socket)) for listener in self._listeners
        ]
        self.addresses = tuple(listener.address for listener in self._listeners)
        return self.addresses[0]

    def connections(self) -> Connections:
        """Count the live connections by protocol."""
        if self._reception is None:
            return Connections(h2=0, h1=0, opened=0)
        h2 = self._reception.live_h2
        return Connections(h2=h2, h1=self._reception.live - h2, opened=self._reception.opened)

    def streams(self) -> StreamCounts:
        """Count the requests being served."""
        return self._streams.counts(now_s=asyncio.get_running_loop().time())

    def counters(self) -> EdgeCounters:
        """Return what was counted since the start."""
        return self._counters

    def tls_changed(self) -> bool:
        """Say whether the certificate's files are others than those last read: two calls of stat."""
        return self._certificate is not None and self._certificate.has_changed()

    def reload_tls(self) -> None:
        """
        Use the certificate's files as they are now, for new connections.

        Raises:
            OSError: they cannot be used; says which and why. Nothing has changed then.
        """
        if self._certificate is not None:
            self._certificate.reload()

    async def drain(self, timeout_s: float, *, on_deadline: Callable[[], None] | None = None) -> bool:
        """
        Take nothing new, tell every connection so, wait for the requests being served.

        Args:
            timeout_s: How long they may take.
            on_deadline: Called when some are left then. What it ends has a second for its last words.

        Returns:
            Whether all of them ended in time.
        """
        await self._stop_accepting()
        reception = self._reception
        if reception is None:
            return True
        reception.drain()
        await reception.wait_empty(timeout_s)
        if not reception.open_streams:
            return True
        if on_deadline is not None:
            on_deadline()
            await reception.wait_empty(DEADLINE_GRACE_S)
        return False

    async def close(self) -> None:
        """End everything now: what is being served is cancelled."""
        await self._stop_accepting()
        if self._reception is not None:
            self._reception.abort()
            await self._reception.wait_empty(ABORT_S)

    async def _listen(self) -> None:
        params = self._params
        has_other = params.unix_path is not None or bool(params.sockets)
        host = params.host or (None if has_other else DEFAULT_HOST)
        if host is not None:
            self._listeners.append(await listen_tcp(host, params.port, backlog=params.backlog))
        if params.unix_path is not None:
            self._listeners.append(
                listen_unix(params.unix_path, mode=params.unix_mode, backlog=params.backlog)
            )
        self._listeners += [adopt(each) for each in params.sockets]
        ports = [listener.port for listener in self._listeners if listener.port is not None]
        self.port = ports[0] if ports else self.port

    async def _stop_accepting(self) -> None:
        for task in self._accepting:
            task.cancel()
        if self._accepting:
            await asyncio.wait(self._accepting)
            self._accepting = []
        self._close_listeners()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []


def _forwarding(app: ASGIApp, params: ServerParams, kind: ForwardedKind) -> ASGIApp:
    async def forwarding(scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope["client"]
        host = None if peer is None else peer[0]
        found, scheme = forwarded_client(scope["headers"], host, params.proxy_trusted, kind=kind)
        if found != host:
            scope["client"] = (found, 0)
        if scheme is not None:
            scope["scheme"] = scheme
        await app(scope, receive, send)

    return forwarding
