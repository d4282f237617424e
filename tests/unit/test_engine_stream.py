"""Pins one stream as the gateway sees it: what arrives, how it ends, and how it goes on after a death."""

from __future__ import annotations

import asyncio

import pytest

from wicketgate.engine.stream import TokenStream
from wicketgate.engine.wire import Done, Token
from wicketgate.errors import EngineFailedError, InvalidRequestError
from wicketgate.inference import Finished, FinishReason, Sampling, TokenChunk, TokenLogprob

pytestmark = pytest.mark.anyio

SAMPLING = Sampling(max_tokens=4, seed=9, temperature=0.5, top_k=3, stop_token_ids=(77,))


def new_stream(sampling: Sampling = SAMPLING, cancelled: list[int] | None = None) -> TokenStream:
    return TokenStream(1, [5, 6], sampling, on_cancel=([] if cancelled is None else cancelled).append)


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

    assert await waiting == TokenChunk((10, 11))


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


async def test_a_refusal_is_the_requests_fault_and_a_failure_the_engines() -> None:
    refused, failed = new_stream(), new_stream()
    refused.finish_as(Done(1, "refused", "top_k must be at least 0"))
    failed.finish_as(Done(1, "error", "it broke"))

    ends = [await refused.next(), await failed.next()]

    assert [type(end.error) for end in ends if isinstance(end, Finished)] == [
        InvalidRequestError,
        EngineFailedError,
    ]
    assert [end.reason for end in ends if isinstance(end, Finished)] == [FinishReason.ERROR] * 2


async def test_a_submission_after_a_death_goes_on_behind_the_tokens_so_far() -> None:
    stream = new_stream()
    for token in (10, 11, 12):
        stream.feed(Token(1, token))

    message = stream.submission()

    assert (message.prompt, message.prompt_tokens, message.position) == ([5, 6, 10, 11, 12], 2, 3)
    assert (message.max_tokens, message.seed, message.temperature, message.top_k) == (1, 9, 0.5, 3)
    assert message.stop_token_ids == [77]


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
