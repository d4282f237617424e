"""
When an engine that shows no token is asked for one, and when it counts as stuck (pure).

Tokens of requests are the best proof that an engine computes; an engine that has shown none for a while is
asked for one token, and any token, whoever it is for, is the answer. Only silence makes it stuck: one that is
busy with long prompts shows the tokens of others, or comes to the probe between two chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeParams:
    """When to ask, and how long to wait."""

    interval_s: float = 5.0
    """Of silence, after which a token is asked for."""
    timeout_s: float = 10.0
    """After which an engine that was asked and gave none counts as stuck."""

    def __post_init__(self) -> None:
        for name in ("interval_s", "timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


class ProbeEvent(StrEnum):
    """What the shell must do."""

    ASK = "ask"
    """Ask the engine for one token."""
    GIVE_UP = "give_up"
    """Take back what was asked; the engine is stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What is known of an engine."""

    is_stuck: bool
    token_age_s: float | None
    """Since its last token; None before the first."""
    beat_age_s: float | None
    """Since its step loop was last heard of; None before the first time."""


class EngineProbe:
    """
    Watches one engine.

    Args:
        params: When to ask, and how long to wait.
        now_s: Monotonic seconds.
    """

    def __init__(self, params: ProbeParams, *, now_s: float) -> None:
        self._params = params
        self._is_up = False
        self._quiet_since_s = now_s
        """When it was last known to compute, or given up; from there the next question is due."""
        self._asked_s: float | None = None
        self._is_stuck = False
        self._token_s: float | None = None
        self._beat_s: float | None = None

    def reconfigure(self, params: ProbeParams) -> None:
        """Put other times in force."""
        self._params = params

    def up(self, is_up: bool, *, now_s: float) -> None:
        """Tell whether a host runs that could answer; one that has just come has its interval before it."""
        if is_up != self._is_up:
            self._is_up = is_up
            self._asked_s = None
            self._is_stuck = False
            self._quiet_since_s = now_s

    def beat(self, *, now_s: float) -> None:
        """Tell that the step loop was heard of."""
        self._beat_s = now_s

    def token(self, *, now_s: float) -> None:
        """Tell that a token came."""
        self._token_s = self._quiet_since_s = now_s
        self._asked_s = None
        self._is_stuck = False

    def failed(self, *, now_s: float) -> None:
        """Tell that what was asked ended without a token."""
        if self._asked_s is not None:
            self._asked_s = None
            self._is_stuck = True
            self._quiet_since_s = now_s

    @property
    def deadline_s(self) -> float | None:
        """When there is work; None while no host runs."""
        if not self._is_up:
            return None
        if self._asked_s is not None:
            return self._asked_s + self._params.timeout_s
        return self._quiet_since_s + self._params.interval_s

    def advance(self, *, now_s: float) -> list[ProbeEvent]:
        """Say what is due."""
        deadline_s = self.deadline_s
        if deadline_s is None or now_s < deadline_s:
            return []
        if self._asked_s is None:
            self._asked_s = now_s
            return [ProbeEvent.ASK]
        self.failed(now_s=now_s)
        return [ProbeEvent.GIVE_UP]

    def pulse(self, *, now_s: float) -> Pulse:
        """Tell what is known."""
        return Pulse(
            is_stuck=self._is_stuck,
            token_age_s=None if self._token_s is None else now_s - self._token_s,
            beat_age_s=None if self._beat_s is None else now_s - self._beat_s,
        )
