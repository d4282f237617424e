"""Pins that a stream's answer does not depend on who joins, leaves, hits a prefix or gives way beside it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import msgspec
import pytest
from mlx_lm.utils import load_model

from tests.mlx_streams import Driver, alone, greedy_alone, hit_of, open_batch, small_model_of
from wicketgate.engine.batch import Chunk
from wicketgate.engine.grouping import StepCost
from wicketgate.engine.wire import Submit

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = (1, 2, 5, 17, 40, 63, 64, 65, 130, 300)


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


def some_streams(count: int, *, seed: int, vocabulary: int = 1400, longest: int = 300) -> list[Submit]:
    """Return streams of mixed lengths; every second one is greedy, the others draw."""
    chance = random.Random(seed)
    lengths = [length for length in LENGTHS if length <= longest]
    return [
        Submit(
            id=key,
            prompt=[chance.randrange(vocabulary) for _ in range(chance.choice(lengths))],
            max_tokens=chance.randint(1, 50),
            seed=key,
            temperature=float(key % 2),
            logprobs=2 if key % 5 == 0 else None,
        )
        for key in range(1, count + 1)
    ]


def wanted_of(model: Any, message: Submit) -> list[int]:
    if message.temperature:
        return alone(model, message)
    return greedy_alone(model, message.prompt, message.max_tokens)


def at_random(streams: list[Submit], *, seed: int, steps: int) -> dict[int, list[Submit]]:
    chance = random.Random(seed)
    arrivals: dict[int, list[Submit]] = {}
    for message in streams:
        arrivals.setdefault(chance.randrange(steps), []).append(message)
    return arrivals


@pytest.mark.parametrize("seed", range(2))
def test_streams_that_come_and_go_at_random_answer_as_they_do_alone(model: Any, seed: int) -> None:
    streams = some_streams(24, seed=seed)
    driver = Driver(open_batch(model), seed=seed)

    found = driver.run(at_random(streams, seed=seed, steps=40))

    assert found == {message.id: wanted_of(model, message) for message in streams}
    assert driver.batch.groups() == []
    assert driver.batch.memory().rows_bytes == 0


def test_streams_answer_the_same_however_often_rows_change_their_group(model: Any) -> None:
    streams = some_streams(20, seed=7)
    driver = Driver(open_batch(model), seed=7)
    # A pass costs as much as a few tokens of padding: rows part and join all the time.
    driver.batch.cost = StepCost(forward_s=100.0, padded_token_s=1.0)
    arrivals = at_random(streams, seed=7, steps=40)
    sizes = set()
    for step in range(40):
        for message in arrivals.get(step, ()):
            driver.open(message)
        driver.step()
        sizes.add(len(driver.batch.groups()))

    found = driver.run()

    assert len(sizes) > 3
    assert found == {message.id: wanted_of(model, message) for message in streams}


def test_groups_part_where_a_cut_pays_and_nobody_s_answer_changes(model: Any) -> None:
    long_one = Submit(id=1, prompt=[index % 1000 for index in range(400)], max_tokens=30, seed=1)
    short_ones = some_streams(9, seed=3, longest=40)[1:]
    driver = Driver(open_batch(model), most_chunk_tokens=1000)
    driver.batch.cost = StepCost(forward_s=900.0, padded_token_s=1.0)
    driver.open(msgspec.structs.replace(long_one, temperature=0.0))
    while driver.left or not driver.batch.groups():
        driver.step()
    most = 0
    for message in short_ones:
        driver.open(message)
        driver.step()
        most = max(most, len(driver.batch.groups()))

    found = driver.run()

    assert most == 2
    assert found[1] == greedy_alone(model, long_one.prompt, 30)
    assert {message.id: found[message.id] for message in short_ones} == {
        message.id: wanted_of(model, message) for message in short_ones
    }


@pytest.mark.parametrize("kind", ["sliding", "recurrent", "mixed"])
def test_models_with_windows_and_states_answer_in_company_as_alone(kind: str) -> None:
    model = small_model_of(kind)
    streams = some_streams(16, seed=5, vocabulary=300, longest=130)
    driver = Driver(open_batch(model, vocabulary_size=300), seed=5)

    found = driver.run(at_random(streams, seed=5, steps=30))

    assert found == {message.id: wanted_of(model, message) for message in streams}


class Plain:
    """A model that shows neither body nor head."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = model.layers

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        return self._model(tokens, cache=cache)


def test_a_model_that_shows_no_head_answers_the_same(model: Any) -> None:
    streams = some_streams(8, seed=2)
    driver = Driver(open_batch(Plain(model)), seed=2)

    found = driver.run(at_random(streams, seed=2, steps=10))

    assert not driver.batch.network.has_seam
    assert found == {message.id: wanted_of(model, message) for message in streams}


@pytest.mark.parametrize("lengths", [(20, 20, 20), (1, 64), (3, 64, 17, 40, 8, 64, 1, 33, 12)])
def test_short_prompts_computed_side_by_side_answer_as_alone(model: Any, lengths: tuple[int, ...]) -> None:
    streams = [
        Submit(
            id=key,
            prompt=[(key * 31 + at) % 1400 for at in range(length)],
            max_tokens=20,
            seed=key,
            temperature=0.0,
        )
        for key, length in enumerate(lengths, start=1)
    ]
    driver = Driver(open_batch(model))
    for message in streams:
        driver.open(message)

    driver.take(driver.batch.compute([Chunk(message.id, 64) for message in streams]))
    driver.left.clear()

    assert {key: len(answer) for key, answer in driver.answers().items()} == dict.fromkeys(driver.tokens, 1)
    assert driver.run() == {message.id: wanted_of(model, message) for message in streams}


def test_log_probabilities_are_those_of_the_stream_alone(model: Any) -> None:
    streams = [message for message in some_streams(20, seed=11) if message.logprobs is not None]
    assert len(streams) >= 4
    company = Driver(open_batch(model), seed=11)
    company.run(at_random(some_streams(20, seed=11), seed=11, steps=10))

    for message in streams:
        solo = Driver(open_batch(model), most_chunk_tokens=10_000)
        solo.open(message)
        solo.run()
        found, wanted = company.tokens[message.id], solo.tokens[message.id]
        assert [token.token for token in found] == [token.token for token in wanted]
        assert [token.logprob for token in found] == pytest.approx(
            [token.logprob for token in wanted], abs=1e-4
        )
        assert [[key for key, _ in token.top or ()] for token in found] == [
            [key for key, _ in token.top or ()] for token in wanted
        ]


def values_of(payload: Any) -> list[mx.array]:
    return [mx.array(part.keys[..., : part.offset, :]) for part in payload]


@pytest.mark.parametrize("shared_tokens", [16, 40, 99])
def test_a_hit_gives_the_same_answer_and_stays_as_it_was(model: Any, shared_tokens: int) -> None:
    first = Submit(id=1, prompt=[at % 700 for at in range(80)], max_tokens=20, seed=1, temperature=0.0)
    driver = Driver(open_batch(model))
    driver.open(first)
    answer = driver.run()[1]
    prefix = driver.prefixes[1]
    assert prefix is not None
    kept = values_of(prefix.payload)
    text = list(prefix.tokens)
    second = Submit(
        id=2, prompt=[*text[:shared_tokens], 901, 902, 903], max_tokens=20, seed=2, temperature=0.0
    )

    reused = driver.open(second, hit_of(prefix, shared_tokens))
    third = Submit(id=3, prompt=[*text[:shared_tokens], 17], max_tokens=20, seed=3, temperature=0.0)
    driver.open(third, hit_of(prefix, shared_tokens))
    found = driver.run()

    assert reused == shared_tokens
    assert text == [*first.prompt, *answer][: len(text)]
    assert found[2] == greedy_alone(model, second.prompt, 20)
    assert found[3] == greedy_alone(model, third.prompt, 20)
    assert all(
        mx.array_equal(left, right) for left, right in zip(kept, values_of(prefix.payload), strict=True)
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_a_stream_that_gave_way_goes_on_where_it_was(model: Any, temperature: float, steps: int) -> None:
    neighbours = some_streams(5, seed=4)
    message = Submit(
        id=50, prompt=[at % 600 for at in range(30)], max_tokens=25, seed=9, temperature=temperature
    )
    driver = Driver(open_batch(model), seed=4)
    for each in (*neighbours, message):
        driver.open(each)
    while len(driver.tokens[50]) < steps:
        driver.step()
    emitted = driver.answers()[50]

    held = driver.batch.remove([50], keep=True)[50]
    driver.step()
    again = msgspec.structs.replace(
        message,
        prompt=[*message.prompt, *emitted],
        max_tokens=message.max_tokens - len(emitted),
        position=len(emitted),
    )
    reused = driver.open(again, hit_of(held, min(len(held.tokens), len(again.prompt) - 1)))
    found = driver.run()

    assert reused >= len(again.prompt) - 1
    assert found == {each.id: wanted_of(model, each) for each in (*neighbours, message)}


def test_a_prompt_that_gave_way_goes_on_where_it_was(model: Any) -> None:
    message = Submit(id=1, prompt=[at % 900 for at in range(200)], max_tokens=10, seed=0, temperature=0.0)
    driver = Driver(open_batch(model))
    driver.open(message)
    driver.batch.compute([Chunk(1, 120)])

    held = driver.batch.remove([1], keep=True)[1]
    reused = driver.open(message, hit_of(held, len(held.tokens)))

    assert reused == 120
    assert driver.run()[1] == greedy_alone(model, message.prompt, 10)


def test_rows_that_are_removed_touch_nobody(model: Any) -> None:
    streams = some_streams(12, seed=8)
    driver = Driver(open_batch(model), seed=8)
    arrivals = at_random(streams, seed=8, steps=6)
    gone = {message.id for message in streams[::3]}
    for step in range(12):
        for message in arrivals.get(step, ()):
            driver.open(message)
        driver.step()

    assert driver.batch.remove([*gone, 999], keep=False) == {}
    for key in gone:
        driver.left.pop(key, None)
        driver.tokens.pop(key)
    found = driver.run()

    assert {key: answer for key, answer in found.items() if key not in gone} == {
        message.id: wanted_of(model, message) for message in streams if message.id not in gone
    }
