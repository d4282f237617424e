"""
What one stage of one feature has shown: its guards, its counts and its hold clock.

Theory of operation: a failure is taken in at once, so that the one that decides also acts. What went well is
only counted, and taken in with the next failure or tick: within a tick no stake is laid down, so order and
grouping change nothing. A tick takes in what was counted, then lays stake down by the hold that was served.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from rollout.arm_tally import ArmTally
from rollout.attribution import CONVINCING, attribute
from rollout.comparison import Comparison
from rollout.error_guard import ErrorGuard
from rollout.guards import Arm, Attribution, Findings, Guard, Reading
from rollout.hold_clock import HoldClock
from rollout.promotion import PromotionEvidence, needed_requests, upper_bound_ratio
from rollout.saved import UNREADABLE, part
from rollout.spec import Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.guards import GuardParams
    from rollout.spec import Stage

_VERSION = 1
"""Of documents."""
_AROUND_S = 60.0
"""Failures so long after a request was lost with its engine host are put down to that."""


class Evidence:
    """
    Everything that is known about one stage of one feature.

    Args:
        params: What the guards hold.
        stage: What the stage asks for.
        share_ratio: Part of the requests that are the canary's, above 0; at 1 nothing can be compared.
        plan_s: Time over which the guards' stake is planned, above 0.
        document: What `document()` gave. One that is damaged, or was gathered under other rules, begins anew,
            and `problem` says why; of one that was gathered at another share only the comparison does.
    """

    def __init__(
        self,
        params: GuardParams,
        stage: Stage,
        *,
        share_ratio: float,
        plan_s: float,
        document: Mapping[str, object] | None = None,
    ) -> None:
        self._params, self._stage = params, stage
        self._share_ratio, self._plan_s = share_ratio, plan_s
        self._has_news = False
        self._since_death_s = _AROUND_S
        self.problem: str | None = None
        """Why a document was not gone on from."""
        try:
            self._begin(document)
        except UNREADABLE as error:
            self.problem = str(error)
            self._begin(None)

    def arrived(self, arm: Arm, key: int) -> None:
        """
        Count a request that was admitted or refused, by its key.

        Args:
            arm: That it is on.
            key: A whole number, the same for the same key.
        """
        if self._comparison is not None:
            self._comparison.keys.saw(arm, key)

    def first_token(self, arm: Arm, ttft_s: float) -> None:
        """Count a first token, and how long it took."""
        if self._comparison is not None:
            self._comparison.ttft.observe(arm, ttft_s)

    def ended(self, arm: Arm, *, failed: bool, key: int, tpot_s: float | None) -> None:
        """
        Count a request that finished or failed; once, at the earliest moment.

        Args:
            arm: That it is on.
            failed: By its own doing.
            key: Its key, as in `arrived`.
            tpot_s: Time per token after the first of one that finished; None where there was none.
        """
        tally = self._canary if arm is Arm.CANARY else self._control
        if failed:
            self._fail(arm, tally, key)
            return
        tally.finished += 1
        if tpot_s is not None and self._comparison is not None:
            self._comparison.itl.observe(arm, tpot_s)

    def finished(self, arm: Arm, count: int) -> None:
        """Count requests that finished, where no time of theirs is compared with anything."""
        self._tally(arm).finished += count

    def refused(self, arm: Arm) -> None:
        """Count a request that admission refused."""
        self._tally(arm).refused += 1

    def infrastructure(self, arm: Arm) -> None:
        """Count a request that was lost with its engine host, or in a drain; it decides nothing."""
        self._tally(arm).infrastructure += 1
        self._since_death_s = 0.0

    def trouble(self, trouble: Trouble) -> None:
        """Tell of trouble, again and again while it lasts; quiet begins anew if the stage asks for it."""
        if trouble in self._stage.quiet:
            self._clock.quiet_s = 0.0

    def fold(self, *, now_s: float, stands: bool = False) -> None:
        """
        Take in what was counted since the last tick, and let the clock go on.

        Args:
            now_s: Monotonic time.
            stands: The hold clock stands, as in a pause.
        """
        self._take_in()
        passed_s = self._clock.tick(
            now_s=now_s, ended=self._has_news, fresh_within_s=self._params.fresh_within_s, stands=stands
        )
        self._has_news = False
        self._since_death_s += passed_s
        progress = self._clock.served_s / self._plan_s
        self._errors.advance(progress)
        if self._comparison is not None:
            self._comparison.fold(progress)
            control = self._comparison.control_errors.evidence
            if min(control, self._errors.evidence) >= CONVINCING:
                self.trouble(Trouble.INCIDENT)
        self._blame()

    def resume(self) -> None:
        """Let the guards that paused the stage begin anew, so that they pause it once."""
        if self._comparison is not None:
            self._comparison.begin_anew([each for each in self._guards if self.is_tripped(each)])

    def is_tripped(self, guard: Guard) -> bool:
        """Tell whether a guard is at its limit."""
        return guard in self._guards and self.evidence(guard) >= self._params.limit(guard)

    def evidence(self, guard: Guard) -> float:
        """Return the evidence of a guard; 1 where there is nothing to compare with."""
        if guard is Guard.ERRORS:
            return self._errors.evidence
        return 1.0 if self._comparison is None else self._comparison.evidence(guard)

    @property
    def served_s(self) -> float:
        """Hold served: time with fresh data."""
        return self._clock.served_s

    @property
    def is_fresh(self) -> bool:
        """Whether a canary request ended lately."""
        return self._clock.idle_s <= self._params.fresh_within_s

    @property
    def canary_upper_ratio(self) -> float:
        """95 % upper bound of the canary's failure rate."""
        return upper_bound_ratio(self._canary.finished, self._canary.failed)

    @property
    def attribution(self) -> Attribution:
        """Whose failures they are; of an error guard at its limit, whose they were when it came there."""
        return self._blamed or self._attribution()

    def findings(self) -> Findings:
        """Return what the stage has shown so far."""
        canary, comparison = self._canary, self._comparison
        served_s = self._clock.served_s
        return Findings(
            readings=MappingProxyType({each: self.reading(each) for each in self._guards}),
            canary=canary.counts(),
            control=self._control.counts(),
            canary_upper_ratio=self.canary_upper_ratio,
            promotion_evidence=self._promotion.evidence,
            faster_ttft_evidence=1.0 if comparison is None else comparison.faster_ttft_evidence,
            throughput_evidence=1.0 if comparison is None else comparison.throughput_evidence,
            served_s=served_s,
            quiet_s=self._clock.quiet_s,
            attribution=self.attribution,
            needed_requests=needed_requests(
                self._stage.promote_below_percent / 100,
                canary.finished,
                canary.failed,
                1 / self._params.false_promotion_ratio,
            ),
            canary_per_s=canary.ended / served_s if served_s else 0.0,
        )

    def reading(self, guard: Guard) -> Reading:
        """Return what a guard has to say."""
        return Reading(guard=guard, evidence=self.evidence(guard), limit=self._params.limit(guard))

    def document(self) -> dict[str, object]:
        """Return what `Evidence` can go on from: plain JSON of a bounded size, and no keys in it."""
        # Failures are in the evidence already; what passed and was only counted must not be lost to it.
        self._take_in()
        return {
            "version": _VERSION,
            "rules": self._rules(),
            "share_ratio": self._share_ratio,
            "canary": self._canary.document(),
            "control": self._control.document(),
            "clock": self._clock.document(),
            "blamed": self._blamed,
            "errors": self._errors.document(),
            "promotion": self._promotion.document(),
            "comparison": None if self._comparison is None else self._comparison.document(),
        }

    def _begin(self, saved: Mapping[str, object] | None) -> None:
        """Set up all that a document holds."""
        if saved is not None and (saved.get("version"), saved.get("rules")) != (_VERSION, self._rules()):
            raise ValueError("it was gathered by another version, or under other rules")
        parts = {name: None if saved is None else part(saved, name) for name in _PARTS}
        params, stage = self._params, self._stage
        self._canary = ArmTally(params.failures_per_key, parts["canary"])
        self._control = ArmTally(params.failures_per_key, parts["control"])
        self._clock = HoldClock(parts["clock"])
        self._errors = ErrorGuard(params.error_limit_ratio, parts["errors"])
        self._promotion = PromotionEvidence(stage.promote_below_percent / 100, parts["promotion"])
        blamed = None if saved is None else saved.get("blamed")
        self._blamed = None if blamed is None else Attribution(str(blamed))
        self._comparison: Comparison | None = None
        if self._share_ratio < 1:
            same_share = saved is not None and saved.get("share_ratio") == self._share_ratio
            compared = part(saved, "comparison") if saved is not None and same_share else None
            self._comparison = Comparison(params, stage, share_ratio=self._share_ratio, document=compared)
        self._guards = (Guard.ERRORS,) if self._comparison is None else tuple(Guard)

    def _rules(self) -> dict[str, object]:
        """What evidence is evidence against."""
        params, stage = self._params, self._stage
        return {
            "error_limit_ratio": params.error_limit_ratio,
            "ttft": [params.ttft.tolerance_ratio, params.ttft.rollback_at_ratio],
            "itl": [params.itl.tolerance_ratio, params.itl.rollback_at_ratio],
            "faster_ttft": stage.faster_ttft,
            "throughput_gain_percent": stage.throughput_gain_percent,
        }

    def _tally(self, arm: Arm) -> ArmTally:
        return self._canary if arm is Arm.CANARY else self._control

    def _fail(self, arm: Arm, tally: ArmTally, key: int) -> None:
        tally.failed += 1
        if not tally.cap.counts(key):
            return
        tally.counted_failures += 1
        if arm is Arm.CANARY:
            self._errors.observe(tally.take_passed(), 1)
        elif self._comparison is not None:
            self._comparison.control_errors.observe(tally.take_passed(), 1)
        if self._comparison is not None:
            self._comparison.failed(arm)
        self._blame()

    def _take_in(self) -> None:
        """Take in what was only counted so far, in the order of arms, whatever order it came in."""
        canary, control, comparison = self._canary, self._control, self._comparison
        self._errors.observe(canary.take_passed(), 0)
        finished, failed = canary.take_ended()
        self._promotion.observe(finished, failed)
        self._has_news |= finished + failed > 0
        if comparison is not None:
            comparison.control_errors.observe(control.take_passed(), 0)
            comparison.refused(canary.take_refused(), control.take_refused())

    def _blame(self) -> None:
        """Remember whose failures it were that brought the error guard to its limit."""
        if not self.is_tripped(Guard.ERRORS):
            self._blamed = None
        elif self._blamed is None or self.evidence(Guard.RELATIVE) >= CONVINCING:
            self._blamed = self._attribution()

    def _attribution(self) -> Attribution:
        if not self._canary.counted_failures:
            return Attribution.UNKNOWN
        comparison = self._comparison
        return attribute(
            relative=self.evidence(Guard.RELATIVE),
            control=1.0 if comparison is None else comparison.control_errors.evidence,
            control_upper_ratio=upper_bound_ratio(self._control.finished, self._control.failed),
            limit_ratio=self._params.error_limit_ratio,
            engine_died=self._since_death_s < _AROUND_S,
        )


_PARTS = ("canary", "control", "clock", "errors", "promotion")
