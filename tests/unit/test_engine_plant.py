"""Pins the plant: a hand-worked step, seeded jitter, tokens that depend on nothing but seed and position."""

from __future__ import annotations

import pytest

from wicketgate.engine.plant import Plant, PlantParams, drawn_token


def test_a_step_costs_its_parts() -> None:
    plant = Plant(PlantParams(), seed=0)

    step_s = plant.step_s(rows=10, longest_tokens=1000, prompts=2, chunk_tokens=100)

    # 1 + (3 + 0.14 * 10 + 7e-5 * 10 * 1000) + (3 + 0.18 * 2 * 100) ms
    assert step_s == pytest.approx(0.0451)


def test_work_that_is_not_there_costs_nothing() -> None:
    plant = Plant(PlantParams(), seed=0)

    assert plant.step_s(rows=0, longest_tokens=0, prompts=0, chunk_tokens=0) == pytest.approx(0.001)


def test_jitter_is_bounded_repeatable_and_centred() -> None:
    def steps(seed: int) -> list[float]:
        plant = Plant(PlantParams(host_ms=10.0, jitter_ratio=0.5), seed=seed)
        return [plant.step_s(rows=0, longest_tokens=0, prompts=0, chunk_tokens=0) for _ in range(2000)]

    first = steps(1)

    assert first == steps(1)
    assert first != steps(2)
    assert 0.005 <= min(first) < 0.0055
    assert 0.0145 < max(first) <= 0.015
    assert sum(first) / len(first) == pytest.approx(0.010, rel=0.02)


def test_a_cost_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="row_ms must be at least 0, got -1"):
        PlantParams(row_ms=-1)
    with pytest.raises(ValueError, match="jitter_ratio must be at most 1"):
        PlantParams(jitter_ratio=1.5)


def test_tokens_spread_over_the_vocabulary() -> None:
    drawn = [drawn_token(seed=0, stream_seed=1, position=i, vocabulary_size=10) for i in range(1000)]

    assert set(drawn) == set(range(10))


def test_another_seed_or_stream_draws_other_tokens() -> None:
    def text(seed: int, stream_seed: int) -> list[int]:
        return [
            drawn_token(seed=seed, stream_seed=stream_seed, position=i, vocabulary_size=1000)
            for i in range(10)
        ]

    assert text(1, 1) == text(1, 1)
    assert text(1, 1) != text(1, 2)
    assert text(1, 1) != text(2, 1)
