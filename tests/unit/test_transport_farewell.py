"""Pins how a connection ends for clients that break at a GOAWAY: who they are, and that they lose nothing."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.exceptions import ProtocolError

from tests.h2_peer import Peer
from transport.counters import CloseReason
from transport.events import Closed
from transport.farewell import breaks_at_goaway

HTTPX = ("user-agent", "python-httpx/0.28.1")
CURL = ("user-agent", "curl/8.9.0")


@pytest.mark.parametrize(
    "agent",
    [
        b"python-httpx/0.28.1",
        b"python-httpx2/2.16.2",
        b"OpenAI/Python 3.54.0",
        b"AsyncOpenAI/Python 3.54.0",
        b"AsyncAzureOpenAI/Python 3.54.0",
        b"Anthropic/Python 2.12.0",
        b"AsyncAnthropic/Python 2.12.0",
    ],
)
def test_what_speaks_through_the_h2_library_breaks_at_a_goaway(agent):
    assert breaks_at_goaway([(b":method", b"POST"), (b"user-agent", agent)])


@pytest.mark.parametrize(
    "agent",
    [
        b"curl/8.9.0",
        b"nghttp2/1.64.0",
        b"Go-http-client/2.0",
        b"OpenAI/JS 6.1.0",
        b"Python/3.11 aiohttp/3.12.0",
        b"Mozilla/5.0 (like python-httpx/1)",
    ],
)
def test_what_follows_goaway_does_not(agent):
    assert not breaks_at_goaway([(b"user-agent", agent)])


def test_an_sdk_under_another_name_is_known_by_its_language():
    assert breaks_at_goaway([(b"user-agent", b"framework/1"), (b"x-stainless-lang", b"python")])
    assert not breaks_at_goaway([(b"user-agent", b"framework/1"), (b"x-stainless-lang", b"js")])


@pytest.mark.parametrize("header", [b"via", b"forwarded", b"x-forwarded-for"])
def test_behind_a_proxy_it_does_not_matter_who_asks(header):
    agent = (b"user-agent", b"python-httpx/0.28.1")

    assert not breaks_at_goaway([agent, (header, b"1.1 proxy")])


def talking(*headers: tuple[str, str]) -> Peer:
    """Make a connection whose client breaks at a GOAWAY, with a stream that has begun."""
    peer = Peer(hears_goaways=True)
    peer.ask(headers=headers)
    peer.answer(1, b"begun ")
    return peer


def answered_twice():
    """Return a peer whose client's two streams, side by side, have ended; the last end is not sent yet."""
    peer = talking(HTTPX)
    peer.ask(headers=[HTTPX])
    peer.answer(3, ends=True)
    peer.server.end(1, b"ended")
    return peer


def test_a_client_that_breaks_loses_its_stream_where_it_is_not_known():
    peer = talking(CURL)
    peer.server.drain(now_s=0)
    peer.server.end(1, b"ended")

    with pytest.raises(ProtocolError):
        peer.pump()
    assert peer.bodies == {1: b"begun "}


def test_a_client_that_breaks_gets_all_of_its_streams_and_no_goaway():
    peer = talking(HTTPX)
    peer.ask(headers=[HTTPX])
    peer.answer(3, b"too", ends=True)
    peer.server.drain(now_s=0)
    peer.pump()

    peer.server.end(1, b"ended")
    peer.pump()

    assert peer.bodies == {1: b"begun ended", 3: b"too"}
    assert peer.has_ended(1)
    assert peer.goaways == []
    assert peer.told[-1] == Closed(reason=CloseReason.DRAINED)
    assert peer.counters.goaways[CloseReason.DRAINED] == 1


def test_a_client_that_breaks_is_told_at_once_while_it_is_idle():
    peer = talking(HTTPX)
    peer.server.end(1)
    peer.pump()
    peer.server.drain(now_s=0)
    peer.pump()

    assert peer.goaways == [(1, ErrorCodes.NO_ERROR)]
    assert isinstance(peer.heard[-1], ConnectionTerminated)
    assert peer.told[-1] == Closed(reason=CloseReason.DRAINED)


def test_a_client_that_breaks_gets_no_goaway_behind_the_ends_of_several_streams():
    peer = answered_twice()
    peer.pump(does_read=False)

    peer.server.drain(now_s=0.5)
    peer.pump()

    assert peer.goaways == []
    assert peer.told[-1] == Closed(reason=CloseReason.DRAINED)


def test_a_client_that_breaks_and_has_read_its_last_answer_is_told_after_a_round_trip():
    peer = answered_twice()
    peer.pump()
    peer.server.drain(now_s=0.5)
    peer.server.to_send(now_s=0.5)
    waited = peer.told[-1]

    peer.advance(1.5)

    assert not isinstance(waited, Closed)
    assert peer.goaways == [(3, ErrorCodes.NO_ERROR)]
    assert peer.told[-1] == Closed(reason=CloseReason.DRAINED)


def test_a_client_that_breaks_is_told_at_once_when_it_has_read_several_streams():
    peer = answered_twice()
    peer.pump()

    peer.server.drain(now_s=1)
    peer.pump()

    assert peer.goaways == [(3, ErrorCodes.NO_ERROR)]
    assert peer.told[-1] == Closed(reason=CloseReason.DRAINED)


def test_a_client_that_breaks_may_ask_for_a_round_trip_and_is_then_refused():
    peer = talking(HTTPX)
    peer.server.drain(now_s=0)
    on_its_way = peer.ask(headers=[HTTPX])
    late = peer.ask(headers=[HTTPX])
    peer.answer(on_its_way, b"served", ends=True)
    peer.server.end(1, b"ended")
    peer.pump()

    assert peer.bodies == {1: b"begun ended", on_its_way: b"served"}
    assert peer.reset_code(late) == ErrorCodes.REFUSED_STREAM
    assert peer.goaways == []


def test_a_client_that_breaks_is_refused_later_requests_though_it_answers_no_ping():
    peer = talking(HTTPX)
    peer.server.drain(now_s=0)
    peer.server.to_send(now_s=0)
    peer.advance(1)
    late = peer.ask(headers=[HTTPX])

    assert peer.reset_code(late) == ErrorCodes.REFUSED_STREAM
    assert peer.goaways == []


def test_the_first_request_says_who_the_client_is():
    peer = talking(HTTPX)
    peer.ask(headers=[CURL])
    peer.server.drain(now_s=0)
    peer.pump()

    assert peer.goaways == []
