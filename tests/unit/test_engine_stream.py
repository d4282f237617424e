"""Pins one stream as the gateway sees it: what arrives, how it ends, and how it goes on after a death."""

from __future__ import annotations

import asyncio

import pytest

from wicketgate.engine import wire
from wicketgate.engine.stream import Service, TokenStream
from wicketgate.engine.wire import Done, Started, Token
from wicketgate.errors import EngineFailedError, InvalidRequestError, UnavailableError
from wicketgate.inference import Finished, FinishReason, Grammar, Sampling, TokenChunk, TokenLogprob

pytestmark = pytest.mark.anyio

SAMPLING = Sampling(max_tokens=4, seed=9, temperature=0.5, top_k=3, stop_token_ids=(77,))


def new_stream(sampling: Sampling = SAMPLING, cancelled: list[int] | None = None) -> TokenStream:
    service = Service(priority=1, salt="mine", session="talk")
    on_cancel = ([] if cancelled is None else cancelled).append
    return TokenStream(1, [5, 6], sampling, service=service, on_cancel=on_cancel)


async def test_tokens_that_arrived_since_the_last_look_come_together() -> None:
    stream = new_stream()
    stream.feed(Token(1, 10))
    stream.feed(Token(1, 11))

    assert await stream.next() == TokenChunk((10, 11))


async def test_a_consumer_that_waits_is_woken_once_for_all_tokens_of_a_step() -> None:
    stream = new_stream()
    waiting = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    stream.feed(Token(1, 10))
    stream.feed(Token(1, 11))
    stream.tell()

    assert await waiting == TokenChunk((10, 11))


def test_who_follows_a_stream_is_told_once_of_all_that_a_step_brought_and_takes_it_without_waiting() -> None:
    stream = new_stream()
    told: list[object] = []
    stream.on_news = lambda: told.append(stream.take())

    stream.feed(Token(1, 10))
    stream.feed(Token(1, 11))
    stream.finish_as(Done(1, "stop"))
    stream.tell()

    assert told == [TokenChunk((10, 11))]
    assert stream.take() is None
    assert stream.finished is not None


def test_who_cancels_a_stream_is_not_told_of_that() -> None:
    stream = new_stream()
    told: list[bool] = []
    stream.on_news = lambda: told.append(True)

    stream.cancel()

    assert told == []
    assert stream.finished is not None


async def test_the_end_comes_after_the_tokens_and_stays() -> None:
    stream = new_stream()
    stream.cached_tokens = 1
    stream.feed(Token(1, 10))
    stream.finish_as(Done(1, "length"))
    finished = Finished(
        reason=FinishReason.LENGTH, prompt_tokens=2, completion_tokens=1, cached_tokens=1, error=None
    )

    assert [await stream.next() for _ in range(3)] == [TokenChunk((10,)), finished, finished]


async def test_logprobs_come_with_their_tokens_when_they_were_asked_for() -> None:
    stream = new_stream(Sampling(max_tokens=4, seed=0, logprobs=1))
    stream.feed(Token(1, 10, -0.5, [(10, -0.5)]))

    chunk = await stream.next()

    assert chunk == TokenChunk((10,), (TokenLogprob(10, -0.5, ((10, -0.5),)),))


async def test_cancel_ends_the_stream_at_once_and_tells_once() -> None:
    cancelled: list[int] = []
    stream = new_stream(cancelled=cancelled)
    stream.feed(Token(1, 10))

    stream.cancel()
    stream.cancel()

    end = await stream.next()
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.CANCELLED
    assert cancelled == [1]


async def test_cancel_after_the_end_changes_nothing() -> None:
    cancelled: list[int] = []
    stream = new_stream(cancelled=cancelled)
    stream.finish(FinishReason.STOP)

    stream.cancel()

    end = await stream.next()
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.STOP
    assert cancelled == []


async def test_a_consumer_that_was_cancelled_loses_no_token() -> None:
    stream = new_stream()
    waiting = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    waiting.cancel()
    stream.feed(Token(1, 10))

    assert await stream.next() == TokenChunk((10,))


@pytest.mark.parametrize(
    ("reason", "kind", "status", "code"),
    [
        ("refused", InvalidRequestError, 400, "invalid_value"),
        ("error", EngineFailedError, 500, "engine_failed"),
        ("memory", UnavailableError, 503, "memory"),
    ],
)
async def test_a_bad_end_is_an_error_that_says_whose_fault_it_is(
    reason: str, kind: type[Exception], status: int, code: str
) -> None:
    stream = new_stream()
    stream.finish_as(Done(1, reason, "what is wrong"))

    end = await stream.next()

    assert isinstance(end, Finished)
    assert end.reason is FinishReason.ERROR
    assert isinstance(end.error, kind)
    assert (end.error.status, end.error.code) == (status, code)


async def test_want_of_memory_says_when_to_try_again() -> None:
    stream = new_stream()
    stream.finish_as(Done(1, "memory"))

    end = await stream.next()

    assert isinstance(end, Finished)
    assert end.error is not None
    assert end.error.retry_after_s == 2.0


async def test_only_the_first_host_tells_what_was_cached_without_us() -> None:
    stream = new_stream()
    stream.start(Started(1, 1, True))
    stream.start(Started(1, 2, False))

    assert (stream.cached_tokens, stream.from_disk) == (1, True)


async def test_a_submission_after_a_death_goes_on_behind_the_tokens_so_far() -> None:
    stream = new_stream()
    for token in (10, 11, 12):
        stream.feed(Token(1, token))

    message = stream.submission()

    assert (message.prompt, message.prompt_tokens, message.position) == ([5, 6, 10, 11, 12], 2, 3)
    assert (message.max_tokens, message.seed, message.temperature, message.top_k) == (1, 9, 0.5, 3)
    assert message.stop_token_ids == [77]
    assert not message.alone


async def test_everything_that_is_asked_for_reaches_the_host() -> None:
    stream = new_stream(
        Sampling(
            max_tokens=4,
            seed=9,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logit_bias=((3, 2.0), (4, -100.0)),
            min_tokens=2,
            grammar=Grammar("regex", "a+"),
        )
    )

    message = stream.submission(alone=True)

    assert (message.presence_penalty, message.frequency_penalty) == (0.5, -0.5)
    assert message.logit_bias == {3: 2.0, 4: -100.0}
    assert message.min_tokens == 2
    assert message.grammar == wire.Grammar("regex", "a+")
    assert (message.priority, message.salt, message.session) == (1, "mine", "talk")
    assert message.alone


@pytest.mark.parametrize(
    ("tokens", "end"),
    [
        ([10], None),
        ([10, 77], FinishReason.STOP),
        ([10, 2], FinishReason.STOP),
        ([10, 11, 12, 13], FinishReason.LENGTH),
        ([], None),
    ],
)
async def test_an_end_whose_report_was_lost_is_seen_from_the_tokens(
    tokens: list[int], end: FinishReason | None
) -> None:
    stream = new_stream()
    for token in tokens:
        stream.feed(Token(1, token))

    assert stream.end_reached([2]) is end


async def test_an_end_token_that_was_to_be_ignored_is_no_end() -> None:
    stream = new_stream(Sampling(max_tokens=4, seed=0, ignore_eos=True))
    stream.feed(Token(1, 2))

    assert stream.end_reached([2]) is None
