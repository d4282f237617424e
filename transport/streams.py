"""The live requests of a listener (pure): who has been open since when, on which protocol; bounded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One request from its headers to the end of its answer."""

    id: int
    """Its number since the start, from 1."""
    is_h2: bool
    opened_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCounts:
    """How many requests are open, and how many have been."""

    h2: int
    h1: int
    opened: int
    """Since the start."""
    refused: int
    """Since the start, because the table was full."""
    oldest_s: float
    """How long the oldest has been open, 0 where none is."""


class StreamTable:
    """
    Which streams are open.

    Args:
        max_streams: At least 1; more are refused.
    """

    def __init__(self, *, max_streams: int) -> None:
        if max_streams < 1:
            raise ValueError(f"max_streams must be at least 1, got {max_streams}")
        self._max_streams = max_streams
        self._live: dict[int, Stream] = {}
        self._live_h2 = 0
        self._opened = 0
        self._refused = 0

    def open(self, *, is_h2: bool, now_s: float) -> Stream | None:
        """Note a new stream; None when it has no place."""
        if len(self._live) >= self._max_streams:
            self._refused += 1
            return None
        self._opened += 1
        stream = Stream(id=self._opened, is_h2=is_h2, opened_s=now_s)
        self._live[stream.id] = stream
        self._live_h2 += is_h2
        return stream

    def close(self, stream: Stream) -> None:
        """Note the end of a stream; a second time nothing happens."""
        if self._live.pop(stream.id, None) is not None:
            self._live_h2 -= stream.is_h2

    def counts(self, *, now_s: float) -> StreamCounts:
        """Count."""
        oldest = next(iter(self._live.values()), None)
        return StreamCounts(
            h2=self._live_h2,
            h1=len(self._live) - self._live_h2,
            opened=self._opened,
            refused=self._refused,
            oldest_s=0.0 if oldest is None else now_s - oldest.opened_s,
        )
