"""Pins assessed prompts and embeddings: as one direct pass gives them, whatever the steps and the company."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from tests.mlx_streams import small_model_of
from wicketgate.engine.batch import RowError
from wicketgate.engine.mlx.adapter import MlxBatch
from wicketgate.engine.mlx.assessing import MlxAssessing
from wicketgate.engine.mlx.embedding import MlxEmbedding
from wicketgate.engine.mlx.network import Network
from wicketgate.engine.options import HostOptions
from wicketgate.engine.wire import Assess, Assessed, Embed, Embedded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

VOCABULARY = 1536
TOLERANCE = 1e-4
KINDS = ("sliding", "recurrent", "mixed")


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


@pytest.fixture(scope="module")
def network(model: Any) -> Network:
    return Network(model)


def tokens(count: int, *, seed: int, vocabulary: int = VOCABULARY) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(10, vocabulary) for _ in range(count)]


def direct_logprobs(model: Any, prompt: Sequence[int]) -> NDArray[np.float32]:
    """Return (tokens, vocabulary) log-probabilities after each token, from one pass."""
    logits = model(mx.array([list(prompt)]))[0].astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def assessed(
    assessing: MlxAssessing, *, chunk_tokens: int
) -> tuple[list[float], list[list[tuple[int, float]]]]:
    logprobs: list[float] = []
    top: list[list[tuple[int, float]]] = []
    steps = 0
    while assessing.remaining_tokens:
        assessing.advance(chunk_tokens)
        for part in assessing.parts():
            assert isinstance(part, Assessed)
            logprobs += part.logprobs
            top += part.top
        steps += 1
        assert steps < 1000
    return logprobs, top


# Prompts


@pytest.mark.parametrize("chunk_tokens", [7, 64, 1000])
@pytest.mark.parametrize("slice_tokens", [1, 20, 5000])
def test_each_token_but_the_first_has_the_log_probability_of_a_direct_pass(
    network: Network, model: Any, chunk_tokens: int, slice_tokens: int
) -> None:
    prompt = tokens(120, seed=1)
    work = MlxAssessing(
        network,
        Assess(id=1, prompt=prompt, top=3),
        vocabulary_size=VOCABULARY,
        slice_bytes=4 * VOCABULARY * slice_tokens,
    )

    logprobs, top = assessed(work, chunk_tokens=chunk_tokens)

    expected = direct_logprobs(model, prompt)
    said = expected[np.arange(119), prompt[1:]]
    assert np.abs(np.array(logprobs) - said).max() < TOLERANCE
    best = np.sort(expected[:-1], axis=1)[:, ::-1][:, :3]
    assert np.abs(np.array([[value for _, value in each] for each in top]) - best).max() < TOLERANCE


def test_a_token_among_the_likeliest_has_the_very_same_number_there(network: Network) -> None:
    prompt = tokens(5, seed=1)
    work = MlxAssessing(network, Assess(id=1, prompt=prompt, top=20), vocabulary_size=VOCABULARY)
    for _ in range(40):  # a text of the likeliest tokens
        logits = network.last_logits(mx.array([prompt]), network.new_cache())
        prompt.append(int(mx.argmax(logits).item()))

    logprobs, top = assessed(work, chunk_tokens=16)

    found = [
        (dict(best)[token], logprob)
        for token, logprob, best in zip(prompt[1:], logprobs, top, strict=True)
        if token in dict(best)
    ]
    assert len(found) >= 40
    assert all(one == other for one, other in found)


def test_a_prompt_of_one_token_has_nothing_to_assess(network: Network) -> None:
    work = MlxAssessing(network, Assess(id=1, prompt=[5]), vocabulary_size=VOCABULARY)

    work.advance(16)

    assert (work.remaining_tokens, work.parts(), work.kept()) == (0, [], None)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_models_with_other_caches_are_assessed_too(kind: str) -> None:
    model = small_model_of(kind)
    prompt = tokens(70, seed=3, vocabulary=300)
    work = MlxAssessing(Network(model), Assess(id=1, prompt=prompt), vocabulary_size=300)

    logprobs, _ = assessed(work, chunk_tokens=16)

    said = direct_logprobs(model, prompt)[np.arange(69), prompt[1:]]
    assert np.abs(np.array(logprobs) - said).max() < TOLERANCE


def test_the_kv_of_an_assessed_prompt_serves_who_goes_on_behind_it(network: Network, model: Any) -> None:
    prompt = tokens(80, seed=4)
    work = MlxAssessing(network, Assess(id=1, prompt=prompt), vocabulary_size=VOCABULARY)
    assessed(work, chunk_tokens=32)

    kept = work.kept()

    assert kept is not None
    assert list(kept.tokens) == prompt[:-1]
    payload: Any = kept.payload
    logits = network.last_logits(mx.array([prompt[-1:]]), payload)[0]
    found = np.array(logits - mx.logsumexp(logits))
    assert np.abs(found - direct_logprobs(model, prompt)[-1]).max() < TOLERANCE


# Embeddings


def direct_vector(model: Any, prompt: Sequence[int], pooling: str) -> NDArray[np.float32]:
    states = np.array(model.model(mx.array([list(prompt)]))[0].astype(mx.float32))
    pooled = states.mean(axis=0) if pooling == "mean" else states[-1]
    vector: NDArray[np.float32] = pooled / np.linalg.norm(pooled)
    return vector


def embedded(work: MlxEmbedding, *, chunk_tokens: int) -> NDArray[np.float32]:
    steps = 0
    while before := work.remaining_tokens:
        work.advance(chunk_tokens)
        assert work.remaining_tokens < before
        steps += 1
    (part,) = work.parts()
    assert isinstance(part, Embedded)
    return np.array([np.frombuffer(vector, dtype="<f4") for vector in part.vectors])


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("chunk_tokens", [8, 64, 4096])
def test_vectors_are_those_of_a_direct_pass_whoever_is_beside_them(
    network: Network, model: Any, pooling: Any, chunk_tokens: int
) -> None:
    prompts = [tokens(length, seed=length) for length in (5, 1, 90, 17, 5, 300, 16)]
    work = MlxEmbedding(network, Embed(id=1, prompts=prompts, pooling=pooling))

    found = embedded(work, chunk_tokens=chunk_tokens)

    expected = np.array([direct_vector(model, prompt, pooling) for prompt in prompts])
    assert np.abs(found - expected).max() < TOLERANCE
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_vector_of_models_with_other_caches(kind: str) -> None:
    model = small_model_of(kind)
    prompts = [tokens(length, seed=length, vocabulary=300) for length in (3, 60, 31)]
    work = MlxEmbedding(Network(model), Embed(id=1, prompts=prompts, pooling="mean"))

    found = embedded(work, chunk_tokens=60)

    expected = np.array([direct_vector(model, prompt, "mean") for prompt in prompts])
    assert np.abs(found - expected).max() < TOLERANCE


def test_a_model_without_hidden_states_is_refused_with_the_reason(model: Any) -> None:
    class Closed:
        """Gives logits, and nothing of what they are made of."""

        layers = model.layers

        def __call__(self, inputs: Any, cache: Any = None) -> Any:
            return model(inputs, cache=cache)

    batch = MlxBatch(
        Closed(), HostOptions(), vocabulary_size=VOCABULARY, context_tokens=512, eos_token_ids=[2]
    )

    with pytest.raises(RowError, match="gives no hidden states"):
        batch.begin(Embed(id=1, prompts=[[5]]), None)
