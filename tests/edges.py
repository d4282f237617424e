"""Servers of transport/ on real sockets, their applications, and a client of HTTP/2 that follows GOAWAY."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import httpx

from transport.server import EdgeServer, ServerParams

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme

GOAWAY = 0x7
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
LOOPS = [("asyncio", {}), ("asyncio", {"use_uvloop": True})]
"""Parameters of `anyio_backend`: the loop of the library, and the one that the gateway runs on."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the protocol and the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, f"{scope['http_version']} {size}".encode())


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class Slow:
    """Answers when it is told to; knows whether it was cancelled."""

    def __init__(self) -> None:
        self.arrived, self.go, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        self.arrived.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await send({"type": "http.response.body", "body": b"done", "more_body": False})


async def serve(
    app: Any = echo, *, accepts_h2: Callable[[str], bool] = lambda _: True, **params: Any
) -> EdgeServer:
    server = EdgeServer(app, params=ServerParams(**params), accepts_h2=accepts_h2)
    await server.start()
    return server


def h2_client(**options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(http1=False, http2=True, **options)


async def eventually(is_so: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.005)


def certificate(folder: Path, authority: trustme.CA) -> dict[str, Path]:
    """Write a new certificate into the folder; returns the server's parameters."""
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    return {"tls_certificate": folder / "cert.pem", "tls_key": folder / "key.pem"}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class FollowingClient:
    """
    A client of HTTP/2 that goes on reading after a GOAWAY, as RFC 9113 asks.

    The h2 library takes no frame after one, so that it never sees them here.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.goaways: list[tuple[int, int]] = []
        """Last stream and error code of each."""
        self.told_s: float | None = None
        """When the first came."""
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.is_over = False
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.flush()
        self.reading = asyncio.create_task(self.read())

    @classmethod
    async def connect(cls, port: int) -> FollowingClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def get(self, path: str = "/") -> int:
        stream: int = self.h2.get_next_available_stream_id()
        headers = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "x")]
        self.h2.send_headers(stream, headers, end_stream=True)
        self.bodies[stream] = bytearray()
        self.flush()
        return stream

    async def read(self) -> None:
        try:
            while True:
                head = await self.reader.readexactly(9)
                self.take(head, await self.reader.readexactly(int.from_bytes(head[:3], "big")))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.is_over = True

    def take(self, head: bytes, payload: bytes) -> None:
        if head[3] == GOAWAY:
            self.told_s = self.told_s or asyncio.get_running_loop().time()
            last, code = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
            self.goaways.append((last, code))
            return
        for event in self.h2.receive_data(head + payload):
            match event:
                case h2.events.DataReceived():
                    self.bodies[event.stream_id] += event.data
                    if event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self.ended.add(event.stream_id)
                case h2.events.StreamReset():
                    self.resets[event.stream_id] = int(event.error_code)
        self.flush()

    async def close(self) -> None:
        self.writer.close()
        await asyncio.wait([self.reading], timeout=5)
