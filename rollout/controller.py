"""
Follows the rollout of one feature and decides what becomes of it.

Theory of operation: `follow` is told where the feature stands; evidence belongs to one entry to one stage,
and begins anew with the next. Facts come in by verbs and count only while somebody is on. Guards decide after
each failure of a canary and on every tick, in every phase; promotion is decided on ticks only. A decision is
given once; when nothing has come of it after a minute it is given again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from rollout.alarm import alarm
from rollout.decisions import Decision, Hold, Pause, Promote, RollBack
from rollout.evidence import Evidence
from rollout.findings import findings_document
from rollout.guards import Arm, Attribution, Guard
from rollout.stages import Phase
from rollout.standing import PERIOD_S, Standing, standing_of
from rollout.verdict import Judged, Kind, Verdict, verdict
from rollout.wording import number, span

if TYPE_CHECKING:
    from rollout.assignment import FlagSnapshot
    from rollout.guards import Findings, GuardParams
    from rollout.spec import Stage, Trouble

_RETRY_S = 60.0
_ROLL_BACK = (Guard.ERRORS, Guard.RELATIVE, Guard.TTFT_FAR, Guard.ITL_FAR)
_PAUSE = (Guard.RELATIVE, Guard.REFUSED, Guard.TTFT, Guard.ITL)
_WATCHED = (Phase.RUNNING, Phase.HOLDING)
"""Phases that can be paused, or be left upward."""


class _Basis(NamedTuple):
    """What evidence is evidence of."""

    entry: tuple[str | None, float | None]
    stage: Stage
    share_ratio: float


class Controller:
    """
    Decides about one feature. For one thread.

    Facts are of requests that are on the feature, or could have been: they have what it requires. They were
    assigned since `begun` became what it is: who was admitted before was drawn by another share.

    Args:
        feature: Its name.
        params: What the guards hold.
        saved: What `document()` gave before a restart, or under other params; gone on from where it is of the
            same entry to the same stage.
    """

    def __init__(
        self, feature: str, params: GuardParams, *, saved: Mapping[str, object] | None = None
    ) -> None:
        self.feature = feature
        """Whose rollout it is."""
        self.begun = 0
        """How many times evidence began to be gathered: of an entry, at a share, by the rules in force."""
        self.problem: str | None = None
        """Why evidence that was there was not gone on from: damaged, or gathered under other rules."""
        self._params = params
        self._saved = saved
        self._standing: Standing | None = None
        self._basis: _Basis | None = None
        self._evidence: Evidence | None = None
        self._live: Evidence | None = None
        """The evidence, while somebody is on."""
        self._phase: Phase | None = None
        """Of the evidence when it was last looked at."""
        self._asked: dict[type[Decision], float] = {}
        """When a decision was given that nothing has come of yet."""
        self._now_s = 0.0

    def follow(self, snapshot: FlagSnapshot) -> None:
        """Take up where the feature stands; call it whenever the flags have changed, and once at first."""
        before, standing = self._standing, standing_of(snapshot, self.feature)
        self._standing = standing
        self._live = None
        if before is None or standing is None or before.state != standing.state:
            self._asked.clear()
        if standing is None or (self._basis is not None and self._basis.entry != standing.entry):
            self._basis = self._evidence = None
        if standing is None or not standing.share_ratio:
            return
        basis = _Basis(standing.entry, standing.stage, standing.share_ratio)
        if self._basis != basis:
            self._begin(basis, standing)
        self._live = self._evidence
        if self._live is not None and standing.phase is Phase.RUNNING and self._phase is Phase.PAUSED:
            self._live.resume()
        self._phase = standing.phase

    def begin_anew(self, params: GuardParams, *, saved: Mapping[str, object] | None) -> None:
        """
        Forget what was gathered, as a new controller would; call `follow` next.

        Args:
            params: What the guards hold from now on.
            saved: What to go on from all the same, as for a new controller.
        """
        self._params, self._saved = params, saved
        self._basis = self._evidence = self._live = self._phase = self.problem = None
        self._asked.clear()

    def arrived(self, arm: Arm, key: int) -> None:
        """Count a request that was admitted or refused, by a whole number that stands for its key."""
        if self._live is not None:
            self._live.arrived(arm, key)

    def first_token(self, arm: Arm, ttft_s: float) -> None:
        """Count a first token, and how long it took."""
        if self._live is not None:
            self._live.first_token(arm, ttft_s)

    def ended(self, arm: Arm, *, failed: bool, key: int, tpot_s: float | None = None) -> RollBack | None:
        """
        Count a request that finished or failed; see `Evidence.ended`.

        Returns:
            What to do at once.
        """
        if self._live is None:
            return None
        self._live.ended(arm, failed=failed, key=key, tpot_s=tpot_s)
        if not failed or arm is Arm.CONTROL or self._standing is None:
            return None
        guard = self._guard_rolling_back(self._live, self._standing)
        return None if guard is None else self._roll_back(self._live, guard)

    def finished(self, arm: Arm, count: int) -> None:
        """Count requests that finished, where no time of theirs is compared with anything."""
        if self._live is not None:
            self._live.finished(arm, count)

    def refused(self, arm: Arm) -> None:
        """Count a request that admission refused."""
        if self._live is not None:
            self._live.refused(arm)

    def infrastructure(self, arm: Arm) -> None:
        """Count a request that was lost with its engine host, or in a drain; it decides nothing."""
        if self._live is not None:
            self._live.infrastructure(arm)

    def trouble(self, trouble: Trouble) -> None:
        """Tell of trouble; again and again while it lasts."""
        if self._live is not None:
            self._live.trouble(trouble)

    def advance(self, *, now_s: float) -> list[Decision]:
        """
        Do what is due on a tick, about four times a second.

        Args:
            now_s: Monotonic time.

        Returns:
            One decision, or none.
        """
        self._now_s = now_s
        live, standing = self._live, self._standing
        if live is None or standing is None:
            return []
        live.fold(now_s=now_s, stands=standing.phase is Phase.PAUSED)
        decision = self._decide(live, standing)
        if not standing.has_stage and live.served_s >= PERIOD_S:
            self._live = self._evidence = self._gather(standing, None)
        return [] if decision is None else [decision]

    def judged(self, *, needs_fresh: bool = True) -> Judged | None:
        """
        Return what the stage has shown, and whether it may be left upward; None without evidence.

        Args:
            needs_fresh: Only with data that still comes; False for what a gateway left behind.
        """
        if self._evidence is None or self._standing is None:
            return None
        findings = self._evidence.findings()
        if not self._standing.has_stage:
            return Judged(findings, None)
        fresh = self._evidence.is_fresh or not needs_fresh
        return Judged(findings, self._verdict(findings, self._standing, fresh=fresh))

    def document(self) -> dict[str, object] | None:
        """Return what `Controller` can go on from, as plain JSON of a bounded size; None without evidence."""
        if self._evidence is None or self._standing is None:
            return None if self._saved is None else dict(self._saved)
        return {
            "entry": list(self._standing.entry),
            "phase": self._standing.phase,
            "evidence": self._evidence.document(),
        }

    def _begin(self, basis: _Basis, standing: Standing) -> None:
        """Gather evidence of a new entry, or go on with that of the same one under other rules."""
        if self._evidence is not None:
            self._evidence = self._gather(standing, self._evidence.document())
        else:
            saved, self._saved = self._saved, None
            if saved is not None and saved.get("entry") == list(standing.entry):
                self._restore(saved, standing)
            else:
                self._evidence = self._gather(standing, None)
        self._basis = basis
        self.begun += 1

    def _restore(self, saved: Mapping[str, object], standing: Standing) -> None:
        document = saved.get("evidence")
        self._evidence = self._gather(standing, document if isinstance(document, Mapping) else {})
        self._phase = Phase.PAUSED if saved.get("phase") == Phase.PAUSED else None

    def _gather(self, standing: Standing, document: Mapping[str, object] | None) -> Evidence:
        evidence = Evidence(
            self._params,
            standing.stage,
            share_ratio=standing.share_ratio,
            plan_s=standing.plan_s,
            document=document,
        )
        self.problem = evidence.problem
        return evidence

    def _decide(self, live: Evidence, standing: Standing) -> Decision | None:
        """Choose what to do on a tick; what protects comes first."""
        guard = self._guard_rolling_back(live, standing)
        if guard is not None:
            return self._roll_back(live, guard)
        if standing.phase in _WATCHED:
            guard = next((each for each in _PAUSE if live.is_tripped(each)), None)
            if guard is not None:
                return self._pause(live, guard)
            return self._leave(live, standing)
        return None

    def _guard_rolling_back(self, live: Evidence, standing: Standing) -> Guard | None:
        tripped = (each for each in _ROLL_BACK if live.is_tripped(each))
        return next((each for each in tripped if self._rolls_back(each, live, standing)), None)

    def _rolls_back(self, guard: Guard, live: Evidence, standing: Standing) -> bool:
        """Tell whether a guard at its limit rolls back."""
        if guard is Guard.RELATIVE:
            # Worse than control and within the limit all the same: a person should look at it.
            return live.canary_upper_ratio >= self._params.error_limit_ratio
        if guard is not Guard.ERRORS:
            return True
        if standing.phase is None and not standing.control_exists and not self._params.rolls_back_direct:
            return False
        return not (self._params.holds_on_shared_incident and live.attribution is Attribution.SHARED)

    def _roll_back(self, live: Evidence, guard: Guard) -> RollBack | None:
        if not self._is_due(RollBack):
            return None
        findings = live.findings()
        return RollBack(
            feature=self.feature,
            guard=guard,
            attribution=findings.attribution if guard is Guard.ERRORS else Attribution.CANARY,
            why=alarm(guard, findings, self._params),
            evidence=findings_document(findings),
        )

    def _pause(self, live: Evidence, guard: Guard) -> Pause | None:
        if not self._is_due(Pause):
            return None
        findings = live.findings()
        return Pause(
            feature=self.feature,
            guard=guard,
            why=alarm(guard, findings, self._params),
            evidence=findings_document(findings),
        )

    def _leave(self, live: Evidence, standing: Standing) -> Hold | Promote | None:
        """Leave the stage upward, or stay and say why: once its hold is served, or when both arms fail."""
        both_fail = live.is_tripped(Guard.ERRORS)
        if live.served_s < standing.hold_s and not both_fail:
            return None
        findings = live.findings()
        found = self._verdict(findings, standing, fresh=live.is_fresh)
        if found.kind is Kind.PASS and standing.promotes:
            return self._promote(findings) if self._is_due(Promote) else None
        if standing.phase is Phase.HOLDING or not self._is_due(Hold):
            return None
        reasons = found.reasons or ("the stage has met everything; promotion is manual",)
        if both_fail:
            reasons = ("control fails as well", *reasons)
        return Hold(feature=self.feature, why="; ".join(reasons), evidence=findings_document(findings))

    def _promote(self, findings: Findings) -> Promote:
        ended = findings.canary.finished + findings.canary.failed
        return Promote(
            feature=self.feature,
            why=f"{span(findings.served_s)} held; {number(findings.canary.failed)} of {number(ended)} canary "
            "requests failed",
            evidence=findings_document(findings),
        )

    def _verdict(self, findings: Findings, standing: Standing, *, fresh: bool) -> Verdict:
        if standing.obstacle is not None:
            return Verdict(kind=Kind.INCONCLUSIVE, reasons=(standing.obstacle,))
        return verdict(
            findings,
            stage=standing.stage,
            feature=standing.feature,
            params=self._params,
            hold_s=standing.hold_s,
            control_exists=standing.control_exists,
            prerequisites_met=standing.prerequisites_met,
            fresh=fresh,
        )

    def _is_due(self, kind: type[Decision]) -> bool:
        """Tell whether a kind of decision is to be given now, and remember that it was."""
        asked_s = self._asked.get(kind)
        if asked_s is not None and self._now_s - asked_s < _RETRY_S:
            return False
        self._asked[kind] = self._now_s
        return True
