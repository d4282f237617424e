"""The hold of a stage: time in which requests came, and no jump of any clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollout.saved import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_STEP_S = 2.0
"""A tick counts this at most: a laptop's sleep, or a clock that was set, promotes nothing."""


class HoldClock:
    """
    Counts the time that a stage was watched.

    Args:
        document: What `document()` gave before a restart; None begins at 0.

    Raises:
        ValueError: a document of another shape.
    """

    __slots__ = ("_at_s", "idle_s", "quiet_s", "served_s")

    def __init__(self, document: Mapping[str, object] | None = None) -> None:
        self.served_s = 0.0 if document is None else seconds(document, "served_s")
        """Watched so long."""
        self.quiet_s = 0.0 if document is None else seconds(document, "quiet_s")
        """Of it, since the last trouble."""
        self.idle_s = float("inf")
        """Since a canary request ended; none is known after a restart."""
        self._at_s: float | None = None

    def tick(self, *, now_s: float, ended: bool, fresh_within_s: float, stands: bool) -> float:
        """
        Count the time since the last tick, if somebody was there to be watched.

        Args:
            now_s: Monotonic time.
            ended: A canary request ended since the last tick.
            fresh_within_s: The clock stands when none ended for longer.
            stands: It stands anyway.

        Returns:
            The time since the last tick.
        """
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        self.idle_s = 0.0 if ended else self.idle_s + passed_s
        if self.idle_s <= fresh_within_s and not stands:
            step_s = min(passed_s, LONGEST_STEP_S)
            self.served_s += step_s
            self.quiet_s += step_s
        return passed_s

    def document(self) -> dict[str, object]:
        """Return what `HoldClock` can go on from."""
        return {"served_s": self.served_s, "quiet_s": self.quiet_s}
