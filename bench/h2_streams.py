"""
HTTP/2 as a load client needs it (pure): requests become bytes, bytes become answers, few steps per frame.

Theory of operation. What arrives is stored with its time and read later, when nothing is being measured.
Flow control on the way in is opened as far as it goes at the start (2 GiB), so that no window has to be
updated; on the way out the connection's window is kept. It knows what a server of completions sends, and
nothing else: any other frame is an error. The h2 library keeps a state machine per stream, and its price per
frame would be in every figure (bench/LOG.md has both).
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hpack import Decoder, Encoder

from bench.answers import Answer, read

if TYPE_CHECKING:
    from collections.abc import Sequence

# RFC 9113 section 6
_DATA: Final = 0x0
_HEADERS: Final = 0x1
_RST_STREAM: Final = 0x3
_SETTINGS: Final = 0x4
_PING: Final = 0x6
_GOAWAY: Final = 0x7
_WINDOW_UPDATE: Final = 0x8
_ACK: Final = 0x1
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED_OR_PRIORITY: Final = 0x28
_CANCEL: Final = 0x8

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_BYTES: Final = 9
MAX_WINDOW: Final = 2**31 - 1
_FIRST_WINDOW: Final = 65_535
MAX_BODY_BYTES: Final = 16_384
"""Of a request: one frame."""


class ConnectionLostError(ConnectionError):
    """The server closed the connection, or sent what this client does not know."""


@dataclass(slots=True)
class Stream:
    """One request and what has arrived of its answer."""

    id: int
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    sent_s: float | None = None
    """When its last byte had been handed to the system."""
    ended_s: float | None = None
    """When it ended, in whatever way."""
    reset: int | None = None
    """Error code of a RST_STREAM."""

    def answer(self) -> Answer:
        """Read what has arrived."""
        return read(self.status, self.headers, self.chunks)


class Streams:
    """
    The streams of one connection.

    Args:
        authority: Host and port, as the server is called in requests.
        window: The first window of each stream.
    """

    def __init__(self, authority: str, *, window: int = MAX_WINDOW) -> None:
        self._authority = authority
        self._encoder, self._decoder = Encoder(), Decoder()
        self._next_id = 1
        self._live: dict[int, Stream] = {}
        self._held: deque[tuple[Stream, bytes, int]] = deque()
        self._window = _FIRST_WINDOW
        self._received = bytearray()
        self.out = bytearray()
        """Bytes for the server; whoever sends them takes them off."""
        self.leaving: list[Stream] = []
        """Streams whose last bytes are in `out`; whoever sends these clears it."""
        settings = struct.pack(">HIHI", 0x2, 0, 0x4, window)  # no push; the window of each stream
        self.out += _PREFACE + _frame(_SETTINGS, 0, 0, settings)
        self.out += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", MAX_WINDOW - _FIRST_WINDOW))

    @property
    def live(self) -> int:
        """How many streams have not ended."""
        return len(self._live)

    def post(self, path: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> Stream:
        """
        Make a request ready; `release` puts it into `out`.

        Raises:
            ValueError: the body is over MAX_BODY_BYTES.
        """
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"a body must have at most {MAX_BODY_BYTES} bytes, got {len(body)}")
        stream = Stream(self._next_id)
        self._next_id += 2
        self._live[stream.id] = stream
        pseudo = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", self._authority))
        block = self._encoder.encode([*pseudo, ("content-type", "application/json"), *headers])
        frames = _frame(_HEADERS, _END_HEADERS, stream.id, block) + _frame(
            _DATA, _END_STREAM, stream.id, body
        )
        self._held.append((stream, frames, len(body)))
        return stream

    def release(self) -> None:
        """Put into `out` what flow control lets go."""
        while self._held and self._held[0][2] <= self._window:
            stream, frames, size = self._held.popleft()
            self._window -= size
            self.out += frames
            self.leaving.append(stream)

    def open(self, stream: Stream, size: int) -> None:
        """Open a stream's window."""
        if stream.id in self._live:
            self.out += _frame(_WINDOW_UPDATE, 0, stream.id, struct.pack(">I", size))

    def cancel(self, stream: Stream, *, now_s: float) -> None:
        """Give a stream up."""
        if stream.id not in self._live:
            return
        held = [each for each in self._held if each[0] is stream]
        for each in held:  # the server has never heard of it
            self._held.remove(each)
        if not held:
            self.out += _frame(_RST_STREAM, 0, stream.id, struct.pack(">I", _CANCEL))
        self._end(stream, now_s)

    def receive(self, data: bytes, *, now_s: float) -> None:
        """
        Take bytes of the server.

        Raises:
            ConnectionLostError: it sent what this client does not know; all streams have ended.
        """
        received = self._received
        received += data
        at = 0
        while len(received) - at >= _HEAD_BYTES:
            end = at + _HEAD_BYTES + int.from_bytes(received[at : at + 3], "big")
            if len(received) < end:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream_id = int.from_bytes(received[at + 5 : at + 9], "big")
            payload = bytes(received[at + _HEAD_BYTES : end])
            if kind in (_DATA, _HEADERS):
                self._take_answer(kind, flags, self._live.get(stream_id), payload, now_s)
            else:
                self._take_other(kind, flags, stream_id, payload, now_s)
            at = end
        del received[:at]

    def lose(self, why: str, *, now_s: float) -> ConnectionLostError:
        """End all streams; returns the error to raise."""
        for stream in list(self._live.values()):
            self._end(stream, now_s)
        self._held.clear()
        return ConnectionLostError(why)

    def _take_answer(
        self, kind: int, flags: int, stream: Stream | None, payload: bytes, now_s: float
    ) -> None:
        if flags & _PADDED_OR_PRIORITY or (kind == _HEADERS and not flags & _END_HEADERS):
            raise self.lose(f"the server sent a frame of type {kind} with flags {flags:#x}", now_s=now_s)
        # Also for a stream that was given up: the decoder's table belongs to the connection.
        fields = self._decoder.decode(payload) if kind == _HEADERS else ()
        if stream is None:
            return
        if kind == _HEADERS:
            stream.headers.update((str(name), str(value)) for name, value in fields)
            stream.status = int(stream.headers.get(":status", stream.status))
        elif payload:
            stream.chunks.append((now_s, payload))
        if flags & _END_STREAM:
            self._end(stream, now_s)

    def _take_other(self, kind: int, flags: int, stream_id: int, payload: bytes, now_s: float) -> None:
        if kind in (_SETTINGS, _PING):
            if not flags & _ACK:
                self.out += _frame(kind, _ACK, 0, payload if kind == _PING else b"")
        elif kind == _WINDOW_UPDATE:
            # A body is smaller than a stream's first window, so only the connection's can hold it up.
            self._window += 0 if stream_id else int.from_bytes(payload, "big")
            self.release()
        elif kind == _RST_STREAM:
            if (stream := self._live.get(stream_id)) is not None:
                stream.reset = int.from_bytes(payload, "big")
                self._end(stream, now_s)
        elif kind != _GOAWAY or any(payload[4:8]):
            # GOAWAY without an error lets the streams that run finish.
            raise self.lose(f"the server sent a frame of type {kind}: {payload[:64]!r}", now_s=now_s)

    def _end(self, stream: Stream, now_s: float) -> None:
        stream.ended_s = now_s
        del self._live[stream.id]


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload
