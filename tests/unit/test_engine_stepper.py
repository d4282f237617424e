"""Pins the streams of a host, step by step, over the simulated batch with a clock and a sleep of its own."""

from __future__ import annotations

import math
import struct
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import msgspec
import pytest

from wicketgate.engine.batch import Chunk, DeviceError, RowError
from wicketgate.engine.kv.cache import KvCache
from wicketgate.engine.kv.store import Entry, Hit, as_tokens
from wicketgate.engine.memory import Budget, MemoryGuard, MemoryParams
from wicketgate.engine.options import HostOptions
from wicketgate.engine.plant import PlantParams, drawn_logprob, drawn_token
from wicketgate.engine.roster import MAX_FAULTS, SAVED_TOKENS
from wicketgate.engine.scheduler import ALONE_TOKENS
from wicketgate.engine.simulated import SimulatedBatch, SimulatedJob, SimulatedPrefill, open_simulated
from wicketgate.engine.stepper import MemoryFullError, Stepper
from wicketgate.engine.wire import (
    Assess,
    CacheQuery,
    Done,
    Embed,
    Score,
    Scored,
    Started,
    Step,
    Submit,
    Tune,
    Warm,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.batch import Emitted
    from wicketgate.engine.kv.store import Prefix

OPTIONS = HostOptions(
    engine="simulated", max_batch_size=4, prefill_batch_size=2, prefill_step_tokens=64, vocabulary_size=1000
)


class Time:
    """A clock that only its own sleep moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class PoisonedBatch(SimulatedBatch):
    """Fails in every step in which a stream of seed 666 is there; loses all rows with it, as mlx-lm does."""

    error: type[Exception] = ValueError

    poisoned = False

    def open(self, message: Submit, hit: Hit[object] | None) -> int:
        self.poisoned |= message.seed == 666
        return super().open(message, hit)

    def reset(self) -> None:
        self.poisoned = False
        super().reset()

    def compute(self, chunks: Sequence[Chunk]) -> list[Emitted]:
        if self.poisoned:
            raise self.error("poison")
        return super().compute(chunks)

    def decode(self) -> list[Emitted]:
        if self.poisoned:
            raise self.error("poison")
        return super().decode()


class Rig:
    """A stepper over a simulated batch, and all steps that it has made."""

    def __init__(
        self,
        kind: Callable[..., SimulatedBatch] = SimulatedBatch,
        *,
        plant: PlantParams | None = None,
        guard: MemoryGuard | None = None,
        budget: Budget | None = None,
        cache: Callable[[Time], KvCache] | None = None,
        **options: object,
    ) -> None:
        self.time = Time()
        changed = msgspec.structs.replace(OPTIONS, **options)
        self.batch = kind(changed, plant or PlantParams(), sleep=self.time.sleep)
        self.cache = (
            cache(self.time)
            if cache
            else KvCache(max_bytes=changed.prefix_cache_bytes, clock=self.time.clock)
        )
        self.stepper = Stepper(
            self.batch,
            changed,
            cache=self.cache,
            clock=self.time.clock,
            memory=guard.observe if guard else None,
            budget=budget,
        )
        self.steps: list[Step] = []

    def submit(self, stream: int, *, prompt_tokens: int = 10, max_tokens: int = 3, **fields: object) -> None:
        self.stepper.submit(request(stream, prompt_tokens=prompt_tokens, max_tokens=max_tokens, **fields))

    def step(self, count: int = 1) -> Step:
        for _ in range(count):
            self.steps.append(self.stepper.step())
        return self.steps[-1]

    def run(self, *, most: int = 3000) -> list[Step]:
        while self.stepper.busy:
            self.step()
            assert len(self.steps) < most, "the stepper never came to rest"
        return self.steps

    def texts(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for step in self.steps:
            for token in step.tokens:
                found.setdefault(token.id, []).append(token.token)
        return found

    def ends(self) -> dict[int, str]:
        return {done.id: done.reason for step in self.steps for done in step.done}

    def first_step_with(self, what: Callable[[Step], bool]) -> int:
        return next(index for index, step in enumerate(self.steps) if what(step))


def request(stream: int, *, prompt_tokens: int = 10, max_tokens: int = 3, **fields: object) -> Submit:
    prompt = [(stream * 97 + index) % 1000 for index in range(prompt_tokens)]
    return msgspec.structs.replace(
        Submit(id=stream, prompt=prompt, max_tokens=max_tokens, seed=stream), **fields
    )


def expected(stream: int, count: int) -> list[int]:
    return [
        drawn_token(seed=0, stream_seed=stream, position=index, vocabulary_size=1000)
        for index in range(count)
    ]


# One stream, and several


def test_a_stream_starts_gets_its_tokens_and_ends() -> None:
    rig = Rig()
    rig.submit(1)

    rig.run()

    assert rig.steps[0].started == [Started(1, 0)]
    assert rig.texts() == {1: expected(1, 3)}
    assert rig.steps[-1].done == [Done(1, "length")]
    assert rig.steps[-1].load.rows == rig.steps[-1].load.waiting == 0


def test_the_first_token_goes_out_with_the_step_that_ends_the_prompt() -> None:
    rig = Rig()
    rig.submit(1)

    assert [token.token for token in rig.step().tokens] == expected(1, 1)


def test_a_step_tells_how_long_it_took() -> None:
    rig = Rig()
    rig.submit(1)

    step = rig.step()

    # 1 ms of host, 3 ms + 0.18 ms per prompt token.
    assert step.step_s == pytest.approx(0.0058)
    assert step.at_s == pytest.approx(100.0058)


def test_a_stream_that_joins_later_gets_the_tokens_that_it_gets_alone() -> None:
    rig = Rig()
    rig.submit(1, max_tokens=8)
    rig.step(4)
    rig.submit(2, max_tokens=8)

    rig.run()

    assert rig.texts() == {1: expected(1, 8), 2: expected(2, 8)}
    assert max(step.load.rows for step in rig.steps) == 2


def test_streams_beyond_the_batch_wait_and_all_are_served() -> None:
    rig = Rig()
    for stream in range(1, 10):
        rig.submit(stream)

    rig.run()

    assert rig.texts() == {stream: expected(stream, 3) for stream in range(1, 10)}
    assert max(step.load.rows for step in rig.steps) <= 4
    assert (rig.steps[0].load.rows, rig.steps[0].load.waiting) == (2, 7)


def test_a_stop_token_ends_a_stream_and_is_its_last_token() -> None:
    second = expected(1, 2)[1]
    rig = Rig()
    rig.submit(1, max_tokens=50, stop_token_ids=[second])

    rig.run()

    assert rig.texts() == {1: expected(1, 2)}
    assert rig.ends() == {1: "stop"}


def test_end_tokens_of_the_model_can_be_ignored() -> None:
    eos = [expected(1, 2)[1]]
    obeying, ignoring = Rig(eos_token_ids=eos), Rig(eos_token_ids=eos)
    obeying.submit(1)
    ignoring.submit(1, ignore_eos=True)
    obeying.run()
    ignoring.run()

    assert obeying.ends() == {1: "stop"}
    assert ignoring.ends() == {1: "length"}


def test_logprobs_come_only_when_they_were_asked_for() -> None:
    rig = Rig()
    rig.submit(1, logprobs=2)
    rig.submit(2)

    tokens = [token for step in rig.run() for token in step.tokens]

    assert {len(token.top or []) for token in tokens if token.id == 1} == {2}
    assert {token.logprob for token in tokens if token.id == 2} == {None}


# Cancelling and refusing


@pytest.mark.parametrize("steps_before", [0, 1, 9])
def test_a_cancelled_stream_is_gone_with_the_next_step(steps_before: int) -> None:
    # With 0 steps it waits, after 1 its prompt of 300 tokens is in progress, after 9 it decodes.
    rig = Rig(prefix_cache_bytes=0)
    rig.submit(1, prompt_tokens=300, max_tokens=100)
    for _ in range(steps_before):
        rig.step()
    rig.stepper.cancel(1)

    step = rig.step()

    assert step.done == [Done(1, "cancelled")]
    assert step.tokens == []
    assert (step.load.rows, step.load.waiting, step.load.kv_bytes) == (0, 0, 0)
    assert not rig.stepper.busy


def test_what_a_cancelled_stream_had_computed_serves_the_next_one() -> None:
    rig = Rig()
    rig.submit(1, prompt_tokens=300, max_tokens=100)
    rig.step(9)
    rig.stepper.cancel(1)
    kept = rig.step().kept
    rig.submit(2, prompt=request(1, prompt_tokens=300).prompt)

    assert kept == [1]
    assert rig.step().started == [Started(2, 299)]


def test_a_prompt_cancelled_half_way_is_kept_but_not_told_as_a_whole() -> None:
    rig = Rig()
    rig.submit(1, prompt_tokens=300)
    rig.step(2)
    rig.stepper.cancel(1)
    kept = rig.step().kept
    rig.submit(2, prompt=request(1, prompt_tokens=300).prompt)

    assert kept == []
    assert rig.step().started == [Started(2, 128)]


def test_cancelling_what_is_unknown_changes_nothing() -> None:
    rig = Rig()

    rig.stepper.cancel(99)

    assert not rig.stepper.busy


def test_a_request_out_of_bounds_is_refused_and_its_neighbour_is_not_touched() -> None:
    rig = Rig()
    rig.submit(1)
    rig.submit(2, prompt=[5000])
    rig.submit(1)

    rig.run()

    refused = [done for done in rig.steps[0].done if done.reason == "refused"]
    assert [done.id for done in refused] == [2, 1]
    assert refused[1].message == "the id 1 is in use"
    assert rig.texts() == {1: expected(1, 3)}


def test_a_stream_that_the_batch_will_not_take_ends_alone() -> None:
    class Choosy(SimulatedBatch):
        def open(self, message: Submit, hit: Hit[object] | None) -> int:
            if message.grammar is None and message.seed == 13:
                raise RowError(message.id, "no")
            return super().open(message, hit)

    rig = Rig(Choosy)
    for stream in (1, 13, 2):
        rig.submit(stream)

    rig.run()

    assert rig.texts() == {1: expected(1, 3), 2: expected(2, 3)}
    assert Done(13, "refused", "no") in [done for step in rig.steps for done in step.done]


# Kept prefixes


def test_the_kv_of_a_finished_stream_serves_the_next_turn() -> None:
    rig = Rig()
    rig.submit(1, prompt_tokens=40)
    rig.run()
    told = [*request(1, prompt_tokens=40).prompt, *rig.texts()[1]]
    before = rig.steps[-1]
    rig.submit(2, prompt=[*told, 7, 8, 9])

    after = rig.step()
    rig.run()

    assert before.kept == [1]
    # The last token of an answer was never computed.
    assert after.started == [Started(2, 42)]
    assert (rig.steps[-1].kept, rig.steps[-1].evicted) == ([2], [1])


def test_kv_is_found_only_under_its_own_salt() -> None:
    rig = Rig()
    prompt = request(1, prompt_tokens=40).prompt
    rig.submit(1, prompt=prompt, salt="a")
    rig.run()

    rig.submit(2, prompt=prompt, salt="b")
    rig.submit(3, prompt=prompt, salt="a")
    step = rig.step()

    assert sorted(step.started, key=lambda each: each.id) == [Started(2, 0), Started(3, 39)]


def test_without_a_prefix_cache_nothing_is_kept_and_nothing_warmed() -> None:
    rig = Rig(prefix_cache_bytes=0)
    rig.submit(1, prompt_tokens=40)
    rig.stepper.warm(Warm(id=2, prompt=[1, 2, 3]))

    rig.run()

    assert [step.kept for step in rig.steps if step.kept] == []
    assert rig.steps[0].warmed == [2]
    assert rig.steps[-1].load.kv_bytes == 0


def test_a_long_prompt_is_kept_while_it_is_computed() -> None:
    rig = Rig(prefill_step_tokens=1024)
    tokens = 3 * SAVED_TOKENS
    rig.submit(1, prompt_tokens=tokens)
    while rig.cache.size_bytes == 0:
        rig.step()

    found = rig.cache.find(request(1, prompt_tokens=tokens).prompt, salt="")
    rig.run()

    assert found is not None
    assert SAVED_TOKENS <= found.shared_tokens < SAVED_TOKENS + 1024
    # Told once, when it is whole, and never told as gone.
    assert [step.kept for step in rig.steps if step.kept] == [[1]]
    assert [step.evicted for step in rig.steps if step.evicted] == []


def test_a_batch_that_cannot_hand_out_a_prompt_in_progress_keeps_it_when_it_is_done() -> None:
    class Untrimmable(SimulatedBatch):
        def progress(self, key: int) -> None:
            return None

    rig = Rig(Untrimmable, prefill_step_tokens=1024)
    rig.submit(1, prompt_tokens=2 * SAVED_TOKENS)

    rig.run()

    assert rig.steps[-1].kept == [1]


def test_the_report_on_the_cache_counts_rows_and_clears_as_asked() -> None:
    rig = Rig()
    rig.submit(1, prompt_tokens=40)
    rig.run()
    rig.submit(2, max_tokens=50)
    rig.step(3)

    report = rig.stepper.report_cache(CacheQuery(id=7, clear="memory"))

    assert (report.id, report.entries, report.rows, report.rows_tokens) == (7, [], 1, 13)
    assert rig.step().evicted == [1]


# From disk


class Fetching:
    """A prefix that comes from disk when it is told to."""

    def __init__(self, hit: Hit[object] | None) -> None:
        self._hit = hit
        self.shared_tokens = 0 if hit is None else hit.shared_tokens
        self.estimated_s = 0.01
        self.is_done = False
        self.cancelled = False

    @property
    def hit(self) -> Hit[object] | None:
        return self._hit if self.is_done else None

    def cancel(self) -> None:
        self.cancelled = True


class CacheWithDisk(KvCache):
    """Knows one prefix on disk; remembers what it was asked."""

    def __init__(self, time: Time) -> None:
        super().__init__(max_bytes=1 << 30, clock=time.clock)
        self.fetching: Fetching | None = None
        self.asked: list[tuple[int, float | None]] = []

    def fetch(  # type: ignore[override]
        self, prompt: Sequence[int], *, salt: str, held_tokens: int, prefill_token_s: float | None = None
    ) -> Fetching | None:
        self.asked.append((held_tokens, prefill_token_s))
        return self.fetching


def rig_with_disk(*, shared_tokens: int) -> tuple[Rig, Fetching]:
    rig = Rig(cache=CacheWithDisk)
    prompt = request(1, prompt_tokens=200).prompt
    kv = rig.batch.prefix_of(prompt[:shared_tokens])
    entry = Entry(tokens=as_tokens(kv.tokens), payload=kv.payload, size_bytes=kv.size_bytes)
    fetching = Fetching(Hit(entry=entry, shared_tokens=shared_tokens))
    assert isinstance(rig.cache, CacheWithDisk)
    rig.cache.fetching = fetching
    return rig, fetching


def test_a_stream_waits_for_its_kv_from_disk_while_others_go_on() -> None:
    rig, fetching = rig_with_disk(shared_tokens=150)
    rig.submit(1, prompt_tokens=200)
    rig.step()
    assert isinstance(rig.cache, CacheWithDisk)
    rig.cache.fetching = None
    rig.submit(2)
    rig.step(5)
    meanwhile = dict(rig.ends())
    fetching.is_done = True

    rig.run()

    assert meanwhile == {2: "length"}
    assert Started(1, 150, True) in [each for step in rig.steps for each in step.started]
    assert rig.texts()[1] == expected(1, 3)
    held_tokens, prefill_token_s = rig.cache.asked[0]
    assert held_tokens == 0
    assert prefill_token_s is not None
    assert prefill_token_s > 0


def test_while_all_wait_for_the_disk_the_stepper_says_that_it_can_do_nothing() -> None:
    rig, fetching = rig_with_disk(shared_tokens=150)
    rig.submit(1, prompt_tokens=200)
    rig.step()

    rig.step()
    stalled = rig.stepper.stalled
    fetching.is_done = True
    rig.step()

    assert stalled
    assert not rig.stepper.stalled


def test_a_load_that_fails_costs_only_the_time_of_computing() -> None:
    rig, fetching = rig_with_disk(shared_tokens=150)
    rig.submit(1, prompt_tokens=200)
    rig.step()
    fetching._hit = None
    fetching.is_done = True

    rig.run()

    assert rig.texts()[1] == expected(1, 3)
    assert Started(1, 0, False) in [each for step in rig.steps for each in step.started]


def test_a_stream_that_is_cancelled_lets_go_of_its_load() -> None:
    rig, fetching = rig_with_disk(shared_tokens=150)
    rig.submit(1, prompt_tokens=200)
    rig.step()
    rig.stepper.cancel(1)

    assert fetching.cancelled
    assert rig.step().done == [Done(1, "cancelled")]


def test_a_disk_that_hangs_costs_a_stream_some_time_and_nothing_else() -> None:
    rig, fetching = rig_with_disk(shared_tokens=150)
    rig.submit(1, prompt_tokens=200)
    rig.step(2)
    rig.time.now_s += 10.0

    rig.run()

    assert fetching.cancelled
    assert rig.texts() == {1: expected(1, 3)}


def test_kv_that_came_from_disk_for_a_stream_that_waits_goes_when_memory_is_short() -> None:
    guard = MemoryGuard(MemoryParams(limit_bytes=1_000_000), baseline_bytes=100_000)
    rig = Rig(cache=CacheWithDisk, plant=PLANT, guard=guard, max_batch_size=1)
    kv = rig.batch.prefix_of(request(1, prompt_tokens=500).prompt[:400])
    hit = Hit(
        entry=Entry(tokens=as_tokens(kv.tokens), payload=kv.payload, size_bytes=kv.size_bytes),
        shared_tokens=400,
    )
    assert isinstance(rig.cache, CacheWithDisk)
    fetching = rig.cache.fetching = Fetching(hit)
    rig.submit(1, prompt_tokens=500)
    rig.step()
    rig.cache.fetching = None
    rig.submit(2, prompt_tokens=100, max_tokens=600)
    rig.step(5)
    fetching.is_done = True
    rig.step()
    fetching._hit = None
    del kv, hit

    rig.run()

    assert rig.ends() == {1: "length", 2: "length"}
    assert rig.texts() == {1: expected(1, 3), 2: expected(2, 600)}


# Warm jobs and scores


def test_a_warm_job_uses_idle_steps_alone_and_serves_the_request_that_follows() -> None:
    prompt = list(range(200))
    rig = Rig()
    rig.stepper.warm(Warm(id=1, prompt=prompt))
    rig.submit(2)
    rig.run()
    finished = rig.first_step_with(lambda step: bool(step.done))
    last = rig.steps[-1]
    rig.submit(3, prompt=[*prompt, 999])

    after = rig.step()

    assert last.warmed == last.kept == [1]
    assert finished == 2
    assert after.started == [Started(3, 200)]


def test_a_warm_job_stands_back_between_chunks() -> None:
    rig = Rig()
    rig.stepper.warm(Warm(id=1, prompt=list(range(200))))
    rig.step()
    rig.submit(2)

    step = rig.step()
    rig.run()

    assert step.started == [Started(2, 0)]
    assert rig.steps[-1].warmed == [1]


def test_a_warm_job_that_is_cancelled_leaves_what_it_had_and_one_that_cannot_run_just_ends() -> None:
    rig = Rig()
    rig.stepper.warm(Warm(id=1, prompt=list(range(200))))
    rig.step(4)
    rig.stepper.cancel(1)
    rig.stepper.warm(Warm(id=2, prompt=[5000]))
    rig.run()
    rig.submit(3, prompt=[*range(200), 999])

    started = rig.step().started

    assert [job for step in rig.steps for job in step.warmed] == [1, 2]
    assert [step.kept for step in rig.steps if step.kept] == []
    assert started[0].cached_tokens >= 64


def test_a_cancelled_warm_job_whose_kv_cannot_be_had_ends_alone() -> None:
    class Lost(SimulatedPrefill):
        def prefix(self) -> Prefix:
            raise RuntimeError("[malloc] Unable to allocate")

    class Losing(SimulatedBatch):
        def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> SimulatedPrefill:
            return Lost(self, list(prompt), 0)

    rig = Rig(Losing)
    rig.stepper.warm(Warm(id=1, prompt=list(range(200))))
    rig.step()

    rig.stepper.cancel(1)

    assert rig.step().warmed == [1]


def test_a_warm_job_that_fills_the_memory_ends_and_the_host_goes_on() -> None:
    class Growing(SimulatedPrefill):
        def advance(self, chunk_tokens: int) -> None:
            super().advance(chunk_tokens)
            self.kv = self.prefix()

    class Holding(SimulatedBatch):
        def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> SimulatedPrefill:
            return Growing(self, list(prompt), 0)

    guard = MemoryGuard(MemoryParams(limit_bytes=1_000_000, escalate_s=1.0), baseline_bytes=100_000)
    rig = Rig(Holding, plant=PLANT, guard=guard)
    rig.stepper.warm(Warm(id=1, prompt=[1] * 900))
    while rig.stepper.load().warm_jobs:
        rig.step()
        rig.time.now_s += 0.01
    rig.submit(2)

    rig.run()

    assert [job for step in rig.steps for job in step.warmed] == [1]
    assert rig.texts() == {2: expected(2, 3)}


def test_a_failure_in_a_warm_job_ends_that_job_alone() -> None:
    class Unwarmable(SimulatedBatch):
        def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> SimulatedPrefill:
            raise RuntimeError("broken")

    rig = Rig(Unwarmable)
    rig.stepper.warm(Warm(id=1, prompt=[1, 2, 3]))
    rig.step()
    rig.submit(2)

    rig.run()

    assert rig.steps[0].warmed == [1]
    assert rig.texts() == {2: expected(2, 3)}


SCORE = Score(id=9, query=[1] * 300, items=[[2], [3, 4]], labels=[[5], [6, 7]])


def test_a_score_is_answered_beside_running_streams() -> None:
    rig = Rig()
    rig.submit(1, max_tokens=200)
    rig.step(3)
    rig.stepper.ask(SCORE)

    rig.run()

    scored = [each for step in rig.steps for each in step.answers]
    logprobs = [
        [drawn_logprob(seed=0, item=item, label=label) for label in SCORE.labels] for item in SCORE.items
    ]
    assert scored == [Scored(9, logprobs)]
    assert rig.first_step_with(lambda step: bool(step.answers)) < len(rig.steps) - 100
    assert rig.ends() == {1: "length", 9: "stop"}


def test_the_query_of_a_score_is_taken_from_the_cache() -> None:
    rig = Rig()
    rig.stepper.warm(Warm(id=1, prompt=SCORE.query))
    rig.run()
    rig.stepper.ask(SCORE)

    rig.run()

    assert rig.steps[-1].answers[0].cached_tokens == 299


def test_a_prompt_is_assessed_in_parts_beside_running_streams_and_its_kv_serves_who_goes_on() -> None:
    rig = Rig(prefill_step_tokens=64)
    rig.submit(1, max_tokens=200)
    rig.step(3)
    prompt = [(7 * index) % 900 for index in range(300)]
    rig.stepper.ask(Assess(id=9, prompt=prompt, top=2))

    rig.run()
    rig.stepper.submit(msgspec.structs.replace(request(2), prompt=[*prompt, 5]))
    rig.run()

    parts = [part for step in rig.steps for part in step.answers]
    logprobs = [drawn_logprob(seed=0, item=[before], label=[token]) for before, token in pairwise(prompt)]
    assert len(parts) > 3
    assert [each for part in parts for each in part.logprobs] == logprobs
    assert {len(each) for part in parts for each in part.top} == {2}
    assert rig.ends() == {1: "length", 9: "stop", 2: "length"}
    started = {each.id: each.cached_tokens for step in rig.steps for each in step.started}
    assert started[2] == 299


def test_prompts_are_embedded_once_each_and_always_alike() -> None:
    rig = Rig()
    prompts = [[1, 2, 3], [4] * 300, [1, 2, 3]]
    rig.stepper.ask(Embed(id=9, prompts=prompts))

    rig.run()

    (part,) = [part for step in rig.steps for part in step.answers]
    assert len(part.vectors) == 3
    assert part.vectors[0] == part.vectors[2] != part.vectors[1]
    vector = struct.unpack(f"<{len(part.vectors[0]) // 4}f", part.vectors[0])
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-6)


def test_what_cannot_be_evicted_is_told_beside_how_much_there_may_be() -> None:
    budget = Budget(limit_bytes=110 * 2**30, weights_bytes=2**30, kv_bytes_per_token=1, chunk_tokens=64)
    rig = Rig(budget=budget)
    rig.stepper.warm(Warm(id=1, prompt=[1] * 300))
    rig.run()
    idle = rig.stepper.load()
    rig.submit(2, prompt_tokens=300, max_tokens=9)
    rig.step(6)

    load = rig.stepper.load()

    assert (idle.held_bytes, idle.kv_bytes) == (0, 300 * rig.batch.kv_bytes_per_token)
    assert load.held_bytes == rig.batch.memory().rows_bytes > 0
    assert load.kv_bytes == idle.kv_bytes + load.held_bytes
    assert load.kv_limit_bytes == budget.kv_limit_bytes > 0


def test_without_a_bound_of_memory_there_is_none_for_kv() -> None:
    assert Rig().stepper.load().kv_limit_bytes == 0


def test_a_host_that_closes_keeps_what_its_streams_and_jobs_have_computed() -> None:
    rig = Rig(max_batch_size=2)
    rig.submit(1, prompt_tokens=100, max_tokens=900)
    rig.step(12)
    rig.submit(2, prompt_tokens=100, max_tokens=900)
    rig.submit(3, prompt_tokens=100)
    rig.step(4)
    emitted = rig.texts()

    rig.stepper.close()

    kept = {
        stream: rig.cache.match(
            [*request(stream, prompt_tokens=100).prompt, *emitted.get(stream, [])], salt=""
        )
        for stream in (1, 2, 3)
    }
    assert kept[1] == 100 + len(emitted[1]) - 1
    assert kept[2] >= 100
    assert kept[3] == 0


def test_a_score_can_be_refused_cancelled_or_fail_and_ends_once() -> None:
    class Unscorable(SimulatedBatch):
        def begin(self, message: Score, hit: Hit[object] | None) -> SimulatedJob:
            if message.id == 3:
                raise RowError(3, "no")
            raise ValueError("broken")

    rig = Rig(Unscorable)
    rig.stepper.ask(msgspec.structs.replace(SCORE, id=1, labels=[[5000]]))
    for key in (2, 3, 4):
        rig.stepper.ask(msgspec.structs.replace(SCORE, id=key))
    rig.stepper.ask(msgspec.structs.replace(SCORE, id=4))
    rig.stepper.cancel(2)

    done = [each for step in rig.run() for each in step.done]

    assert [(each.id, each.reason) for each in done] == [
        (1, "refused"),
        (4, "refused"),
        (2, "cancelled"),
        (3, "refused"),
        (4, "error"),
    ]


@pytest.mark.parametrize("job", [Warm(id=1, prompt=[1, 2, 3]), SCORE])
def test_a_failure_of_the_device_in_a_job_is_not_survived(job: Warm | Score) -> None:
    class Dying(SimulatedBatch):
        def compute_beside(self, tokens: int, *, context_tokens: int) -> None:
            raise DeviceError("gone")

    rig = Rig(Dying)
    if isinstance(job, Warm):
        rig.stepper.warm(job)
    else:
        rig.stepper.ask(job)

    with pytest.raises(DeviceError):
        rig.step()


# The pace of chunks


def gaps_while_a_long_prompt_is_computed(rig: Rig) -> list[float]:
    for stream in range(1, 5):
        rig.submit(stream, max_tokens=3000)
    rig.step(10)
    rig.submit(9, prompt_tokens=3000, max_tokens=1)
    at_s = [rig.steps[-1].at_s]
    while 9 not in rig.ends():
        at_s.append(rig.step().at_s)
    return [after - before for before, after in pairwise(at_s)]


@pytest.mark.parametrize("token_ms", [0.01, 0.18, 2.0])
def test_the_worst_gap_of_running_streams_stays_near_the_target(token_ms: float) -> None:
    plant = PlantParams(prompt_token_ms=token_ms, prompt_pair_ms=token_ms / 4000)
    rig = Rig(plant=plant, max_batch_size=8, prefill_step_tokens=512)

    gaps = gaps_while_a_long_prompt_is_computed(rig)

    # The last chunk may be larger than the others, so that what little is left is not cut off for itself.
    assert max(gaps) <= 1.4 * 0.1
    assert sorted(gaps)[-2] <= 1.2 * 0.1


def test_the_governor_may_move_the_target() -> None:
    rig = Rig(max_batch_size=8, prefill_step_tokens=512)
    rig.stepper.tune(Tune(chunk_target_s=0.03))

    assert max(gaps_while_a_long_prompt_is_computed(rig)) <= 0.036


def test_decoding_keeps_its_share_while_a_long_prompt_is_computed() -> None:
    rig = Rig(max_batch_size=8, prefill_step_tokens=512)

    gaps = gaps_while_a_long_prompt_is_computed(rig)

    decode_s = median(gaps)
    share = len(gaps) * decode_s / sum(gaps)
    assert 0.24 <= share <= 0.36


def test_a_short_prompt_that_joins_gets_its_first_token_with_the_next_step() -> None:
    rig = Rig(max_batch_size=8, prefill_step_tokens=512)
    for stream in range(1, 5):
        rig.submit(stream, max_tokens=3000)
    rig.step(10)
    rig.submit(9)

    assert 9 in [token.id for token in rig.step().tokens]


def test_a_short_prompt_overtakes_a_long_one_at_the_next_chunk() -> None:
    rig = Rig(max_batch_size=8, prefill_step_tokens=512)
    rig.submit(1, prompt_tokens=20_000, max_tokens=1)
    rig.step(3)
    asked_s = rig.time.now_s
    rig.submit(2, max_tokens=1)

    step = rig.step()

    assert [token.id for token in step.tokens] == [2]
    assert step.at_s - asked_s <= 0.2


def test_a_tune_is_acknowledged_by_a_step_even_without_work() -> None:
    rig = Rig()
    rig.submit(1)
    rig.stepper.tune(Tune(prefill_turn=False, warm_allowed=False))

    acknowledged = rig.stepper.busy
    first = rig.step()
    told = not rig.stepper.stalled
    rig.step()
    stalled = rig.stepper.stalled
    rig.stepper.tune(Tune(prefill_turn=True))
    rig.run()

    assert acknowledged
    assert told
    assert (first.started, first.tokens, stalled) == ([], [], True)
    assert rig.texts() == {1: expected(1, 3)}


# Giving way


def test_an_urgent_stream_takes_a_place_and_whoever_gave_way_goes_on_without_a_new_prefill() -> None:
    rig = Rig(max_batch_size=2)
    for stream in (1, 2):
        rig.submit(stream, prompt_tokens=200, max_tokens=60, priority=2)
    while rig.stepper.load().rows < 2:
        rig.step()
    rig.step(20)
    before = rig.time.now_s
    rig.submit(3, max_tokens=5, priority=0)

    first = rig.step()
    preempted = first.load.preempted
    rig.run()

    assert [token.id for token in first.tokens if token.id == 3]
    assert first.at_s - before < 0.02
    assert preempted == 1
    assert first.load.kv_bytes > rig.batch.memory().rows_bytes
    assert rig.texts() == {1: expected(1, 60), 2: expected(2, 60), 3: expected(3, 5)}
    # Told as started once, as it was found cold.
    assert [each for step in rig.steps for each in step.started] == [
        Started(1, 0),
        Started(2, 0),
        Started(3, 0),
    ]
    # 60 and 60 and 5 tokens, and no step as long as a prompt of 200 (37 ms).
    assert max(step.step_s for step in rig.steps[rig.steps.index(first) :]) < 0.02


def test_a_stream_that_gave_way_can_be_cancelled_and_its_kv_is_kept() -> None:
    rig = Rig(max_batch_size=1)
    rig.submit(1, prompt_tokens=200, max_tokens=60, priority=2)
    rig.step(20)
    rig.submit(2, max_tokens=30, priority=0)
    rig.step()
    rig.stepper.cancel(1)

    step = rig.step()

    assert Done(1, "cancelled") in step.done
    assert 1 in step.kept


def test_a_prompt_that_gave_way_half_way_and_is_cancelled_is_not_told_as_a_whole() -> None:
    rig = Rig(max_batch_size=1)
    rig.submit(1, prompt_tokens=600, priority=2)
    rig.step(3)
    rig.submit(2, max_tokens=30, priority=0)
    rig.step()
    rig.stepper.cancel(1)

    step = rig.step()

    assert Done(1, "cancelled") in step.done
    assert rig.cache.match(request(1, prompt_tokens=600).prompt, salt="") >= 64
    assert step.kept == []


# Failures


def test_a_stream_that_makes_the_batch_fail_is_found_and_the_others_lose_no_token() -> None:
    rig = Rig(PoisonedBatch)
    for stream in (1, 2):
        rig.submit(stream, max_tokens=20)
    rig.step(6)
    rig.submit(3, seed=666)
    rig.submit(4, max_tokens=20)

    rig.run()

    assert rig.texts() == {stream: expected(stream, 20) for stream in (1, 2, 4)}
    assert rig.ends() == {1: "length", 2: "length", 3: "error", 4: "length"}


def test_after_a_failure_the_streams_are_tried_one_by_one_until_each_had_a_token() -> None:
    class FailingOnce(SimulatedBatch):
        failed = False
        beside = 0

        def decode(self) -> list[Emitted]:
            if not self.failed and len(self._rows) == 4:
                self.failed = True
                raise ValueError("once")
            return super().decode()

    rig = Rig(FailingOnce, prefill_batch_size=4)
    for stream in range(1, 5):
        rig.submit(stream, max_tokens=20)
    rig.step(2)
    tried = [[token.id for token in rig.step().tokens] for _ in range(4)]

    rig.run()

    assert tried == [[1], [2], [3], [4]]
    assert rig.texts() == {stream: expected(stream, 20) for stream in range(1, 5)}


def test_a_batch_that_always_fails_ends_every_stream_with_an_error() -> None:
    class Broken(SimulatedBatch):
        def compute(self, chunks: Sequence[Chunk]) -> list[Emitted]:
            raise RuntimeError("broken")

    rig = Rig(Broken)
    for stream in range(1, 6):
        rig.submit(stream)

    rig.run(most=5 * (MAX_FAULTS + 1))

    assert rig.ends() == dict.fromkeys(range(1, 6), "error")


def test_streams_that_fail_only_together_are_given_up_after_some_failures() -> None:
    class Incompatible(SimulatedBatch):
        def decode(self) -> list[Emitted]:
            if len(self._rows) > 1:
                raise RuntimeError("together")
            return super().decode()

    rig = Rig(Incompatible)
    for stream in (1, 2):
        rig.submit(stream, max_tokens=50)

    rig.run()

    assert set(rig.ends().values()) == {"error"}
    assert all(text == expected(stream, len(text)) for stream, text in rig.texts().items())


def test_a_failure_of_the_device_is_not_survived() -> None:
    class Dying(PoisonedBatch):
        error = DeviceError

    rig = Rig(Dying)
    rig.submit(1, seed=666)

    with pytest.raises(DeviceError):
        rig.step()


# Trials that the gateway asks for


def test_suspects_run_alone_for_some_tokens_each_and_then_all_together() -> None:
    rig = Rig(prefill_batch_size=4)
    rig.submit(1, max_tokens=30)
    rig.step(3)
    rig.submit(2, max_tokens=30, alone=True)
    rig.submit(3, max_tokens=30, alone=True)
    rig.submit(4, max_tokens=30)

    rig.run()

    beside = [sorted(token.id for token in step.tokens) for step in rig.steps[3:]]
    assert beside[: 2 * ALONE_TOKENS] == [[2]] * ALONE_TOKENS + [[3]] * ALONE_TOKENS
    assert [1, 2, 3, 4] in beside
    assert rig.texts() == {stream: expected(stream, 30) for stream in range(1, 5)}


def test_a_suspect_that_ends_or_goes_early_lets_the_others_in() -> None:
    rig = Rig()
    rig.submit(1, max_tokens=2, alone=True)
    rig.submit(2, max_tokens=20, alone=True)
    rig.submit(3)
    rig.step(4)
    rig.stepper.cancel(2)

    rig.run()

    assert rig.ends() == {1: "length", 2: "cancelled", 3: "length"}
    assert rig.texts()[3] == expected(3, 3)


def test_a_suspect_that_fails_alone_gets_the_error_alone() -> None:
    rig = Rig(PoisonedBatch)
    rig.submit(1, max_tokens=20)
    rig.step(2)
    rig.submit(2, seed=666, alone=True)

    rig.run()

    assert rig.ends() == {1: "length", 2: "error"}
    assert rig.texts() == {1: expected(1, 20)}


# Memory

KV_TOKEN = 1000
PLANT = PlantParams(kv_bytes_per_token=KV_TOKEN, weights_bytes=100_000, device_bytes=1_000_000)


def test_streams_wait_where_their_kv_would_not_fit() -> None:
    budget = Budget(
        limit_bytes=1_000_000, weights_bytes=100_000, kv_bytes_per_token=KV_TOKEN, margin_ratio=0.0
    )
    rig = Rig(plant=PLANT, budget=budget, prefix_cache_bytes=0)
    for stream in range(1, 7):
        rig.submit(stream, prompt_tokens=100, max_tokens=20)
    rig.submit(7, prompt_tokens=900, max_tokens=20)

    rig.run()

    # 256 tokens each, of 900 that there is room for.
    assert max(step.load.rows for step in rig.steps) == 3
    assert rig.ends() == dict.fromkeys(range(1, 7), "length") | {7: "memory"}


def test_kept_prefixes_go_before_streams_do() -> None:
    guard = MemoryGuard(MemoryParams(limit_bytes=1_000_000), baseline_bytes=100_000)
    rig = Rig(plant=PLANT, guard=guard)
    for stream in range(1, 7):
        rig.submit(stream, prompt_tokens=150, max_tokens=20)

    rig.run()

    assert rig.ends() == dict.fromkeys(range(1, 7), "length")
    assert [key for step in rig.steps for key in step.evicted]
    assert rig.cache.size_bytes <= 850_000


def test_above_the_hard_mark_the_least_urgent_end_and_the_host_recovers_without_a_restart() -> None:
    guard = MemoryGuard(MemoryParams(limit_bytes=1_000_000), baseline_bytes=100_000)
    rig = Rig(plant=PLANT, guard=guard, prefix_cache_bytes=0)
    for stream in range(1, 5):
        rig.submit(stream, prompt_tokens=100, max_tokens=250, priority=stream % 2)
    rig.run()
    pressure = {step.load.pressure for step in rig.steps}
    rig.submit(9)

    rig.run()

    reasons = rig.ends()
    assert pressure == {0, 1, 2}
    assert {key for key, reason in reasons.items() if reason == "memory"} <= {1, 3}
    assert (reasons[2], reasons[4], reasons[9]) == ("length", "length", "length")
    assert rig.texts()[2] == expected(2, 250)
    assert rig.steps[-1].load.pressure == 0


def test_kv_of_streams_that_gave_way_is_freed_before_anybody_ends() -> None:
    guard = MemoryGuard(MemoryParams(limit_bytes=1_000_000), baseline_bytes=100_000)
    rig = Rig(plant=PLANT, guard=guard, prefix_cache_bytes=0, max_batch_size=1)
    rig.submit(1, prompt_tokens=400, max_tokens=30, priority=2)
    while not rig.stepper.load().rows:
        rig.step()
    rig.submit(2, prompt_tokens=400, max_tokens=200, priority=0)

    rig.run()

    assert rig.ends() == {1: "length", 2: "length"}
    assert rig.texts() == {1: expected(1, 30), 2: expected(2, 200)}


def test_only_as_much_of_the_held_kv_is_freed_as_is_needed() -> None:
    guard = MemoryGuard(MemoryParams(limit_bytes=1_000_000), baseline_bytes=100_000)
    rig = Rig(plant=PLANT, guard=guard, prefix_cache_bytes=0, max_batch_size=2, prefill_batch_size=4)
    for stream in (1, 2):
        rig.submit(stream, prompt_tokens=200, max_tokens=60, priority=2)
    while rig.stepper.load().rows < 2:
        rig.step()
    for stream in (3, 4):
        rig.submit(stream, prompt_tokens=200, max_tokens=60, priority=0)

    rig.run()

    assert rig.ends() == dict.fromkeys(range(1, 5), "length")
    assert max(step.load.preempted for step in rig.steps) == 2
    assert rig.texts() == {stream: expected(stream, 60) for stream in range(1, 5)}


def test_memory_that_nothing_can_free_ends_the_host() -> None:
    class Leaking(SimulatedBatch):
        def groups(self) -> list[tuple[int, int]]:
            self._outside.size_bytes = 900_000
            return super().groups()

    guard = MemoryGuard(MemoryParams(limit_bytes=1_000_000, escalate_s=1.0), baseline_bytes=100_000)
    rig = Rig(Leaking, plant=PLANT, guard=guard, prefix_cache_bytes=0)
    rig.stepper.watch_memory()
    rig.time.now_s += 2.0

    with pytest.raises(MemoryFullError):
        rig.stepper.watch_memory()


# The simulated engine itself


def test_the_simulated_engine_says_what_it_is() -> None:
    time = Time()
    options = msgspec.structs.replace(OPTIONS, plant={"prompt_token_ms": 1.0}, context_tokens=777)

    batch, ready = open_simulated(options, clock=time.clock, sleep=time.sleep)

    assert (ready.engine, ready.vocabulary_size, ready.context_tokens) == ("simulated", 1000, 777)
    assert ready.full_chunk_s == pytest.approx(0.068)
    assert batch.device_bytes is None


def test_the_simulated_engine_notices_kv_of_other_tokens() -> None:
    rig = Rig()
    kv = rig.batch.prefix_of([1] * 20)
    entry = Entry(tokens=as_tokens(kv.tokens), payload=kv.payload, size_bytes=kv.size_bytes)

    with pytest.raises(RowError):
        rig.batch.open(request(1, prompt_tokens=30), Hit(entry=entry, shared_tokens=20))


def test_the_simulated_device_fails_when_it_is_full() -> None:
    rig = Rig(plant=PLANT, prefix_cache_bytes=0)
    rig.submit(1, prompt_tokens=600, max_tokens=600)

    with pytest.raises(DeviceError):
        rig.run()


def test_freed_memory_of_the_simulated_engine_goes_to_a_pool_that_can_be_drained() -> None:
    rig = Rig(prefix_cache_bytes=0)
    rig.submit(1, prompt_tokens=60)
    rig.run()

    pooled = rig.batch.memory().pool_bytes
    rig.batch.drain_pool()

    assert pooled > 0
    assert rig.batch.memory().pool_bytes == 0
