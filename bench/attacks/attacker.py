"""A bad client of HTTP/2: sends frames as they are given to it, and notes what comes back."""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from hpack import Decoder, Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
ACK: Final = 0x1
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_INCREMENT: Final = 2**31 - 1
READ_BYTES: Final = 1 << 18


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """Make a frame, right or wrong."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


def word(value: int) -> bytes:
    """Make four bytes."""
    return struct.pack(">I", value)


def settings(values: Mapping[int, int]) -> bytes:
    """Make a SETTINGS frame."""
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *each) for each in values.items()))


def block(path: str = "/hello", *, method: str = "GET", more: Iterable[tuple[str, str]] = ()) -> bytes:
    """Make a header block that refers to no earlier one."""
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")]
    return bytes(Encoder().encode([*pseudo, *more]))


def headers(stream_id: int, data: bytes, *, ends: bool = True, size: int = 16_384) -> bytes:
    """Make a HEADERS frame, with CONTINUATION frames where one is too small."""
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    made = b""
    for number, part in enumerate(parts):
        last = END_HEADERS if number + 1 == len(parts) else 0
        kind, flags = (CONTINUATION, last) if number else (HEADERS, last | (END_STREAM if ends else 0))
        made += frame(kind, flags, stream_id, part)
    return made


class Attacker:
    """
    One connection.

    Args:
        port: Of the server, on the loopback interface.
        told: Its settings.
        begins: False: not even the preface is sent.
        buffer_bytes: Of the socket, for one who never reads.
    """

    def __init__(
        self,
        port: int,
        *,
        told: Mapping[int, int] | None = None,
        begins: bool = True,
        buffer_bytes: int | None = None,
    ) -> None:
        self._socket = socket.socket()
        if buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self._socket.settimeout(10)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(0)
        self._received = bytearray()
        self._decoder = Decoder()
        self.frames: Counter[int] = Counter()
        """How many of each kind have come."""
        self.goaways: list[tuple[int, int]] = []
        """Last stream and code of each."""
        self.resets: dict[int, int] = {}
        """The code of each RST_STREAM."""
        self.statuses: dict[int, int] = {}
        self.bodies: Counter[int] = Counter()
        """Bytes of each answer."""
        self.ended: set[int] = set()
        self.windows: Counter[int] = Counter()
        """By how much the server has opened each window; 0 is the connection's."""
        self.is_closed = False
        if begins:
            self.send(PREFACE + settings(told or {}))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self._socket.close()

    def send(self, data: bytes, *, reads: bool = True, limit_s: float = 10.0) -> bool:
        """Send everything; returns whether it went before the server closed and the time was over."""
        rest = memoryview(data)
        deadline_s = time.monotonic() + limit_s
        while rest and not self.is_closed and time.monotonic() < deadline_s:
            wanted = [self._socket] if reads else []
            readable, writable, _ = select.select(wanted, [self._socket], (), 0.1)
            if readable:
                self._receive()
            if writable and not self.is_closed:
                try:
                    sent = self._socket.send(rest)
                except BlockingIOError:
                    continue
                except OSError:
                    self.is_closed = True
                    break
                rest = rest[sent:]
        return not rest

    def flood(self, chunks: Iterable[bytes], *, reads: bool = True, limit_s: float = 10.0) -> None:
        """Send chunk after chunk until they or the time are over, or the server closes."""
        deadline_s = time.monotonic() + limit_s
        for chunk in chunks:
            left_s = deadline_s - time.monotonic()
            if self.is_closed or left_s <= 0 or not self.send(chunk, reads=reads, limit_s=left_s):
                break

    def read(self, until: Callable[[Attacker], bool] = lambda _: False, *, limit_s: float = 10.0) -> bool:
        """Read until something is so, the server closes, or the time is over; returns whether it was so."""
        deadline_s = time.monotonic() + limit_s
        while not until(self):
            left_s = deadline_s - time.monotonic()
            if self.is_closed or left_s <= 0:
                return False
            if select.select([self._socket], (), (), left_s)[0]:
                self._receive()
        return True

    def closes(self, *, limit_s: float = 10.0) -> bool:
        """Read until the server closes; returns whether it did in time."""
        self.read(limit_s=limit_s)
        return self.is_closed

    def _receive(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.is_closed = self.is_closed or not data
        self._received += data
        at = 0
        while len(self._received) - at >= 9:
            end = at + 9 + int.from_bytes(self._received[at : at + 3], "big")
            if len(self._received) < end:
                break
            stream_id = int.from_bytes(self._received[at + 5 : at + 9], "big")
            payload = bytes(self._received[at + 9 : end])
            self._take(self._received[at + 3], self._received[at + 4], stream_id, payload)
            at = end
        del self._received[:at]

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self.frames[kind] += 1
        if kind == HEADERS:
            fields = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            self.statuses[stream_id] = int(fields.get(":status", 0))
        elif kind == DATA:
            self.bodies[stream_id] += len(payload)
        elif kind == RST_STREAM:
            self.resets[stream_id] = int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.goaways.append((int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")))
        elif kind == WINDOW_UPDATE:
            self.windows[stream_id] += int.from_bytes(payload, "big")
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload), reads=False)
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream_id)


def chunks(made: Iterable[bytes], *, count: int | None = None, size: int = 100) -> Iterable[bytes]:
    """Join frames, `size` at a time, of the first `count`; None for as many as there are."""
    wanted = iter(made) if count is None else itertools.islice(made, count)
    while batch := list(itertools.islice(wanted, size)):
        yield b"".join(batch)
