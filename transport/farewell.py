"""
How a client is told that its connection ends, so that it loses nothing (pure).

It is told twice (RFC 9113 section 6.8): at once that no more streams will be taken, with the highest id, so
that requests on their way are still served; and after a round trip which was the last. A client that breaks
at a GOAWAY gets one only where it has no stream, and has read the ends of those it had. Else its streams are
served, later ones refused after a round trip, and with the end of the last stream the connection is closed,
without a word.

| header of a client's first request | who sends it |
|---|---|
| `user-agent: python-httpx/0.28.1`, `python-httpx2/2.16.2` | httpx, and what is built on it |
| `user-agent: AsyncOpenAI/Python 3.54.0`, `Anthropic/Python 2.12.0` | the official SDKs, their subclasses |
| `x-stainless-lang: python` | the same, where a framework has put its own name into `user-agent` |

All of them speak HTTP/2 through httpcore, and httpcore through the `h2` library. That closes its state at
the first GOAWAY, whatever the last stream in it: the next frame is a protocol error, and every stream in
flight is lost to the client (https://github.com/python-hyper/h2/issues/1181). Nor may a GOAWAY follow the
ends of several streams: httpcore 1 raises for all but the stream that happened to read it, though their last
bytes came before. A request above the last stream that a GOAWAY names it makes again elsewhere, as it should.

Behind a proxy the connection is the proxy's, which follows GOAWAY, whoever asks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from h2.errors import ErrorCodes

from transport import frames

if TYPE_CHECKING:
    from transport.counters import CloseReason
    from transport.events import Headers

PING: Final = b"drained?"
"""Its answer comes after whatever the client sent before it was told."""
READ_S: Final = 1.0
"""So long after the ends of several streams their client has read them."""
_BREAKING: Final = {
    b"user-agent": re.compile(rb"python-httpx2?/|\w+/Python \d"),
    b"x-stainless-lang": re.compile(rb"python"),
}
_OF_PROXIES: Final = frozenset({b"via", b"forwarded", b"x-forwarded-for"})


def breaks_at_goaway(headers: Headers) -> bool:
    """Say whether a request is of a client that loses its streams in flight at a GOAWAY."""
    breaks = False
    for name, value in headers:
        if name in _OF_PROXIES:
            return False
        if (known := _BREAKING.get(name)) is not None:
            breaks |= known.match(value) is not None
    return breaks


class Farewell:
    """What one client is told. Verbs return the frames that say it."""

    __slots__ = ("_breaks", "_is_alone", "is_settled", "reason")

    def __init__(self) -> None:
        self._breaks: bool | None = None
        self._is_alone = True
        self.reason: CloseReason | None = None
        """Why the connection ends; None while it does not."""
        self.is_settled = False
        """Which stream was the last: those after it are refused, and it ends the connection."""

    def met(self, headers: Headers, *, is_alone: bool) -> None:
        """Look at a request, with or without others beside it; the first tells who the client is."""
        self._is_alone = is_alone
        if self._breaks is None:
            self._breaks = breaks_at_goaway(headers)

    def begin(self, reason: CloseReason, *, last_id: int, idle_s: float) -> bytes:
        """
        Say that no more streams will be taken, and ask for a sign that it was heard.

        Args:
            reason: Why.
            last_id: The client's last stream.
            idle_s: How long it has had none; negative while it has.
        """
        self.reason = reason
        if not self._breaks:
            return _goaway(frames.MAX_STREAM_ID) + frames.ping(PING)
        is_idle = idle_s >= (0 if self._is_alone else READ_S)
        self.is_settled = is_idle  # it would not read a PING now
        return _goaway(last_id) if is_idle else frames.ping(PING)

    def settle(self, *, last_id: int, is_idle: bool) -> bytes:
        """Say which stream was the last, to a client that has one or, long since, none."""
        self.is_settled = True
        return b"" if self._breaks and not is_idle else _goaway(last_id)


def _goaway(last_id: int) -> bytes:
    return frames.goaway(last_stream_id=last_id, code=ErrorCodes.NO_ERROR)
