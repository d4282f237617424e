"""Pins the real batch's face: tokens, ends and KV as they come out, and who pays when a step fails."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from mlx_lm.utils import load_model

from tests.mlx_streams import Driver, greedy_alone, open_batch
from wicketgate.engine.batch import Chunk, DeviceError, RowError
from wicketgate.engine.grouping import StepCost
from wicketgate.engine.kv.cache import KvCache
from wicketgate.engine.mlx.adapter import MlxBatch
from wicketgate.engine.options import HostOptions
from wicketgate.engine.stepper import Stepper
from wicketgate.engine.wire import Grammar, Submit, Warm

if TYPE_CHECKING:
    from pathlib import Path

    from wicketgate.engine.wire import Step

POISON = 1500
OPTIONS = HostOptions(max_batch_size=4, prefill_batch_size=2, prefill_step_tokens=64)


class Fragile:
    """A model that fails in every pass in which it sees the poisoned token."""

    def __init__(self, model: Any, words: str) -> None:
        self._model = model
        self._words = words

    @property
    def layers(self) -> Any:
        return self._model.layers

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        if (tokens == POISON).any().item():
            raise RuntimeError(self._words)
        return self._model(tokens, cache=cache)


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


def build(model: Any, words: str = "poisoned", options: HostOptions = OPTIONS) -> Stepper:
    batch = MlxBatch(
        Fragile(model, words), options, vocabulary_size=1536, context_tokens=512, eos_token_ids=[]
    )
    cache = KvCache(max_bytes=options.prefix_cache_bytes, clock=time.monotonic)
    return Stepper(batch, options, cache=cache, clock=time.monotonic)


def request(stream: int, prompt: list[int] | None = None) -> Submit:
    # Every second one is greedy, the others draw.
    temperature = float(stream % 2)
    prompt = [100 + stream * 7 + index for index in range(20 + stream)] if prompt is None else prompt
    return Submit(id=stream, prompt=prompt, max_tokens=12, seed=stream, temperature=temperature)


def run(stepper: Stepper, found: list[Step] | None = None) -> tuple[dict[int, list[int]], dict[int, str]]:
    steps = [] if found is None else found
    while stepper.busy:
        steps.append(stepper.step())
        assert len(steps) < 500
    texts: dict[int, list[int]] = {}
    for step in steps:
        for token in step.tokens:
            texts.setdefault(token.id, []).append(token.token)
    return texts, {done.id: done.reason for step in steps for done in step.done}


def solo(model: Any, stream: int) -> list[int]:
    stepper = build(model)
    stepper.submit(request(stream))
    return run(stepper)[0][stream]


def test_streams_beside_one_that_makes_the_step_fail_lose_and_change_no_token(model: Any) -> None:
    wanted = {stream: solo(model, stream) for stream in (1, 2, 4, 5)}
    stepper = build(model)
    for stream in (1, 2):
        stepper.submit(request(stream))
    steps = [stepper.step() for _ in range(6)]
    stepper.submit(request(3, [*range(50, 60), POISON, 5]))
    for stream in (4, 5):
        stepper.submit(request(stream))

    texts, ends = run(stepper, steps)

    assert texts == wanted
    assert ends == {1: "length", 2: "length", 3: "error", 4: "length", 5: "length"}
    load = stepper.load()
    assert (load.rows, load.waiting) == (0, 0)


def test_a_warm_job_that_fails_takes_nothing_else_with_it(model: Any) -> None:
    wanted = solo(model, 1)
    stepper = build(model)
    stepper.submit(request(1))
    run(stepper)
    stepper.warm(Warm(id=9, prompt=[POISON] * 20))
    step = stepper.step()
    stepper.submit(request(1))

    assert (step.warmed, step.kept) == ([9], [])
    assert run(stepper)[0] == {1: wanted}


@pytest.mark.parametrize(
    "words",
    [
        "[METAL] Command buffer execution failed: GPU Hang",
        "Command buffer execution failed: Insufficient Memory (00000008)",
    ],
)
def test_a_failed_command_buffer_is_the_end_of_the_process(model: Any, words: str) -> None:
    stepper = build(model, words)
    stepper.submit(request(1, [POISON, 1, 2]))

    with pytest.raises(DeviceError, match="Command buffer execution failed"):
        stepper.step()


def test_prompts_of_any_length_share_a_batch_whatever_the_chunk(model: Any) -> None:
    lengths = (1, 2, 33, 64, 65, 130, 200)
    requests = [request(10 + n, [(n * 31 + index) % 1400 for index in range(n)]) for n in lengths]
    wanted = {}
    for message in requests:
        stepper = build(model)
        stepper.submit(message)
        wanted |= run(stepper)[0]
    together = build(model)
    for message in requests:
        together.submit(message)

    assert run(together)[0] == wanted


def test_a_warm_job_that_branches_off_a_kept_prefix_leaves_it_as_it_was(model: Any) -> None:
    options = msgspec.structs.replace(OPTIONS, prefix_cache_bytes=64 * 1024 * 1024)
    prompt = list(range(300, 340))
    stepper = build(model, options=options)
    stepper.submit(Submit(id=1, prompt=prompt, max_tokens=12, seed=0, temperature=0.0))
    answer = run(stepper)[0][1]
    stepper.warm(Warm(id=2, prompt=prompt[:25] + list(range(700, 720))))
    run(stepper)

    again = Submit(id=3, prompt=prompt + answer[:6], max_tokens=12, seed=0, temperature=0.0)
    stepper.submit(again)
    found: list[Step] = []
    warm = run(stepper, found)[0][3]
    cold_stepper = build(model, options=options)
    cold_stepper.submit(again)

    assert max(started.cached_tokens for step in found for started in step.started) > 25
    assert warm == run(cold_stepper)[0][3]


# One stream


PROMPT = [at % 700 for at in range(30)]


def greedy(key: int = 1, **fields: Any) -> Submit:
    return Submit(**({"id": key, "prompt": PROMPT, "max_tokens": 10, "seed": 0, "temperature": 0.0} | fields))


def test_the_first_token_comes_with_the_last_chunk_and_only_once(model: Any) -> None:
    batch = open_batch(model)
    batch.open(greedy(), None)

    parts = [batch.compute([Chunk(1, 20)]), batch.compute([Chunk(1, 10)])]
    later = [each.token.token for _ in range(20) for each in batch.decode()]

    wanted = greedy_alone(model, PROMPT, 10)
    assert [[each.token.token for each in part] for part in parts] == [[], wanted[:1]]
    assert later == wanted[1:]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_stream_ends_by_length_with_its_last_token_and_leaves_its_kv(model: Any, length: int) -> None:
    driver = Driver(open_batch(model))
    driver.open(greedy(max_tokens=length))

    answer = driver.run()[1]

    prefix = driver.prefixes[1]
    assert driver.reasons == {1: "length"}
    assert answer == greedy_alone(model, PROMPT, length)
    assert prefix is not None
    # The last token was never fed.
    assert list(prefix.tokens) == [*PROMPT, *answer[:-1]]
    assert prefix.payload[0].offset == len(prefix.tokens)
    assert prefix.size_bytes == len(prefix.tokens) * driver.batch.kv_bytes_per_token
    assert driver.batch.groups() == []


@pytest.mark.parametrize("at", [0, 4])
@pytest.mark.parametrize("company", [0, 3])
def test_a_stream_ends_by_a_token_of_its_own_which_comes_out(model: Any, at: int, company: int) -> None:
    free = greedy_alone(model, PROMPT, 10)
    end = free.index(free[at])
    driver = Driver(open_batch(model))
    for key in range(2, 2 + company):
        driver.open(greedy(key, prompt=PROMPT[key:], max_tokens=15))
    driver.open(greedy(stop_token_ids=[free[at]]))

    answers = driver.run()

    prefix = driver.prefixes[1]
    assert driver.reasons[1] == "stop"
    assert answers[1] == free[: end + 1]
    assert prefix is not None
    assert list(prefix.tokens) == [*PROMPT, *answers[1]][: len(prefix.tokens)]
    assert len(prefix.tokens) >= len(PROMPT) + end
    for key in range(2, 2 + company):
        assert answers[key] == greedy_alone(model, PROMPT[key:], 15)


def test_the_model_s_end_tokens_end_a_stream_unless_it_ignores_them(model: Any) -> None:
    free = greedy_alone(model, PROMPT, 10)
    driver = Driver(open_batch(model, eos_token_ids=[free[3]]))
    driver.open(greedy(1))
    driver.open(greedy(2, ignore_eos=True))

    answers = driver.run()

    assert answers == {1: free[: free.index(free[3]) + 1], 2: free}
    assert driver.reasons == {1: "stop", 2: "length"}


@pytest.mark.parametrize("fields", [{}, {"stop_token_ids": list(range(1536))}])
def test_without_a_prefix_store_no_kv_is_handed_over(model: Any, fields: dict[str, Any]) -> None:
    driver = Driver(open_batch(model, prefix_cache_bytes=0))
    driver.open(greedy(**fields))
    driver.open(greedy(2))

    answers = driver.run()

    assert driver.prefixes == {1: None, 2: None}
    assert answers[2] == greedy_alone(model, PROMPT, 10)
    assert driver.batch.groups() == []
    assert driver.batch.memory().rows_bytes == 0


def test_kv_of_a_few_tokens_is_not_worth_keeping(model: Any) -> None:
    driver = Driver(open_batch(model))
    driver.open(greedy(prompt=[5, 6], max_tokens=4))
    driver.run()

    assert driver.prefixes == {1: None}


def test_a_prompt_s_progress_is_not_changed_by_what_follows(model: Any) -> None:
    driver = Driver(open_batch(model))
    prompt = [at % 700 for at in range(100)]
    driver.open(greedy(prompt=prompt))
    assert driver.batch.progress(1) is None
    driver.batch.compute([Chunk(1, 60)])
    driver.left[1] -= 60

    prefix = driver.batch.progress(1)
    assert prefix is not None
    before = prefix.payload[0].keys.tolist()
    answer = driver.run()[1]

    assert list(prefix.tokens) == prompt[:60]
    assert prefix.payload[0].keys.tolist() == before
    assert answer == greedy_alone(model, prompt, 10)
    assert driver.batch.progress(99) is None


def test_a_warm_prefill_can_be_kept_on_its_way_and_goes_on_unchanged(model: Any) -> None:
    batch = open_batch(model)
    prompt = [at % 700 for at in range(100)]
    prefill = batch.prefill(prompt, None)
    prefill.advance(40)
    half = prefill.prefix()
    before = half.payload[0].keys.tolist()
    prefill.advance(1000)

    assert prefill.remaining_tokens == 0
    assert list(prefill.prefix().tokens) == prompt
    assert list(half.tokens) == prompt[:40]
    assert half.payload[0].keys.tolist() == before


# Groups, memory, beginnings


def test_a_long_row_among_short_ones_is_decoded_apart_until_they_are_few(model: Any) -> None:
    driver = Driver(open_batch(model), most_chunk_tokens=1000)
    driver.batch.cost = StepCost(forward_s=1000.0, padded_token_s=1.0)
    driver.open(greedy(1, prompt=[at % 700 for at in range(500)], max_tokens=60))
    for key in range(2, 8):
        driver.open(greedy(key, max_tokens=20 if key > 2 else 60))
    seen = []
    while driver.tokens.keys() - driver.reasons.keys():
        driver.step()
        seen.append(sorted(rows for rows, _ in driver.batch.groups()))

    assert [1, 6] in seen
    # One short row beside the long one costs less than a pass of its own.
    assert seen.index([2]) > seen.index([1, 6])


def test_memory_is_told_and_returns_to_the_weights_alone(model: Any) -> None:
    batch = open_batch(model, prefix_cache_bytes=0)
    began = batch.memory()
    driver = Driver(batch, most_chunk_tokens=1000)
    for key in range(1, 9):
        driver.open(greedy(key, prompt=[(key + at) % 700 for at in range(300)]))
    while not batch.groups():
        driver.step()
    during = batch.memory()
    driver.run()
    batch.drain_pool()
    after = batch.memory()

    assert began.rows_bytes == after.rows_bytes == 0
    assert during.rows_bytes >= 300 * batch.kv_bytes_per_token
    assert during.active_bytes >= during.rows_bytes
    assert after.active_bytes <= began.active_bytes + 1024 * 1024


def test_after_a_reset_nobody_is_there(model: Any) -> None:
    driver = Driver(open_batch(model))
    driver.open(greedy(1, prompt=[at % 700 for at in range(100)]))
    driver.open(greedy(2))
    driver.batch.compute([Chunk(1, 10), Chunk(2, 30)])
    driver.batch.decode()

    driver.batch.reset()

    assert driver.batch.groups() == []
    assert driver.batch.decode() == []
    assert driver.batch.memory().rows_bytes == 0
    again = Driver(driver.batch)
    again.open(greedy(2))
    assert again.run()[2] == greedy_alone(model, PROMPT, 10)


def test_a_grammar_without_a_vocabulary_is_refused_and_nothing_is_taken(model: Any) -> None:
    batch = open_batch(model)

    with pytest.raises(RowError, match="grammar") as caught:
        batch.open(greedy(7, grammar=Grammar("json_object")), None)

    assert caught.value.key == 7
    assert batch.memory().rows_bytes == 0
    batch.open(greedy(7), None)
