"""The counts of one arm at one stage, and what of them was not taken in yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollout.failure_cap import FailureCap
from rollout.guards import ArmCounts
from rollout.saved import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELDS = ("finished", "failed", "counted_failures", "refused", "infrastructure")


class ArmTally:
    """
    Counts the requests of an arm.

    Args:
        failures_per_key: How many failures of one key count.
        document: What `document()` gave before a restart; None begins at 0.

    Raises:
        ValueError: a document of another shape.
    """

    __slots__ = (*_FIELDS, "_ended_before", "_failed_before", "_passed_before", "_refused_before", "cap")

    def __init__(self, failures_per_key: int, document: Mapping[str, object] | None = None) -> None:
        self.cap = FailureCap(failures_per_key)
        """Which failures count."""
        values = [0 if document is None else whole(document, name) for name in _FIELDS]
        self.finished, self.failed, self.counted_failures, self.refused, self.infrastructure = values
        self._passed_before = self._ended_before = self.finished
        self._failed_before, self._refused_before = self.failed, self.refused

    @property
    def ended(self) -> int:
        """How many requests ended by their own doing."""
        return self.finished + self.failed

    def take_passed(self) -> int:
        """Return how many finished since the last call."""
        new, self._passed_before = self.finished - self._passed_before, self.finished
        return new

    def take_ended(self) -> tuple[int, int]:
        """Return how many finished, and how many failed, since the last call."""
        new = self.finished - self._ended_before, self.failed - self._failed_before
        self._ended_before, self._failed_before = self.finished, self.failed
        return new

    def take_refused(self) -> int:
        """Return how many were refused since the last call."""
        new, self._refused_before = self.refused - self._refused_before, self.refused
        return new

    def counts(self) -> ArmCounts:
        """Return the counts as they are."""
        return ArmCounts(
            finished=self.finished,
            failed=self.failed,
            counted_failures=self.counted_failures,
            refused=self.refused,
            infrastructure=self.infrastructure,
        )

    def document(self) -> dict[str, object]:
        """Return what `ArmTally` can go on from; which keys failed is not in it."""
        return {name: getattr(self, name) for name in _FIELDS}
