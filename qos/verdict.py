"""What the monitor may say: the states of an objective, the table that moves them, and the events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How an objective stands."""

    NO_DATA = "no_data"
    OK = "ok"
    WARNING = "warning"
    VIOLATED = "violated"
    RECOVERING = "recovering"


class Reading(StrEnum):
    """What one tick says about an objective."""

    MISSING = "missing"
    """Too few events."""
    HEALTHY = "healthy"
    """Well inside the budget."""
    FAIR = "fair"
    """Near the budget, or over it without evidence."""
    SUSPECT = "suspect"
    """Evidence worth a warning."""
    BREACH = "breach"
    """Evidence to act on, for hold_ticks in a row."""
    RECOVERED = "recovered"
    """Healthy for recover_after_s."""


TRANSITIONS: dict[tuple[State, Reading], State] = {
    (State.NO_DATA, Reading.MISSING): State.NO_DATA,
    (State.NO_DATA, Reading.HEALTHY): State.OK,
    (State.NO_DATA, Reading.FAIR): State.OK,
    (State.NO_DATA, Reading.SUSPECT): State.WARNING,
    (State.NO_DATA, Reading.BREACH): State.VIOLATED,
    (State.OK, Reading.MISSING): State.NO_DATA,
    (State.OK, Reading.HEALTHY): State.OK,
    (State.OK, Reading.FAIR): State.OK,
    (State.OK, Reading.SUSPECT): State.WARNING,
    (State.OK, Reading.BREACH): State.VIOLATED,
    (State.WARNING, Reading.MISSING): State.NO_DATA,
    (State.WARNING, Reading.HEALTHY): State.OK,
    (State.WARNING, Reading.FAIR): State.OK,
    (State.WARNING, Reading.SUSPECT): State.WARNING,
    (State.WARNING, Reading.BREACH): State.VIOLATED,
    (State.VIOLATED, Reading.MISSING): State.VIOLATED,
    (State.VIOLATED, Reading.HEALTHY): State.RECOVERING,
    (State.VIOLATED, Reading.FAIR): State.VIOLATED,
    (State.VIOLATED, Reading.SUSPECT): State.VIOLATED,
    (State.VIOLATED, Reading.BREACH): State.VIOLATED,
    (State.RECOVERING, Reading.MISSING): State.VIOLATED,
    (State.RECOVERING, Reading.HEALTHY): State.RECOVERING,
    (State.RECOVERING, Reading.FAIR): State.VIOLATED,
    (State.RECOVERING, Reading.SUSPECT): State.VIOLATED,
    (State.RECOVERING, Reading.BREACH): State.VIOLATED,
    (State.RECOVERING, Reading.RECOVERED): State.OK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise is broken; said once per episode."""

    objective: str
    """Name of the objective."""
    bad: int
    """Bad events in the span that convicts."""
    total: int
    """All events in it."""
    evidence_nats: float
    """How sure it is."""
    at_s: float
    """When it was found."""
    why: str
    """The same in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A promise is kept again; said once per episode."""

    objective: str
    """Name of the objective."""
    duration_s: float
    """Since its violation was found."""
    at_s: float
    """When it was found to be over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an objective stands now."""

    objective: str
    """Name of the objective."""
    state: State
    """As of the last tick."""
    bad: int
    """Bad events in the window, requests that wait too long among them."""
    total: int
    """All events in the window."""
    burn_rate: float | None
    """Bad share over the allowed one; None without events."""
    evidence_nats: float
    """The stronger evidence of the two windows."""
    why: str
    """The same in a sentence."""
