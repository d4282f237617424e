"""Pins what a step does for given streams, and which requests are refused with which words."""

from __future__ import annotations

import math

import msgspec
import pytest

from wicketgate.engine.scheduler import MIN_CHUNK_TOKENS, Occupancy, Plan, plan, refusal
from wicketgate.engine.wire import HostOptions, Submit

OPTIONS = HostOptions(max_batch_size=16, prefill_batch_size=4, prefill_step_tokens=512)
GOOD = Submit(id=1, prompt=[0, 99], max_tokens=8, seed=0)


def occupancy(**facts: int | bool) -> Occupancy:
    return Occupancy(**({"decoding": 0, "prefilling": 0, "waiting": 0} | facts))


def test_waiting_streams_start_as_far_as_the_prefill_batch_has_room() -> None:
    chosen = plan(occupancy(prefilling=1, waiting=9), OPTIONS)

    assert chosen.start == 3


def test_waiting_streams_stay_when_all_rows_are_taken() -> None:
    chosen = plan(occupancy(decoding=15, prefilling=1, waiting=9), OPTIONS)

    assert chosen.start == 0


def test_prompts_in_progress_share_the_tokens_of_a_step() -> None:
    assert plan(occupancy(waiting=1), OPTIONS).chunk_tokens == 512
    assert plan(occupancy(prefilling=2, waiting=2), OPTIONS).chunk_tokens == 128


def test_a_chunk_is_never_so_small_that_its_fixed_cost_dominates() -> None:
    options = msgspec.structs.replace(OPTIONS, prefill_batch_size=128, max_batch_size=128)

    assert plan(occupancy(waiting=128), options).chunk_tokens == MIN_CHUNK_TOKENS


def test_warm_jobs_get_a_step_only_when_nobody_else_needs_it() -> None:
    assert plan(occupancy(warm_jobs=1), OPTIONS).warm
    assert not plan(occupancy(warm_jobs=1, decoding=1), OPTIONS).warm
    assert not plan(occupancy(warm_jobs=1, prefilling=1), OPTIONS).warm
    assert not plan(occupancy(warm_jobs=1, waiting=1), OPTIONS).warm
    assert not plan(occupancy(), OPTIONS).warm


def test_after_a_failure_streams_come_back_one_by_one() -> None:
    assert plan(occupancy(waiting=4, suspects=3), OPTIONS).start == 1
    assert plan(occupancy(prefilling=1, waiting=3, suspects=2, on_trial=True), OPTIONS).start == 0


def test_an_idle_step_is_an_empty_plan() -> None:
    assert plan(occupancy(), OPTIONS) == Plan(start=0, chunk_tokens=512, warm=False)


def test_a_request_within_all_bounds_is_not_refused() -> None:
    assert refusal(GOOD, vocabulary_size=100, context_tokens=10) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": []}, "the prompt must have at least 1 token, got 0"),
        ({"prompt": [0, 100]}, "token ids must be between 0 and 99, got 100"),
        ({"prompt": [-1, 5]}, "token ids must be between 0 and 99, got -1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_tokens": 9}, "prompt and max_tokens together must be at most 10 tokens, got 11"),
        ({"temperature": -0.1}, "temperature must be between 0 and inf, got -0.1"),
        ({"temperature": math.nan}, "temperature must be between 0 and inf, got nan"),
        ({"temperature": math.inf}, "temperature must be between 0 and inf, got inf"),
        ({"top_p": 1.5}, "top_p must be between 0 and 1, got 1.5"),
        ({"min_p": -0.5}, "min_p must be between 0 and 1, got -0.5"),
        ({"top_k": -1}, "top_k must be between 0 and inf, got -1"),
        ({"logprobs": 21}, "logprobs must be between 0 and 20, got 21"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be above 0, got inf"),
    ],
)
def test_a_request_out_of_bounds_is_refused_with_the_value_and_the_bound(
    change: dict[str, object], words: str
) -> None:
    message = msgspec.structs.replace(GOOD, **change)

    assert refusal(message, vocabulary_size=100, context_tokens=10) == words
