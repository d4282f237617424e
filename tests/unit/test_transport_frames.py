"""Pins how bytes are cut into frames: what is held back, what is too large, what is taken from SETTINGS."""

from __future__ import annotations

from struct import pack

import pytest

from transport import frames
from transport.frames import Fault, FrameReader, Kind


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream_id: int = 0) -> bytes:
    return pack(">I", len(payload))[1:] + pack(">BBI", kind, flags, stream_id) + payload


def reader(*parts: bytes) -> FrameReader:
    made = FrameReader()
    made.feed(frames.PREFACE + b"".join(parts))
    return made


def test_the_first_bytes_that_are_not_http2_are_a_fault_at_once():
    made = FrameReader()
    made.feed(b"PRI * HTTP/1")

    assert made.next() is Fault.NOT_HTTP2


def test_half_a_preface_is_waited_for():
    made = FrameReader()
    made.feed(frames.PREFACE[:10])

    assert made.next() is None
    assert not made.has_preface


def test_a_frame_is_handed_on_when_it_is_whole():
    ping = frame(Kind.PING, bytes(8))
    made = reader(ping[:12])

    assert made.next() is None

    made.feed(ping[12:])

    assert made.next() == (Kind.PING, 0, 0, 8, ping)
    assert made.next() is None


def test_the_reserved_bit_of_a_stream_id_is_ignored():
    assert reader(frame(Kind.PING, stream_id=2**31 + 3)).next().stream_id == 3


def test_a_frame_larger_than_announced_is_a_fault_before_it_is_held():
    made = reader(b"\0\x40\x01" + bytes(6))

    assert made.next() is Fault.FRAME_TOO_LARGE


def test_a_header_block_is_handed_on_in_one_piece():
    first = frame(Kind.HEADERS, b"ab", flags=frames.END_STREAM, stream_id=1)
    second = frame(Kind.CONTINUATION, b"c", stream_id=1)
    third = frame(Kind.CONTINUATION, b"d", flags=frames.END_HEADERS, stream_id=1)
    made = reader(first, second)

    assert made.next() is None

    made.feed(third)

    assert made.next() == (Kind.HEADERS, frames.END_STREAM, 1, 2, first + second + third)


def test_what_may_not_stand_in_a_header_block_is_handed_on_with_it():
    first, ping = frame(Kind.HEADERS, stream_id=1), frame(Kind.PING, bytes(8))

    assert reader(first, ping).next().data == first + ping


@pytest.mark.parametrize(("count", "size"), [(17, 0), (5, 16_384)])
def test_a_header_block_of_too_many_frames_or_bytes_is_a_fault(count, size):
    parts = [frame(Kind.CONTINUATION, bytes(size), stream_id=1)] * count

    assert reader(frame(Kind.HEADERS, stream_id=1), *parts).next() is Fault.BLOCK_TOO_LARGE


def test_a_begun_header_block_is_told_from_a_begun_frame_of_data():
    begun = {
        "nothing": reader(),
        "data": reader(frame(Kind.DATA, b"abc", stream_id=1)[:-1]),
        "headers": reader(frame(Kind.HEADERS, b"abc", stream_id=1)[:-1]),
        "block": reader(frame(Kind.HEADERS, b"abc", stream_id=1)),
        "head": reader(b"\0"),
    }
    for each in begun.values():
        each.next()

    assert {name for name, each in begun.items() if each.is_within_headers} == {"headers", "block", "head"}


def test_settings_keep_what_is_known_and_no_large_header_table():
    kept = pack(">HIHI", 0x1, 4096, 0x4, 1000)
    made = reader(frame(Kind.SETTINGS, pack(">HIHIHI", 0x1, 2**32 - 1, 0x999, 7, 0x4, 1000)))

    assert made.next().data == frame(Kind.SETTINGS, kept)


def test_a_small_header_table_is_taken_over_and_malformed_settings_are_left_to_h2():
    small, malformed = frame(Kind.SETTINGS, pack(">HI", 0x1, 100)), frame(Kind.SETTINGS, b"abc")
    made = reader(small, malformed)

    assert [made.next().data, made.next().data] == [small, malformed]


def test_the_frames_that_are_made_by_hand_are_those_of_the_standard():
    assert frames.goaway(last_stream_id=5, code=11) == frame(Kind.GOAWAY, pack(">II", 5, 11))
    assert frames.window_update(7) == frame(Kind.WINDOW_UPDATE, pack(">I", 7))
    assert frames.ping(b"12345678") == frame(Kind.PING, b"12345678")
    assert frames.refusal(13) == frame(Kind.SETTINGS) + frame(Kind.GOAWAY, pack(">II", 0, 13))
