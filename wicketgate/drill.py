"""
A rehearsal: requests on one feature fail, or wait, on purpose, so that a rollback can be watched. Pure.

`phase4_rollout.drill` switches it on; without it nobody is hit. What fails is spread evenly by counting, so
that a drill is the same each time: of 0.25, every fourth request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_ROUNDING = 1e-9
"""So little is missing where a part such as 0.1 was added up ten times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillParams:
    """What is done to whom."""

    feature: str | None = None
    """Requests that are on this feature are hit; None hits nobody."""
    fail_ratio: float = 0.0
    """Part of them that fails, 0 to 1."""
    delay_s: float = 0.0
    """How long each of the others waits before it begins."""

    @property
    def is_on(self) -> bool:
        """Whether anybody is hit."""
        return self.feature is not None and (self.fail_ratio > 0 or self.delay_s > 0)

    def __str__(self) -> str:
        """Say what is done to whom."""
        deeds = []
        if self.fail_ratio > 0:
            deeds.append(f"{100 * self.fail_ratio:g} % of them fail")
        if self.delay_s > 0:
            deeds.append(f"each waits {self.delay_s:g} s")
        return f"requests on {self.feature}: {' and '.join(deeds)}" if self.is_on else "off"


@dataclass(frozen=True, slots=True)
class Hit:
    """What a request has to bear."""

    fails: bool
    delay_s: float


class Drill:
    """Chooses whom the drill hits."""

    def __init__(self, params: DrillParams) -> None:
        self.params = params
        self._owed = 0.0

    def hit(self, on: Collection[str]) -> Hit | None:
        """Tell what a request that is on these features has to bear; None is nothing."""
        params = self.params
        if params.feature is None or params.feature not in on or not params.is_on:
            return None
        self._owed += params.fail_ratio
        fails = self._owed >= 1 - _ROUNDING
        if fails:
            self._owed -= 1
        return Hit(fails=fails, delay_s=0.0 if fails else params.delay_s)

    def reconfigure(self, params: DrillParams) -> None:
        """Go on with other parameters, from the first request on."""
        if params != self.params:
            self.params = params
            self._owed = 0.0
