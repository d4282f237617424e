"""What a controller can decide about a feature; carrying it out is the shell's work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.guards import Attribution, Guard


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Put the feature to 0 % and latch it there: in memory at once."""

    feature: str
    guard: Guard
    """That is at its limit."""
    attribution: Attribution
    why: str
    """In words, for the audit."""
    evidence: Mapping[str, object] = field(repr=False)
    """The findings, as plain JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Keep the share and let nothing go on until a person resumes it."""

    feature: str
    guard: Guard
    why: str
    evidence: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Write down that the stage stays where it is, and what is missing."""

    feature: str
    why: str
    evidence: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Go on to the next stage: durable first."""

    feature: str
    why: str
    evidence: Mapping[str, object] = field(repr=False)


Decision: TypeAlias = RollBack | Pause | Hold | Promote
