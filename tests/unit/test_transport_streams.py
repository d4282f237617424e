"""Pins the table of live streams: its counts and its bound."""

from __future__ import annotations

import pytest

from transport.streams import StreamCounts, StreamTable


def test_streams_are_counted_by_protocol_while_they_are_open():
    table = StreamTable(max_streams=9)
    first = table.open(is_h2=True, now_s=1.0)
    table.open(is_h2=False, now_s=2.0)
    table.open(is_h2=True, now_s=3.0)
    table.close(first)

    assert table.counts(now_s=5.0) == StreamCounts(h2=1, h1=1, opened=3, refused=0, oldest_s=3.0)


def test_a_stream_closes_once():
    table = StreamTable(max_streams=9)
    stream = table.open(is_h2=True, now_s=0.0)

    table.close(stream)
    table.close(stream)

    assert table.counts(now_s=1.0) == StreamCounts(h2=0, h1=0, opened=1, refused=0, oldest_s=0.0)


def test_a_full_table_refuses_until_a_stream_closes():
    table = StreamTable(max_streams=1)
    stream = table.open(is_h2=False, now_s=0.0)

    assert table.open(is_h2=False, now_s=0.0) is None
    assert table.counts(now_s=0.0).refused == 1
    table.close(stream)
    assert table.open(is_h2=False, now_s=0.0) is not None


def test_streams_have_numbers_of_their_own():
    table = StreamTable(max_streams=9)

    assert [table.open(is_h2=True, now_s=0.0).id for _ in range(3)] == [1, 2, 3]


def test_a_table_without_places_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        StreamTable(max_streams=0)
