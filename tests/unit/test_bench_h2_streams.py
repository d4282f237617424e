"""Pins the load client's HTTP/2 against the h2 library as its server: requests, answers, windows, faults."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest

from bench.h2_streams import MAX_BODY_BYTES, ConnectionLostError, Stream, Streams

PATH = "/v1/completions"


class Server:
    """The h2 library's side of a connection, in memory."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.connection.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.resets: list[int] = []
        self.exchange()

    def exchange(self, *, now_s: float = 0.0) -> None:
        """Carry bytes both ways once."""
        self.streams.release()
        data = bytes(self.streams.out)
        self.streams.out.clear()
        for event in self.connection.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self.headers[event.stream_id] = dict(event.headers)
                case h2.events.DataReceived():
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                case h2.events.StreamReset():
                    self.resets.append(event.stream_id)
        self.streams.receive(self.connection.data_to_send(), now_s=now_s)

    def answer(self, stream: Stream, *pieces: bytes, end: bool = True) -> None:
        """Write an answer with status 200; the bytes leave with the next exchange."""
        self.connection.send_headers(stream.id, [(":status", "200"), ("x-request-id", f"req_{stream.id}")])
        for piece in pieces:
            self.connection.send_data(stream.id, piece)
        if end:
            self.connection.end_stream(stream.id)


@pytest.fixture
def streams() -> Streams:
    return Streams("127.0.0.1:8000")


@pytest.fixture
def server(streams: Streams) -> Server:
    return Server(streams)


def test_a_request_arrives_with_its_headers_and_its_body(streams: Streams, server: Server):
    stream = streams.post(PATH, b'{"a":1}', [("x-session-id", "s1")])
    server.exchange()

    assert server.bodies == {stream.id: b'{"a":1}'}
    assert server.headers[stream.id][b":path"] == PATH.encode()
    assert server.headers[stream.id][b"x-session-id"] == b"s1"


def test_nothing_leaves_before_it_is_released(streams: Streams, server: Server):
    before = bytes(streams.out)

    streams.post(PATH, b"{}")

    assert bytes(streams.out) == before


def test_an_answer_is_kept_piece_by_piece_with_the_time_of_each(streams: Streams, server: Server):
    stream = streams.post(PATH, b"{}")
    server.exchange()

    server.answer(stream, b"one", end=False)
    server.exchange(now_s=1.0)
    server.connection.send_data(stream.id, b"two", end_stream=True)
    server.exchange(now_s=2.0)

    assert stream.chunks == [(1.0, b"one"), (2.0, b"two")]
    assert (stream.status, stream.headers["x-request-id"], stream.ended_s) == (200, "req_1", 2.0)
    assert streams.live == 0


def test_bytes_may_come_one_at_a_time(streams: Streams, server: Server):
    stream = streams.post(PATH, b"{}")
    server.exchange()
    server.answer(stream, b"one")

    for byte in server.connection.data_to_send():
        streams.receive(bytes([byte]), now_s=3.0)

    assert (stream.chunks, stream.ended_s) == ([(3.0, b"one")], 3.0)


def test_many_streams_share_a_connection_and_its_header_table(streams: Streams, server: Server):
    posted = [streams.post(PATH, b"%d" % number) for number in range(20)]
    server.exchange()
    for stream in reversed(posted):
        server.answer(stream, b"answer %d" % stream.id)
    server.exchange()

    assert [stream.chunks[0][1] for stream in posted] == [b"answer %d" % stream.id for stream in posted]


def test_bodies_beyond_the_window_wait_until_the_server_opens_it(streams: Streams, server: Server):
    posted = [streams.post(PATH, b"x" * MAX_BODY_BYTES) for _ in range(5)]
    server.exchange()
    arrived_at_first = len(server.bodies)

    server.connection.increment_flow_control_window(5 * MAX_BODY_BYTES)
    server.exchange()
    server.exchange()

    assert (arrived_at_first, len(server.bodies)) == (3, len(posted))


def test_a_body_over_one_frame_is_refused(streams: Streams):
    with pytest.raises(ValueError, match="at most 16384 bytes, got 16385"):
        streams.post(PATH, b"x" * (MAX_BODY_BYTES + 1))


def test_a_stream_given_up_is_reset_and_what_still_comes_for_it_is_dropped(streams: Streams, server: Server):
    stream, other = streams.post(PATH, b"{}"), streams.post(PATH, b"{}")
    server.exchange()
    server.answer(stream, b"late")
    server.answer(other, b"fine")

    streams.cancel(stream, now_s=1.0)
    streams.cancel(stream, now_s=2.0)
    streams.receive(server.connection.data_to_send(), now_s=3.0)

    assert (stream.chunks, stream.ended_s) == ([], 1.0)
    assert other.chunks == [(3.0, b"fine")]


def test_a_stream_given_up_before_it_left_is_never_heard_of(streams: Streams, server: Server):
    kept, dropped = streams.post(PATH, b"1"), streams.post(PATH, b"2")

    streams.cancel(dropped, now_s=0.0)
    server.exchange()

    assert (list(server.bodies), server.resets) == ([kept.id], [])


def test_a_stream_that_the_server_resets_ends_with_its_code(streams: Streams, server: Server):
    stream = streams.post(PATH, b"{}")
    server.exchange()

    server.connection.reset_stream(stream.id, error_code=7)
    server.exchange(now_s=4.0)

    assert (stream.reset, stream.ended_s, streams.live) == (7, 4.0, 0)
    assert stream.answer().status == 0


def test_a_reset_of_a_stream_given_up_changes_nothing(streams: Streams, server: Server):
    stream = streams.post(PATH, b"{}")
    server.exchange()
    server.connection.reset_stream(stream.id)

    streams.cancel(stream, now_s=1.0)
    streams.receive(server.connection.data_to_send(), now_s=2.0)

    assert (stream.reset, stream.ended_s) == (None, 1.0)


def test_a_ping_is_answered(streams: Streams, server: Server):
    server.connection.ping(b"12345678")
    server.exchange()

    answered = server.connection.receive_data(bytes(streams.out))

    assert [type(event) for event in answered] == [h2.events.PingAckReceived]


def test_a_goodbye_without_error_lets_streams_finish(streams: Streams, server: Server):
    stream = streams.post(PATH, b"{}")
    server.exchange()

    # GOAWAY by hand: the library's own would end its side at once.
    streams.receive(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + b"\x00\x00\x00\x01" + bytes(4), now_s=0.0)
    server.answer(stream, b"still here")
    server.exchange()

    assert stream.chunks == [(0.0, b"still here")]


def test_a_goodbye_with_an_error_ends_everything(streams: Streams, server: Server):
    stream = streams.post(PATH, b"{}")
    server.exchange()
    server.connection.close_connection(error_code=11)

    with pytest.raises(ConnectionLostError, match="frame of type 7"):
        server.exchange(now_s=5.0)

    assert (stream.ended_s, streams.live) == (5.0, 0)


def test_a_padded_frame_is_not_misread(streams: Streams, server: Server):
    stream = streams.post(PATH, b"{}")
    server.exchange()
    server.connection.send_headers(stream.id, [(":status", "200")])
    server.connection.send_data(stream.id, b"data", pad_length=3)

    with pytest.raises(ConnectionLostError, match="frame of type 0 with flags"):
        server.exchange()


def test_an_unknown_frame_is_not_skipped(streams: Streams):
    push_promise = b"\x00\x00\x00\x05\x04\x00\x00\x00\x01"

    with pytest.raises(ConnectionLostError, match="frame of type 5"):
        streams.receive(push_promise, now_s=0.0)
