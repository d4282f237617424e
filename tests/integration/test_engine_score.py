"""Pins scores: those of a direct forward pass of each whole sequence, in bounded steps and memory."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama
from mlx_lm.utils import load_model

from wicketgate.engine.kv.store import Hit
from wicketgate.engine.mlx.caches import kept
from wicketgate.engine.mlx.network import Network
from wicketgate.engine.mlx.scoring import MlxScoring
from wicketgate.engine.wire import Score

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

VOCABULARY = 1024
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


@pytest.fixture(scope="module")
def network(model: Any) -> Network:
    return Network(model)


def sliding_model() -> Any:
    """Return a model of which one layer sees the last 16 tokens only."""
    mx.random.seed(5)
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False,
    )
    return llama.Model(args)


def tokens(count: int, *, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(10, VOCABULARY) for _ in range(count)]


def message(query: list[int], items: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Score:
    return Score(
        id=1, query=query, items=[list(each) for each in items], labels=[list(each) for each in labels]
    )


def direct(model: Any, score: Score) -> NDArray[np.float64]:
    """Compute each item with each label as one sequence of its own."""
    result = np.zeros((len(score.items), len(score.labels)))
    for row, item in enumerate(score.items):
        before = score.query + item
        seen: dict[tuple[int, ...], NDArray[np.float32]] = {}
        for column, label in enumerate(score.labels):
            forced = tuple(label[:-1])
            if forced not in seen:
                logits = model(mx.array([[*before, *forced]]))[0, len(before) - 1 :]
                seen[forced] = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            result[row, column] = sum(float(seen[forced][at, token]) for at, token in enumerate(label))
    return result


def finished(scoring: MlxScoring, *, chunk_tokens: int = 256) -> NDArray[np.float64]:
    steps = 0
    while scoring.remaining_tokens:
        scoring.advance(chunk_tokens)
        steps += 1
        assert steps < 10_000
    return np.array(scoring.logprobs())


def scored(network: Network, score: Score, *, chunk_tokens: int = 256) -> NDArray[np.float64]:
    return finished(MlxScoring(network, score, None, vocabulary_size=VOCABULARY), chunk_tokens=chunk_tokens)


LABELS = [[11], [300, 12], [40, 41, 42], [900, 7, 7, 8], [12]]

SHAPES = {
    "one item of one token": (30, [1], LABELS[:2]),
    "equal lengths": (40, [6] * 12, LABELS),
    "ragged items": (25, [1, 17, 3, 3, 40, 9, 2], LABELS),
    "empty items among others": (33, [0, 4, 0, 7], LABELS),
    "only empty items": (20, [0, 0], LABELS),
    "no query": (0, [3, 1, 8], LABELS),
    "a query of one token": (1, [2, 5], LABELS),
    "a query beyond the caches' first 256 tokens": (300, [5, 2, 30], LABELS),
    "labels of one token": (30, [5, 6, 7], [[3], [4], [5]]),
    "labels of several tokens only": (30, [5, 6, 7], [[3, 4], [4, 3, 9]]),
    "long items": (10, [150, 3, 90], LABELS[:3]),
    "80 items": (20, [1 + number % 9 for number in range(80)], LABELS[:2]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk_tokens", [16, 512])
def test_scores_are_those_of_a_direct_forward_pass(
    network: Network, model: Any, shape: str, chunk_tokens: int
) -> None:
    query_tokens, lengths, labels = SHAPES[shape]
    items = [tokens(length, seed=100 + number) for number, length in enumerate(lengths)]
    score = message(tokens(query_tokens, seed=1), items, labels)

    found = scored(network, score, chunk_tokens=chunk_tokens)

    assert np.abs(found - direct(model, score)).max() < TOLERANCE


def test_equal_items_have_equal_scores_in_their_own_places(network: Network, model: Any) -> None:
    twice = tokens(5, seed=2)
    score = message(tokens(20, seed=1), [twice, tokens(3, seed=3), twice], LABELS)

    found = scored(network, score)

    assert found[0].tolist() == found[2].tolist()
    assert np.abs(found - direct(model, score)).max() < TOLERANCE


def test_a_score_of_no_items_has_nothing_to_compute(network: Network) -> None:
    scoring = MlxScoring(network, message(tokens(20, seed=1), [], LABELS), None, vocabulary_size=VOCABULARY)

    assert scoring.remaining_tokens == 0
    assert scoring.logprobs() == []


def test_a_model_with_a_sliding_window_is_scored_one_by_one() -> None:
    sliding = sliding_model()
    items = [tokens(length, seed=length) for length in (0, 3, 30, 5)]
    score = message(tokens(40, seed=1), items, LABELS)

    found = scored(Network(sliding), score, chunk_tokens=8)

    assert np.abs(found - direct(sliding, score)).max() < TOLERANCE


def stored(network: Network, held: list[int], *, shared_tokens: int) -> Hit[object]:
    from wicketgate.engine.kv.store import Entry

    cache = network.new_cache()
    with network.computing():
        network.extend(mx.array([held]), cache)
        prefix = kept([held], [cache])[0]
    entry: Entry[object] = Entry(
        tokens=np.array(held, dtype=np.int32), payload=prefix.payload, size_bytes=prefix.size_bytes
    )
    return Hit(entry=entry, shared_tokens=shared_tokens)


def test_a_hit_is_reused_and_what_the_store_holds_stays_as_it_is(network: Network, model: Any) -> None:
    query = tokens(60, seed=1)
    hit = stored(network, query[:40] + tokens(30, seed=9), shared_tokens=40)
    payload: Any = hit.entry.payload
    before = [np.array(array) for part in payload for array in part.state[:2]]
    score = message(query, [tokens(4, seed=2), [], tokens(7, seed=3)], LABELS)

    scoring = MlxScoring(network, score, hit, vocabulary_size=VOCABULARY)
    cold = MlxScoring(network, score, None, vocabulary_size=VOCABULARY)

    assert scoring.remaining_tokens == cold.remaining_tokens - 40
    assert np.abs(finished(scoring) - direct(model, score)).max() < TOLERANCE
    after = [np.array(array) for part in payload for array in part.state[:2]]
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))


def test_no_step_computes_much_more_than_its_chunk(network: Network) -> None:
    items = [tokens(1 + number % 40, seed=number) for number in range(60)]
    scoring = MlxScoring(
        network, message(tokens(100, seed=1), items, LABELS), None, vocabulary_size=VOCABULARY
    )
    steps = []
    while before := scoring.remaining_tokens:
        scoring.advance(32)
        steps.append(before - scoring.remaining_tokens)

    assert max(steps) <= 32
    assert min(steps) > 0


def test_the_rows_side_by_side_are_bounded_by_bytes(network: Network, model: Any) -> None:
    score = message(tokens(60, seed=1), [tokens(5, seed=number) for number in range(12)], LABELS)
    row_bytes = 65 * network.kv_bytes_per_token
    few = MlxScoring(network, score, None, vocabulary_size=VOCABULARY, slice_bytes=3 * row_bytes)
    many = MlxScoring(network, score, None, vocabulary_size=VOCABULARY)
    counts = []
    for scoring in (few, many):
        steps = 0
        while scoring.remaining_tokens:
            scoring.advance(10_000)
            steps += 1
        counts.append(steps)

    # The query, and then slices of 3 items or all 12, each followed by its 36 or 12 of the longer labels.
    assert counts == [1 + 4 + 4 * 3, 1 + 1 + 1]
    assert np.abs(np.array(few.logprobs()) - direct(model, score)).max() < TOLERANCE
