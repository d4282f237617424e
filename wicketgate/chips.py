"""
How fast Apple's chips compute prompts, and what is left of it on a hot or pressed machine. Pure.

Prefill of quantised dense models follows P = 1000 C / B tokens a second, with B in billions of parameters and
C a constant of the chip. The constants are other people's measurements, or scaled from llama.cpp's where
marked as estimates; none was taken by this project.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

OBJECTIVE_S: Final = 0.55
"""The TTFT that 95 of 100 requests must keep."""
OVERHEAD_S: Final = 0.06
"""Of it: everything but the prefill."""
MARGIN_RATIO: Final = 0.85
"""What is promised of the rest."""
SPARSE_FACTOR: Final = 1.27
"""A mixture of experts computes like a dense model of so many times its active parameters (3.3 B: 4.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One chip with one number of GPU cores."""

    name: str
    gpu_cores: int
    bandwidth_gb: int
    """Gigabytes a second from memory."""
    dense: float
    """C of dense models."""
    sparse: float | None = None
    """C of mixtures of experts, where it was measured to be lower."""
    is_estimate: bool = False


def _chip(name: str, cores: int, bandwidth: int, dense: float, *, estimate: bool = False) -> Chip:
    return Chip(name=name, gpu_cores=cores, bandwidth_gb=bandwidth, dense=dense, is_estimate=estimate)


CHIPS: Final = (
    _chip("M1", 8, 68, 0.8, estimate=True),
    _chip("M1 Pro", 16, 200, 1.8, estimate=True),
    _chip("M1 Max", 32, 400, 3.6, estimate=True),
    _chip("M1 Ultra", 64, 800, 6.9, estimate=True),
    _chip("M2", 10, 100, 1.2, estimate=True),
    _chip("M2 Pro", 16, 200, 2.0, estimate=True),
    Chip(name="M2 Max", gpu_cores=38, bandwidth_gb=400, dense=3.6, sparse=2.63),
    _chip("M2 Ultra", 76, 800, 8.3, estimate=True),
    _chip("M3", 10, 100, 1.25, estimate=True),
    _chip("M3 Pro", 18, 150, 2.5),
    _chip("M3 Max", 40, 400, 5.1, estimate=True),
    _chip("M3 Ultra", 60, 819, 9.4),
    _chip("M3 Ultra", 80, 819, 12.0),
    _chip("M4", 10, 120, 1.8),
    _chip("M4 Pro", 20, 273, 3.0, estimate=True),
    _chip("M4 Max", 40, 546, 6.5),
    Chip(name="M5", gpu_cores=10, bandwidth_gb=153, dense=7.1, sparse=6.5),
    Chip(name="M5 Pro", gpu_cores=20, bandwidth_gb=307, dense=12.9, sparse=10.0),
)

_HEAT: Final = (1.0, 0.85, 0.7, 0.4, 0.4)
"""By thermal level; laptops lose about 30 % over five long runs (ds4#52)."""
_LOW_POWER: Final = 0.4
"""12 tokens a second where high power gave 30 (MTPLX#128)."""
_PRESSURE: Final = (1.0, 0.75, 0.25)
"""By the system's shortage of memory: more streams would only add to it."""


def find_chip(name: str, *, gpu_cores: int | None = None) -> Chip | None:
    """
    Return what is known of a chip; None for one that is not in the table.

    Args:
        name: As macOS says it, such as `Apple M3 Ultra`.
        gpu_cores: How many cores its GPU has. With fewer than in the table it is as much slower; without a
            number the smallest of that name is taken.
    """
    found = re.fullmatch(r"(?:Apple )?(M\d+(?: (?:Pro|Max|Ultra))?)", name.strip())
    known = [chip for chip in CHIPS if found is not None and chip.name == found[1]]
    if not known:
        return None
    if gpu_cores is None:
        return known[0]
    nearest = min(known, key=lambda chip: abs(chip.gpu_cores - gpu_cores))
    scale = min(1.0, gpu_cores / nearest.gpu_cores)
    if scale == 1.0:
        return nearest
    return Chip(
        name=nearest.name,
        gpu_cores=gpu_cores,
        bandwidth_gb=nearest.bandwidth_gb,
        dense=nearest.dense * scale,
        sparse=None if nearest.sparse is None else nearest.sparse * scale,
        is_estimate=True,
    )


def prefill_tokens_per_s(chip: Chip, *, parameters: float, is_sparse: bool = False) -> float:
    """
    Return how many prompt tokens a second a chip computes of a quantised model.

    Args:
        chip: Which.
        parameters: Of the model; of a mixture of experts those that one token uses.
        is_sparse: Whether it is a mixture of experts.
    """
    if is_sparse:
        return 1e12 * (chip.sparse or chip.dense) / (parameters * SPARSE_FACTOR)
    return 1e12 * chip.dense / parameters


def uncached_tokens(prefill_per_s: float, *, speed_ratio: float = 1.0) -> int:
    """
    Return N: how long a prompt without a cached prefix may be for TTFT to keep its objective, idle.

    Args:
        prefill_per_s: Tokens a second, by the table or as measured.
        speed_ratio: What heat and power mode leave of it, see `speed_ratio`.
    """
    return int(MARGIN_RATIO * (OBJECTIVE_S - OVERHEAD_S) * prefill_per_s * speed_ratio)


def speed_ratio(*, thermal: int | None, power: str | None) -> float:
    """
    Return what is left of a Mac's speed; what is unknown costs nothing.

    Args:
        thermal: 0 nominal to 4 sleeping.
        power: low, automatic or high.
    """
    heat = 1.0 if thermal is None else _HEAT[min(thermal, len(_HEAT) - 1)]
    return heat * (_LOW_POWER if power == "low" else 1.0)


def derating(*, thermal: int | None, power: str | None, pressure: int | None) -> float:
    """
    Return which share of the limit of requests in flight a Mac's state leaves.

    Args:
        thermal: 0 nominal to 4 sleeping.
        power: low, automatic or high.
        pressure: Shortage of memory: 0 normal, 1 warning, 2 critical.
    """
    room = 1.0 if pressure is None else _PRESSURE[min(pressure, len(_PRESSURE) - 1)]
    return min(speed_ratio(thermal=thermal, power=power), room)
