"""
Whatever comes, goes, gives way or fails, each stream gets its own tokens, ends once, and leaves nothing.

And whatever is asked for, the bounds of the schedule hold: the gaps of running streams, the share of
decoding, and how long a prompt may be overtaken. All on the plant's own clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from wicketgate.engine.kv.cache import KvCache
from wicketgate.engine.options import HostOptions
from wicketgate.engine.pace import Pace
from wicketgate.engine.plant import Plant, PlantParams, drawn_token
from wicketgate.engine.simulated import SimulatedBatch
from wicketgate.engine.stepper import Stepper
from wicketgate.engine.wire import Assess, Embed, Score, Submit, Tune, Warm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.batch import Chunk, Emitted
    from wicketgate.engine.wire import Step

OPTIONS = HostOptions(
    engine="simulated",
    max_batch_size=3,
    prefill_batch_size=2,
    prefill_step_tokens=64,
    vocabulary_size=50,
    context_tokens=400,
    eos_token_ids=[49],
    prefix_cache_bytes=150 * 32_768,
)

actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 150), st.integers(1, 30), st.integers(0, 2)),
        st.tuples(st.just("alone"), st.integers(1, 150), st.integers(1, 30), st.integers(0, 2)),
        st.tuples(st.just("cancel"), st.integers(1, 20), st.just(0), st.just(0)),
        st.tuples(st.just("warm"), st.integers(1, 150), st.just(0), st.just(0)),
        st.tuples(
            st.sampled_from(["score", "assess", "embed"]),
            st.integers(1, 150),
            st.integers(1, 5),
            st.integers(0, 2),
        ),
        st.tuples(st.just("turn"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 10), st.just(0), st.just(0)),
    ),
    max_size=25,
)


class Time:
    """A clock that only its own sleep moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class FailingBatch(SimulatedBatch):
    """Fails in the calls whose numbers it was given, whoever is in it, and loses everything then."""

    failing: frozenset[int] = frozenset()
    calls = 0

    def _fail(self) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise ValueError("drawn by lot")

    def compute(self, chunks: Sequence[Chunk]) -> list[Emitted]:
        self._fail()
        return super().compute(chunks)

    def decode(self) -> list[Emitted]:
        emitted = super().decode()
        self._fail()
        return emitted


def answer(stream: int, max_tokens: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < max_tokens and 49 not in tokens:
        tokens.append(
            drawn_token(seed=0, stream_seed=stream, position=len(tokens), vocabulary_size=50),
        )
    return tokens


@dataclass
class Played:
    """What came of a script."""

    stepper: Stepper
    batch: FailingBatch
    asked: dict[int, int]
    scores: set[int]
    jobs: set[int]
    cancelled: set[int]
    steps: list[Step]

    def texts(self) -> dict[int, list[int]]:
        got: dict[int, list[int]] = {stream: [] for stream in self.asked}
        for step in self.steps:
            for token in step.tokens:
                got[token.id].append(token.token)
        return got

    def reasons(self) -> dict[int, str]:
        return {done.id: done.reason for step in self.steps for done in step.done}


def play(script: list[tuple[str, int, int, int]], *, failing: frozenset[int] = frozenset()) -> Played:
    time = Time()
    batch = FailingBatch(OPTIONS, PlantParams(), sleep=time.sleep)
    batch.failing = failing
    cache = KvCache(max_bytes=OPTIONS.prefix_cache_bytes, clock=time.clock)
    stepper = Stepper(batch, OPTIONS, cache=cache, clock=time.clock)
    played = Played(stepper, batch, {}, set(), set(), set(), [])
    for number, (verb, first, second, priority) in enumerate(script, start=1):
        prompt = [index % 50 for index in range(first)]
        match verb:
            case "submit" | "alone":
                played.asked[number] = second
                message = Submit(id=number, prompt=prompt, max_tokens=second, seed=number, priority=priority)
                stepper.submit(msgspec.structs.replace(message, alone=verb == "alone"))
            case "cancel":
                played.cancelled.add(first)
                stepper.cancel(first)
            case "warm":
                played.jobs.add(number)
                stepper.warm(Warm(id=number, prompt=prompt))
            case "score":
                played.scores.add(number)
                items = [[index] for index in range(second)]
                stepper.ask(Score(id=number, query=prompt, items=items, labels=[[1]], priority=priority))
            case "assess":
                played.scores.add(number)
                stepper.ask(Assess(id=number, prompt=prompt, top=second, priority=priority))
            case "embed":
                played.scores.add(number)
                stepper.ask(Embed(id=number, prompts=[prompt] * second, priority=priority))
            case "turn":
                stepper.tune(Tune(prefill_turn=bool(first)))
            case _:
                played.steps += [stepper.step() for _ in range(first) if stepper.busy]
    stepper.tune(Tune(prefill_turn=True))
    while stepper.busy:
        played.steps.append(stepper.step())
        assert len(played.steps) < 5000
    return played


@settings(max_examples=200)
@given(actions)
def test_streams_are_served_exactly_and_nothing_is_left(script: list[tuple[str, int, int, int]]) -> None:
    played = play(script)

    got = played.texts()
    for stream, max_tokens in played.asked.items():
        whole = answer(stream, max_tokens)
        assert got[stream] == (whole[: len(got[stream])] if stream in played.cancelled else whole)
    for step in played.steps:
        assert step.load.rows <= OPTIONS.max_batch_size
    done = Counter(done.id for step in played.steps for done in step.done)
    assert done == Counter([*played.asked, *played.scores])
    assert set(played.reasons().values()) <= {"stop", "length", "cancelled"}
    assert Counter(job for step in played.steps for job in step.warmed) == Counter(played.jobs)
    kept = Counter(key for step in played.steps for key in step.kept)
    evicted = Counter(key for step in played.steps for key in step.evicted)
    assert all(evicted[key] <= kept[key] for key in kept)
    assert_nothing_is_left(played)


@settings(max_examples=200)
@given(actions, st.frozensets(st.integers(1, 60), max_size=3))
def test_failures_cost_no_stream_its_tokens(
    script: list[tuple[str, int, int, int]], failing: frozenset[int]
) -> None:
    played = play(script, failing=failing)

    got, reasons = played.texts(), played.reasons()
    for stream, max_tokens in played.asked.items():
        whole = answer(stream, max_tokens)
        is_cut = reasons[stream] in {"cancelled", "error"}
        assert got[stream] == (whole[: len(got[stream])] if is_cut else whole)
    # A failure convicts at most the one that is on trial.
    errors = [stream for stream, reason in reasons.items() if reason == "error"]
    assert len(errors) <= len(failing)
    done = Counter(done.id for step in played.steps for done in step.done)
    assert done == Counter([*played.asked, *played.scores])
    assert_nothing_is_left(played)


def assert_nothing_is_left(played: Played) -> None:
    load = played.stepper.load()
    assert (load.rows, load.waiting, load.waiting_tokens, load.warm_jobs, load.preempted) == (0, 0, 0, 0, 0)
    assert played.batch.memory().rows_bytes == 0
    assert load.kv_bytes <= OPTIONS.prefix_cache_bytes


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(2, 40), st.booleans()), min_size=2, max_size=12))
def test_a_stream_on_trial_never_shares_a_step(asked: list[tuple[int, int, bool]]) -> None:
    script = [("alone" if alone else "submit", prompt, answer, 0) for prompt, answer, alone in asked]
    suspects = {number for number, (_, _, alone) in enumerate(asked, start=1) if alone}

    played = play(script)

    emitted: Counter[int] = Counter()
    for step in played.steps:
        here = {token.id for token in step.tokens}
        if any(key in suspects and emitted[key] < 8 for key in here):
            assert len(here) == 1
        emitted.update(token.id for token in step.tokens)


# The bounds of the schedule

BIG = msgspec.structs.replace(OPTIONS, max_batch_size=64, prefill_batch_size=8, prefill_step_tokens=512)

plants = st.builds(
    PlantParams,
    prompt_token_ms=st.floats(0.02, 1.5),
    prompt_pair_ms=st.floats(0.0, 2e-4),
    prefill_ms=st.floats(0.1, 5.0),
    decode_ms=st.floats(0.5, 15.0),
    jitter_ratio=st.floats(0.0, 0.2),
)


def stepper_over(plant: PlantParams) -> tuple[Stepper, Time]:
    time = Time()
    options = msgspec.structs.replace(BIG, vocabulary_size=1000, context_tokens=20_000, eos_token_ids=[])
    batch = SimulatedBatch(options, plant, sleep=time.sleep)
    pace = Pace(full_chunk_tokens=512, full_chunk_s=Plant(plant, seed=0).prefill_s([(1, 512, 0)]))
    cache = KvCache(max_bytes=0, clock=time.clock)
    return Stepper(batch, options, cache=cache, clock=time.clock, pace=pace), time


@settings(max_examples=60)
@given(plants, st.integers(500, 4000), st.lists(st.integers(1, 300), max_size=5))
def test_gaps_of_running_streams_stay_near_the_target_and_decoding_keeps_its_share(
    plant: PlantParams, long_tokens: int, others: list[int]
) -> None:
    stepper, _ = stepper_over(plant)
    for key in range(1, 5):
        stepper.submit(Submit(id=key, prompt=[key] * 20, max_tokens=10_000, seed=key))
    steps = [stepper.step() for _ in range(12)]
    for key, tokens in enumerate([long_tokens, *others], start=11):
        stepper.submit(Submit(id=key, prompt=[key] * tokens, max_tokens=1, seed=key))
    before = steps[-1].at_s
    ended: set[int] = set()
    while len(ended) < 1 + len(others):
        steps.append(stepper.step())
        ended |= {done.id for done in steps[-1].done}

    busy = steps[11:]
    gaps = [after.at_s - earlier.at_s for earlier, after in pairwise(busy)]
    # The first chunks may be off while the pace is learned from a wrong guess.
    assert sum(gap > 1.5 * BIG.chunk_target_s for gap in gaps) <= 2
    assert max(gaps) <= 3 * BIG.chunk_target_s
    decode_s = (plant.host_ms + plant.decode_ms + 4 * plant.row_ms) / 1000 * (1 - plant.jitter_ratio)
    assert len(gaps) * decode_s >= 0.8 * BIG.decode_share_ratio * (busy[-1].at_s - before - max(gaps))


@settings(max_examples=60)
@given(
    plants,
    st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 3000)), min_size=2, max_size=25),
)
def test_nobody_is_overtaken_for_longer_than_the_bound(
    plant: PlantParams, arrivals: list[tuple[float, int]]
) -> None:
    stepper, time = stepper_over(plant)
    arrivals = sorted(arrivals)
    first_come_s = first_come_times(plant, arrivals)
    waiting = list(enumerate(arrivals, start=1))
    first: dict[int, float] = {}
    while len(first) < len(arrivals):
        while waiting and waiting[0][1][0] <= time.now_s:
            key, (_, tokens) = waiting.pop(0)
            stepper.submit(Submit(id=key, prompt=[key] * tokens, max_tokens=1, seed=key))
        if not stepper.busy:
            time.now_s = waiting[0][1][0]
            continue
        step = stepper.step()
        first |= {token.id: step.at_s for token in step.tokens}

    for key, (arrived_s, _) in enumerate(arrivals, start=1):
        took_s = first[key] - arrived_s
        # Once overdue a prompt goes before those that are not, but behind those that were before it, and then
        # still takes its own time.
        assert took_s <= 3 * first_come_s[key] + 0.5


def first_come_times(plant: PlantParams, arrivals: list[tuple[float, int]]) -> dict[int, float]:
    """Return how long each prompt waits for its first token when they are computed one after the other."""
    now_s = 0.0
    found = {}
    for key, (arrived_s, tokens) in enumerate(arrivals, start=1):
        now_s = max(now_s, arrived_s)
        pair_ms = plant.prompt_pair_ms * tokens / 2
        chunks = 1 + tokens * plant.prompt_token_ms / 200
        now_s += (
            tokens * (plant.prompt_token_ms + pair_ms) + chunks * (plant.host_ms + plant.prefill_ms)
        ) / 1000
        found[key] = now_s - arrived_s
    return found
