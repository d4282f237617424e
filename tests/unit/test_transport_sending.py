"""Pins how DATA frames are made: one for all writes of a turn, fair turns, windows, the marks of pausing."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from struct import unpack_from

from transport.sending import OpenStream, Sending, SendParams

PARAMS = SendParams(
    stream_pause_bytes=100,
    stream_resume_bytes=20,
    stream_max_bytes=1000,
    connection_pause_bytes=150,
    connection_resume_bytes=60,
)


@dataclass(eq=False)
class Window:
    """What is used of h2's connections and streams."""

    outbound_flow_control_window: int = 100_000


class Line:
    """A connection's sender, with streams 1, 3 and 5."""

    def __init__(self, *, window: int = 100_000) -> None:
        self.wire = Window(window)
        self.sending = Sending(PARAMS, self.wire)
        self.streams = {each: OpenStream(each, Window(), is_request_complete=True) for each in (1, 3, 5)}

    def write(self, stream_id: int, data: bytes) -> None:
        self.sending.write(self.streams[stream_id], data)

    def fill(self, *, now_s: float = 0.0, most_bytes: int = 2**20) -> list[tuple[int, bytes]]:
        """Return stream and payload of each frame made."""
        out = bytearray()
        self.filled = self.sending.fill(out, most_bytes=most_bytes, now_s=now_s)
        made, at = [], 0
        while at < len(out):
            size = int.from_bytes(out[at : at + 3], "big")
            made.append((unpack_from(">I", out, at + 5)[0], bytes(out[at + 9 : at + 9 + size])))
            at += 9 + size
        return made


def test_what_was_written_in_a_turn_leaves_as_one_frame_a_stream():
    line = Line()
    line.write(1, b"a")
    line.write(3, b"b")
    line.write(1, b"c")

    assert line.fill() == [(1, b"ac"), (3, b"b")]
    assert line.wire.outbound_flow_control_window == 99_997
    assert line.streams[1].wire.outbound_flow_control_window == 99_998
    assert (line.filled.frames, line.filled.honest, line.sending.unsent_bytes) == (2, 2, 0)
    assert not line.sending.can_send


def test_a_large_body_is_cut_at_the_largest_frame_and_lets_others_have_their_turn():
    line = Line()
    line.write(1, b"a" * 20_000)
    line.write(3, b"b")

    assert [(each, len(data)) for each, data in line.fill()] == [(1, 16_384), (3, 1), (1, 3_616)]


def test_a_short_connection_window_is_shared_in_turns():
    line = Line(window=40_000)
    for each in (1, 3, 5):
        line.write(each, b"x" * 30_000)

    assert [(each, len(data)) for each, data in line.fill()] == [(1, 16_384), (3, 16_384), (5, 7_232)]
    assert not line.sending.can_send

    line.wire.outbound_flow_control_window = 20_000

    assert [(each, len(data)) for each, data in line.fill()] == [(1, 13_616), (3, 6_384)]


def test_the_time_of_a_shut_connection_window_is_known():
    line = Line(window=10)
    line.write(1, b"x" * 30)
    line.fill(now_s=5)
    line.fill(now_s=7)

    assert line.sending.shut_since_s == 5

    line.wire.outbound_flow_control_window = 10
    line.fill(now_s=9)

    assert line.sending.shut_since_s == 9

    line.sending.forget(line.streams[1])

    assert line.sending.shut_since_s is None


def test_a_stream_whose_window_is_shut_waits_beside_the_queue():
    line = Line()
    line.streams[1].wire.outbound_flow_control_window = 2
    line.write(1, b"abcd")
    line.write(3, b"x")

    assert line.fill(now_s=4) == [(1, b"ab"), (3, b"x")]
    assert (line.sending.oldest_block_s, line.filled.honest) == (4, 1)
    assert line.sending.blocked_since(3) == []
    assert line.sending.blocked_since(4) == [line.streams[1]]

    line.write(1, b"e")
    line.sending.opened(line.streams[1])

    assert line.fill() == []

    line.streams[1].wire.outbound_flow_control_window = 50
    line.sending.opened(line.streams[1])
    line.sending.opened(line.streams[3])

    assert line.fill() == [(1, b"cde")]
    assert line.sending.oldest_block_s == inf


def test_a_window_below_zero_lets_nothing_through():
    line = Line()
    line.streams[1].wire.outbound_flow_control_window = -5
    line.write(1, b"abcd")

    assert line.fill() == []


def test_an_end_goes_with_the_last_bytes_or_alone_and_needs_no_window():
    line = Line(window=0)
    line.sending.end(line.streams[1])

    assert line.sending.can_send
    assert line.fill() == [(1, b"")]
    assert line.filled.ended == [line.streams[1]]

    line.wire.outbound_flow_control_window = 9
    line.write(3, b"x")
    line.sending.end(line.streams[3])

    assert line.fill() == [(3, b"x")]
    assert line.filled.ended == [line.streams[3]]


def test_so_much_is_made_at_once_and_no_more():
    line = Line()
    line.write(1, b"x" * 50_000)

    assert len(line.fill(most_bytes=20_000)) == 2
    assert line.sending.can_send


def test_a_stream_is_paused_above_its_mark_and_resumed_below_the_other():
    line = Line()
    stream = line.streams[1]
    stream.wire.outbound_flow_control_window = 70
    line.write(1, b"x" * 100)

    assert not stream.is_paused

    line.write(1, b"x")
    line.write(1, b"x")
    line.fill()

    assert stream.is_paused
    assert line.sending.resumed(line.streams.values()) == []

    stream.wire.outbound_flow_control_window = 12
    line.sending.opened(stream)
    line.fill()

    assert line.sending.resumed(line.streams.values()) == [stream]
    assert not stream.is_paused


def test_a_connection_is_paused_as_a_whole_and_resumes_all_that_are_not_paused_themselves():
    line = Line(window=0)
    line.write(1, b"x" * 101)
    line.write(3, b"x" * 50)

    assert line.sending.is_paused
    assert line.sending.resumed(line.streams.values()) == []

    line.streams[1].wire.outbound_flow_control_window = 60
    line.wire.outbound_flow_control_window = 200
    line.fill()

    assert line.sending.resumed(line.streams.values()) == [line.streams[3], line.streams[5]]
    assert not line.sending.is_paused


def test_a_stream_that_is_forgotten_leaves_nothing():
    line = Line(window=0)
    line.write(1, b"x" * 101)
    line.write(3, b"x")
    line.sending.forget(line.streams[1])

    assert line.sending.unsent_bytes == 1

    line.sending.clear()

    assert (line.sending.unsent_bytes, line.sending.can_send) == (0, False)
