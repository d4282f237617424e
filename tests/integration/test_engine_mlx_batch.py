"""Pins what the real batch does when a step fails: who pays, and who does not notice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from mlx_lm.utils import load_model

from wicketgate.engine.mlx.adapter import MlxBatch
from wicketgate.engine.stepper import DeviceError, Stepper
from wicketgate.engine.wire import HostOptions, Submit, Warm

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
    return Stepper(batch, options, clock=time.monotonic)


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


def test_a_failed_command_buffer_is_the_end_of_the_process(model: Any) -> None:
    stepper = build(model, "[METAL] Command buffer execution failed: GPU Hang")
    stepper.submit(request(1, [POISON, 1, 2]))

    with pytest.raises(DeviceError, match="GPU Hang"):
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
