"""Pins how tokens are drawn: against a plain reference, the same for a row in any company."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from wicketgate.engine.mlx.sampling import BatchSampler, RowSampling, draw, noise_key, token_news
from wicketgate.engine.wire import Token

VOCABULARY = 16
LOGITS = np.linspace(2.0, -2.0, VOCABULARY)[np.random.default_rng(3).permutation(VOCABULARY)]
LOGPROBS = mx.array(LOGITS - np.log(np.exp(LOGITS).sum()), dtype=mx.float32)
DRAWS = 4000


def row(position: int = 0, **fields: float) -> RowSampling:
    return RowSampling(
        **({"seed": 7, "position": position, "scale": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | fields)
    )


def reference(*, scale: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> np.ndarray:
    """Return the (vocabulary,) probabilities that these settings mean, the slow and plain way."""
    shares = np.exp(LOGITS * scale) / np.exp(LOGITS * scale).sum()
    order = np.argsort(-shares)
    kept = list(order[: top_k or None])
    within, mass, nucleus = shares[kept].sum(), 0.0, []
    for token in kept:
        if nucleus and mass >= top_p:
            break
        nucleus.append(token)
        mass += shares[token] / within
    nucleus = [token for token in nucleus if shares[token] >= min_p * shares[order[0]]]
    result = np.zeros(VOCABULARY)
    result[nucleus] = shares[nucleus] / shares[nucleus].sum()
    return result


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 0.5},
        {"scale": 2.0},
        {"top_k": 5},
        {"top_k": VOCABULARY * 10},
        {"top_p": 0.6},
        {"min_p": 0.3},
        {"scale": 0.7, "top_k": 9, "top_p": 0.8, "min_p": 0.2},
    ],
)
def test_tokens_are_drawn_with_the_probabilities_that_the_settings_mean(settings: dict[str, float]) -> None:
    rows = [row(position, **settings) for position in range(DRAWS)]

    drawn = np.array(draw(mx.broadcast_to(LOGPROBS, (DRAWS, VOCABULARY)), rows))

    wanted = reference(**settings)
    counts = np.bincount(drawn, minlength=VOCABULARY)
    assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(wanted))
    deviations = np.abs(counts - DRAWS * wanted)
    assert np.all(deviations <= 4.5 * np.sqrt(DRAWS * wanted * (1 - wanted)) + 1e-9)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"scale": 1e4}])
def test_the_likeliest_token_always_stays(settings: dict[str, float]) -> None:
    rows = [row(position, **settings) for position in range(50)]

    drawn = np.array(draw(mx.broadcast_to(LOGPROBS, (50, VOCABULARY)), rows))

    assert set(drawn) == {int(np.argmax(LOGITS))}


def test_a_row_draws_the_same_in_any_company() -> None:
    settings = [{}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}, {"scale": 0.0}, {"scale": 3.0}]
    wide = mx.broadcast_to(LOGPROBS, (len(settings), VOCABULARY))
    together, alone = BatchSampler(), BatchSampler()

    for position in range(20):
        together.expect([[row(position, **each) for each in settings]])
        company = together(wide).tolist()
        solo = []
        for each in settings:
            alone.expect([[row(position, **each)]])
            solo += alone(LOGPROBS[None]).tolist()

        assert company == solo


def test_a_row_moves_on_by_one_with_each_token() -> None:
    moving = row(41)
    sampler = BatchSampler()
    sampler.expect([[moving], [moving]])

    tokens = [sampler(LOGPROBS[None]).item() for _ in range(2)]

    assert moving.position == 43
    assert tokens == draw(mx.broadcast_to(LOGPROBS, (2, VOCABULARY)), [row(41), row(42)]).tolist()


def test_rows_that_were_not_expected_are_not_sampled() -> None:
    sampler = BatchSampler()
    sampler.expect([[row()]])

    with pytest.raises(RuntimeError, match="2 rows came to be sampled, 1 were expected"):
        sampler(mx.broadcast_to(LOGPROBS, (2, VOCABULARY)))
    with pytest.raises(RuntimeError, match="1 rows came to be sampled, 0 were expected"):
        sampler(LOGPROBS[None])


def test_noise_keys_differ_for_every_seed_and_position() -> None:
    keys = {noise_key(seed, position) for seed in (0, 1, 2**64 - 1) for position in range(1000)}

    assert len(keys) == 3000
    assert all(0 <= word < 2**32 for key in keys for word in key)


def test_the_mixing_is_that_of_splitmix64() -> None:
    # The first two outputs of SplitMix64 with seed 1234567, as its reference implementation prints them.
    words = [(high << 32) | low for high, low in (noise_key(1234567, 0), noise_key(1234567, 1))]

    assert words == [6457827717110365317, 3203168211198807973]


def test_alternatives_come_best_first_and_only_where_they_were_asked_for() -> None:
    logprobs = mx.log(mx.array([0.1, 0.6, 0.3]))

    assert token_news(1, 2, None, 0) == Token(1, 2)
    assert token_news(1, 2, logprobs, 0) == Token(1, 2, pytest.approx(math.log(0.3)), [])
    assert token_news(1, 2, logprobs, 2) == Token(
        1,
        2,
        pytest.approx(math.log(0.3)),
        [(1, pytest.approx(math.log(0.6))), (2, pytest.approx(math.log(0.3)))],
    )
