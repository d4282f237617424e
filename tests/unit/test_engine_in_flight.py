"""Pins what goes to which host, in which order, and with whom, over what a host says and how it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from wicketgate.engine.in_flight import InFlight
from wicketgate.engine.stream import Service
from wicketgate.engine.wire import (
    Assess,
    Assessed,
    Cancel,
    Done,
    Load,
    Score,
    Scored,
    Started,
    Step,
    Submit,
    Token,
)
from wicketgate.errors import EngineFailedError, InvalidRequestError, UnavailableError
from wicketgate.inference import Finished, FinishReason, Sampling, TokenChunk

if TYPE_CHECKING:
    from wicketgate.engine.pending_job import PendingJob
    from wicketgate.engine.stream import TokenStream
    from wicketgate.engine.wire import ToHost

pytestmark = pytest.mark.anyio

LOAD = Load(0, 0, 0, 0, 0, 0)
EOS = 7


class Gateway:
    """What is in flight, and what was sent to the host."""

    def __init__(self) -> None:
        self.sent: list[ToHost] = []
        self.refusal: UnavailableError | None = None
        self.all = InFlight(self.sent.append, refusal=lambda: self.refusal)

    def stream(self, key: int, *, max_tokens: int = 100) -> TokenStream:
        return self.all.submit(key, [key], Sampling(max_tokens=max_tokens, seed=key), Service())

    def score(self, key: int) -> PendingJob:
        return self.all.ask(Score(id=key, query=[1], items=[[2]], labels=[[3]]))

    def step(self, *, started: tuple[int, ...] = (), tokens: tuple[tuple[int, int], ...] = ()) -> None:
        news = {
            "started": [Started(key, 0) for key in started],
            "tokens": [Token(key, token) for key, token in tokens],
        }
        self.take(**news)

    def take(self, **news: list[object]) -> None:
        self.all.take(Step(number=1, at_s=0.0, step_s=0.0, load=LOAD, **news))

    def clear(self, key: int) -> None:
        for _ in range(8):
            self.step(tokens=((key, 9),))

    def die(self) -> None:
        self.all.host_gone([EOS], died=True)
        self.sent.clear()
        self.all.host_ready()

    def asked(self) -> list[tuple[int, bool]]:
        """Return the streams sent since the last death, and whether each was to be alone."""
        return [(message.id, message.alone) for message in self.sent if isinstance(message, Submit)]


def suspects(*keys: int) -> Gateway:
    """Return a gateway at whose last two deaths these streams were being computed."""
    made = Gateway()
    made.all.host_ready()
    for key in keys:
        made.stream(key)
    for _ in range(2):
        made.step(started=keys)
        made.die()
    return made


async def end_of(stream: TokenStream) -> Finished:
    while isinstance(part := await stream.next(), TokenChunk):
        pass
    return part


async def test_streams_wait_for_a_host_and_go_to_it_in_their_order() -> None:
    made = Gateway()
    made.stream(1)
    made.stream(2)

    made.all.host_ready()
    made.stream(3)

    assert made.asked() == [(1, False), (2, False), (3, False)]


async def test_after_one_death_everybody_goes_on_together() -> None:
    made = Gateway()
    made.all.host_ready()
    made.stream(1)
    made.stream(2)
    made.step(started=(1, 2), tokens=((1, 50), (2, 51)))

    made.die()

    assert made.asked() == [(1, False), (2, False)]
    assert [message.prompt for message in made.sent if isinstance(message, Submit)] == [[1, 50], [2, 51]]


async def test_after_two_deaths_those_who_were_computed_go_alone_and_the_others_after_them() -> None:
    made = suspects(1, 2)
    made.stream(3)
    made.clear(1)
    before = made.asked()

    made.clear(2)

    assert before == [(1, True), (2, True)]
    assert made.asked() == [(1, True), (2, True), (3, False)]


async def test_those_who_only_waited_in_a_dead_hosts_queue_are_no_suspects() -> None:
    made = Gateway()
    made.all.host_ready()
    made.stream(1)
    made.stream(2)
    for _ in range(2):
        made.step(started=(1,))
        made.die()

    made.clear(1)

    assert made.asked() == [(1, True), (2, False)]


async def test_one_that_a_host_may_have_died_of_before_it_could_tell_is_suspected_after_4_deaths() -> None:
    made = Gateway()
    made.all.host_ready()
    made.stream(1)
    seen = []
    for _ in range(4):
        made.die()
        seen.append(made.asked())

    assert seen == [[(1, False)]] * 3 + [[(1, True)]]


async def test_the_one_that_dies_twice_alone_is_failed_and_the_rest_go_on() -> None:
    made = Gateway()
    made.all.host_ready()
    culprit, innocent = made.stream(1), made.stream(2)
    for _ in range(2):
        made.step(started=(1, 2))
        made.die()
    for _ in range(2):
        assert made.asked() == [(1, True), (2, True)]
        made.die()

    end = await end_of(culprit)
    made.clear(2)
    made.take(done=[Done(2, "length")])

    assert isinstance(end.error, EngineFailedError)
    assert "alone" in end.error.message
    assert (await end_of(innocent)).reason is FinishReason.LENGTH
    assert made.all.emptied.is_set()


async def test_a_host_that_was_told_to_end_is_held_against_nobody() -> None:
    made = Gateway()
    made.all.host_ready()
    made.stream(1)
    for _ in range(3):
        made.step(started=(1,))
        made.all.host_gone([], died=False)
        made.sent.clear()
        made.all.host_ready()

    assert made.asked() == [(1, False)]


async def test_a_suspect_that_is_cancelled_makes_room_for_the_next() -> None:
    made = Gateway()
    made.all.host_ready()
    first, second = made.stream(1), made.stream(2)
    for _ in range(2):
        made.step(started=(1, 2))
        made.die()

    second.cancel()
    first.cancel()
    made.stream(3)

    assert made.sent[2:4] == [Cancel(2), Cancel(1)]
    assert made.asked() == [(1, True), (2, True), (3, False)]


async def test_a_suspect_that_ends_makes_room_for_the_next() -> None:
    made = suspects(1, 2)
    made.stream(3)

    made.take(done=[Done(1, "stop")])
    made.take(done=[Done(2, "stop")])

    assert made.asked() == [(1, True), (2, True), (3, False)]


async def test_a_death_is_held_against_the_first_suspect_that_is_not_cleared() -> None:
    made = suspects(1, 2, 3)
    made.clear(1)
    made.die()

    assert made.asked() == [(2, True), (3, True)]


async def test_an_end_whose_report_was_lost_is_no_death_in_a_trial() -> None:
    made = suspects(1, 2)
    made.clear(1)
    made.step(tokens=((2, EOS),))

    made.die()
    made.step(started=(1,))
    made.die()

    assert made.asked() == [(1, False)]


async def test_a_stream_cancelled_before_any_host_never_reaches_one() -> None:
    made = Gateway()
    made.stream(1).cancel()

    made.all.host_ready()

    assert made.sent == []
    assert made.all.emptied.is_set()


async def test_a_cancelled_stream_is_taken_back_once() -> None:
    made = Gateway()
    made.all.host_ready()
    stream = made.stream(1)

    stream.cancel()
    stream.cancel()
    made.step(started=(1,), tokens=((1, 5),))

    assert made.sent[1:] == [Cancel(1)]


async def test_what_is_refused_never_is_in_flight() -> None:
    made = Gateway()
    made.refusal = UnavailableError("closed")

    stream, score = made.stream(1), made.score(2)

    assert (await end_of(stream)).error is made.refusal
    with pytest.raises(UnavailableError, match="closed"):
        await score.result()
    assert made.all.emptied.is_set()


async def test_everything_ends_as_refused_when_the_engine_is_over() -> None:
    made = Gateway()
    made.all.host_ready()
    stream, score = made.stream(1), made.score(2)
    made.refusal = UnavailableError("closed")

    made.all.end_all()

    assert (await end_of(stream)).error is made.refusal
    with pytest.raises(UnavailableError, match="closed"):
        await score.result()
    assert (made.all.streams, made.all.emptied.is_set()) == (0, True)


async def test_a_score_is_answered_once() -> None:
    made = Gateway()
    made.all.host_ready()
    score = made.score(1)

    made.take(answers=[Scored(1, [[-0.5]], 4)], done=[Done(1, "stop")])

    assert await score.result() == [Scored(1, [[-0.5]], 4)]
    assert made.all.emptied.is_set()
    assert made.sent == [score.submission()]


async def test_a_score_is_asked_again_of_the_next_host() -> None:
    made = Gateway()
    made.all.host_ready()
    score = made.score(1)

    made.die()
    made.take(answers=[Scored(1, [[-0.5]])], done=[Done(1, "stop")])

    assert made.sent == [score.submission()]
    assert await score.result() == [Scored(1, [[-0.5]])]


async def test_what_a_dead_host_has_assessed_is_not_counted_twice() -> None:
    made = Gateway()
    made.all.host_ready()
    job = made.all.ask(Assess(id=1, prompt=[1, 2, 3]))

    made.take(answers=[Assessed(1, [-0.5], [[]])])
    made.die()
    made.take(answers=[Assessed(1, [-0.5], [[]])])
    made.take(answers=[Assessed(1, [-0.25], [[]])], done=[Done(1, "stop")])

    assert await job.result() == [Assessed(1, [-0.5], [[]]), Assessed(1, [-0.25], [[]])]


async def test_a_prompt_of_one_token_is_assessed_with_nothing_to_say() -> None:
    made = Gateway()
    made.all.host_ready()
    job = made.all.ask(Assess(id=1, prompt=[1]))

    made.take(done=[Done(1, "stop")])

    assert await job.result() == []


async def test_a_score_is_suspected_tried_before_streams_and_convicted_as_they_are() -> None:
    made = Gateway()
    made.all.host_ready()
    made.stream(1)
    score = made.score(2)
    for _ in range(2):
        made.step(started=(1,))
        made.die()
    for _ in range(2):
        assert made.sent == [score.submission()]
        made.die()

    with pytest.raises(EngineFailedError, match="alone"):
        await score.result()
    assert made.asked() == [(1, True)]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("refused", InvalidRequestError), ("stop", EngineFailedError), ("memory", UnavailableError)],
)
async def test_a_score_that_ends_without_an_answer_is_an_error(reason: str, kind: type[Exception]) -> None:
    made = Gateway()
    made.all.host_ready()
    score = made.score(1)

    made.take(done=[Done(1, reason)])

    with pytest.raises(kind):
        await score.result()


async def test_a_score_whose_consumer_is_cancelled_is_given_up() -> None:
    made = Gateway()
    made.all.host_ready()
    score = made.score(1)
    waiting = asyncio.ensure_future(score.result())
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    made.take(answers=[Scored(1, [[-0.5]])], done=[Done(1, "cancelled")])

    assert made.sent[1:] == [Cancel(1)]
    assert made.all.emptied.is_set()


async def test_what_the_host_does_is_prefill_until_every_stream_that_began_has_a_token() -> None:
    made = Gateway()
    made.all.host_ready()
    made.stream(1)
    made.stream(2)
    seen = [made.all.doing]
    made.step(started=(1,))
    seen.append(made.all.doing)
    made.step(started=(2,), tokens=((1, 5),))
    seen.append(made.all.doing)
    made.step(tokens=((2, 5),))

    assert [*seen, made.all.doing] == ["", "prefill", "prefill", "decode"]


async def test_news_of_the_unknown_is_ignored() -> None:
    made = Gateway()

    made.take(started=[Started(9, 0)], tokens=[Token(9, 1)], answers=[Scored(9, [])], done=[Done(9, "stop")])

    assert made.all.emptied.is_set()
