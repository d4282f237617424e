"""How often a key may fail and still count: one broken session is no broken feature."""

from __future__ import annotations

_KEYS = 4096
"""So many keys are remembered; then the one that failed longest ago is forgotten, and may count again."""


class FailureCap:
    """
    Tells which failures count.

    Without it a session that is broken for good fails with every retry, and 0.02 % of such sessions roll a
    healthy feature back in one stage of nine.

    Args:
        per_key: How many failures of one key count.
    """

    __slots__ = ("_failures", "_per_key")

    def __init__(self, per_key: int) -> None:
        self._per_key = per_key
        self._failures: dict[int, int] = {}

    def counts(self, key: int) -> bool:
        """Tell whether a failure of a key counts, and remember it."""
        failures = self._failures.pop(key, 0)
        self._failures[key] = failures + 1  # at the end: the first key is the one that failed longest ago
        if len(self._failures) > _KEYS:
            del self._failures[next(iter(self._failures))]
        return failures < self._per_key
