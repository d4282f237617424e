"""How much memory stays resident for the GPU of a Mac, and when none does. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WIRE_ABOVE_RATIO: Final = 0.6
"""Smaller weights stay resident by themselves, and a wired set is what precedes kernel panics (mlx#3186)."""
WIRING_MACOS: Final = (15, 0)
"""The first macOS that can wire."""


def wired_bytes_for(
    asked_bytes: int | None,
    *,
    weights_bytes: int,
    recommended: int | None,
    macos: tuple[int, ...] | None,
    safe_mode: bool = False,
) -> int:
    """
    Decide how much stays resident for the GPU; it is set after the load, and 0 wires nothing.

    Args:
        asked_bytes: What the configuration says; None decides by the weights.
        weights_bytes: Of the model.
        recommended: What the device recommends; more than this is refused by it.
        macos: Version of the system, None on any other.
        safe_mode: Whether the GPU has failed repeatedly.
    """
    if safe_mode or recommended is None or macos is None or macos < WIRING_MACOS:
        return 0
    if asked_bytes is not None:
        return min(asked_bytes, recommended)
    return min(weights_bytes, recommended) if weights_bytes > WIRE_ABOVE_RATIO * recommended else 0


def set_wired(set_limit: Callable[[int], object], wanted_bytes: int) -> int:
    """
    Set the wired limit, or 0 where the device refuses it; returns what is in force.

    Args:
        set_limit: `mx.set_wired_limit`.
        wanted_bytes: What `wired_bytes_for` decided.
    """
    try:
        set_limit(wanted_bytes)
    except (ValueError, RuntimeError):
        # Above what the device recommends now: its owner may have lowered that since it was read.
        set_limit(0)
        return 0
    return wanted_bytes


class Wiring:
    """
    What is wired over the life of a host: nothing between a sleep and the first sign that the GPU is well.

    Waking with wired memory has preceded kernel panics (omlx#978).

    Args:
        set_limit: `mx.set_wired_limit`.
        wanted_bytes: What `wired_bytes_for` decided.
    """

    def __init__(self, set_limit: Callable[[int], object], wanted_bytes: int) -> None:
        self._set_limit = set_limit
        self.bytes = set_wired(set_limit, wanted_bytes) if wanted_bytes else 0
        """What is wired now."""

    def woke(self, probe: Callable[[], bool]) -> None:
        """
        Wire nothing after a sleep, and again what was wired once a small computation went well.

        Args:
            probe: Computes something; False, or a RuntimeError, keeps everything unwired from now on.
        """
        if not self.bytes:
            return
        wanted_bytes, self.bytes = self.bytes, 0
        self._set_limit(0)
        try:
            is_well = probe()
        except RuntimeError:
            is_well = False
        if is_well:
            self.bytes = set_wired(self._set_limit, wanted_bytes)
