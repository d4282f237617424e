"""
HTTP/2 frames as bytes (pure): cuts what arrives into frames before anything is parsed, and makes the few we
write.

The h2 library reads all that it is given, at some 10 us a frame, and holds a header block of 64 frames or a
frame of 16 MB before it says a word. So each frame's head is looked at here first: what is too large is
never held, and each frame can be judged, dropped or put off before it costs anything. A header block is
handed on in one piece.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from struct import Struct
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16_384
"""The largest payload either side may send: we never announce more (RFC 9113 section 4.2)."""
MAX_BLOCK_BYTES: Final = 64 * 1024
"""The largest encoded header block; so many bytes of it are held."""
MAX_CONTINUATIONS: Final = 16
MAX_STREAM_ID: Final = 2**31 - 1

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4

_HEAD: Final = Struct(">BHBBL")
pack_head: Final = _HEAD.pack
"""Make a frame's head: high byte and low bytes of the payload's size, kind, flags, stream."""
_SETTING: Final = Struct(">HL")
_WORDS: Final = Struct(">LL")
_HEADER_TABLE_SIZE: Final = 0x1
_MAX_TABLE_BYTES: Final = 4096
_KNOWN_SETTINGS: Final = frozenset({0x1, 0x2, 0x3, 0x4, 0x5, 0x6})


class Kind(IntEnum):
    """Frame types (RFC 9113 section 6)."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


DATA: Final = int(Kind.DATA)
"""As a plain number, which `pack_head` takes in half the time."""


class Fault(StrEnum):
    """Why no frame can be cut from what arrived."""

    NOT_HTTP2 = "not_http2"
    FRAME_TOO_LARGE = "frame_too_large"
    BLOCK_TOO_LARGE = "block_too_large"
    """Of bytes or of frames."""


class Frame(NamedTuple):
    """One frame, or a HEADERS frame with all its CONTINUATION frames."""

    kind: int
    flags: int
    stream_id: int
    size: int
    """Bytes of the (first) payload, padding included."""
    data: bytes
    """Everything, heads included."""


class FrameReader:
    """Cuts a client's bytes into frames."""

    __slots__ = ("_at", "_block", "_buffer", "_continuations", "_first", "has_preface")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._first: Frame | None = None
        self._block = bytearray()
        self._continuations = 0
        self.has_preface = False
        """Whether the client's preface has come."""

    @property
    def is_within_headers(self) -> bool:
        """Whether a frame or a header block has begun and not ended; a frame of DATA may take its time."""
        left = len(self._buffer) - self._at
        if self._first is not None:
            return True
        return left > 0 and (left < 4 or self._buffer[self._at + 3] != Kind.DATA)

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += data

    def next(self) -> Frame | Fault | None:
        """Return the next frame, None when it has not come whole."""
        if not self.has_preface:
            start = self._buffer[: len(PREFACE)]
            if not PREFACE.startswith(start):
                return Fault.NOT_HTTP2
            if len(start) < len(PREFACE):
                return None
            self.has_preface = True
            self._at = len(PREFACE)
        while True:
            found = self._cut()
            if not isinstance(found, Frame):
                return found
            gathered = self._gather(found)
            if gathered is not None:
                return gathered

    def _cut(self) -> Frame | Fault | None:
        at, buffer = self._at, self._buffer
        if len(buffer) - at < HEAD_BYTES:
            return None
        high, low, kind, flags, stream_id = _HEAD.unpack_from(buffer, at)
        size = high << 16 | low
        if size > MAX_FRAME_BYTES:
            return Fault.FRAME_TOO_LARGE
        end = at + HEAD_BYTES + size
        if len(buffer) < end:
            return None
        self._at = end
        data = bytes(buffer[at:end])
        if kind == Kind.SETTINGS:
            data = _bounded_settings(data)
        return Frame(kind, flags, stream_id & MAX_STREAM_ID, size, data)

    def _gather(self, frame: Frame) -> Frame | Fault | None:
        """Hold the frames of a header block back until it is whole; what may not stand there ends it."""
        if self._first is None:
            if frame.kind != Kind.HEADERS or frame.flags & END_HEADERS:
                return frame
            self._first = frame
            self._block += frame.data
            return None
        self._block += frame.data
        self._continuations += 1
        if self._continuations > MAX_CONTINUATIONS or len(self._block) > MAX_BLOCK_BYTES:
            return Fault.BLOCK_TOO_LARGE
        if frame.kind == Kind.CONTINUATION and not frame.flags & END_HEADERS:
            return None
        whole = self._first._replace(data=bytes(self._block))
        self._first = None
        self._block.clear()
        self._continuations = 0
        return whole


def goaway(*, last_stream_id: int, code: int) -> bytes:
    """Make a GOAWAY frame."""
    return pack_head(0, _WORDS.size, Kind.GOAWAY, 0, 0) + _WORDS.pack(last_stream_id, code)


def window_update(increment: int) -> bytes:
    """Make a WINDOW_UPDATE of the connection."""
    return pack_head(0, 4, Kind.WINDOW_UPDATE, 0, 0) + increment.to_bytes(4, "big")


def ping(data: bytes) -> bytes:
    """Make a PING with 8 bytes."""
    return pack_head(0, len(data), Kind.PING, 0, 0) + data


def _bounded_settings(frame: bytes) -> bytes:
    """
    Take from a SETTINGS frame what would let the client fill our memory.

    The h2 library keeps a deque per setting id, 65,536 of them, and lets the encoder's table grow to what the
    client says, 4 GiB. An encoder may use less than it is allowed (RFC 7541 section 4.2).
    """
    payload = frame[HEAD_BYTES:]
    if len(payload) % _SETTING.size:
        return frame  # malformed: h2 says so
    kept = bytearray()
    for setting, value in _SETTING.iter_unpack(payload):
        if setting in _KNOWN_SETTINGS:
            kept += _SETTING.pack(
                setting, min(value, _MAX_TABLE_BYTES) if setting == _HEADER_TABLE_SIZE else value
            )
    return pack_head(0, len(kept), *_HEAD.unpack_from(frame)[2:]) + bytes(kept)


def refusal(code: int) -> bytes:
    """Make all that a server says which wants no HTTP/2 here: SETTINGS, which must come first, and GOAWAY."""
    return pack_head(0, 0, Kind.SETTINGS, 0, 0) + goaway(last_stream_id=0, code=code)
