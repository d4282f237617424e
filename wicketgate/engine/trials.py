"""
Which of the requests in flight kills the hosts. Pure.

Theory of operation. A death says only that somebody who was being computed may be to blame. Whoever was there
at two deaths is a suspect; suspects are tried on the next host, one at a time with nobody beside them. What
happens in a trial speaks against the one on trial alone: its second death there convicts, 8 tokens or the end
clear. Nobody is convicted for having been beside the culprit, so with a culprit that kills whenever it is
computed every other request goes on.

A host that dies of a request's first chunk may have had no time to tell that it began with it. So waiting in
a dead host's queue speaks against a request too, but half as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

COMPUTED: Final = 2
"""What a death says against a request that was being computed, or was on trial."""
WAITED: Final = 1
"""What it says against one that was not known to be computed yet."""
ENOUGH: Final = 4
"""So much evidence makes a suspect, or of a suspect a culprit."""
TRIAL_TOKENS: Final = 8
"""A suspect that alone emits so many tokens is cleared."""


class Standing(StrEnum):
    """What a request is taken for."""

    INNOCENT = "innocent"
    SUSPECT = "suspect"
    ON_TRIAL = "on_trial"
    CONVICTED = "convicted"


class Finding(StrEnum):
    """What happened to it."""

    DEATH = "death"
    """A host died while it was computed."""
    LAST_DEATH = "last_death"
    """The same, for the last time that is tolerated in its standing."""
    CALLED = "called"
    """It goes to the host alone."""
    PASSED = "passed"
    """It has shown that it does no harm."""


TRANSITIONS: Final = {
    (Standing.INNOCENT, Finding.DEATH): Standing.INNOCENT,
    (Standing.INNOCENT, Finding.LAST_DEATH): Standing.SUSPECT,
    (Standing.SUSPECT, Finding.CALLED): Standing.ON_TRIAL,
    (Standing.ON_TRIAL, Finding.PASSED): Standing.INNOCENT,
    (Standing.ON_TRIAL, Finding.DEATH): Standing.SUSPECT,
    (Standing.ON_TRIAL, Finding.LAST_DEATH): Standing.CONVICTED,
}


class TransitionError(ValueError):
    """
    A finding that cannot be in this standing; nothing changed.

    Args:
        standing: What the request is taken for.
        finding: What is said to have happened to it.
    """

    def __init__(self, standing: Standing, finding: Finding) -> None:
        super().__init__(f"{finding} is not possible for a request that is {standing}")
        self.standing = standing
        self.finding = finding


def moved(standing: Standing, finding: Finding) -> Standing:
    """
    Return what a request is taken for after a finding.

    Raises:
        TransitionError: the finding cannot be.
    """
    if (standing, finding) not in TRANSITIONS:
        raise TransitionError(standing, finding)
    return TRANSITIONS[standing, finding]


@dataclass(slots=True)
class _Case:
    rank: int
    standing: Standing = Standing.INNOCENT
    evidence: int = 0
    """Gathered with others while it is innocent, alone from then on."""
    tokens: int = 0
    """Emitted in its trial."""

    def die(self, evidence: int) -> None:
        self.evidence += evidence
        last = self.evidence >= ENOUGH
        self.standing = moved(self.standing, Finding.LAST_DEATH if last else Finding.DEATH)
        if last:  # what it did with others is not held against it alone
            self.evidence = 0


class Trials:
    """The standing of every request that has not ended."""

    def __init__(self) -> None:
        self._cases: dict[int, _Case] = {}
        self._on_trial: int | None = None
        self._suspects = 0

    @property
    def in_session(self) -> bool:
        """Whether somebody is on trial or waits for it: nobody else may go to the host."""
        return self._on_trial is not None or self._suspects > 0

    def standing(self, key: int) -> Standing:
        """Tell what a request is taken for."""
        return self._cases[key].standing

    def add(self, key: int, *, rank: int = 0) -> None:
        """Take a request; lower ranks are tried first, among equals those with evidence, then older ones."""
        self._cases[key] = _Case(rank)

    def end(self, key: int) -> None:
        """Forget a request, however it ended; unknown ones are ignored."""
        case = self._cases.pop(key, None)
        if case is None:
            return
        self._suspects -= case.standing is Standing.SUSPECT
        if key == self._on_trial:
            self._on_trial = None

    def call(self) -> list[int]:
        """
        Put the next suspect on trial, unless somebody is.

        Returns:
            Whom comes from now on, in order: the one just put on trial, then the suspects after it. Empty
            while an earlier trial lasts, and when no suspect is left.
        """
        if self._on_trial is not None or not self._suspects:
            return []
        suspects = [(key, case) for key, case in self._cases.items() if case.standing is Standing.SUSPECT]
        # The one that a host died of is tried again first, while everybody waits for the verdict.
        suspects.sort(key=lambda each: (each[1].rank, -each[1].evidence, each[0]))
        key, case = suspects[0]
        case.standing = moved(case.standing, Finding.CALLED)
        case.tokens = 0
        self._suspects -= 1
        self._on_trial = key
        return [key for key, _ in suspects]

    def emitted(self, key: int, *, tokens: int) -> bool:
        """Note tokens of a request; returns whether it was cleared by them."""
        if key != self._on_trial:
            return False
        case = self._cases[key]
        case.tokens += tokens
        if case.tokens < TRIAL_TOKENS:
            return False
        case.standing = moved(case.standing, Finding.PASSED)
        case.evidence = 0
        self._on_trial = None
        return True

    def died(self, computed: Collection[int], *, waited: Collection[int] = ()) -> list[int]:
        """
        Note the death of a host; with somebody on trial only that one counts.

        Args:
            computed: Whom it was known to compute.
            waited: Whom else it had been sent.

        Returns:
            Those convicted; they are forgotten.
        """
        blamed = dict.fromkeys(waited, WAITED) | dict.fromkeys(computed, COMPUTED)
        if self._on_trial is not None:
            blamed = {self._on_trial: COMPUTED}
        self._on_trial = None
        convicted = []
        for key, evidence in blamed.items():
            case = self._cases[key]
            case.die(evidence)
            self._suspects += case.standing is Standing.SUSPECT
            if case.standing is Standing.CONVICTED:
                del self._cases[key]
                convicted.append(key)
        return convicted
