"""Pins the streams of a host, step by step, over the simulated batch with a clock and a sleep of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from wicketgate.engine.plant import PlantParams, drawn_token
from wicketgate.engine.simulated import SimulatedBatch, open_simulated
from wicketgate.engine.stepper import MAX_FAULTS, DeviceError, Emitted, Prefix, Progress, Stepper
from wicketgate.engine.wire import Done, HostOptions, Started, Step, Submit, Warm

if TYPE_CHECKING:
    from wicketgate.engine.kv_store import Hit

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
    """Fails in every step in which a stream of seed 666 has a row; loses all rows with it, as mlx-lm does."""

    error: type[Exception] = ValueError

    poisoned = False

    def insert(self, message: Submit, hit: Hit[object] | None) -> int:
        self.poisoned |= message.seed == 666
        return super().insert(message, hit)

    def reset(self) -> None:
        self.poisoned = False
        super().reset()

    def next(self, chunk_tokens: int) -> tuple[list[Progress], list[Emitted]]:
        if self.poisoned:
            raise self.error("poison")
        return super().next(chunk_tokens)


def build(options: HostOptions = OPTIONS, *, poisoned: bool = False) -> Stepper:
    time = Time()
    kind = PoisonedBatch if poisoned else SimulatedBatch
    return Stepper(kind(options, PlantParams(), sleep=time.sleep), options, clock=time.clock)


def request(stream: int, *, prompt_tokens: int = 10, max_tokens: int = 3, **fields: object) -> Submit:
    prompt = [(stream * 97 + index) % 1000 for index in range(prompt_tokens)]
    return msgspec.structs.replace(
        Submit(id=stream, prompt=prompt, max_tokens=max_tokens, seed=stream), **fields
    )


def run(stepper: Stepper, *, most: int = 2000) -> list[Step]:
    steps = []
    while stepper.busy:
        steps.append(stepper.step())
        assert len(steps) < most, "the stepper never came to rest"
    return steps


def texts(steps: list[Step]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for step in steps:
        for token in step.tokens:
            found.setdefault(token.id, []).append(token.token)
    return found


def ends(steps: list[Step]) -> dict[int, str]:
    return {done.id: done.reason for step in steps for done in step.done}


def expected(stream: int, count: int) -> list[int]:
    return [
        drawn_token(seed=0, stream_seed=stream, position=index, vocabulary_size=1000)
        for index in range(count)
    ]


def test_a_stream_starts_gets_its_tokens_and_ends() -> None:
    stepper = build()
    stepper.submit(request(1))

    steps = run(stepper)

    assert steps[0].started == [Started(1, 0)]
    assert texts(steps) == {1: expected(1, 3)}
    assert steps[-1].done == [Done(1, "length")]
    assert steps[-1].load.rows == steps[-1].load.waiting == 0


def test_a_step_tells_how_long_it_took() -> None:
    stepper = build()
    stepper.submit(request(1, prompt_tokens=10))

    step = stepper.step()

    # 1 ms of host, 3 ms + 0.18 ms per prompt token.
    assert step.step_s == pytest.approx(0.0058)
    assert step.at_s == pytest.approx(100.0058)


def test_a_stream_that_joins_later_gets_the_tokens_that_it_gets_alone() -> None:
    stepper = build()
    stepper.submit(request(1, max_tokens=8))
    steps = [stepper.step() for _ in range(4)]
    stepper.submit(request(2, max_tokens=8))

    steps += run(stepper)

    assert texts(steps) == {1: expected(1, 8), 2: expected(2, 8)}
    assert max(step.load.rows for step in steps) == 2


def test_streams_beyond_the_batch_wait_and_all_are_served() -> None:
    stepper = build()
    for stream in range(1, 10):
        stepper.submit(request(stream))

    steps = run(stepper)

    assert texts(steps) == {stream: expected(stream, 3) for stream in range(1, 10)}
    assert max(step.load.rows for step in steps) <= 4
    assert (steps[0].load.rows, steps[0].load.waiting) == (2, 7)


def test_a_stop_token_ends_a_stream_and_is_its_last_token() -> None:
    second = expected(1, 2)[1]
    stepper = build()
    stepper.submit(request(1, max_tokens=50, stop_token_ids=[second]))

    steps = run(stepper)

    assert texts(steps) == {1: expected(1, 2)}
    assert ends(steps) == {1: "stop"}


def test_end_tokens_of_the_model_can_be_ignored() -> None:
    options = msgspec.structs.replace(OPTIONS, eos_token_ids=[expected(1, 2)[1]])
    obeying, ignoring = build(options), build(options)
    obeying.submit(request(1, max_tokens=3))
    ignoring.submit(request(1, max_tokens=3, ignore_eos=True))

    assert ends(run(obeying)) == {1: "stop"}
    assert ends(run(ignoring)) == {1: "length"}


def test_logprobs_come_only_when_they_were_asked_for() -> None:
    stepper = build()
    stepper.submit(request(1, logprobs=2))
    stepper.submit(request(2))

    tokens = [token for step in run(stepper) for token in step.tokens]

    assert {len(token.top or []) for token in tokens if token.id == 1} == {2}
    assert {token.logprob for token in tokens if token.id == 2} == {None}


@pytest.mark.parametrize("steps_before", [0, 1, 5])
def test_a_cancelled_stream_is_gone_with_the_next_step(steps_before: int) -> None:
    # With 0 steps it waits, after 1 its prompt of 300 tokens is in progress, after 5 or more it decodes.
    stepper = build(msgspec.structs.replace(OPTIONS, prefill_step_tokens=128))
    stepper.submit(request(1, prompt_tokens=300, max_tokens=100))
    for _ in range(steps_before):
        stepper.step()
    stepper.cancel(1)

    step = stepper.step()

    assert step.done == [Done(1, "cancelled")]
    assert step.tokens == []
    assert (step.load.rows, step.load.waiting, step.load.kv_bytes) == (0, 0, 0)
    assert not stepper.busy


def test_cancelling_what_is_unknown_changes_nothing() -> None:
    stepper = build()

    stepper.cancel(99)

    assert not stepper.busy


def test_a_request_out_of_bounds_is_refused_and_its_neighbour_is_not_touched() -> None:
    stepper = build()
    stepper.submit(request(1))
    stepper.submit(request(2, prompt=[5000]))
    stepper.submit(request(1))

    steps = run(stepper)

    assert [done for done in steps[0].done if done.reason == "refused"] == [
        Done(2, "refused", "token ids must be between 0 and 999, got 5000"),
        Done(1, "refused", "the id 1 is in use"),
    ]
    assert texts(steps) == {1: expected(1, 3)}


def test_the_kv_of_a_finished_stream_serves_the_next_turn() -> None:
    stepper = build()
    stepper.submit(request(1, prompt_tokens=40))
    first = run(stepper)
    told = [*request(1, prompt_tokens=40).prompt, *texts(first)[1]]
    stepper.submit(request(2, prompt=[*told, 7, 8, 9]))

    second = run(stepper)

    assert first[-1].kept == [1]
    assert second[0].started == [Started(2, 43)]
    assert second[-1].kept == [2]
    assert second[-1].evicted == [1]


def test_without_a_prefix_cache_nothing_is_kept_and_nothing_warmed() -> None:
    stepper = build(msgspec.structs.replace(OPTIONS, prefix_cache_bytes=0))
    stepper.submit(request(1, prompt_tokens=40))
    stepper.warm(Warm(id=2, prompt=[1, 2, 3]))

    steps = run(stepper)

    assert [step.kept for step in steps if step.kept] == []
    assert steps[-1].warmed == [2]
    assert steps[-1].load.kv_bytes == 0


def test_a_warm_job_uses_idle_steps_alone_and_serves_the_request_that_follows() -> None:
    prompt = list(range(200))
    stepper = build()
    stepper.warm(Warm(id=1, prompt=prompt))
    stepper.submit(request(2))
    steps = run(stepper)
    finished = next(index for index, step in enumerate(steps) if step.done)
    stepper.submit(request(3, prompt=[*prompt, 999]))

    after = run(stepper)

    assert steps[-1].warmed == steps[-1].kept == [1]
    # Four chunks of 64 tokens, none of them before the stream had ended.
    assert len(steps) - 1 - finished == 4
    assert after[0].started == [Started(3, 200)]


def test_a_warm_job_stands_back_between_chunks() -> None:
    stepper = build()
    stepper.warm(Warm(id=1, prompt=list(range(200))))
    stepper.step()
    stepper.submit(request(2))

    steps = run(stepper)

    assert steps[0].started == [Started(2, 0)]
    assert steps[-1].warmed == [1]


def test_a_warm_job_can_be_cancelled_and_one_that_cannot_run_just_ends() -> None:
    stepper = build()
    stepper.warm(Warm(id=1, prompt=list(range(200))))
    stepper.step()
    stepper.cancel(1)
    stepper.warm(Warm(id=2, prompt=[5000]))

    steps = run(stepper)

    assert [job for step in steps for job in step.warmed] == [1, 2]
    assert [step.kept for step in steps if step.kept] == []


def test_a_stream_that_makes_the_batch_fail_is_found_and_the_others_lose_no_token() -> None:
    stepper = build(poisoned=True)
    for stream in (1, 2):
        stepper.submit(request(stream, max_tokens=20))
    steps = [stepper.step() for _ in range(6)]
    stepper.submit(request(3, seed=666))
    stepper.submit(request(4, max_tokens=20))

    steps += run(stepper)

    assert texts(steps) == {stream: expected(stream, 20) for stream in (1, 2, 4)}
    assert ends(steps) == {1: "length", 2: "length", 3: "error", 4: "length"}


def test_a_batch_that_always_fails_ends_every_stream_with_an_error() -> None:
    class Broken(SimulatedBatch):
        def next(self, chunk_tokens: int) -> tuple[list[Progress], list[Emitted]]:
            raise RuntimeError("broken")

    time = Time()
    stepper = Stepper(Broken(OPTIONS, PlantParams(), sleep=time.sleep), OPTIONS, clock=time.clock)
    for stream in range(1, 6):
        stepper.submit(request(stream))

    steps = run(stepper, most=5 * (MAX_FAULTS + 1))

    assert ends(steps) == dict.fromkeys(range(1, 6), "error")


def test_a_failure_in_a_warm_job_ends_that_job_alone() -> None:
    class Unwarmable(SimulatedBatch):
        def wait_for_chunk(self, chunk_tokens: int) -> None:
            raise RuntimeError("broken")

    time = Time()
    stepper = Stepper(Unwarmable(OPTIONS, PlantParams(), sleep=time.sleep), OPTIONS, clock=time.clock)
    stepper.warm(Warm(id=1, prompt=[1, 2, 3]))
    stepper.step()
    stepper.submit(request(2))

    steps = run(stepper)

    assert texts(steps) == {2: expected(2, 3)}


def test_a_failure_of_the_device_is_not_survived() -> None:
    class Dying(PoisonedBatch):
        error = DeviceError

    time = Time()
    stepper = Stepper(Dying(OPTIONS, PlantParams(), sleep=time.sleep), OPTIONS, clock=time.clock)
    stepper.submit(request(1, seed=666))

    with pytest.raises(DeviceError):
        stepper.step()


def test_the_simulated_engine_says_what_it_is() -> None:
    time = Time()
    options = msgspec.structs.replace(OPTIONS, plant={"prompt_token_ms": 1.0}, context_tokens=777)

    batch, ready = open_simulated(options, clock=time.clock, sleep=time.sleep)

    assert (ready.engine, ready.vocabulary_size, ready.context_tokens) == ("simulated", 1000, 777)
    # 1 + 3 + 64 * 1.0 ms
    assert ready.full_chunk_s == pytest.approx(0.068)
    assert batch.memory_bytes == 0


class UnkeptBatch(SimulatedBatch):
    """Computes prefixes and fails to hand them over."""

    def finished_prefix(self, tokens: list[int]) -> Prefix:
        raise MemoryError("no room for another prefix")


def test_a_warm_job_that_fails_at_its_end_ends_alone() -> None:
    time = Time()
    batch = UnkeptBatch(OPTIONS, PlantParams(), sleep=time.sleep)
    stepper = Stepper(batch, OPTIONS, clock=time.clock)
    stepper.warm(Warm(id=1, prompt=list(range(20))))

    steps = run(stepper)

    assert [step.warmed for step in steps] == [[1]]
    assert steps[0].kept == []
