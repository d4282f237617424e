"""What an HTTP/2 connection tells its shell (pure values)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transport.counters import CloseReason

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceived:
    """A request's headers."""

    stream_id: int
    headers: Headers
    """Pseudo-header fields first, names and values checked."""
    is_complete: bool
    """No body follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyReceived:
    """A part of a request's body; `consumed` opens the window for as much again."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyEnded:
    """The end of a request that has a body."""

    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResumed:
    """A stream that was paused may be written to."""

    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReset:
    """A stream ended before its answer did, by the client or through its fault."""

    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The connection is over: send what `to_send` still gives, then close. Streams still open are lost."""

    reason: CloseReason


Event = RequestReceived | BodyReceived | BodyEnded | StreamResumed | StreamReset | Closed
