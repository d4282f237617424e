"""
The DATA frames of one HTTP/2 connection (pure): whose turn it is, and what the windows let through.

Streams with something to send stand in a queue; each sends one frame and goes to its end, so that a short
connection window is shared fairly. A stream whose own window is shut leaves the queue, with the time noted,
until it is opened.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

from transport.frames import DATA, END_STREAM, MAX_FRAME_BYTES, pack_head
from transport.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from h2.connection import H2Connection
    from h2.stream import H2Stream

MIN_PROGRESS_BYTES: Final = 64
"""A smaller frame, cut by the client's window, gives it no right to window updates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendParams:
    """How much may wait unsent."""

    stream_pause_bytes: int = 64 * 1024
    """A stream with more is paused."""
    stream_resume_bytes: int = 16 * 1024
    """A paused stream with no more than this is resumed."""
    stream_max_bytes: int = 1024 * 1024
    """A stream that is written to while it has more is reset: its writer heeds no pause."""
    connection_pause_bytes: int = 1024 * 1024
    """With more, all streams of the connection are paused."""
    connection_resume_bytes: int = 512 * 1024


class OpenStream:
    """One stream, from its request's headers until both sides have ended it."""

    __slots__ = (
        "has_no_body",
        "id",
        "is_answered",
        "is_ended",
        "is_paused",
        "is_request_complete",
        "is_waiting",
        "outbox",
        "unconsumed_bytes",
        "wire",
    )

    def __init__(self, stream_id: int, wire: H2Stream, *, is_request_complete: bool) -> None:
        self.id = stream_id
        self.wire = wire
        """h2's stream, for its window."""
        self.outbox = Outbox()
        self.is_request_complete = is_request_complete
        self.has_no_body = False
        """The answer to HEAD, and some statuses: what is written is dropped."""
        self.is_answered = False
        """Its answer's headers were sent."""
        self.is_ended = False
        """Nothing more will be written."""
        self.is_waiting = False
        """It stands in the queue, or its window is shut."""
        self.is_paused = False
        self.unconsumed_bytes = 0
        """Of the request's body: handed out, its window not given back."""


@dataclass(slots=True)
class Filled:
    """What `fill` has made."""

    frames: int = 0
    honest: int = 0
    """Frames that entitle the client to window updates."""
    ended: list[OpenStream] = field(default_factory=list)
    """Streams whose last frame was made."""


class Sending:
    """
    What waits to be sent on a connection.

    Args:
        params: The marks.
        wire: h2's connection, for its window.
    """

    def __init__(self, params: SendParams, wire: H2Connection) -> None:
        self._params = params
        self._wire = wire
        self._queue: deque[OpenStream] = deque()
        self._blocked: dict[OpenStream, float] = {}
        self._paused: dict[OpenStream, None] = {}
        self.unsent_bytes = 0
        self.is_paused = False
        """The whole connection has too much."""
        self.shut_since_s: float | None = None
        """Since when the connection's window has let nothing through."""

    @property
    def can_send(self) -> bool:
        """Whether `fill` would find anything."""
        if not self._queue:
            return False
        return self._wire.outbound_flow_control_window > 0 or not self._queue[0].outbox.size

    @property
    def oldest_block_s(self) -> float:
        """Since when the window of some stream has been shut; `inf` when that of none is."""
        return next(iter(self._blocked.values()), inf)

    def blocked_since(self, at_s: float) -> list[OpenStream]:
        """Return the streams whose window has been shut at least since then."""
        return [stream for stream, since_s in self._blocked.items() if since_s <= at_s]

    def write(self, stream: OpenStream, data: bytes) -> None:
        """Put bytes behind those of the stream that wait."""
        self.unsent_bytes += len(data)
        if stream.outbox.add(data) > self._params.stream_pause_bytes and not stream.is_paused:
            stream.is_paused = True
            self._paused[stream] = None
        if self.unsent_bytes > self._params.connection_pause_bytes:
            self.is_paused = True
        if not stream.is_waiting:
            stream.is_waiting = True
            self._queue.append(stream)

    def end(self, stream: OpenStream) -> None:
        """Let the stream end behind its last byte."""
        stream.is_ended = True
        if not stream.is_waiting:
            stream.is_waiting = True
            self._queue.append(stream)

    def opened(self, stream: OpenStream) -> None:
        """Note that the window of a stream has changed."""
        if stream.wire.outbound_flow_control_window > 0 and self._blocked.pop(stream, None) is not None:
            self._queue.append(stream)

    def forget(self, stream: OpenStream) -> None:
        """Drop what a stream has unsent."""
        self.unsent_bytes -= stream.outbox.size
        stream.outbox.clear()
        self._paused.pop(stream, None)
        if stream.is_waiting and self._blocked.pop(stream, None) is None:
            self._queue.remove(stream)
            if not self._queue:
                self.shut_since_s = None

    def clear(self) -> None:
        """Drop everything."""
        self._queue.clear()
        self._blocked.clear()
        self._paused.clear()
        self.unsent_bytes = 0

    def fill(self, out: bytearray, *, most_bytes: int, now_s: float) -> Filled:
        """
        Make DATA frames.

        Args:
            out: Where they go.
            most_bytes: About how long `out` may become.
            now_s: The time.
        """
        queue, wire = self._queue, self._wire
        window = wire.outbound_flow_control_window
        filled = Filled()
        while queue and len(out) < most_bytes:
            waiting = queue[0].outbox.size
            if waiting and window <= 0:
                break
            stream = queue.popleft()
            size = _share(waiting, stream.wire.outbound_flow_control_window, window)
            if waiting and not size:
                self._blocked[stream] = now_s
                continue
            window -= size
            filled.frames += 1
            filled.honest += size == waiting or size >= MIN_PROGRESS_BYTES
            if self._frame(out, stream, size):
                filled.ended.append(stream)
        sent_bytes = wire.outbound_flow_control_window - window
        wire.outbound_flow_control_window = window
        self.unsent_bytes -= sent_bytes
        self._note_progress(sent_bytes, now_s)
        return filled

    def resumed(self, streams: Iterable[OpenStream]) -> list[OpenStream]:
        """
        Resume what has little enough unsent by now.

        Args:
            streams: All that are open, for when the connection as a whole was paused.
        """
        few = self._params.stream_resume_bytes
        gone_on = [stream for stream in self._paused if stream.outbox.size <= few]
        for stream in gone_on:
            del self._paused[stream]
            stream.is_paused = False
        if not self.is_paused:
            return gone_on
        if self.unsent_bytes > self._params.connection_resume_bytes:
            return []
        self.is_paused = False
        return [stream for stream in streams if not stream.is_paused]

    def _frame(self, out: bytearray, stream: OpenStream, size: int) -> bool:
        """Make one frame of a stream; says whether it was the last. If not, its next turn comes."""
        outbox = stream.outbox
        is_all = size == outbox.size
        is_last = is_all and stream.is_ended
        out += pack_head(0, size, DATA, END_STREAM if is_last else 0, stream.id)
        if size:
            out += outbox.take(size)
            stream.wire.outbound_flow_control_window -= size
        if is_all:
            stream.is_waiting = False
        else:
            self._queue.append(stream)
        return is_last

    def _note_progress(self, sent_bytes: int, now_s: float) -> None:
        if self._wire.outbound_flow_control_window > 0 or not self._queue:
            self.shut_since_s = None
        elif sent_bytes or self.shut_since_s is None:
            self.shut_since_s = now_s


def _share(waiting: int, stream_window: int, connection_window: int) -> int:
    """Say how much of a stream goes in one frame; by comparing, since `min` of four takes twice as long."""
    size = waiting if waiting < MAX_FRAME_BYTES else MAX_FRAME_BYTES
    if size > stream_window:
        size = stream_window if stream_window > 0 else 0
    return size if size <= connection_window else connection_window
