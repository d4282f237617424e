"""
Which models may stay loaded: least recently used ones make room for the one that is asked for (pure).

What counts is the bytes of their weights, which are known before anything is loaded. Pinned models stay, and
those with requests in flight are not taken from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wicketgate.engine.memory import in_units

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model that is loaded, or about to be."""

    name: str
    weights_bytes: int
    is_pinned: bool
    """Never unloaded to make room."""
    is_busy: bool
    """Requests use it or wait for it."""
    used_s: float
    """When a request last began or ended with it, monotonic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The model fits once these are unloaded."""

    unload: tuple[str, ...]
    """Least recently used first; none where it fits as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRoom:
    """The model does not fit now."""

    wanted_bytes: int
    max_bytes: int
    pinned_bytes: int
    """Of residents that never go."""
    busy_bytes: int
    """Of residents that go when their requests have ended."""

    @property
    def may_wait(self) -> bool:
        """Whether it fits once the busy ones have become idle."""
        return self.pinned_bytes + self.wanted_bytes <= self.max_bytes

    def __str__(self) -> str:
        """Tell the arithmetic."""
        return (
            f"its weights take {in_units(self.wanted_bytes)}; of {in_units(self.max_bytes)}"
            f" (engine.models_max_bytes) pinned models hold {in_units(self.pinned_bytes)} and models in use"
            f" {in_units(self.busy_bytes)}"
        )


def make_room(residents: Sequence[Resident], *, wanted_bytes: int, max_bytes: int | None) -> Room | NoRoom:
    """
    Decide what to unload for a model.

    Args:
        residents: All that are loaded, the wanted one not among them.
        wanted_bytes: Its weights.
        max_bytes: Bound of all weights together; None is no bound.
    """
    if max_bytes is None:
        return Room(unload=())
    excess_bytes = total(residents) + wanted_bytes - max_bytes
    idle = [each for each in residents if not (each.is_pinned or each.is_busy)]
    idle.sort(key=lambda each: each.used_s)
    if total(idle) < excess_bytes:
        pinned_bytes = total(each for each in residents if each.is_pinned)
        return NoRoom(
            wanted_bytes=wanted_bytes,
            max_bytes=max_bytes,
            pinned_bytes=pinned_bytes,
            busy_bytes=total(residents) - pinned_bytes - total(idle),
        )
    chosen: list[Resident] = []
    for each in idle:
        if total(chosen) >= excess_bytes:
            break
        chosen.append(each)
    # A large one at the end may make room enough without the small ones before it: spare these, newest first.
    for each in reversed(chosen[:-1]):
        if total(chosen) - each.weights_bytes >= excess_bytes:
            chosen.remove(each)
    return Room(unload=tuple(each.name for each in chosen))


def total(models: Iterable[Resident]) -> int:
    """Add up the weights of models."""
    return sum(each.weights_bytes for each in models)
