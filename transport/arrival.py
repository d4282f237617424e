"""
A connection from its acceptance until it is known who is there and what is spoken.

Theory of operation: an accepted socket may first bring a PROXY header, which is peeked at and taken byte
for byte, so that what follows is left for TLS. Then asyncio takes the socket, by `connect_accepted_socket`,
not by `StreamWriter.start_tls`, which on uvloop can lose an early ClientHello; `Arrival` is the protocol
that it talks to first. With TLS, ALPN has chosen by then. In clear text the first bytes say whether the
client knows HTTP/2 beforehand; they are given on to the protocol that comes next.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, cast

from transport import proxy_protocol
from transport.preface import HTTP_1_1_REQUIRED, speaks_h2

if TYPE_CHECKING:
    from collections.abc import Callable

    from transport.connection_counters import ConnectionCounters
    from transport.proxy_protocol import ProxyHeader

LINGER_S: Final = 1.0
"""How long a client that was told to use HTTP/1.1 may read it: to close at once would reset it."""


class Arrival(asyncio.Protocol):
    """
    Finds out what a connection speaks.

    Args:
        accepts_h2: May it speak HTTP/2?
        timeout_s: It must have said by then.
        counters: Of the listener.
        on_known: Called once it is known, with the transport, whether it is HTTP/2, and the bytes read.
        on_closed: Called instead, when the client left, was too slow, or spoke HTTP/2 where it may not.
    """

    def __init__(
        self,
        *,
        accepts_h2: bool,
        timeout_s: float,
        counters: ConnectionCounters,
        on_known: Callable[[asyncio.Transport, bool, bytes], None],
        on_closed: Callable[[Arrival], None],
    ) -> None:
        self._accepts_h2 = accepts_h2
        self._timeout_s = timeout_s
        self._counters = counters
        self._on_known = on_known
        self._on_closed = on_closed
        self._begun = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._is_told = False
        self.is_waiting = False
        """Connected, and not known yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """With TLS all is known; else the first bytes are awaited."""
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._on_known(self._transport, tls.selected_alpn_protocol() == "h2", b"")
            return
        self.is_waiting = True
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Look at the first bytes."""
        if self._is_told:
            return
        self._begun += data
        is_h2 = speaks_h2(self._begun)
        if is_h2 is None:
            return
        self._stop_timer()
        if is_h2 and not self._accepts_h2:
            self._refuse()
        else:
            self.is_waiting = False
            self._on_known(self._transport, is_h2, bytes(self._begun))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client has left, or was too slow."""
        self._stop_timer()
        self.is_waiting = False
        if not self._is_told:
            self._counters.silent += 1
        self._on_closed(self)

    @property
    def open_streams(self) -> int:
        """Nothing was asked yet."""
        return 0

    def drain(self) -> None:
        """End it."""
        self.abort()

    def abort(self) -> None:
        """End it; that is not the client's doing."""
        self._is_told = True
        self._transport.abort()

    def _refuse(self) -> None:
        self._is_told = True
        self._counters.told_http_1_1_required += 1
        self._transport.write(HTTP_1_1_REQUIRED)
        self._transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def read_proxy_header(accepted: socket.socket) -> ProxyHeader:
    """
    Take the PROXY header off the beginning of a connection, and nothing that follows it.

    Raises:
        ProxyHeaderError: it begins otherwise.
        ConnectionError: it ended before.
    """
    taken = b""
    while True:
        await _readable(accepted)
        more = accepted.recv(proxy_protocol.MAX_BYTES - len(taken), socket.MSG_PEEK)
        if not more:
            raise ConnectionResetError("the connection ended within its PROXY header")
        header = proxy_protocol.parse(taken + more)
        # As long as it is not complete, all that has come is part of it.
        accepted.recv(len(more) if header is None else header.size_bytes - len(taken))
        if header is not None:
            return header
        taken += more


async def _readable(accepted: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(accepted.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(accepted.fileno())
