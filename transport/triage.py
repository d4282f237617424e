"""
What to do with a client's frame before anything is spent on it (pure).

The h2 library is stricter than RFC 9113 section 5.1 wants with frames that were on their way when a stream
ended, and answers each; so these are dropped here. PRIORITY means nothing any more (section 5.3.2), and
frames of unknown kinds mean nothing yet.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from transport.budgets import TINY_DATA_WEIGHT
from transport.counters import CloseReason
from transport.frames import END_STREAM, Frame, Kind

if TYPE_CHECKING:
    from transport.budgets import Budgets

TINY_DATA_BYTES: Final = 64


class Standing(Enum):
    """Where the stream of a frame stands."""

    NEW = auto()
    """No frame of it has come; or the frame is of the connection."""
    OPEN = auto()
    ANSWERED = auto()
    """Open, and its answer has begun."""
    PAST = auto()


class Step(Enum):
    """What to do with a frame."""

    TAKE = auto()
    """Give it to h2."""
    SWALLOW = auto()
    """Give its bytes back to the connection's window, and nothing else."""
    DROP = auto()
    PEER_LEAVES = auto()


class Triage:
    """
    The judge of one connection's frames.

    Args:
        budgets: What its client may cost.
    """

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets

    def judge(self, frame: Frame, standing: Standing, *, now_s: float) -> Step | CloseReason:
        """Say what to do with a frame, or which budget it has broken."""
        is_past = standing is Standing.PAST
        match frame.kind:
            case Kind.DATA:
                is_fine = self._budgets.control(_data_weight(frame, is_past=is_past), now_s=now_s)
                step = Step.SWALLOW if is_past else Step.TAKE
            case Kind.RST_STREAM:
                was_answered = standing in {Standing.ANSWERED, Standing.PAST}
                if not self._budgets.reset(was_answered=was_answered, now_s=now_s):
                    return CloseReason.RESET_FLOOD
                return Step.DROP if is_past else Step.TAKE
            case Kind.WINDOW_UPDATE:
                is_fine = self._budgets.window_update(now_s=now_s)
                step = Step.DROP if is_past else Step.TAKE
            case Kind.HEADERS | Kind.CONTINUATION | Kind.PUSH_PROMISE:
                is_fine = not is_past or self._budgets.control(now_s=now_s)
                step = Step.TAKE
            case kind:
                is_fine = self._budgets.control(now_s=now_s)
                step = _CONTROLS.get(kind, Step.DROP)
        return step if is_fine else CloseReason.CONTROL_FLOOD


_CONTROLS: Final[dict[int, Step]] = {
    Kind.SETTINGS: Step.TAKE,
    Kind.PING: Step.TAKE,
    Kind.GOAWAY: Step.PEER_LEAVES,
}


def _data_weight(frame: Frame, *, is_past: bool) -> float:
    if frame.flags & END_STREAM and not is_past:
        return 0.0
    if not frame.size:
        return 1.0
    return TINY_DATA_WEIGHT if is_past or frame.size < TINY_DATA_BYTES else 0.0
