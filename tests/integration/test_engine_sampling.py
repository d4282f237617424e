"""Pins how tokens are drawn: against plain references, and the same for a row in any company."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import make_logits_processors

from wicketgate.engine.mlx.sampling import noise_key, row_state, sample, token_news
from wicketgate.engine.wire import Submit, Token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.mlx.sampling import RowState

VOCABULARY = 16
LOGITS = np.linspace(2.0, -2.0, VOCABULARY)[np.random.default_rng(3).permutation(VOCABULARY)]
END = 3
ODD = 331
"""A larger vocabulary, of which halves are not whole."""
DRAWS = 4000

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"top_k": 3},
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"temperature": 0.3, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.0, "repetition_penalty": 1.4},
    {"presence_penalty": 1.1, "frequency_penalty": 0.7},
    {"temperature": 0.0, "frequency_penalty": 2.0, "repetition_penalty": 1.1},
    {"logit_bias": {7: 3.0, 9: -100.0}},
    {"temperature": 0.0, "logit_bias": {5: 100.0}},
    {"min_tokens": 15},
    {"logprobs": 4},
    {"temperature": 0.0, "logprobs": 0},
]
"""Every way to sample, alone and mixed."""


def state(**fields: Any) -> RowState:
    message = Submit(**({"id": 1, "prompt": [1, 2, 3], "max_tokens": 100, "seed": 7} | fields))
    return row_state(message, ends=frozenset([END]))


def resumed(after: int, **fields: Any) -> RowState:
    """Return a row that goes on at another position."""
    return state(prompt=[1, 2, 3, *([4] * after)], position=after, **fields)


def given(count: int) -> mx.array:
    return mx.broadcast_to(mx.array(LOGITS, dtype=mx.float32), (count, VOCABULARY))


def drawn(logits: mx.array, rows: Sequence[RowState]) -> list[int]:
    return sample(logits, rows).tokens.tolist()


def reference(
    *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, logits: Any = LOGITS
) -> np.ndarray:
    """Return the probabilities that these settings mean, the slow and plain way."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    shares = np.exp(scaled - scaled.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    kept = list(order[: top_k or None])
    within, mass, nucleus = shares[kept].sum(), 0.0, []
    for token in kept:
        if nucleus and mass >= top_p * within:
            break
        nucleus.append(token)
        mass += shares[token]
    nucleus = [token for token in nucleus if shares[token] >= min_p * shares[order[0]]]
    result = np.zeros(len(shares))
    result[nucleus] = shares[nucleus] / shares[nucleus].sum()
    return result


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 2.0},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_k": VOCABULARY * 10},
        {"top_p": 0.6},
        {"min_p": 0.3},
        {"temperature": 1.4, "top_k": 9, "top_p": 0.8, "min_p": 0.2},
    ],
)
def test_tokens_are_drawn_with_the_probabilities_that_the_settings_mean(settings: dict[str, float]) -> None:
    rows = [state(seed=seed, **settings) for seed in range(DRAWS)]

    tokens = drawn(given(DRAWS), rows)

    wanted = reference(**settings)
    counts = np.bincount(tokens, minlength=VOCABULARY)
    possible = np.flatnonzero(wanted)
    assert set(np.flatnonzero(counts)) <= set(possible)
    expected = DRAWS * wanted[possible]
    chi_square = float((((counts[possible] - expected) ** 2) / expected).sum())
    # The mean of the statistic is its degrees of freedom, the variance twice that: 4.5 deviations.
    freedom = len(possible) - 1
    assert chi_square <= freedom + 4.5 * math.sqrt(2 * freedom)


def test_one_streams_tokens_are_as_independent_as_those_of_many() -> None:
    rows = [resumed(position) for position in range(DRAWS)]

    counts = np.bincount(drawn(given(DRAWS), rows), minlength=VOCABULARY)

    expected = DRAWS * reference()
    assert float((((counts - expected) ** 2) / expected).sum()) <= 15 + 4.5 * math.sqrt(30)


@pytest.mark.parametrize("size", [65, 128, 331, 1536])
@pytest.mark.parametrize("top_p", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_sorting_it(size: int, top_p: float) -> None:
    logits = np.random.default_rng(size).normal(size=size) * 3
    allowed = np.flatnonzero(reference(top_p=top_p, logits=logits))
    rows = [state(seed=seed, top_p=top_p, temperature=1.0) for seed in range(400)]

    tokens = drawn(mx.broadcast_to(mx.array(logits, dtype=mx.float32), (400, size)), rows)

    assert set(tokens) <= set(allowed.tolist())
    # All of a small nucleus comes up in so many draws, if what is cut off is not too much.
    likely = np.flatnonzero(reference(top_p=top_p, logits=logits) > 0.05)
    assert set(likely.tolist()) <= set(tokens)


@pytest.mark.parametrize(
    "settings", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-4}, {"temperature": 1e-30}]
)
def test_the_likeliest_token_always_stays(settings: dict[str, float]) -> None:
    rows = [state(seed=seed, **settings) for seed in range(50)]

    tokens = drawn(given(50), rows)

    assert set(tokens) == {int(np.argmax(LOGITS))}


def test_a_temperature_beyond_all_sense_draws_evenly_and_does_not_fail() -> None:
    rows = [state(seed=seed, temperature=1e300) for seed in range(DRAWS)]

    counts = np.bincount(drawn(given(DRAWS), rows), minlength=VOCABULARY)

    assert counts.min() > 0.7 * DRAWS / VOCABULARY


def chain() -> mx.array:
    """Return (last token, next token) logits, under which the likeliest tokens soon repeat."""
    table = mx.random.normal((ODD, ODD), key=mx.random.key(0)) * 2
    table[:, END] += 5
    return table


def stream(rows: Sequence[RowState], steps: int) -> list[list[int]]:
    """Return what each row draws in so many steps."""
    texts: list[list[int]] = [[] for _ in rows]
    last = mx.array([0] * len(rows))
    for _ in range(steps):
        result = sample(chain()[last], rows)
        # The next logits are built on tokens that nobody has read, as in the decode loop.
        last = result.tokens
        for text, token in zip(texts, result.tokens.tolist(), strict=True):
            text.append(token)
    return texts


def test_a_row_draws_the_same_alone_and_in_any_company() -> None:
    alone = [stream([state(**settings)], 20)[0] for settings in SETTINGS]
    together = stream([state(**settings) for settings in SETTINGS], 20)
    backwards = stream([state(**settings) for settings in reversed(SETTINGS)], 20)[::-1]

    assert together == alone
    assert backwards == alone
    # Most settings change the text, so that equal texts mean something.
    assert len({tuple(text) for text in alone}) >= 10


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_stream_that_goes_on_elsewhere_draws_the_very_next_token(settings: dict[str, Any]) -> None:
    table = mx.random.normal((60, ODD), key=mx.random.key(5)) * 2
    row = state(**settings)
    whole = [sample(table[step][None], [row]).tokens.item() for step in range(30)]

    message = {"prompt": [1, 2, 3, *whole[:17]], "position": 17, "max_tokens": 83} | settings
    later = state(**message)
    rest = [sample(table[step][None], [later]).tokens.item() for step in range(17, 30)]

    assert whole[:17] + rest == whole


def test_rows_take_their_penalties_along_when_they_change_company() -> None:
    settings = [each for each in SETTINGS if any("penalty" in name for name in each)]
    alone = [stream([state(**each)], 12)[0] for each in settings]
    rows = [state(**each) for each in settings]
    texts: list[list[int]] = [[] for _ in rows]

    for step in range(12):
        # Now all together, now in two groups of changing members, in changing order.
        order = list(np.random.default_rng(step).permutation(len(rows)))
        cut = step % (len(rows) + 1)
        for part in (order[:cut], order[cut:]):
            if part:
                last = mx.array([texts[index][-1] if texts[index] else 0 for index in part])
                for index, token in zip(part, drawn(chain()[last], [rows[i] for i in part]), strict=True):
                    texts[index].append(token)

    assert texts == alone


def test_drafted_tokens_that_were_not_accepted_can_be_taken_back() -> None:
    row, again = state(top_p=0.8), state(top_p=0.8)
    logits = mx.random.normal((3, 1, ODD), key=mx.random.key(1))
    wanted = [drawn(logits[step], [again])[0] for step in range(3)]

    drawn(logits[0], [row])
    drawn(logits[2], [row])
    row.position -= 1

    assert [drawn(logits[step], [row])[0] for step in (1, 2)] == wanted[1:]


def test_a_repetition_penalty_is_that_of_mlx_lm() -> None:
    tokens = [*range(5, 40), 7, 8, 7]
    logits = mx.random.normal((1, ODD), key=mx.random.key(2))
    logits[0, 8], logits[0, 9], logits[0, 200] = 6.0, 5.0, 3.9
    (processor,) = make_logits_processors(repetition_penalty=1.5)
    wanted = mx.argmax(processor(mx.array(tokens), logits * 1.0), axis=-1).item()

    found = drawn(logits, [state(prompt=tokens, temperature=0.0, repetition_penalty=1.5)])

    # 8 is divided to 4; 9 is more than 20 tokens back.
    assert found == [wanted] == [9]


def test_presence_and_frequency_count_the_answer_and_not_the_prompt() -> None:
    logits = mx.zeros((1, VOCABULARY))
    logits[0, 1], logits[0, 5], logits[0, 6] = 1.0, 0.9, 0.8
    fields: dict[str, Any] = {"prompt": [1, 5, 5, 6], "position": 3, "temperature": 0.0}

    assert drawn(logits, [state(**fields)]) == [1]
    # Taken off 5: 0.15 for being there; 6 keeps more than 5 where each time counts.
    assert drawn(logits, [state(**fields, presence_penalty=0.15, logit_bias={1: -100.0})]) == [5]
    assert drawn(logits, [state(**fields, frequency_penalty=0.15, logit_bias={1: -100.0})]) == [6]


def test_an_end_token_is_not_drawn_before_its_time() -> None:
    logits = mx.zeros((1, VOCABULARY))
    logits[0, END], logits[0, 9] = 5.0, 1.0
    row = state(temperature=0.0, min_tokens=2)

    assert [drawn(logits, [row])[0] for _ in range(3)] == [9, 9, END]


@pytest.mark.parametrize("broken", [math.nan, -math.inf, math.inf])
def test_logits_that_are_no_numbers_give_tokens_of_the_vocabulary(broken: float) -> None:
    rows = [state(**settings) for settings in SETTINGS]

    tokens = drawn(mx.full((len(rows), ODD), broken), rows)

    assert all(0 <= token < ODD for token in tokens)


def test_the_models_logits_stay_as_they_are() -> None:
    logits = mx.random.normal((len(SETTINGS), ODD))
    before = np.array(logits)

    mx.eval(sample(logits, [state(**settings) for settings in SETTINGS]).arrays)

    assert np.array_equal(np.array(logits), before)


def test_log_probabilities_are_those_of_the_raw_logits_best_first() -> None:
    logits = mx.random.normal((3, ODD), key=mx.random.key(4))
    plain = np.array(logits, dtype=np.float64)
    plain -= np.log(np.exp(plain).sum(axis=-1, keepdims=True))
    rows = [
        state(logprobs=3, temperature=0.5, frequency_penalty=2.0, logit_bias={3: 50.0}),
        state(temperature=0.0),
        state(logprobs=20, temperature=0.0),
    ]

    result = sample(logits, rows)
    tokens = result.tokens.tolist()

    news = [token_news(10 + row, token, result, row) for row, token in enumerate(tokens)]
    assert news[1] == Token(11, tokens[1])
    for row, count in ((0, 3), (2, 20)):
        best = np.argsort(-plain[row])[:count]
        assert news[row].logprob == pytest.approx(plain[row, tokens[row]], abs=1e-5)
        assert [token for token, _ in news[row].top] == best.tolist()
        assert [value for _, value in news[row].top] == pytest.approx(plain[row, best].tolist(), abs=1e-5)


def test_no_alternatives_and_more_than_there_are_tokens_are_both_served() -> None:
    result = sample(given(2), [state(logprobs=0), state(logprobs=20)])

    none, all_of_them = (
        token_news(1, token, result, row) for row, token in enumerate(result.tokens.tolist())
    )
    assert (none.top, none.logprob is None) == ([], False)
    assert len(all_of_them.top) == VOCABULARY


def test_noise_keys_differ_for_every_seed_and_position() -> None:
    keys = {noise_key(seed, position) for seed in (0, 1, 2**64 - 1) for position in range(1000)}

    assert len(keys) == 3000
    assert all(0 <= word < 2**32 for key in keys for word in key)


def test_the_mixing_is_that_of_splitmix64() -> None:
    # The first two outputs of SplitMix64 with seed 1234567, as its reference implementation prints them.
    words = [(high << 32) | low for high, low in (noise_key(1234567, 0), noise_key(1234567, 1))]

    assert words == [6457827717110365317, 3203168211198807973]
