"""What an attack is, and what its client has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.attacks.scene import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of an attack."""

    frames: int
    """At most; of a flood."""
    limit_s: float
    """For its frames, and for the time that a connection is held."""
    connections: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of the attacker."""

    text: str
    is_fine: bool
    """The server did what it should."""


Attack = Callable[[Target, Scale], Seen]
