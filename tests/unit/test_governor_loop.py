"""Pins the closed loop: on a small plant the limit settles at the set-point, and follows a change."""

from __future__ import annotations

import random

import pytest

from governor.limit import Limit, LimitParams

SETPOINT_S = 0.9 * 0.05


class Plant:
    """An engine whose step takes a + b * batch, with a queue that never empties."""

    def __init__(self, *, seed: int) -> None:
        self._random = random.Random(seed)
        self._left: list[int] = []
        self.slowness = 1.0
        self.now_s = 0.0
        self.limit = Limit(LimitParams(), now_s=0.0)
        self.gaps: list[tuple[float, float, int]] = []

    def run(self, *, for_s: float) -> None:
        """Step, retire finished streams, refill to the limit, advance when due."""
        until_s = self.now_s + for_s
        while self.now_s < until_s:
            while len(self._left) < self.limit.value:
                self._left.append(self._random.randint(20, 120))
            noise = self._random.lognormvariate(0.0, 0.1)
            gap_s = self.slowness * (0.004 + 0.0006 * len(self._left)) * noise
            self.now_s += gap_s
            self.gaps.append((self.now_s, gap_s, len(self._left)))
            self.limit.observe_load(in_flight=len(self._left), queued=10)
            self.limit.observe_step(gap_s=gap_s, streams=len(self._left), now_s=self.now_s)
            self._left = [left - 1 for left in self._left if left > 1]
            self.limit.advance(now_s=self.now_s)

    def inter_token_s(self, *, last_s: float) -> float:
        """Token-weighted gap of the last seconds."""
        recent = [(gap_s, batch) for at_s, gap_s, batch in self.gaps if at_s > self.now_s - last_s]
        return sum(gap_s * batch for gap_s, batch in recent) / sum(batch for _, batch in recent)


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_settles_at_the_set_point_within_twenty_seconds(seed):
    plant = Plant(seed=seed)

    plant.run(for_s=20.0)

    assert plant.inter_token_s(last_s=3.0) == pytest.approx(SETPOINT_S, rel=0.10)
    assert plant.limit.value > 50


@pytest.mark.parametrize("seed", range(3))
def test_a_plant_twice_as_slow_is_back_at_the_set_point_within_twenty_seconds(seed):
    plant = Plant(seed=seed)
    plant.run(for_s=30.0)
    settled = plant.limit.value

    plant.slowness = 2.0
    plant.run(for_s=20.0)

    assert plant.inter_token_s(last_s=3.0) == pytest.approx(SETPOINT_S, rel=0.10)
    assert plant.limit.value < 0.6 * settled


def test_the_settled_limit_ripples_by_less_than_a_tenth():
    plant = Plant(seed=5)
    plant.run(for_s=30.0)

    values = []
    for _ in range(60):
        plant.run(for_s=0.5)
        values.append(plant.limit.value)

    mean = sum(values) / len(values)
    assert (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5 < 0.1 * mean
