"""Pins the plant: hand-worked steps, seeded jitter, tokens that depend on nothing but seed and position."""

from __future__ import annotations

import pytest

from wicketgate.engine.plant import Plant, PlantParams, drawn_logprob, drawn_token


def test_a_decode_step_costs_its_groups() -> None:
    plant = Plant(PlantParams(), seed=0)

    # 1 + (3 + 10 x (0.14 + 7e-5 x 1000)) + (3 + 2 x (0.14 + 7e-5 x 4000)) ms
    assert plant.decode_s([(10, 1000), (2, 4000)]) == pytest.approx(0.00994)
    assert plant.decode_s([]) == pytest.approx(0.001)


def test_chunks_cost_their_passes() -> None:
    plant = Plant(PlantParams(prompt_pair_ms=1e-4), seed=0)

    # 1 + (3 + 2 x 50 x (0.18 + 1e-4 x 25)) + (3 + 100 x (0.18 + 1e-4 x 1050)) ms
    assert plant.prefill_s([(2, 50, 0), (1, 100, 1000)]) == pytest.approx(0.05375)


def test_jitter_is_bounded_repeatable_and_centred() -> None:
    def steps(seed: int) -> list[float]:
        plant = Plant(PlantParams(host_ms=10.0, jitter_ratio=0.5), seed=seed)
        return [plant.decode_s([]) for _ in range(2000)]

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


def test_a_label_is_always_as_likely_after_the_same_item_and_never_more_than_certain() -> None:
    drawn = [drawn_logprob(seed=0, item=[item], label=[label]) for item in range(20) for label in range(20)]

    assert len(set(drawn)) == 400
    assert all(-10.0 <= each <= 0.0 for each in drawn)
    assert drawn_logprob(seed=0, item=[1], label=[2]) == drawn_logprob(seed=0, item=[1], label=[2])
    assert drawn_logprob(seed=0, item=[1, 2], label=[3]) != drawn_logprob(seed=0, item=[1], label=[2, 3])
