"""
The facts about mlx-lm's BatchGenerator that the adapter rests on.

The class is not in mlx-lm's `__all__` and has changed shape four times in ten months: when one of these fails
after an upgrade, read the adapter before touching the test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from mlx_lm.utils import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMPTS = [[10 + index for index in range(count)] for count in (5, 9, 3)]


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


@pytest.fixture
def generator(model: Any) -> Iterator[Any]:
    made = BatchGenerator(model, completion_batch_size=8, prefill_batch_size=4, prefill_step_size=64)
    yield made
    made.close()


def rounds(generator: Any, *, most: int = 200) -> list[tuple[list[Any], list[Any]]]:
    """Call next until a round brings nothing."""
    found = []
    while any(parts := generator.next()):
        found.append(parts)
        assert len(found) < most
    return found


def texts(found: list[tuple[list[Any], list[Any]]]) -> dict[int, list[int]]:
    result: dict[int, list[int]] = {}
    for _, tokens in found:
        for part in tokens:
            result.setdefault(part.uid, []).append(part.token)
    return result


def test_next_takes_one_token_a_row_in_the_order_of_joining(generator: Any) -> None:
    first = generator.insert(PROMPTS[:2], max_tokens=[4, 4])
    found = [generator.next() for _ in range(3)]
    second = generator.insert(PROMPTS[2:], max_tokens=[4])

    found += rounds(generator)

    orders = [[part.uid for part in tokens] for _, tokens in found if tokens]
    assert orders[0] == first
    assert [*first, *second] in orders


def test_a_prompt_joins_in_the_round_after_all_but_its_last_token(generator: Any) -> None:
    (uid,) = generator.insert([PROMPTS[0]], max_tokens=[2])

    found = rounds(generator)

    told = [(part.progress, part.end_of_prompt) for prompts, _ in found for part in prompts]
    assert told == [((4, 5), False), ((5, 5), True)]
    assert len(texts(found)[uid]) == 2


def test_the_prefill_step_may_change_between_rounds(generator: Any) -> None:
    generator.insert([list(range(10, 110))], max_tokens=[1])
    done = []
    for size in (50, 10, 20):
        generator.prefill_step_size = size
        prompts, _ = generator.next()
        done.append(prompts[0].progress[0])

    assert done == [50, 60, 80]


def test_a_shared_sampler_is_called_once_for_the_rows_and_once_for_those_that_join(model: Any) -> None:
    calls: list[int] = []

    def sampler(logprobs: Any) -> Any:
        calls.append(logprobs.shape[0])
        return mx.argmax(logprobs, axis=-1)

    generator = BatchGenerator(model, sampler=sampler, completion_batch_size=8, prefill_batch_size=4)
    generator.insert(PROMPTS[:2], max_tokens=[9, 9])
    generator.next()
    generator.next()
    generator.insert([[7]], max_tokens=[9])
    generator.next()
    generator.close()

    # Nothing in the round of prefill; two join; the two decode and the prompt of one token joins.
    assert calls == [2, 2, 1]


def test_logprobs_are_normalised_and_do_not_depend_on_the_sampler(generator: Any) -> None:
    generator.insert([PROMPTS[0]], max_tokens=[1])

    (response,) = [part for _, tokens in rounds(generator) for part in tokens]

    assert mx.exp(response.logprobs).sum().item() == pytest.approx(1.0, abs=1e-5)
    assert mx.argmax(response.logprobs).item() == response.token


def test_logits_processors_see_raw_logits_once_a_step_and_all_tokens_before(generator: Any) -> None:
    seen: list[list[int]] = []

    def processor(tokens: Any, logits: Any) -> Any:
        assert logits.shape[0] == 1
        seen.append(tokens.tolist())
        return logits

    generator.insert([PROMPTS[0]], max_tokens=[3], logits_processors=[[processor]])
    found = rounds(generator)

    (text,) = texts(found).values()
    assert seen[0] == PROMPTS[0]
    assert seen[2] == PROMPTS[0] + text[:2]


def test_a_finished_row_hands_over_its_cache_and_all_tokens_with_the_stop_token(generator: Any) -> None:
    generator.insert([PROMPTS[1]], max_tokens=[6])
    (free,) = texts(rounds(generator)).values()
    stop = free[3]
    generator.insert([PROMPTS[1]], max_tokens=[6], stop_sequences=[StopSequences([[stop]])])

    last = [part for _, tokens in rounds(generator) for part in tokens][-1]

    assert last.finish_reason == "stop"
    assert last.token == stop
    assert last.all_tokens == PROMPTS[1] + free[: free.index(stop) + 1]
    assert last.prompt_cache[0].offset == len(last.all_tokens)


def test_a_reused_cache_gives_the_same_tokens_and_stays_as_it_was(model: Any, generator: Any) -> None:
    prompt = list(range(100, 140))
    generator.insert([prompt], max_tokens=[8])
    (cold,) = texts(rounds(generator)).values()
    cache = make_prompt_cache(model)
    model(mx.array([prompt]), cache=cache)
    mx.eval([part.state for part in cache])
    trim_prompt_cache(cache, 10)

    generator.insert([prompt[30:]], max_tokens=[8], caches=[cache], all_tokens=[prompt[:30]])
    (warm,) = texts(rounds(generator)).values()

    assert warm == cold
    assert {part.offset for part in cache} == {30}


def test_rows_can_be_removed_in_any_state_without_touching_the_others(generator: Any) -> None:
    generator.insert([PROMPTS[0]], max_tokens=[12])
    (solo,) = texts(rounds(generator)).values()
    kept, decoding = generator.insert([PROMPTS[0], PROMPTS[1]], max_tokens=[12, 50])
    found = [generator.next() for _ in range(4)]
    prefilling, queued = generator.insert([list(range(10, 200)), PROMPTS[2]], max_tokens=[5, 5])
    generator.prefill_batch_size = 1
    found.append(generator.next())

    generator.remove([decoding, prefilling, queued, 999])

    found += rounds(generator)
    assert texts(found)[kept] == solo
    assert {prefilling, queued} & texts(found).keys() == set()


def test_an_empty_prompt_is_refused_before_anything_changes(generator: Any) -> None:
    with pytest.raises(ValueError, match="empty prompt"):
        generator.insert([[]])

    assert generator.next() == ([], [])
