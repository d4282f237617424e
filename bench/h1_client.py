"""A blocking HTTP/1.1 load client on one thread, to compare with HTTP/2: one connection a stream."""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import Final

END: Final = b"0\r\n\r\n"
"""What the body of an answer in chunks ends with."""
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError)


class Stream:
    """One request on a connection of its own, and what has arrived of its answer."""

    def __init__(self, host: str, port: int, path: str, *, tls: ssl.SSLContext | None) -> None:
        raw = socket.create_connection((host, port), timeout=10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.raw_socket = raw if tls is None else tls.wrap_socket(raw, server_hostname=host)
        self.raw_socket.sendall(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode())
        self.raw_socket.settimeout(0)
        self.chunks: list[tuple[float, bytes]] = []
        self.has_ended = False

    def fileno(self) -> int:
        """Return the socket's descriptor, for select."""
        return self.raw_socket.fileno()

    def receive(self) -> None:
        """Take what has arrived."""
        while True:
            try:
                data = self.raw_socket.recv(1 << 20)
            except _NOT_NOW:
                return
            self.chunks.append((time.monotonic(), data))
            # The last chunk may come in one piece with what was before it.
            self.has_ended = not data or data.endswith(END)
            if self.has_ended or not isinstance(self.raw_socket, ssl.SSLSocket):
                return
            if not self.raw_socket.pending():
                return


def finish(streams: list[Stream], *, timeout_s: float) -> bool:
    """Receive until all have ended; returns whether they did in time."""
    deadline_s = time.monotonic() + timeout_s
    live = list(streams)
    while live and (left_s := deadline_s - time.monotonic()) > 0:
        readable, _, _ = select.select(live, (), (), left_s)
        for stream in readable:
            stream.receive()
        live = [stream for stream in live if not stream.has_ended]
    return not live
