"""Pins the speeds that chips promise against the table they come from, and what heat and pressure take."""

from __future__ import annotations

import random

import pytest

from wicketgate.chips import (
    CHIPS,
    OBJECTIVE_S,
    OVERHEAD_S,
    Chip,
    derating,
    find_chip,
    prefill_tokens_per_s,
    speed_ratio,
    uncached_tokens,
)

PARAMETERS = {"1B": 1.24e9, "4B": 4.02e9, "8B": 8.1e9, "14B": 14.8e9, "30B-A3B": 3.3e9}
"""Llama-3.2-1B, Qwen3-4B, between Llama-3.1-8B and Qwen3-8B, Qwen3-14B, the active ones of 30B-A3B."""
PROMISED = {
    ("M1", 8): (260, 80, 40, 20, 70),
    ("M1 Pro", 16): (600, 180, 90, 50, 170),
    ("M1 Max", 32): (1200, 370, 180, 100, 350),
    ("M1 Ultra", 64): (2310, 710, 350, 190, 680),
    ("M2", 10): (400, 120, 60, 30, 110),
    ("M2 Pro", 16): (670, 200, 100, 50, 190),
    ("M2 Max", 38): (1200, 370, 180, 100, 260),
    ("M2 Ultra", 76): (2780, 850, 420, 230, 820),
    ("M3", 10): (410, 120, 60, 30, 120),
    ("M3 Pro", 18): (830, 250, 120, 70, 240),
    ("M3 Max", 40): (1710, 520, 260, 140, 500),
    ("M3 Ultra", 60): (3150, 970, 480, 260, 930),
    ("M3 Ultra", 80): (4030, 1240, 610, 330, 1190),
    ("M4", 10): (600, 180, 90, 50, 170),
    ("M4 Pro", 20): (1000, 310, 150, 80, 290),
    ("M4 Max", 40): (2180, 670, 330, 180, 640),
    ("M5", 10): (2380, 730, 360, 190, 640),
    ("M5 Pro", 20): (4330, 1330, 660, 360, 990),
}
"""Uncached tokens for a TTFT of 550 ms, rounded down to ten: the table that the project started from."""


def promise(chip: Chip, model: str) -> int:
    rate = prefill_tokens_per_s(chip, parameters=PARAMETERS[model], is_sparse=model.endswith("A3B"))
    return uncached_tokens(rate)


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: f"{chip.name} {chip.gpu_cores}")
def test_each_chip_promises_what_the_table_says(chip: Chip) -> None:
    promised = tuple(promise(chip, model) // 10 * 10 for model in PARAMETERS)

    assert promised == PROMISED[chip.name, chip.gpu_cores]


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: f"{chip.name} {chip.gpu_cores}")
@pytest.mark.parametrize("model", PARAMETERS)
def test_every_prompt_up_to_the_promise_keeps_the_objective_on_a_chip_that_is_5_percent_slower(
    chip: Chip, model: str
) -> None:
    draw = random.Random(1)
    rate = prefill_tokens_per_s(chip, parameters=PARAMETERS[model], is_sparse=model.endswith("A3B"))
    tokens = uncached_tokens(rate)

    times = sorted(OVERHEAD_S + tokens / (rate * draw.uniform(0.9, 1.1)) for _ in range(1000))

    assert times[949] <= OBJECTIVE_S


@pytest.mark.parametrize("name", ["Apple M4 Max", "M4 Max", " Apple M4 Max "])
def test_a_chip_is_found_by_the_name_that_macos_gives_it(name: str) -> None:
    found = find_chip(name, gpu_cores=40)

    assert found is not None
    assert found.name == "M4 Max"


@pytest.mark.parametrize("name", ["Intel(R) Core(TM) i9", "Apple M9", "Apple M4 Mega", "Apple M4 Maxi", ""])
def test_a_chip_that_is_not_in_the_table_is_not_guessed(name: str) -> None:
    assert find_chip(name) is None


def test_of_a_chip_in_two_sizes_the_one_with_these_cores_is_taken() -> None:
    sizes = [find_chip("Apple M3 Ultra", gpu_cores=cores) for cores in (60, 80, None)]

    assert [size.dense for size in sizes if size] == [9.4, 12.0, 9.4]


@pytest.mark.parametrize(("name", "cores", "dense"), [("M4 Max", 32, 5.2), ("M5", 8, 5.68)])
def test_a_chip_with_fewer_cores_is_as_much_slower(name: str, cores: int, dense: float) -> None:
    found = find_chip(name, gpu_cores=cores)

    assert found is not None
    assert found.dense == pytest.approx(dense)
    assert found.sparse is None or found.sparse == pytest.approx(6.5 * 0.8)
    assert found.is_estimate


def test_a_chip_with_more_cores_than_known_promises_no_more_than_known() -> None:
    found = find_chip("M4 Max", gpu_cores=48)

    assert found is not None
    assert found.dense == 6.5


@pytest.mark.parametrize(
    ("thermal", "power", "ratio"),
    [
        (None, None, 1.0),
        (0, "high", 1.0),
        (1, "automatic", 0.85),
        (2, None, 0.7),
        (4, None, 0.4),
        (9, None, 0.4),
        (0, "low", 0.4),
        (2, "low", 0.28),
    ],
)
def test_heat_and_low_power_slow_a_mac_down(thermal: int | None, power: str | None, ratio: float) -> None:
    assert speed_ratio(thermal=thermal, power=power) == pytest.approx(ratio)


def test_the_promise_shrinks_with_the_speed() -> None:
    assert uncached_tokens(1000.0) == 416
    assert uncached_tokens(1000.0, speed_ratio=0.7) == 291


@pytest.mark.parametrize(
    ("thermal", "power", "pressure", "ratio"),
    [
        (None, None, None, 1.0),
        (0, "high", 0, 1.0),
        (2, "high", 0, 0.7),
        (0, "high", 1, 0.75),
        (0, "high", 2, 0.25),
        (2, "low", 1, 0.28),
    ],
)
def test_the_limit_of_requests_falls_with_the_worse_of_speed_and_room(
    thermal: int | None, power: str | None, pressure: int | None, ratio: float
) -> None:
    assert derating(thermal=thermal, power=power, pressure=pressure) == pytest.approx(ratio)


def test_the_limit_never_falls_to_nothing() -> None:
    assert derating(thermal=4, power="low", pressure=2) > 0.1
