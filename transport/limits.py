"""What a client may cost (pure): the size and the time of a request's body."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DISCARD_FACTOR: Final = 8
"""So many times the allowed size is read and thrown away of a body that is too large.

A client that still sends when the answer comes sees a reset connection instead of the answer.
"""


class Verdict(StrEnum):
    """What to do with a body after its next part."""

    GO_ON = "go_on"
    DISCARD = "discard"
    """Too large: keep nothing, read on so that the client hears the answer."""
    STOP = "stop"
    """Far too large: answer now, whether the client hears it or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimit:
    """How large a body may be, and how long its sender may take."""

    max_bytes: int
    timeout_s: float

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {self.max_bytes}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s must be above 0, got {self.timeout_s}")

    def judge(self, *, received_bytes: int, declared_bytes: int | None) -> Verdict:
        """
        Say what to do with a body.

        Args:
            received_bytes: What has come so far.
            declared_bytes: Its content-length, where it has one.
        """
        if received_bytes > self.max_bytes * DISCARD_FACTOR:
            return Verdict.STOP
        if max(received_bytes, declared_bytes or 0) > self.max_bytes:
            return Verdict.DISCARD
        return Verdict.GO_ON
