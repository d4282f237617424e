"""The frames of a client (pure): cut, judged and parsed one by one, so that no flood is parsed at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from transport import frames
from transport.counters import CloseReason
from transport.frames import Fault, Frame, FrameReader, Kind
from transport.triage import Standing, Step, Triage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from h2.connection import H2Connection
    from h2.events import Event

    from transport.budgets import Budgets
    from transport.sending import OpenStream

REQUEST_WORK: Final = 25
"""A request takes as long as so many small frames, with its task and its end; its headers' length apart."""
HEADER_BYTES_PER_WORK: Final = 32
"""So many bytes of Huffman code take as long as a small frame."""
SETTINGS_WORK: Final = 5
STREAMS_PER_WORK: Final = 16
"""SETTINGS may move the window of every stream: of so many in the time of a small frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offence:
    """What ends the connection."""

    reason: CloseReason
    code: int
    """Of the GOAWAY."""


_FAULTS: Final = {
    Fault.NOT_HTTP2: Offence(reason=CloseReason.PROTOCOL_ERROR, code=ErrorCodes.PROTOCOL_ERROR),
    Fault.FRAME_TOO_LARGE: Offence(reason=CloseReason.PROTOCOL_ERROR, code=ErrorCodes.FRAME_SIZE_ERROR),
    Fault.BLOCK_TOO_LARGE: Offence(reason=CloseReason.HEADER_FLOOD, code=ErrorCodes.ENHANCE_YOUR_CALM),
}


class Receiving:
    """
    What arrives on a connection.

    Args:
        budgets: What the client may cost.
        wire: h2's connection, which parses.
        streams: Those that are open.
    """

    def __init__(self, budgets: Budgets, wire: H2Connection, streams: Mapping[int, OpenStream]) -> None:
        self._triage = Triage(budgets)
        self._wire = wire
        self._streams = streams
        self._reader = FrameReader()
        self._is_greeted = False
        self.has_peer_left = False
        """The client has sent a GOAWAY."""
        self.swallowed_bytes = 0
        """Of bodies that nobody wants, for the connection's window; whoever gives them back sets it to 0."""
        self.work = 0
        """What the frames since `feed` have cost, in small frames; some 10 us each."""

    @property
    def has_preface(self) -> bool:
        """Whether the client has said that it speaks HTTP/2."""
        return self._reader.has_preface

    @property
    def is_within_headers(self) -> bool:
        """Whether a header block has begun and not ended."""
        return self._reader.is_within_headers

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self.work = 0
        self._reader.feed(data)

    def next(self, *, now_s: float) -> list[Event] | Offence | None:
        """Take the next frame; returns what h2 makes of it, None when none has come whole."""
        frame = self._reader.next()
        if frame is None:
            return None
        if isinstance(frame, Fault):
            return _FAULTS[frame]
        self.work += self._work_of(frame)
        step = self._triage.judge(frame, self._standing(frame.stream_id), now_s=now_s)
        if isinstance(step, CloseReason):
            return Offence(reason=step, code=ErrorCodes.ENHANCE_YOUR_CALM)
        if step is Step.TAKE:
            return self._parse(frame)
        if step is Step.SWALLOW:
            self.swallowed_bytes += frame.size
        elif step is Step.PEER_LEAVES:
            self.has_peer_left = True
        return []

    def _work_of(self, frame: Frame) -> int:
        if frame.kind == Kind.HEADERS:
            return REQUEST_WORK + len(frame.data) // HEADER_BYTES_PER_WORK
        if frame.kind == Kind.SETTINGS:
            return SETTINGS_WORK + len(self._streams) // STREAMS_PER_WORK
        return 1

    def _standing(self, stream_id: int) -> Standing:
        stream = self._streams.get(stream_id)
        if stream is not None:
            return Standing.ANSWERED if stream.is_answered else Standing.OPEN
        return Standing.PAST if 0 < stream_id <= self._wire.highest_inbound_stream_id else Standing.NEW

    def _parse(self, frame: Frame) -> list[Event] | Offence:
        try:
            if not self._is_greeted:
                self._is_greeted = True
                self._wire.receive_data(frames.PREFACE)
            return self._wire.receive_data(frame.data)
        except ProtocolError as error:
            is_flood = error.error_code == ErrorCodes.ENHANCE_YOUR_CALM
            reason = CloseReason.HEADER_FLOOD if is_flood else CloseReason.PROTOCOL_ERROR
            return Offence(reason=reason, code=error.error_code)
