"""A blocking HTTP/2 load client on one thread: by prior knowledge or over TLS, a few connections at most."""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

from bench.h2_streams import MAX_WINDOW, Stream, Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self


_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """
    One connection.

    Args:
        host: Address of the server.
        port: Its port.
        timeout_s: Longest that connecting may take.
        tls: Speak TLS, with this context.
        window: The first window of each stream; by default it never has to be opened.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        window: int = MAX_WINDOW,
    ) -> None:
        self._streams = Streams(f"{host}:{port}", window=window)
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        self._socket.settimeout(0.0)
        # Now, and not with the first request: the server gives a client a few seconds to say that it is one.
        self.flush()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for select."""
        return self._socket.fileno()

    @property
    def raw_socket(self) -> socket.socket:
        """Return the socket, for what the system knows of it."""
        return self._socket

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait for the socket."""
        return bool(self._streams.out)

    @property
    def live(self) -> int:
        """How many streams have not ended."""
        return self._streams.live

    def post(self, path: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> Stream:
        """Make a request ready; all that are ready leave together with the next `wait` or `flush`."""
        return self._streams.post(path, body, headers)

    def cancel(self, stream: Stream) -> None:
        """Give a stream up."""
        self._streams.cancel(stream, now_s=time.monotonic())
        self.flush()

    def open(self, stream: Stream, size: int) -> None:
        """Open a stream's window."""
        self._streams.open(stream, size)
        self.flush()

    def flush(self) -> None:
        """Send as much as socket and flow control take."""
        streams = self._streams
        streams.release()
        try:
            while streams.out:
                del streams.out[: self._socket.send(streams.out)]
        except _NOT_NOW:
            return
        except OSError as error:
            raise streams.lose(str(error), now_s=time.monotonic()) from error
        now_s = time.monotonic()
        for stream in streams.leaving:
            stream.sent_s = now_s
        streams.leaving.clear()

    def receive(self) -> None:
        """
        Take what has arrived.

        Raises:
            ConnectionLostError: the connection is gone; all its streams have ended.
        """
        streams = self._streams
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except _NOT_NOW:
                break
            except OSError as error:
                raise streams.lose(str(error), now_s=time.monotonic()) from error
            now_s = time.monotonic()
            if not data:
                raise streams.lose("the server closed the connection", now_s=now_s)
            streams.receive(data, now_s=now_s)
            # TLS gives one record at a time, and select knows nothing of those it has read.
            if not isinstance(self._socket, ssl.SSLSocket) or not self._socket.pending():
                break
        if streams.out:
            self.flush()

    def close(self) -> None:
        """Close the connection; what is live on it is lost."""
        self._socket.close()


def wait(connections: Sequence[Connection], *, until: Callable[[], bool], timeout_s: float) -> bool:
    """
    Send and receive until something is so.

    Args:
        connections: Those that may send or receive.
        until: What must be so; asked after everything that arrives.
        timeout_s: How long at most.

    Returns:
        Whether it was so in time.

    Raises:
        ConnectionLostError: a connection is gone.
    """
    deadline_s = time.monotonic() + timeout_s
    for connection in connections:
        connection.flush()
    while not until():
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return False
        unsent = [each for each in connections if each.has_unsent]
        readable, writable, _ = select.select(connections, unsent, (), left_s)
        for connection in writable:
            connection.flush()
        for connection in readable:
            connection.receive()
    return True


def finish(connections: Sequence[Connection], *, timeout_s: float) -> bool:
    """Send and receive until every stream has ended; returns whether they did in time."""
    return wait(connections, until=lambda: not any(each.live for each in connections), timeout_s=timeout_s)
