"""Whatever comes and goes, each stream gets exactly its own tokens, ends once, and leaves nothing behind."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from wicketgate.engine.plant import PlantParams, drawn_token
from wicketgate.engine.simulated import SimulatedBatch
from wicketgate.engine.stepper import Stepper
from wicketgate.engine.wire import HostOptions, Submit, Warm

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
        st.tuples(st.just("submit"), st.integers(1, 150), st.integers(1, 30)),
        st.tuples(st.just("cancel"), st.integers(1, 20), st.just(0)),
        st.tuples(st.just("warm"), st.integers(1, 150), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 10), st.just(0)),
    ),
    max_size=25,
)


def answer(stream: int, max_tokens: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < max_tokens and 49 not in tokens:
        tokens.append(
            drawn_token(seed=0, stream_seed=stream, position=len(tokens), vocabulary_size=50),
        )
    return tokens


@settings(max_examples=150, deadline=None, derandomize=True)
@given(actions)
def test_streams_are_served_exactly_and_nothing_is_left(script: list[tuple[str, int, int]]) -> None:
    time = [0.0]
    batch = SimulatedBatch(
        OPTIONS, PlantParams(), sleep=lambda seconds: time.__setitem__(0, time[0] + seconds)
    )
    stepper = Stepper(batch, OPTIONS, clock=lambda: time[0])
    asked: dict[int, int] = {}
    jobs: set[int] = set()
    cancelled: set[int] = set()
    steps = []
    for number, (verb, first, second) in enumerate(script, start=1):
        match verb:
            case "submit":
                asked[number] = second
                prompt = [index % 50 for index in range(first)]
                stepper.submit(Submit(id=number, prompt=prompt, max_tokens=second, seed=number))
            case "cancel":
                cancelled.add(first)
                stepper.cancel(first)
            case "warm":
                jobs.add(number)
                stepper.warm(Warm(id=number, prompt=[index % 50 for index in range(first)]))
            case _:
                steps += [stepper.step() for _ in range(first) if stepper.busy]
    while stepper.busy:
        steps.append(stepper.step())
        assert len(steps) < 5000

    got: dict[int, list[int]] = {stream: [] for stream in asked}
    for step in steps:
        for token in step.tokens:
            got[token.id].append(token.token)
        assert step.load.rows <= OPTIONS.max_batch_size
    done = Counter(done.id for step in steps for done in step.done)
    assert done == Counter(asked.keys())
    for stream, max_tokens in asked.items():
        whole = answer(stream, max_tokens)
        if stream in cancelled:
            assert got[stream] == whole[: len(got[stream])]
        else:
            assert got[stream] == whole
    assert Counter(job for step in steps for job in step.warmed) == Counter(jobs)
    kept = Counter(key for step in steps for key in step.kept)
    evicted = Counter(key for step in steps for key in step.evicted)
    assert evicted <= kept
    load = stepper.load()
    assert (load.rows, load.waiting, load.waiting_tokens, load.warm_jobs) == (0, 0, 0, 0)
    assert batch.kv_bytes == 0
    assert load.kv_bytes <= OPTIONS.prefix_cache_bytes
