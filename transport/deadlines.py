"""When an HTTP/2 connection has to be looked at, though nothing arrives (pure)."""

from __future__ import annotations

from math import inf

from transport.counters import CloseReason


class Deadlines:
    """
    The deadlines of one connection.

    Args:
        header_timeout_s: For the preface, and for a header block.
        keep_alive_s: For a connection without streams.
        now_s: When it began.
    """

    __slots__ = ("_header_timeout_s", "_headers_s", "_idle_s", "_keep_alive_s", "_preface_s", "drain_s")

    def __init__(self, *, header_timeout_s: float, keep_alive_s: float, now_s: float) -> None:
        self._header_timeout_s = header_timeout_s
        self._keep_alive_s = keep_alive_s
        self._preface_s = now_s + header_timeout_s
        self._headers_s = inf
        self._idle_s = now_s + keep_alive_s
        self.drain_s = inf
        """When the second step of a drain is due."""

    @property
    def next_s(self) -> float:
        """The earliest; `inf` when there is none."""
        return min(self._preface_s, self._headers_s, self._idle_s, self.drain_s)

    def greeted(self) -> None:
        """Note the client's preface."""
        self._preface_s = inf

    def within_headers(self, is_so: bool, *, is_new: bool, now_s: float) -> None:
        """
        Note whether a header block has begun and not ended.

        Args:
            is_so: Whether.
            is_new: Others have ended since the last note, so that this one cannot have begun before.
            now_s: The time.
        """
        if not is_so:
            self._headers_s = inf
        elif is_new or self._headers_s == inf:
            self._headers_s = now_s + self._header_timeout_s

    def busy(self) -> None:
        """Note a stream."""
        self._idle_s = inf

    def idle(self, *, now_s: float) -> None:
        """Note that no stream is left; the time counts from the first such note."""
        if self._idle_s == inf:
            self._idle_s = now_s + self._keep_alive_s

    def idle_for_s(self, *, now_s: float) -> float:
        """Return how long no stream was open; negative while one is."""
        return now_s - (self._idle_s - self._keep_alive_s)

    def passed(self, *, now_s: float) -> CloseReason | None:
        """Say which deadline has passed, that of the drain apart."""
        if now_s >= self._preface_s:
            return CloseReason.SLOW_PREFACE
        if now_s >= self._headers_s:
            return CloseReason.SLOW_HEADERS
        return CloseReason.IDLE if now_s >= self._idle_s else None
