"""Pins how the pace is learned: from what, how fast, and what cannot mislead it for long."""

from __future__ import annotations

import pytest

from wicketgate.engine.pace import GUESSED_TOKEN_S, Pace


def learn(pace: Pace, *, base_s: float, slope_s: float = 0.0, chunks: int = 10, tokens: int = 200) -> None:
    """Show chunks of prompts of ten chunks each."""
    for index in range(chunks):
        context = index % 10 * tokens
        elapsed_s = tokens * (base_s + slope_s * (context + tokens / 2))
        pace.observe_chunk(tokens, context_tokens=context, elapsed_s=elapsed_s)


def test_before_anything_was_measured_chunks_are_small() -> None:
    pace = Pace()

    assert not pace.is_measured
    assert pace.tokens_within(0.1, context_tokens=0) == round(0.1 / GUESSED_TOKEN_S)


def test_the_chunk_of_the_warm_up_is_the_first_measurement() -> None:
    pace = Pace(full_chunk_tokens=500, full_chunk_s=0.25)

    assert pace.is_measured
    assert pace.tokens_within(0.1, context_tokens=0) == pytest.approx(200, abs=1)


def test_what_a_token_costs_grows_with_the_context_as_it_was_seen_to() -> None:
    pace = Pace()

    learn(pace, base_s=0.0004, slope_s=1e-7, chunks=40)

    # 100 tokens after 3,000: 100 x (0.4 ms + 0.1 us x 3,050).
    assert pace.chunk_s(100, context_tokens=3000) == pytest.approx(0.0705, rel=0.05)
    assert pace.chunk_s(100, context_tokens=0) == pytest.approx(0.0405, rel=0.05)


def test_tokens_within_a_time_take_that_time() -> None:
    pace = Pace()
    learn(pace, base_s=0.0004, slope_s=1e-7, chunks=40)

    for context in (0, 1000, 10_000):
        tokens = pace.tokens_within(0.08, context_tokens=context)
        assert pace.chunk_s(tokens, context_tokens=context) <= 0.08
        assert pace.chunk_s(tokens + 1, context_tokens=context) > 0.08
    assert pace.tokens_within(0.0, context_tokens=0) == pace.tokens_within(-1.0, context_tokens=0) == 0


def test_contexts_that_hardly_differ_say_nothing_about_the_slope() -> None:
    pace = Pace()
    for index in range(20):
        pace.observe_chunk(100, context_tokens=index % 2, elapsed_s=0.05 + 0.01 * (index % 2))

    assert pace.chunk_s(100, context_tokens=10_000) == pytest.approx(0.055, rel=0.15)


def test_costs_that_seem_to_fall_with_the_context_are_taken_as_even() -> None:
    pace = Pace()
    learn(pace, base_s=0.001, slope_s=-2e-7, chunks=40)

    assert pace.chunk_s(1, context_tokens=9000) == pytest.approx(pace.chunk_s(1, context_tokens=0))


def test_a_steep_line_leaves_a_token_without_context_a_price() -> None:
    pace = Pace()
    for _ in range(20):
        pace.observe_chunk(100, context_tokens=1000, elapsed_s=0.1)
        pace.observe_chunk(100, context_tokens=3000, elapsed_s=0.15 + 0.2)

    # By the line alone the first token would cost less than nothing.
    assert pace.chunk_s(100, context_tokens=0) > 0.02


def test_one_outlier_hardly_moves_what_is_expected() -> None:
    pace = Pace()
    learn(pace, base_s=0.0005, chunks=20)

    pace.observe_chunk(200, context_tokens=0, elapsed_s=10.0)

    assert pace.tokens_within(0.1, context_tokens=0) > 120


def test_an_outlier_is_forgotten() -> None:
    pace = Pace()
    learn(pace, base_s=0.0005, chunks=20)
    pace.observe_chunk(200, context_tokens=0, elapsed_s=10.0)

    learn(pace, base_s=0.0005, chunks=10)

    assert pace.tokens_within(0.1, context_tokens=0) == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_change_that_lasts_is_believed_with_the_third_chunk(factor: float) -> None:
    pace = Pace()
    learn(pace, base_s=0.001, chunks=20)

    learn(pace, base_s=0.001 * factor, chunks=3)

    assert pace.chunk_s(100, context_tokens=0) == pytest.approx(0.1 * factor, rel=0.1)


def test_a_smaller_change_is_followed_within_some_chunks() -> None:
    pace = Pace()
    learn(pace, base_s=0.001, chunks=20)

    learn(pace, base_s=0.0015, chunks=6)

    assert pace.chunk_s(100, context_tokens=0) == pytest.approx(0.15, rel=0.1)


def test_a_clock_that_did_not_move_is_no_division_by_zero() -> None:
    pace = Pace()
    learn(pace, base_s=0.0, chunks=5)
    pace.observe_decode(0.0)
    pace.observe_decode(0.0)

    assert pace.tokens_within(0.1, context_tokens=0) > 1_000_000
    assert pace.decode_s > 0


def test_the_first_decode_step_is_taken_as_it_is_and_later_ones_smooth_it() -> None:
    pace = Pace()

    pace.observe_decode(0.010)
    first_s = pace.decode_s
    pace.observe_decode(0.012)

    assert first_s == pytest.approx(0.010)
    assert pace.decode_s == pytest.approx(0.0106)


def test_decode_steps_that_stay_longer_are_believed_with_the_third() -> None:
    pace = Pace()
    pace.observe_decode(0.001)

    for _ in range(3):
        pace.observe_decode(0.1)

    assert pace.decode_s == pytest.approx(0.1)


def test_chunks_keep_a_distance_from_their_bound_that_grows_with_their_spread() -> None:
    even, uneven, wild = Pace(), Pace(), Pace()
    for index in range(100):
        sign = 1 if index % 2 else -1
        even.observe_chunk(100, context_tokens=0, elapsed_s=0.1)
        uneven.observe_chunk(100, context_tokens=0, elapsed_s=0.1 * (1 + 0.1 * sign))
        wild.observe_chunk(100, context_tokens=0, elapsed_s=0.1 * (1 + 0.9 * sign))

    assert Pace().headroom_ratio == pytest.approx(0.8)
    assert even.headroom_ratio == pytest.approx(0.95)
    assert 0.72 < uneven.headroom_ratio < 0.85
    assert wild.headroom_ratio == pytest.approx(0.7)
