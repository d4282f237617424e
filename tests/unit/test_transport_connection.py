"""Pins the HTTP/2 core: requests, answers, bodies, windows, refusals, floods, deadlines, drain, the end."""

from __future__ import annotations

import gc
import weakref
from math import inf

import pytest
from h2.errors import ErrorCodes
from h2.events import RemoteSettingsChanged, WindowUpdated
from h2.events import StreamReset as ResetHeard
from h2.settings import SettingCodes

from tests.h2_peer import GET, POST, Peer
from transport.connection import Connection
from transport.counters import CloseReason
from transport.events import (
    BodyEnded,
    BodyReceived,
    Closed,
    RequestReceived,
    StreamReset,
    StreamResumed,
)
from transport.frames import Kind
from transport.sending import SendParams
from transport.wire import ConnectionParams


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream_id: int = 0) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream_id.to_bytes(4, "big") + payload


# Requests


def test_the_client_is_told_the_limits():
    peer = Peer(ConnectionParams(max_streams=7))
    changed = next(e for e in peer.heard if isinstance(e, RemoteSettingsChanged)).changed_settings

    assert changed[SettingCodes.MAX_CONCURRENT_STREAMS].new_value == 7
    assert changed[SettingCodes.MAX_HEADER_LIST_SIZE].new_value == 32 * 1024
    assert peer.client.outbound_flow_control_window == 1024 * 1024


def test_a_request_without_a_body_is_complete():
    peer = Peer()
    peer.ask()

    headers = [(name.encode(), value.encode()) for name, value in GET]
    assert peer.told == [RequestReceived(stream_id=1, headers=headers, is_complete=True)]


def test_a_body_comes_in_parts_and_ends():
    peer = Peer()
    peer.ask(body=b"ab", ends=False)
    peer.client.send_data(1, b"c", end_stream=True)
    peer.pump()

    assert peer.told[1:] == [
        BodyReceived(stream_id=1, data=b"ab"),
        BodyReceived(stream_id=1, data=b"c"),
        BodyEnded(stream_id=1),
    ]


def test_trailers_end_a_body_and_are_not_told():
    peer = Peer()
    peer.ask(body=b"ab", ends=False)
    peer.client.send_headers(1, [("x-sum", "1")], end_stream=True)
    peer.pump()

    assert peer.told[2:] == [BodyEnded(stream_id=1)]


def test_the_window_opens_as_a_body_is_consumed():
    peer = Peer()
    peer.ask(body=b"x" * 16_384, ends=False)
    for _ in range(3):
        peer.client.send_data(1, b"x" * 16_383)
    peer.pump()

    assert peer.client.local_flow_control_window(1) == 2

    peer.server.consumed(1, 65_533)
    peer.pump()

    assert peer.client.local_flow_control_window(1) == 65_535


def test_nothing_consumed_and_a_stream_that_is_gone_change_nothing():
    peer = Peer()
    peer.ask(body=b"x")
    peer.server.consumed(1, 0)
    peer.server.consumed(99, 5)

    assert not peer.server.has_output


def test_padding_is_given_back_at_once():
    peer = Peer()
    peer.ask(body=b"", ends=False)
    for _ in range(200):
        peer.client.send_data(1, b"x", pad_length=255)
        peer.pump()

    assert peer.client.local_flow_control_window(1) > 15_000


def test_a_flood_of_frames_that_are_all_padding_is_stopped():
    peer = Peer()
    peer.ask(body=b"", ends=False)
    padded = frame(Kind.DATA, b"\x63" + bytes(99), flags=0x8, stream_id=1)
    peer.raw(padded * 401)

    assert peer.told[-1] == Closed(reason=CloseReason.CONTROL_FLOOD)


# Answers


def test_an_answer_is_headers_and_one_frame_for_all_that_was_written():
    peer = Peer()
    peer.ask()
    peer.server.respond(1, status=201, headers=[(b"X-A", b"b")])
    peer.server.write(1, b"ab")
    peer.server.write(1, b"")
    peer.server.write(1, b"c")
    peer.server.end(1, b"d")
    peer.pump()

    assert peer.status(1) == "201"
    assert peer.frames == [b"abcd"]
    assert peer.has_ended(1)
    assert (peer.counters.data_events, peer.counters.data_frames) == (4, 1)
    assert (peer.counters.streams_opened, peer.counters.streams_closed) == (1, 1)


def test_what_is_unsent_is_known_and_pauses():
    peer = Peer(ConnectionParams(sending=SendParams(stream_pause_bytes=10, stream_resume_bytes=5)), window=0)
    peer.ask()
    peer.answer(1, b"x" * 20)

    assert (peer.server.unsent_of(1), peer.server.is_paused(1)) == (20, True)
    assert (peer.server.unsent_of(99), peer.server.is_paused(99)) == (0, False)

    peer.client.increment_flow_control_window(15, 1)
    peer.pump()

    assert peer.told[-1] == StreamResumed(stream_id=1)
    assert peer.bodies[1] == b"x" * 15


def test_a_new_first_window_lets_streams_go_on():
    peer = Peer(window=0)
    peer.ask()
    peer.answer(1, b"abc", ends=True)
    peer.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    peer.pump()

    assert (peer.bodies[1], peer.has_ended(1)) == (b"abc", True)


def test_a_writer_that_heeds_no_pause_loses_its_stream():
    peer = Peer(ConnectionParams(sending=SendParams(stream_max_bytes=10)), window=0)
    peer.ask()
    peer.answer(1, b"x" * 11)
    peer.server.write(1, b"x")
    peer.pump()

    assert peer.told[-1] == StreamReset(stream_id=1)
    assert peer.reset_code(1) == ErrorCodes.INTERNAL_ERROR


@pytest.mark.parametrize("verb", ["write", "end"])
def test_a_body_before_its_headers_is_the_applications_fault(verb):
    peer = Peer()
    peer.ask()
    getattr(peer.server, verb)(1, **({"data": b"x"} if verb == "write" else {}))
    peer.pump()

    assert peer.told[-1] == StreamReset(stream_id=1)
    assert peer.reset_code(1) == ErrorCodes.INTERNAL_ERROR


def test_a_header_that_may_not_be_sent_is_an_error_and_another_answer_can_follow():
    peer = Peer()
    peer.ask()
    with pytest.raises(ValueError, match="x-a"):
        peer.server.respond(1, status=200, headers=[(b"x-a", b"b\n")])
    peer.answer(1, b"x", ends=True)

    assert peer.bodies[1] == b"x"


def test_an_interim_answer_comes_before_the_real_one():
    peer = Peer()
    peer.ask(body=b"x")
    peer.server.respond(1, status=100, headers=())
    peer.answer(1, b"x", ends=True)

    assert peer.bodies[1] == b"x"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_an_answer_that_has_no_body_gets_none(method, status):
    peer = Peer()
    peer.client.send_headers(1, [(":method", method), *GET[1:]], end_stream=True)
    peer.pump()
    peer.server.respond(1, status=status, headers=())
    peer.server.end(1, b"abc")
    peer.pump()

    assert (peer.frames, peer.has_ended(1)) == ([b""], True)


def test_verbs_on_a_stream_that_is_gone_do_nothing():
    peer = Peer()
    peer.ask()
    peer.answer(1, b"x", ends=True)
    peer.server.respond(1, status=200, headers=())
    peer.server.write(1, b"x")
    peer.server.end(1)
    peer.server.reset(1, ErrorCodes.CANCEL)

    assert not peer.server.has_output


def test_what_is_written_behind_the_end_is_dropped():
    peer = Peer(window=0)
    peer.ask()
    peer.answer(1, b"x", ends=True)
    peer.server.write(1, b"y")
    peer.server.end(1)
    peer.client.increment_flow_control_window(10, 1)
    peer.pump()

    assert peer.bodies[1] == b"x"


# Streams that end early


def test_the_client_is_told_to_stop_its_body_when_the_answer_is_complete():
    peer = Peer()
    peer.ask(body=b"x", ends=False)
    peer.answer(1, b"no", ends=True)

    assert peer.bodies[1] == b"no"
    assert peer.reset_code(1) == ErrorCodes.NO_ERROR
    assert peer.counters.resets_sent == 0


def test_what_still_comes_of_a_body_is_swallowed_and_its_window_given_back():
    peer = Peer()
    peer.ask(body=b"x" * 10_000, ends=False)
    peer.server.respond(1, status=413, headers=())
    peer.server.end(1)
    for _ in range(3):
        peer.client.send_data(1, b"x" * 10_000)
    peer.pump()

    assert [e for e in peer.told if isinstance(e, BodyReceived)][1:] == []
    assert sum(e.delta for e in peer.heard if isinstance(e, WindowUpdated) and not e.stream_id) >= 30_000
    assert not peer.server.is_over


def test_a_body_whose_answer_is_written_is_read_no_more():
    peer = Peer(window=0)
    peer.ask(body=b"x", ends=False)
    peer.answer(1, b"answer", ends=True)
    told = len(peer.told)
    for _ in range(4):
        peer.client.send_data(1, b"x" * 16_000)
        peer.pump()

    assert peer.told[told:] == []
    assert peer.client.local_flow_control_window(1) > 16_000


def test_a_reset_of_the_client_is_told_and_counted():
    peer = Peer()
    peer.ask()
    peer.answer(1, b"x")
    peer.client.reset_stream(1)
    peer.pump()

    assert peer.told[-1] == StreamReset(stream_id=1)
    assert (peer.counters.resets_received, peer.counters.streams_closed) == (1, 1)


def test_a_reset_that_crosses_the_end_is_nothing():
    peer = Peer()
    peer.ask()
    peer.answer(1, b"x", ends=True)
    told = len(peer.told)
    peer.raw(frame(Kind.RST_STREAM, bytes(4), stream_id=1))

    assert peer.told[told:] == []
    assert not peer.server.is_over


def test_a_reset_stream_gives_back_the_window_of_what_nobody_read():
    peer = Peer()
    for _ in range(40):
        stream_id = peer.ask(body=b"x" * 16_000, ends=False)
        peer.server.reset(stream_id, ErrorCodes.CANCEL)
        peer.pump()

    assert peer.reset_code(1) == ErrorCodes.CANCEL
    assert peer.client.outbound_flow_control_window > 500_000
    assert peer.counters.resets_sent == 40


def test_a_stream_whose_window_overflows_is_reset_and_charged_to_the_client():
    peer = Peer()
    peer.ask()
    peer.raw(frame(Kind.WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream_id=1))

    assert peer.told[-1] == StreamReset(stream_id=1)
    assert (peer.counters.resets_sent, peer.server.is_over) == (1, False)


def test_a_client_that_makes_us_reset_again_and_again_is_stopped():
    peer = Peer()
    for _ in range(201):
        stream_id = peer.ask()
        peer.raw(frame(Kind.WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream_id=stream_id))
        if peer.server.is_over:
            break

    assert stream_id == 401
    assert peer.goaways == [(401, ErrorCodes.ENHANCE_YOUR_CALM)]
    assert peer.counters.goaways[CloseReason.PROVOKED_RESET_FLOOD] == 1


# Refusals


def test_one_stream_too_many_is_refused_and_the_others_go_on():
    peer = Peer(ConnectionParams(max_streams=1))
    peer.ask()
    peer.raw(b"")
    peer.client.remote_settings = type(peer.client.remote_settings)(client=False)
    peer.ask()

    assert peer.reset_code(3) == ErrorCodes.REFUSED_STREAM
    assert peer.counters.streams_refused == 1

    peer.answer(1, b"x", ends=True)

    assert peer.bodies[1] == b"x"

    peer.ask()

    assert isinstance(peer.told[-1], RequestReceived)


@pytest.mark.parametrize("body", [None, b"x"])
def test_a_header_list_that_is_too_large_is_answered_431(body):
    peer = Peer()
    peer.ask(body=body, ends=body is None, headers=[("x-a", "b" * 33_000)])

    assert peer.status(1) == "431"
    assert peer.told == []
    assert peer.has_ended(1)
    assert not peer.server.is_over


def test_large_header_lists_are_soon_too_many():
    peer = Peer()
    told = [peer.server.receive(_large_request(peer, 2 * i + 1, 33_000), now_s=0) for i in range(11)]

    assert told == [[]] * 10 + [[Closed(reason=CloseReason.PROVOKED_RESET_FLOOD)]]


def test_a_header_list_twice_as_large_ends_the_connection():
    peer = Peer()
    peer.ask(headers=[(f"x-{i}", "b" * 4000) for i in range(17)])

    assert peer.told == [Closed(reason=CloseReason.HEADER_FLOOD)]


def test_what_is_no_http2_ends_the_connection():
    server = Connection(ConnectionParams(), now_s=0, counters=Peer().counters)

    assert server.receive(b"GET / HTTP/1.1\r\n", now_s=0) == [Closed(reason=CloseReason.PROTOCOL_ERROR)]
    assert server.receive(b"more", now_s=0) == []
    assert server.deadline_s == inf


def test_a_protocol_error_ends_the_connection_with_its_code():
    peer = Peer()
    peer.raw(frame(Kind.SETTINGS, b"abc"))

    assert peer.told == [Closed(reason=CloseReason.PROTOCOL_ERROR)]
    assert peer.goaways == [(0, ErrorCodes.FRAME_SIZE_ERROR)]


# Floods


def test_a_flood_of_pings_is_stopped_with_few_answers():
    peer = Peer()
    peer.raw(frame(Kind.PING, bytes(8)) * 5000)

    assert peer.told == [Closed(reason=CloseReason.CONTROL_FLOOD)]
    assert peer.goaways == [(0, ErrorCodes.ENHANCE_YOUR_CALM)]
    assert peer.counters.bytes_out < 10_000


def test_a_flood_of_resets_is_stopped():
    peer = Peer()
    for _ in range(201):
        peer.client.send_headers(peer.client.get_next_available_stream_id(), GET, end_stream=True)
        peer.client.reset_stream(peer.client.highest_outbound_stream_id)
    peer.pump()

    assert peer.told[-1] == Closed(reason=CloseReason.RESET_FLOOD)


def test_requests_are_more_work_than_small_frames():
    peer = Peer()
    large = _large_request(peer, 1, 8000) + _large_request(peer, 3, 8000)
    told = peer.server.receive(large, now_s=0)

    assert ([each.stream_id for each in told], peer.server.has_unread) == ([1], True)


def test_so_many_frames_are_read_in_a_turn():
    peer = Peer()
    server = peer.server
    told = server.receive(frame(Kind.PING, bytes(8)) * 200, now_s=0)

    assert (told, server.has_unread) == ([], True)

    server.receive(b"", now_s=0)

    assert not server.has_unread


# Time


def test_a_stream_whose_window_stays_shut_is_reset():
    peer = Peer(ConnectionParams(stall_s=60), window=0)
    peer.ask()
    peer.answer(1, b"x")

    assert peer.server.deadline_s == 60

    peer.advance(59)

    assert peer.reset_code(1) is None

    peer.advance(1)

    assert peer.reset_code(1) == ErrorCodes.CANCEL
    assert peer.told[-1] == StreamReset(stream_id=1)


def test_a_connection_whose_window_stays_shut_is_closed():
    peer = Peer(ConnectionParams(stall_s=60), window=200_000)
    peer.ask()
    peer.server.respond(1, status=200, headers=())
    peer.server.write(1, b"x" * 70_000)
    peer.pump(does_read=True)

    assert peer.server.unsent_of(1) == 70_000 - 65_535
    assert peer.server.deadline_s == 60

    peer.advance(60)

    assert peer.told[-1] == Closed(reason=CloseReason.STALLED)
    assert peer.counters.streams_closed == 1


def test_an_idle_connection_is_closed_and_a_busy_one_is_not():
    peer = Peer()
    peer.advance(10)
    peer.ask()
    peer.advance(10_000)

    assert not peer.server.is_over

    peer.answer(1, b"x", ends=True)

    assert peer.server.deadline_s == 10_010 + 75

    peer.advance(75)

    assert peer.told[-1] == Closed(reason=CloseReason.IDLE)
    assert peer.goaways == [(1, ErrorCodes.NO_ERROR)]
    assert peer.server.advance(now_s=99_999) == []


def test_headers_that_do_not_end_are_waited_for_five_seconds():
    peer = Peer()
    peer.raw(frame(Kind.HEADERS, b"\x82", stream_id=1))
    peer.advance(5)

    assert peer.told == [Closed(reason=CloseReason.SLOW_HEADERS)]


# Drain


def test_a_drain_says_so_at_once_and_names_the_last_stream_after_a_round_trip():
    peer = Peer()
    peer.ask()
    peer.answer(1, b"begun ")
    peer.server.drain(now_s=0)
    peer.server.drain(now_s=0)
    peer.pump()

    assert peer.goaways == [(2**31 - 1, ErrorCodes.NO_ERROR), (1, ErrorCodes.NO_ERROR)]
    assert not peer.server.is_over

    peer.server.end(1, b"ended")
    peer.server.to_send(now_s=0)

    assert peer.server.take_events() == [Closed(reason=CloseReason.DRAINED)]
    assert peer.counters.goaways[CloseReason.DRAINED] == 1


def test_an_idle_connection_is_drained_within_a_round_trip():
    peer = Peer()
    peer.server.drain(now_s=0)
    peer.pump()

    assert peer.told == [Closed(reason=CloseReason.DRAINED)]


def test_a_client_that_does_not_answer_holds_no_drain():
    peer = Peer()
    peer.server.drain(now_s=0)
    peer.server.to_send(now_s=0)

    assert peer.server.deadline_s == 1
    assert peer.server.advance(now_s=1) == [Closed(reason=CloseReason.DRAINED)]


def test_requests_on_their_way_are_served_and_later_ones_refused():
    peer = Peer()
    peer.ask()
    peer.server.drain(now_s=0)
    peer.told += peer.server.receive(_request(peer, 3), now_s=0)

    assert isinstance(peer.told[-1], RequestReceived)

    peer.told += peer.server.receive(frame(Kind.PING, b"drained?", flags=1), now_s=0)
    peer.told += peer.server.receive(_request(peer, 5), now_s=0)
    refused = frame(Kind.RST_STREAM, b"\0\0\0\x07", stream_id=5)

    assert peer.told[-1].stream_id == 3
    assert peer.server.to_send(now_s=0).endswith(refused)
    assert peer.counters.streams_refused == 1


def _request(peer: Peer, stream_id: int) -> bytes:
    return frame(Kind.HEADERS, peer.client.encoder.encode(POST), flags=0x5, stream_id=stream_id)


def _large_request(peer: Peer, stream_id: int, size: int) -> bytes:
    block = peer.client.encoder.encode([*POST, ("x-a", "b" * size)], huffman=False)
    first = frame(Kind.HEADERS, block[:5000], flags=0x1, stream_id=stream_id)
    rest = [block[i : i + 16_000] for i in range(5000, len(block), 16_000)]
    more = [frame(Kind.CONTINUATION, part, stream_id=stream_id) for part in rest]
    return first + b"".join(more) + frame(Kind.CONTINUATION, flags=0x4, stream_id=stream_id)


def test_a_drain_whose_ping_is_answered_late_settles_once():
    peer = Peer()
    peer.ask()
    peer.server.drain(now_s=0)
    peer.advance(1)
    settled = list(peer.goaways)
    peer.raw(frame(Kind.PING, b"drained?", flags=1))

    assert peer.goaways == settled


def test_a_drain_that_is_looked_at_late_ends_once():
    peer = Peer()
    peer.server.drain(now_s=0)
    peer.server.to_send(now_s=0)

    assert peer.server.advance(now_s=1000) == [Closed(reason=CloseReason.DRAINED)]


def test_a_ping_of_the_client_with_our_word_settles_nothing():
    peer = Peer()
    peer.raw(frame(Kind.PING, b"drained?", flags=1))

    assert not peer.server.is_over


def test_a_connection_whose_stream_ids_are_nearly_used_up_is_drained():
    peer = Peer()
    told = peer.server.receive(_request(peer, 2**31 - 19_001), now_s=0)

    assert isinstance(told[-1], RequestReceived)
    assert peer.counters.goaways[CloseReason.STREAM_IDS_USED_UP] == 1


# The end


def test_nothing_to_say_is_no_write():
    peer = Peer()
    flushes = peer.counters.flushes

    assert peer.server.to_send(now_s=0) == b""
    assert peer.counters.flushes == flushes


def test_the_end_of_one_stream_leaves_the_others():
    peer = Peer()
    peer.ask()
    peer.ask()
    peer.answer(1, b"x", ends=True)
    peer.client.update_settings({SettingCodes.MAX_FRAME_SIZE: 20_000})
    peer.answer(3, b"y", ends=True)

    assert (peer.bodies, peer.server.deadline_s) == ({1: b"x", 3: b"y"}, 75)


def test_a_client_that_leaves_is_served_to_the_end():
    peer = Peer()
    peer.ask()
    peer.raw(frame(Kind.GOAWAY, bytes(8)))

    assert not peer.server.is_over

    peer.answer(1, b"x", ends=True)

    assert peer.bodies[1] == b"x"
    assert peer.told[-1] == Closed(reason=CloseReason.PEER_LEFT)


def test_a_lost_connection_closes_its_streams_once():
    peer = Peer()
    peer.ask()
    peer.server.lost()
    peer.server.lost()
    peer.server.drain(now_s=0)

    assert peer.counters.streams_closed == 1
    assert peer.server.take_events() == [Closed(reason=CloseReason.PEER_LEFT)]
    assert not peer.server.has_output


def test_a_lost_connection_does_not_wait_for_the_garbage_collector():
    peer = Peer()
    peer.ask()
    wire = weakref.ref(peer.server._wire)
    gc.disable()
    try:
        peer.server.lost()
        del peer

        assert wire() is None
    finally:
        gc.enable()


def test_h2_keeps_little_of_streams_that_have_ended():
    peer = Peer()
    for stream_id in range(1, 2101, 2):
        peer.server.receive(_request(peer, stream_id), now_s=0)
        peer.server.respond(stream_id, status=200, headers=())
        peer.server.end(stream_id)
        peer.server.to_send(now_s=0)

    wire = peer.server._wire
    assert (len(wire.streams), len(wire._closed_streams)) == (0, 1024)


def test_the_windows_of_h2_are_public_and_kept_right():
    peer = Peer()
    peer.ask()
    peer.answer(1, b"x" * 1000)
    wire = peer.server._wire

    assert wire.outbound_flow_control_window == 65_535 - 1000
    assert wire.local_flow_control_window(1) == 65_535 - 1000
    assert [e for e in peer.heard if isinstance(e, ResetHeard)] == []
