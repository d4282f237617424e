"""
Distinct keys by arm, in bounded memory.

Theory of operation: a key is in the sample if its hash is below an edge. When the sample is full the edge is
halved, and who is beyond it leaves for good. So a key counts at most once however often it comes, and whether
it counts has nothing to do with its arm.

Source:
    Gibbons, "Distinct sampling for highly-accurate answers to distinct values queries".
"""

from __future__ import annotations

from rollout.guards import Arm

_KEYS = 8192
_ODD = 0x9E37_79B9_7F4A_7C15
_MASK = (1 << 64) - 1


class KeySample:
    """Counts keys that it has not seen before."""

    __slots__ = ("_canary", "_control", "_edge", "_seen")

    def __init__(self) -> None:
        self._edge = 1 << 64
        self._seen: set[int] = set()
        self._canary = self._control = 0

    def saw(self, arm: Arm, key: int) -> None:
        """
        Count a key, if it is in the sample and new.

        Args:
            arm: That it is on.
            key: Any whole number, the same for the same key.
        """
        # Multiplied, or a key that is itself the bucket of this feature would be sampled by its arm.
        mixed = key * _ODD & _MASK
        if mixed >= self._edge or mixed in self._seen:
            return
        self._seen.add(mixed)
        if arm is Arm.CANARY:
            self._canary += 1
        else:
            self._control += 1
        if len(self._seen) > _KEYS:
            self._edge >>= 1
            self._seen = {each for each in self._seen if each < self._edge}

    def take(self) -> tuple[int, int]:
        """Return how many new keys of canary and of control came since the last call."""
        new = self._canary, self._control
        self._canary = self._control = 0
        return new
