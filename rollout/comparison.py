"""What compares the canary with control at one stage; it needs both, and their share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollout.error_guard import ErrorGuard
from rollout.guards import Arm, Guard
from rollout.key_sample import KeySample
from rollout.label_guard import LabelGuard
from rollout.ladder import Direction, Ladder, LadderTest
from rollout.saved import part
from rollout.share_test import ShareTest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rollout.guards import GuardParams, LatencyParams
    from rollout.spec import Stage

_FASTER = "faster"


class Comparison:
    """
    The tests of a stage that are about the difference of the arms.

    Args:
        params: What the guards hold.
        stage: What the stage asks for.
        share_ratio: Part of the keys that are the canary's, above 0 and below 1.
        document: What `document()` gave before a restart, at the same share; None begins anew.

    Raises:
        ValueError: a document of another shape.
    """

    def __init__(
        self,
        params: GuardParams,
        stage: Stage,
        *,
        share_ratio: float,
        document: Mapping[str, object] | None = None,
    ) -> None:
        saved = {name: None if document is None else part(document, name) for name in _PARTS}
        self._params, self._stage, self._share_ratio = params, stage, share_ratio
        self.control_errors = ErrorGuard(params.error_limit_ratio, saved["control_errors"])
        """Whether control fails beyond the limit too."""
        self._relative = LabelGuard(share_ratio, saved["relative"])
        self._refused = LabelGuard(share_ratio, saved["refused"])
        self.ttft = self._ttft_ladder(saved["ttft"])
        self.itl = self._itl_ladder(saved["itl"])
        self._share = ShareTest(share_ratio, saved["share"])
        self.keys = KeySample()
        self._were_keys = document is not None

    def failed(self, arm: Arm) -> None:
        """Take a failure in."""
        if arm is Arm.CANARY:
            self._relative.observe(1, 0)
        else:
            self._relative.observe(0, 1)

    def refused(self, canary: int, control: int) -> None:
        """Take refusals in."""
        self._refused.observe(canary, control)

    def fold(self, progress: float) -> None:
        """
        Take in the keys and times that were counted since the last tick, and lay stake down.

        Args:
            progress: Time served over time planned.
        """
        self._fold_keys(*self.keys.take())
        for guard in (self._relative, self._refused, self.control_errors):
            guard.advance(progress)
        self.ttft.fold(progress)
        self.itl.fold(progress)

    def evidence(self, guard: Guard) -> float:
        """Return the evidence of a guard that compares."""
        match guard:
            case Guard.RELATIVE:
                return self._relative.evidence
            case Guard.REFUSED:
                return self._refused.evidence
            case Guard.TTFT | Guard.TTFT_FAR:
                return self.ttft.evidence(guard)
            case Guard.ITL | Guard.ITL_FAR:
                return self.itl.evidence(guard)
            case _:
                return self._share.evidence

    @property
    def faster_ttft_evidence(self) -> float:
        """That first tokens come sooner, where the stage asks; else 1."""
        return self.ttft.evidence(_FASTER) if self._stage.faster_ttft else 1.0

    @property
    def throughput_evidence(self) -> float:
        """That tokens come faster by the gain that the stage asks for; else 1."""
        return self.itl.evidence(_FASTER) if self._stage.throughput_gain_percent else 1.0

    def begin_anew(self, guards: Collection[Guard]) -> None:
        """Forget the evidence of guards; of a ladder, that of all that stand on it."""
        if Guard.RELATIVE in guards:
            self._relative = LabelGuard(self._share_ratio)
        if Guard.REFUSED in guards:
            self._refused = LabelGuard(self._share_ratio)
        if Guard.TTFT in guards:
            self.ttft = self._ttft_ladder(None)
        if Guard.ITL in guards:
            self.itl = self._itl_ladder(None)

    def document(self) -> dict[str, object]:
        """Return what `Comparison` can go on from."""
        return {
            "control_errors": self.control_errors.document(),
            "relative": self._relative.document(),
            "refused": self._refused.document(),
            "ttft": self.ttft.document(),
            "itl": self.itl.document(),
            "share": self._share.document(),
        }

    def _fold_keys(self, canary: int, control: int) -> None:
        """Which keys were seen is not saved, so that they would count again: begin anew with the first."""
        if self._were_keys and canary + control:
            self._share = ShareTest(self._share_ratio)
            self._were_keys = False
        self._share.observe(canary, control)

    def _ttft_ladder(self, document: Mapping[str, object] | None) -> Ladder:
        tests = _slower(self._params.ttft, Guard.TTFT, Guard.TTFT_FAR)
        if self._stage.faster_ttft:
            tests.append(LadderTest(name=_FASTER, tolerance_ratio=0.0, direction=Direction.FASTER))
        return Ladder(self._share_ratio, tests, document)

    def _itl_ladder(self, document: Mapping[str, object] | None) -> Ladder:
        tests = _slower(self._params.itl, Guard.ITL, Guard.ITL_FAR)
        if self._stage.throughput_gain_percent:
            gain_ratio = self._stage.throughput_gain_percent / 100
            tests.append(LadderTest(name=_FASTER, tolerance_ratio=gain_ratio, direction=Direction.FASTER))
        return Ladder(self._share_ratio, tests, document)


_PARTS = ("control_errors", "relative", "refused", "ttft", "itl", "share")


def _slower(params: LatencyParams, near: Guard, far: Guard) -> list[LadderTest]:
    return [
        LadderTest(name=near, tolerance_ratio=params.tolerance_ratio),
        LadderTest(name=far, tolerance_ratio=params.rollback_at_ratio),
    ]
