"""From request to stream: tickets, waiting, text, and the ticket back exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from governor.admission import Admission, AdmissionParams
from qos.figures import Figures
from qos.policy import Monitor, MonitorParams
from qos.window import WindowParams
from tests.fakes import Clock, FakeEngine, FakeLanes, FakeRollouts, FakeText, request
from wicketgate.assigned import Assigned
from wicketgate.drill import DrillParams
from wicketgate.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    WicketgateError,
)
from wicketgate.inference import ChatPrompt, Finished, FinishReason, Grammar, TextPrompt
from wicketgate.metrics import Metrics
from wicketgate.pipeline.dispatch import Dispatcher, Parts
from wicketgate.pipeline.lane import Lane
from wicketgate.pipeline.pieces import TextChunk
from wicketgate.pipeline.queue import QueueParams, WaitQueue
from wicketgate.pipeline.warm import Warmer, WarmParams
from wicketgate.recorder import Recorder, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from wicketgate.inference import InferenceRequest
    from wicketgate.pipeline.answer import Answer

pytestmark = pytest.mark.anyio

ALL = frozenset({"adaptive_governor", "ttft_pipeline", "qos_monitoring"})


@dataclass
class House:
    """A dispatcher over real cores and fake ends."""

    clock: Clock
    engine: FakeEngine
    text: FakeText
    admission: Admission
    recorder: Recorder
    warmer: Warmer
    lanes: FakeLanes
    dispatcher: Dispatcher
    metrics: Metrics
    rollouts: FakeRollouts

    def count(self, outcome: str) -> float:
        return self.metrics.requests.labels("demo", "interactive", outcome)._value.get()


def build(
    *,
    limit: int = 1,
    max_queued: int = 4,
    on: frozenset[str] = ALL,
    max_wait_s: float = 30.0,
    spawn: Callable[[Coroutine[object, object, object]], asyncio.Task[object]] = asyncio.create_task,
) -> House:
    clock = Clock()
    engine = FakeEngine()
    text = FakeText()
    params = AdmissionParams(fixed_limit=limit, max_queued=max_queued, max_wait_s=max_wait_s)
    admission = Admission(params, now_s=clock())
    metrics = Metrics(CollectorRegistry(), models=("demo",), features=tuple(sorted(ALL)))
    figures = Figures(WindowParams(), now_s=clock())
    monitor = Monitor(MonitorParams(), now_s=clock())
    rollouts = FakeRollouts()
    sink = Sink(figures=figures, monitor=monitor, metrics=metrics, rollouts=rollouts)
    recorder = Recorder(sink, clock=clock)
    warmer = Warmer(WarmParams(), text=text, engine=engine, spawn=spawn)
    lanes = FakeLanes(Lane(model="demo", text=text, engine=engine, warmer=warmer))
    parts = Parts(
        assign=lambda _: rollouts.assigned(on),
        admission=admission,
        queue=WaitQueue(QueueParams()),
        recorder=recorder,
        lanes=lanes,
        inline_chars=lambda: 2000,
        clock=clock,
    )
    dispatcher = Dispatcher(parts, request_timeout_s=60.0)
    return House(clock, engine, text, admission, recorder, warmer, lanes, dispatcher, metrics, rollouts)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def read(answer: Answer) -> tuple[str, Finished]:
    text = ""
    while True:
        for item in await answer.next():
            if isinstance(item, Finished):
                return text, item
            text += item.text


async def test_an_admitted_request_streams_and_gives_its_ticket_back() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    house.engine.streams[0].give(ord("o"), ord("k"))
    house.engine.streams[0].finish()

    text, finished = await read(answer)

    assert text == "ok"
    assert (finished.reason, finished.prompt_tokens, finished.completion_tokens) == (FinishReason.STOP, 5, 2)
    assert house.admission.in_flight == 0
    assert house.recorder.live == 0


async def test_the_answer_names_the_features_that_the_request_is_on() -> None:
    answer = await build(on=frozenset({"qos_monitoring"})).dispatcher.open(request())

    assert answer.flags == ("qos_monitoring",)


async def test_a_second_request_waits_for_the_first_ones_ticket() -> None:
    house = build()
    first = await house.dispatcher.open(request("r1"))
    second = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()
    waiting = house.admission.queued

    first.cancel()
    answer = await second

    assert waiting == 1
    assert len(answer.prompt_ids) == 5
    assert house.admission.in_flight == 1


async def test_an_excess_request_is_refused_with_advice() -> None:
    house = build(max_queued=0)
    await house.dispatcher.open(request("r1"))

    with pytest.raises(OverloadedError, match="1 in flight") as caught:
        await house.dispatcher.open(request("r2"))

    assert caught.value.retry_after_s == 1.0
    assert house.count("shed") == 1
    assert house.recorder.shed == 1


async def test_a_request_that_waits_too_long_is_refused() -> None:
    house = build(max_wait_s=5.0)
    await house.dispatcher.open(request("r1"))
    second = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()
    house.clock.advance(5.0)

    house.dispatcher.advance(now_s=house.clock())

    with pytest.raises(OverloadedError, match="no place became free"):
        await second
    assert house.admission.queued == 0


async def test_a_client_that_goes_away_while_waiting_leaves_nothing_behind() -> None:
    house = build()
    await house.dispatcher.open(request("r1"))
    second = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()

    second.cancel()
    await settle()

    assert house.admission.queued == 0
    assert house.engine.warm_jobs == {}
    assert house.count("cancelled") == 1


async def test_a_ticket_granted_to_a_client_that_just_went_away_is_passed_on() -> None:
    house = build()
    first = await house.dispatcher.open(request("r1"))
    gone = asyncio.create_task(house.dispatcher.open(request("r2")))
    next_one = asyncio.create_task(house.dispatcher.open(request("r3")))
    await settle()

    first.cancel()
    gone.cancel()
    answer = await next_one

    assert len(answer.prompt_ids) == 5
    assert house.admission.in_flight == 1


async def test_an_expiry_in_the_turn_in_which_the_client_went_away_is_no_error() -> None:
    house = build(max_wait_s=5.0)
    await house.dispatcher.open(request("r1"))
    gone = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()
    house.clock.advance(5.0)

    gone.cancel()
    house.dispatcher.advance(now_s=house.clock())
    await settle()

    assert gone.cancelled()
    assert house.admission.queued == 0


async def test_a_prompt_over_the_context_is_refused_and_frees_its_ticket() -> None:
    house = build()

    with pytest.raises(InvalidRequestError, match="context of 64 tokens") as caught:
        await house.dispatcher.open(request(text="x" * 64))

    assert caught.value.code == "context_length_exceeded"
    assert house.admission.in_flight == 0
    assert house.count("invalid") == 1


async def test_max_tokens_is_cut_to_what_the_context_leaves() -> None:
    house = build()

    await house.dispatcher.open(request(text="x" * 60, max_tokens=1000))

    assert house.engine.streams[0].sampling.max_tokens == 4


async def test_a_template_that_refuses_frees_the_ticket() -> None:
    house = build(on=frozenset())

    with pytest.raises(InvalidRequestError, match="template"):
        await house.dispatcher.open(request(text="refused"))

    assert house.admission.in_flight == 0


async def test_a_prompt_refused_while_waiting_is_reported_when_its_ticket_comes() -> None:
    house = build()
    first = await house.dispatcher.open(request("r1"))
    second = asyncio.create_task(house.dispatcher.open(request("r2", text="refused")))
    await settle()

    first.cancel()

    with pytest.raises(InvalidRequestError, match="template"):
        await second
    assert house.admission.in_flight == 0


async def test_nothing_starts_while_the_engine_cannot_serve() -> None:
    house = build()
    house.engine.error = UnavailableError("the engine host is being restarted", code="engine_restarting")

    with pytest.raises(UnavailableError):
        await house.dispatcher.open(request())

    assert house.admission.in_flight == 0
    assert house.count("error") == 1


async def test_a_draining_server_refuses_with_503() -> None:
    house = build()
    house.admission.drain()

    with pytest.raises(UnavailableError) as caught:
        await house.dispatcher.open(request())

    assert caught.value.code == "draining"
    assert (house.count("shed"), house.count("error")) == (1, 0)


async def test_a_stop_text_ends_the_engines_work_and_the_count_of_tokens() -> None:
    house = build()
    answer = await house.dispatcher.open(request(stop=("END",)))
    house.engine.streams[0].give(ord("a"))
    house.engine.streams[0].give(*map(ord, "END"))

    text, finished = await read(answer)

    assert text == "a"
    assert finished.reason is FinishReason.STOP
    assert finished.completion_tokens == 4
    assert house.engine.streams[0].cancelled


async def test_an_answer_that_takes_too_long_ends_with_a_deadline_error() -> None:
    house = build()
    house.clock.advance(60.0)
    answer = await house.dispatcher.open(request())

    _, finished = await read(answer)

    assert isinstance(finished.error, DeadlineExceededError)
    assert house.engine.streams[0].cancelled
    assert house.count("deadline") == 1


async def test_cancel_is_idempotent_and_means_nothing_after_the_end() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    answer.cancel()

    answer.cancel()

    assert house.count("cancelled") == 1
    assert house.admission.in_flight == 0


async def test_a_failed_stream_is_counted_as_an_error() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    house.engine.streams[0].finish(FinishReason.ERROR)

    _, finished = await read(answer)

    assert finished.reason is FinishReason.ERROR
    assert house.count("error") == 1


async def test_a_waiting_request_on_the_pipeline_is_offered_as_a_warm_job() -> None:
    house = build()
    await house.dispatcher.open(request("r1"))
    waiting = asyncio.create_task(house.dispatcher.open(request("r2", text="warm me")))
    await settle()

    jobs = list(house.engine.warm_jobs.values())

    assert jobs == [[ord(character) for character in "warm me"]]
    waiting.cancel()
    await settle()


async def test_a_waiting_request_off_the_pipeline_is_left_alone() -> None:
    house = build(on=frozenset({"adaptive_governor"}))
    await house.dispatcher.open(request("r1"))
    waiting = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()

    assert house.engine.warm_jobs == {}
    waiting.cancel()
    await settle()


async def test_a_warmed_prompt_counts_as_a_hit_of_the_pipeline() -> None:
    house = build()
    first = await house.dispatcher.open(request("r1"))
    second = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()
    (job,) = house.engine.warm_jobs
    house.warmer.news(kept=[job], evicted=[], warmed=[job])

    first.cancel()
    answer = await second
    house.engine.streams[1].give(65)
    await answer.next()

    assert house.metrics.pipeline_hits == 1


async def test_a_flag_taken_back_while_a_request_waits_leaves_its_assignment_alone() -> None:
    house = build()
    on = {"value": ALL}
    parts = replace(house.dispatcher._parts, assign=lambda _: Assigned(on["value"], 1))
    house.dispatcher._parts = parts
    first = await house.dispatcher.open(request("r1"))
    second = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()

    on["value"] = frozenset()
    first.cancel()
    old, new = await second, asyncio.create_task(house.dispatcher.open(request("r3")))
    old.cancel()

    assert old.flags == tuple(sorted(ALL))
    assert (await new).flags == ()


async def test_a_warm_job_that_nobody_took_holds_no_place_among_the_jobs() -> None:
    house = build()
    house.warmer.params = WarmParams(max_jobs=1)
    sizes: dict[str, int] = {}
    house.engine.error = UnavailableError("the engine is being restarted")
    house.warmer.waiting(request("r1"), sized=sizes.__setitem__)
    await settle()
    house.engine.error = None

    house.warmer.waiting(request("r2"), sized=sizes.__setitem__)
    await settle()

    assert sizes == {"r1": 5, "r2": 5}
    assert len(house.engine.warm_jobs) == 1


async def test_a_fault_in_the_text_of_a_waiting_request_ends_that_request_only() -> None:
    async with asyncio.TaskGroup() as runtime:
        house = build(spawn=runtime.create_task)
        first = await house.dispatcher.open(request("r1"))
        house.text.fault = RuntimeError("the tokenizer broke")
        second = asyncio.create_task(house.dispatcher.open(request("r2")))
        await settle()

        first.cancel()

        with pytest.raises(RuntimeError, match="the tokenizer broke"):
            await second
    assert house.admission.in_flight == 0
    assert house.recorder.live == 0


async def test_a_limit_raised_by_a_reload_lets_the_waiting_in_at_once() -> None:
    house = build(limit=1, on=frozenset())
    await house.dispatcher.open(request("r1"))
    second = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()
    house.dispatcher.changed.clear()

    house.admission.reconfigure(AdmissionParams(fixed_limit=2, max_queued=4, max_wait_s=1.0))
    house.dispatcher.reconfigured(request_timeout_s=30.0, drill=DrillParams())
    await settle()

    assert second.done()
    assert house.dispatcher.changed.is_set()
    assert house.dispatcher.request_timeout_s == 30.0


async def test_a_model_that_nobody_configured_is_not_found() -> None:
    house = build()

    with pytest.raises(NotFoundError):
        await house.dispatcher.open(request(model="other"))

    assert house.admission.in_flight == 0
    assert house.recorder.live == 0


async def test_a_request_that_waits_for_its_model_holds_no_ticket() -> None:
    house = build(limit=1)
    house.lanes.gate.clear()
    first = asyncio.create_task(house.dispatcher.open(request("r1")))
    await settle()
    in_flight = house.admission.in_flight

    house.lanes.gate.set()
    await first

    assert (in_flight, house.admission.in_flight) == (0, 1)


async def test_a_lane_is_held_from_the_first_wait_to_the_end_of_the_answer() -> None:
    house = build(limit=1)
    first = await house.dispatcher.open(request("r1"))
    waiting = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()
    held = house.lanes.lane.holders

    waiting.cancel()
    await settle()
    first.cancel()

    assert (held, house.lanes.lane.holders) == (2, 0)


async def test_a_request_that_is_refused_leaves_its_lane() -> None:
    house = build()
    house.engine.error = UnavailableError("short of memory", code="memory")

    with pytest.raises(UnavailableError):
        await house.dispatcher.open(request())

    assert house.lanes.lane.holders == 0
    assert (house.count("shed"), house.count("error")) == (1, 0)


async def test_arrivals_wait_while_admission_is_held_and_one_is_let_in_once_nothing_runs() -> None:
    house = build(limit=8)
    first = await house.dispatcher.open(request("r1"))
    house.admission.hold(held=True)
    second = asyncio.create_task(house.dispatcher.open(request("r2")))
    await settle()
    waited = not second.done()

    first.cancel()
    await settle()

    assert waited
    assert second.done()


async def test_min_tokens_never_ask_for_more_than_the_context_leaves() -> None:
    house = build()
    asked = request(text="x" * 60, max_tokens=30)

    await house.dispatcher.open(replace(asked, sampling=replace(asked.sampling, min_tokens=20)))

    sampling = house.engine.streams[0].sampling
    assert (sampling.max_tokens, sampling.min_tokens) == (4, 4)


def drill(house: House, **params: object) -> None:
    """Switch a drill on."""
    params = DrillParams(feature="ttft_pipeline", **params)
    house.dispatcher.reconfigured(request_timeout_s=60.0, drill=params)


async def test_a_request_that_a_drill_hits_fails_before_the_engine_sees_it_and_frees_its_ticket() -> None:
    house = build()
    drill(house, fail_ratio=1.0)

    with pytest.raises(WicketgateError, match="made to fail by a drill of ttft_pipeline") as caught:
        await house.dispatcher.open(request())

    assert (caught.value.status, caught.value.code) == (500, "drill")
    assert house.engine.streams == []
    assert house.admission.in_flight == 0
    assert house.rollouts.endings == ["failed"]


async def test_a_request_off_the_feature_of_a_drill_is_left_alone() -> None:
    house = build(on=frozenset({"qos_monitoring"}))
    drill(house, fail_ratio=1.0)

    answer = await house.dispatcher.open(request())

    assert len(answer.prompt_ids) == 5


async def test_a_request_that_a_drill_delays_begins_when_the_delay_is_over() -> None:
    house = build()
    drill(house, delay_s=0.02)

    waiting = asyncio.create_task(house.dispatcher.open(request()))
    await settle()
    begun = len(house.engine.streams)
    await waiting

    assert (begun, len(house.engine.streams)) == (0, 1)


async def test_a_drill_is_logged_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    house = build()

    drill(house, fail_ratio=0.5)
    drill(house, fail_ratio=0.5)
    drill(house)

    told = [(record.message, record.drill) for record in caplog.records]
    said = "requests on ttft_pipeline: 50 % of them fail"
    assert told == [("drill_on", said), ("drill_over", said)]


async def test_a_fault_in_the_text_of_an_answer_is_a_failure_and_no_client_that_went_away() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    house.engine.streams[0].give(-1)

    with pytest.raises(ValueError, match="chr"):
        await answer.next()
    answer.cancel()

    assert house.rollouts.endings == ["failed"]
    assert (house.count("error"), house.count("cancelled")) == (1, 0)
    assert house.admission.in_flight == 0


async def test_tokens_wait_as_tokens_until_somebody_takes_them_and_come_as_one_text() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    house.engine.streams[0].give(ord("o"))
    house.engine.streams[0].give(ord("k"))

    assert answer.take() == [TextChunk(text="ok", tokens=2)]
    assert answer.take() == []


async def test_whoever_follows_an_answer_hears_of_each_step_in_its_turn() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    taken: list[object] = []
    answer.on_news = lambda: taken.extend(answer.take())

    house.engine.streams[0].give(ord("a"))
    house.engine.streams[0].finish()

    assert taken[0] == TextChunk(text="a", tokens=1)
    assert isinstance(taken[1], Finished)


async def test_ticket_and_lane_come_back_at_the_end_of_the_stream_though_nobody_reads() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    house.engine.streams[0].give(ord("a"))

    house.engine.streams[0].finish()

    assert (house.admission.in_flight, house.lanes.lane.holders) == (0, 0)
    assert house.count("ok") == 1
    text, finished = await read(answer)
    assert (text, finished.completion_tokens) == ("a", 1)


async def test_text_held_back_comes_out_at_the_end() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    house.text.streams[0].held = "EN"
    house.engine.streams[0].finish()

    text, _ = await read(answer)

    assert text == "EN"


async def test_for_no_tokens_the_prompt_is_computed_and_the_answer_is_empty() -> None:
    house = build()
    answer = await house.dispatcher.open(request(max_tokens=0))
    house.engine.streams[0].give(ord("a"))
    house.engine.streams[0].finish(FinishReason.LENGTH)

    text, finished = await read(answer)

    assert house.engine.streams[0].sampling.max_tokens == 1
    assert (text, finished.reason, finished.completion_tokens) == ("", FinishReason.LENGTH, 0)
    assert house.count("ok") == 1


async def test_an_answer_can_be_ended_because_of_a_fault() -> None:
    house = build()
    answer = await house.dispatcher.open(request())

    answer.fail(UnavailableError("stopping", code="draining"))
    answer.fail(UnavailableError("stopping", code="draining"))

    assert house.engine.streams[0].cancelled
    assert house.count("error") == 1
    assert house.admission.in_flight == 0


async def test_why_an_answer_was_cancelled_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    house = build()
    with caplog.at_level(logging.INFO, logger="wicketgate.requests"):
        answer = await house.dispatcher.open(request(), client_request_id="mine-7")
        answer.cancel(code="slow_reader")

    line = vars(caplog.records[-1])
    assert (line["outcome"], line["code"], line["client_request_id"]) == (
        "cancelled",
        "slow_reader",
        "mine-7",
    )


GRAMMAR = Grammar(kind="json_schema", text="{}", param="response_format.json_schema.schema")


def with_grammar(prompt: ChatPrompt | TextPrompt) -> InferenceRequest:
    asked = request()
    return replace(asked, prompt=prompt, sampling=replace(asked.sampling, grammar=GRAMMAR))


@pytest.mark.parametrize(
    ("prompt", "think_end_id", "starts_after"),
    [
        (ChatPrompt(messages=(), template_kwargs={}), 9, 9),
        (ChatPrompt(messages=(), template_kwargs={}), None, None),
        (TextPrompt(text="hello"), 9, None),
    ],
)
async def test_a_grammar_waits_for_the_end_of_reasoning_that_the_prompt_opens(
    prompt: ChatPrompt | TextPrompt, think_end_id: int | None, starts_after: int | None
) -> None:
    house = build()
    house.text.think_end_id = think_end_id

    await house.dispatcher.open(with_grammar(prompt))

    assert house.engine.streams[0].sampling.grammar == replace(GRAMMAR, starts_after=starts_after)


async def test_a_grammar_that_the_engine_refuses_is_the_fault_of_the_field_that_asked_for_it() -> None:
    house = build()
    answer = await house.dispatcher.open(with_grammar(TextPrompt(text="hello")))
    house.engine.streams[0].finish(FinishReason.ERROR, InvalidRequestError("grammar: no `not`"))

    _, finished = await read(answer)

    assert finished.error is not None
    assert (finished.error.code, finished.error.param) == ("invalid_json_schema", GRAMMAR.param)
    assert finished.error.message == f"{GRAMMAR.param} cannot be enforced: no `not`"


async def test_a_job_holds_ticket_and_lane_while_its_work_is_done() -> None:
    house = build()
    held: list[tuple[int, int]] = []

    async def work(lane: Lane) -> str:
        held.append((house.admission.in_flight, lane.holders))
        return "done"

    result = await house.dispatcher.job(request(), work)

    assert (result, held) == ("done", [(1, 1)])
    assert (house.admission.in_flight, house.lanes.lane.holders, house.recorder.live) == (0, 0, 0)
    assert house.count("ok") == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequestError("no"), "invalid"),
        (UnavailableError("no", code="engine_down"), "error"),
        (RuntimeError("a bug"), "error"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
async def test_a_job_that_fails_gives_everything_back_and_counts_as_what_it_failed_of(
    error: BaseException, outcome: str
) -> None:
    house = build()

    async def work(lane: Lane) -> None:
        raise error

    with pytest.raises(type(error)):
        await house.dispatcher.job(request(), work)

    assert (house.admission.in_flight, house.lanes.lane.holders) == (0, 0)
    assert house.count(outcome) == 1


async def test_a_job_that_takes_too_long_ends_with_a_deadline_error() -> None:
    house = build()
    house.clock.advance(60.0)

    async def work(lane: Lane) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlineExceededError):
        await house.dispatcher.job(request(), work)

    assert house.count("deadline") == 1


async def test_a_job_is_never_late_with_a_first_token_that_it_does_not_have() -> None:
    house = build()
    begun = asyncio.Event()

    async def work(lane: Lane) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    working = asyncio.create_task(house.dispatcher.job(request(), work))
    await begun.wait()
    house.clock.advance(30.0)
    house.recorder.check_first_tokens(deadline_s=10.0)
    waiting_s = house.recorder.oldest_waiting_s()
    working.cancel()
    await settle()

    assert waiting_s == 0.0
    assert house.rollouts.endings == ["ignored"]


async def test_an_answer_refused_by_the_engine_at_once_has_ended_when_it_is_opened() -> None:
    house = build()
    house.engine.refusal = UnavailableError("stopping", code="draining")

    answer = await house.dispatcher.open(request())

    (finished,) = answer.take()
    assert isinstance(finished, Finished)
    assert finished.error is house.engine.refusal
    assert (answer.cached_tokens, answer.completion_tokens) == (0, 0)
    assert house.admission.in_flight == 0


async def test_who_waits_for_news_is_woken_by_it() -> None:
    house = build()
    answer = await house.dispatcher.open(request())
    waiting = asyncio.create_task(answer.next())
    await settle()

    house.engine.streams[0].give(ord("a"))

    assert await waiting == [TextChunk(text="a", tokens=1)]
