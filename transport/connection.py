"""
One HTTP/2 connection of a server (pure): bytes and the time in, bytes and events out.

Theory of operation. The h2 library keeps the protocol: header compression and validation, settings, windows,
the state of each stream. Three things are done beside it:

* DATA frames are made here. h2's `send_data` takes some 15 us, a frame by hand one; so `write` only stores,
  and `to_send` makes one frame of all that was written. h2's public window counters are kept right.
* Each frame is looked at before h2 parses it (frames.py), charged to a budget where it carries nothing
  (budgets.py), and dropped where h2 is stricter than RFC 9113 with frames that were on their way: DATA of a
  stream already answered or reset is swallowed and its window given back.
* GOAWAY never passes through h2, which closes everything at the first one, sent or received. What a drain
  tells the client, and when, is farewell.py's.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from h2 import events as h2_events
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from transport import frames
from transport.budgets import LARGE_HEADERS_WEIGHT, REFUSED_WEIGHT, Budgets
from transport.counters import CloseReason
from transport.deadlines import Deadlines
from transport.events import BodyEnded, BodyReceived, Closed, RequestReceived, StreamReset, StreamResumed
from transport.farewell import PING, Farewell
from transport.headers import NO_BODY, list_bytes, outbound
from transport.receiving import Offence, Receiving
from transport.sending import OpenStream, Sending
from transport.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transport.counters import Counters
    from transport.events import Event, Headers
    from transport.wire import ConnectionParams

WORK_PER_TURN: Final = 128
"""So many small frames are read, some 2 ms, before other connections have their turn; fewer requests."""
BYTES_PER_TURN: Final = 256 * 1024
"""So many bytes are handed to the socket at once, which may hold them in memory."""
LAST_IDS: Final = 20_000
"""So near to the last stream id a connection is drained."""


class Connection:
    """
    The server's side of one HTTP/2 connection.

    Verbs on a stream that is gone do nothing: its end may cross them.

    Args:
        params: Its limits.
        now_s: The time.
        counters: Where it counts.
    """

    def __init__(self, params: ConnectionParams, *, now_s: float, counters: Counters) -> None:
        self._params = params
        self._counters = counters
        self._wire = Wire(params)
        self._budgets = Budgets(params.budgets, now_s=now_s)
        self._sending = Sending(params.sending, self._wire)
        self._deadlines = Deadlines(
            header_timeout_s=params.header_timeout_s, keep_alive_s=params.keep_alive_s, now_s=now_s
        )
        self._streams: dict[int, OpenStream] = {}
        self._receiving = Receiving(self._budgets, self._wire, self._streams)
        self._events: list[Event] = []
        self._out = bytearray(self._wire.data_to_send())
        self._farewell = Farewell()
        self.is_over = False
        """Nothing more happens on it."""
        self.has_unread = False
        """Frames wait: call `receive` again, with no bytes, when others have had their turn."""

    @property
    def has_output(self) -> bool:
        """Whether `to_send` would return anything."""
        return bool(self._out) or (not self.is_over and self._sending.can_send)

    @property
    def deadline_s(self) -> float:
        """When `advance` has something to do; `inf` for never."""
        if self.is_over:
            return inf
        deadline_s = self._deadlines.next_s
        if self._sending.shut_since_s is not None:
            deadline_s = min(deadline_s, self._sending.shut_since_s + self._params.stall_s)
        return min(deadline_s, self._sending.oldest_block_s + self._params.stall_s)

    def receive(self, data: bytes, *, now_s: float) -> list[Event]:
        """Take bytes of the client; what is left of them after WORK_PER_TURN is kept for the next call."""
        self.has_unread = not self.is_over
        if not self.has_unread:
            return []
        self._counters.bytes_in += len(data)
        self._receiving.feed(data)
        while self.has_unread and self._receiving.work < WORK_PER_TURN:
            self.has_unread = self._read(now_s)
        self._note_received(now_s)
        return self.take_events()

    def advance(self, *, now_s: float) -> list[Event]:
        """Do what is due."""
        if self.is_over:
            return []
        if now_s >= self._deadlines.drain_s:
            self._settle(is_idle=not self._streams)
        stall_s = self._params.stall_s
        reason = self._deadlines.passed(now_s=now_s)
        if self._sending.shut_since_s is not None and now_s >= self._sending.shut_since_s + stall_s:
            reason = CloseReason.STALLED
        if reason is not None:
            self._give_up(reason, ErrorCodes.NO_ERROR)
        for stream in self._sending.blocked_since(now_s - stall_s):
            self._fail(stream, ErrorCodes.CANCEL)
        return self.take_events()

    def take_events(self) -> list[Event]:
        """Return what has happened since through verbs and `to_send`."""
        events, self._events = self._events, []
        return events

    def respond(self, stream_id: int, *, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """
        Send an answer's headers.

        Raises:
            ValueError: a header may not be sent; nothing was.
        """
        fields = outbound(status, headers)
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.is_answered = status >= 200
            stream.has_no_body |= status in NO_BODY
            self._wire.send_headers(stream_id, fields)
            self._out += self._wire.data_to_send()

    def write(self, stream_id: int, data: bytes) -> None:
        """Send bytes of an answer, when the windows allow it."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_ended:
            return
        self._counters.data_events += 1
        if not stream.is_answered or stream.outbox.size > self._params.sending.stream_max_bytes:
            self._fail(stream, ErrorCodes.INTERNAL_ERROR)
        elif data and not stream.has_no_body:
            self._sending.write(stream, data)

    def end(self, stream_id: int, data: bytes = b"") -> None:
        """End an answer, after its last bytes."""
        if data:
            self.write(stream_id, data)
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_ended:
            return
        if stream.is_answered:
            self._sending.end(stream)
        else:
            self._fail(stream, ErrorCodes.INTERNAL_ERROR)

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Give a stream up, with all that is unsent."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._counters.resets_sent += 1
            self._give_back(stream)
            self._wire.reset_stream(stream_id, code)
            self._out += self._wire.data_to_send()
            self._forget(stream)

    def consumed(self, stream_id: int, size: int) -> None:
        """Let the client send so many bytes more of a body."""
        stream = self._streams.get(stream_id)
        if stream is not None and size:
            stream.unconsumed_bytes -= size
            self._wire.acknowledge_received_data(size, stream_id)
            self._out += self._wire.data_to_send()

    def unsent_of(self, stream_id: int) -> int:
        """Return how many bytes of an answer wait."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.outbox.size

    def is_paused(self, stream_id: int) -> bool:
        """Say whether a stream should not be written to for now."""
        stream = self._streams.get(stream_id)
        return stream is not None and (stream.is_paused or self._sending.is_paused)

    def lost(self) -> None:
        """Note that the socket is gone, or is being given up: nothing is sent any more."""
        if not self.is_over:
            self._end(CloseReason.PEER_LEFT)
        self._wire.let_go()

    def drain(self, *, now_s: float, reason: CloseReason = CloseReason.DRAINED) -> None:
        """Take no more streams; those that are open, and those on their way, are served to their end."""
        if self.is_over or self._farewell.reason is not None:
            return
        self._counters.goaways[reason] += 1
        last_id = self._wire.highest_inbound_stream_id
        idle_s = self._deadlines.idle_for_s(now_s=now_s)
        self._out += self._farewell.begin(reason, last_id=last_id, idle_s=idle_s)
        self._deadlines.drain_s = now_s + self._params.drain_s
        self._end_if_done()

    def to_send(self, *, now_s: float) -> bytes:
        """Return bytes for the client: about BYTES_PER_TURN at most, more may wait (`has_output`)."""
        out, self._out = self._out, bytearray()
        if not self.is_over:
            filled = self._sending.fill(out, most_bytes=BYTES_PER_TURN, now_s=now_s)
            self._counters.data_frames += filled.frames
            self._budgets.sent(filled.honest, now_s=now_s)
            for stream in filled.ended:
                self._finish(stream)
                self._budgets.ended_well(now_s=now_s)
            out += self._out
            self._out.clear()
            for stream in self._sending.resumed(self._streams.values()):
                self._events.append(StreamResumed(stream_id=stream.id))
            self._note_idle(now_s)
        if out:
            self._counters.flushes += 1
            self._counters.bytes_out += len(out)
        return bytes(out)

    # What arrives

    def _read(self, now_s: float) -> bool:
        """Take one frame; says whether another may follow."""
        happened = self._receiving.next(now_s=now_s)
        if isinstance(happened, Offence):
            self._give_up(happened.reason, happened.code)
            return False
        for event in happened or ():
            self._hear(event, now_s)
        self._out += self._wire.data_to_send()
        self._end_if_done()
        return happened is not None and not self.is_over

    def _note_received(self, now_s: float) -> None:
        receiving = self._receiving
        if receiving.swallowed_bytes:
            # h2 has not counted them, so it must not hear that the window is given back.
            self._out += frames.window_update(receiving.swallowed_bytes)
            receiving.swallowed_bytes = 0
        if receiving.has_preface:
            self._deadlines.greeted()
        self._deadlines.within_headers(receiving.is_within_headers, is_new=receiving.work > 0, now_s=now_s)
        self._note_idle(now_s)

    def _note_idle(self, now_s: float) -> None:
        if not self._streams:
            self._deadlines.idle(now_s=now_s)

    def _hear(self, event: h2_events.Event, now_s: float) -> None:
        match event:
            case h2_events.RequestReceived():
                self._open(event, now_s)
            case h2_events.DataReceived():
                self._receive_body(event, now_s)
            case h2_events.StreamEnded():
                self._complete(event.stream_id)
            case h2_events.StreamReset():
                self._hear_reset(event, now_s)
            case h2_events.WindowUpdated(stream_id=stream_id) if stream_id in self._streams:
                self._sending.opened(self._streams[stream_id])
            case h2_events.RemoteSettingsChanged(changed_settings=changed):
                if SettingCodes.INITIAL_WINDOW_SIZE in changed:
                    for stream in self._streams.values():
                        self._sending.opened(stream)
            case h2_events.PingAckReceived(ping_data=data) if data == PING and self._farewell.reason:
                self._settle(is_idle=False)
            case _:
                pass  # acknowledgements, pings that h2 has answered, windows of streams that are gone

    def _complete(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.is_request_complete:
            stream.is_request_complete = True
            self._events.append(BodyEnded(stream_id=stream_id))

    def _open(self, event: h2_events.RequestReceived, now_s: float) -> None:
        stream_id = event.stream_id
        headers: Headers = [(bytes(name), bytes(value)) for name, value in event.headers]
        is_complete = event.stream_ended is not None
        self._farewell.met(headers, is_alone=not self._streams)
        if self._farewell.is_settled or len(self._streams) >= self._params.max_streams:
            self._counters.streams_refused += 1
            self._wire.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            self._blame(REFUSED_WEIGHT, now_s)
            return
        if list_bytes(headers) > self._params.max_header_bytes:
            self._wire.send_headers(stream_id, outbound(431, ()), end_stream=True)
            if not is_complete:
                self._wire.reset_stream(stream_id, ErrorCodes.NO_ERROR)
            self._blame(LARGE_HEADERS_WEIGHT, now_s)
            return
        stream = OpenStream(stream_id, self._wire.streams[stream_id], is_request_complete=is_complete)
        stream.has_no_body = (b":method", b"HEAD") in headers
        self._streams[stream_id] = stream
        self._counters.streams_opened += 1
        self._deadlines.busy()
        self._events.append(RequestReceived(stream_id=stream_id, headers=headers, is_complete=is_complete))
        if stream_id > frames.MAX_STREAM_ID - LAST_IDS:
            self.drain(now_s=now_s, reason=CloseReason.STREAM_IDS_USED_UP)

    def _receive_body(self, event: h2_events.DataReceived, now_s: float) -> None:
        stream = self._streams[event.stream_id]
        data = event.data
        padding = event.flow_controlled_length - len(data)
        if stream.is_ended:
            padding += len(data)  # nobody reads it any more
        elif data:
            stream.unconsumed_bytes += len(data)
            self._events.append(BodyReceived(stream_id=stream.id, data=data))
        elif event.stream_ended is None and padding and not self._budgets.control(now_s=now_s):
            self._give_up(CloseReason.CONTROL_FLOOD, ErrorCodes.ENHANCE_YOUR_CALM)
            return
        if padding:
            self._wire.acknowledge_received_data(padding, stream.id)

    def _hear_reset(self, event: h2_events.StreamReset, now_s: float) -> None:
        if event.remote_reset:
            self._counters.resets_received += 1
        else:
            self._counters.resets_sent += 1
            self._blame(1.0, now_s)
        if (stream := self._streams.get(event.stream_id)) is not None:
            self._give_back(stream)
            self._forget(stream)
            self._events.append(StreamReset(stream_id=stream.id))

    # The ends of streams

    def _finish(self, stream: OpenStream) -> None:
        """Let go of a stream whose last frame is made; a client that still sends its body may stop."""
        self._give_back(stream)
        self._wire.end_stream(stream.id)
        self._wire.clear_outbound_data_buffer()  # the frame that says so was made by hand
        if not stream.is_request_complete:
            self._wire.reset_stream(stream.id, ErrorCodes.NO_ERROR)  # RFC 9113 section 8.1
            self._out += self._wire.data_to_send()
        self._forget(stream)

    def _fail(self, stream: OpenStream, code: ErrorCodes) -> None:
        self.reset(stream.id, code)
        self._events.append(StreamReset(stream_id=stream.id))

    def _give_back(self, stream: OpenStream) -> None:
        """Give the connection's window back for what nobody has read of a body."""
        if stream.unconsumed_bytes:
            self._wire.acknowledge_received_data(stream.unconsumed_bytes, stream.id)
            self._out += self._wire.data_to_send()

    def _forget(self, stream: OpenStream) -> None:
        self._sending.forget(stream)
        del self._streams[stream.id]
        self._counters.streams_closed += 1
        if not self._streams:
            _ = self._wire.open_inbound_streams  # to count them, h2 drops those that are closed
            self._end_if_done()

    def _blame(self, weight: float, now_s: float) -> None:
        if not self._budgets.provoked(weight, now_s=now_s):
            self._give_up(CloseReason.PROVOKED_RESET_FLOOD, ErrorCodes.ENHANCE_YOUR_CALM)

    def _settle(self, *, is_idle: bool) -> None:
        """Tell the client which stream was the last."""
        if not self._farewell.is_settled:
            self._deadlines.drain_s = inf
            last_id = self._wire.highest_inbound_stream_id
            self._out += self._farewell.settle(last_id=last_id, is_idle=is_idle)
            self._end_if_done()

    def _end_if_done(self) -> None:
        is_due = self._farewell.is_settled or self._receiving.has_peer_left
        if is_due and not self._streams and not self.is_over:
            self.is_over = True
            self._events.append(Closed(reason=self._farewell.reason or CloseReason.PEER_LEFT))

    def _give_up(self, reason: CloseReason, code: int) -> None:
        if self.is_over:
            return
        self._counters.goaways[reason] += 1
        self._out += frames.goaway(last_stream_id=self._wire.highest_inbound_stream_id, code=code)
        self._end(reason)

    def _end(self, reason: CloseReason) -> None:
        self.is_over = True
        self._counters.streams_closed += len(self._streams)
        self._streams.clear()
        self._sending.clear()
        self._events.append(Closed(reason=reason))
