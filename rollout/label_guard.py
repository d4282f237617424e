"""
A bet on the arm that a failure comes from: does the canary fail more often than control?

Theory of operation: arms are drawn by hash, so while the canary is no worse than control, an event (a
failure, or a refusal) is the canary's with a probability of at most the canary's share, whatever happens to
both arms at once: an incident, a wave of load, a broken client. An alternative says that the canary fails so
many times as often as control; it gains from each event of the canary and loses a little on each of control.
How often events come is never asked, so nothing need be known about the traffic.

What it cannot do: at a share of 1 % an event of the canary multiplies the wealth by 100 at most, and half of
the stake works at the start, so two events stay below 0.5 * 100^2 = 5 000. A limit of 5 000 takes three.

Source:
    Shekhar, Ramdas, "Nonparametric two-sample testing by betting"; Turner, Ly, Gruenwald, "Generic
    e-variables for exact sequential k-sample tests that allow for optional stopping".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rollout.eprocess import EProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

ODDS = (3.0, 10.0, 100.0, 1e4)
"""How many times as often as control the canary fails, one alternative each."""

WEIGHTS = (0.15, 0.3, 0.4, 0.15)
"""Chosen at a limit of 5 000 and a share of 1 %: equal ones take 5 % more requests to find 5 % or 1 %."""

_MOST_LOG = 600.0
"""e to the power of more does not fit a float; evidence stops growing before."""


def label_logs(odds: float, *, share_ratio: float) -> tuple[float, float]:
    """
    Return what an event adds to the logarithm of the wealth of a bet on its arm: of the canary, of control.

    Args:
        odds: How many times as likely as in control such an event is in the canary, above 0. Where the
            canary's odds are at most 1 the bet is fair or worse, whatever odds it was made on above 1.
        share_ratio: Part of the requests that are the canary's, above 0 and below 1.

    Raises:
        ValueError: a share without two arms.
    """
    if not 0 < share_ratio < 1:
        raise ValueError(f"share_ratio must be above 0 and below 1 to compare two arms, got {share_ratio}")
    control = -math.log(share_ratio * odds + 1 - share_ratio)
    return math.log(odds) + control, control


def bounded_exp(log: float) -> float:
    """Return e to that power, or a number past every limit."""
    return math.exp(min(log, _MOST_LOG))


class LabelGuard:
    """
    Evidence that events come from the canary more often than its share explains.

    Args:
        share_ratio: Part of the requests that are the canary's, above 0 and below 1.
        document: What `document()` gave before a restart; None begins anew.

    Raises:
        ValueError: a share without two arms, or a document of another shape.
    """

    __slots__ = ("_logs", "_process")

    def __init__(self, share_ratio: float, document: Mapping[str, object] | None = None) -> None:
        self._logs = tuple(label_logs(odds, share_ratio=share_ratio) for odds in ODDS)
        self._process = EProcess(WEIGHTS, document)

    def observe(self, canary: int, control: int) -> None:
        """
        Take events in; many at once count as one after the other, in any order.

        Args:
            canary: Events of the canary, 0 or more.
            control: Events of control, 0 or more.
        """
        self._process.multiply([bounded_exp(canary * c + control * k) for c, k in self._logs])

    def advance(self, progress: float) -> None:
        """
        Lay down the stake that the schedule has come to. Called by the clock only.

        Args:
            progress: Time served over time planned.
        """
        self._process.advance(progress)

    @property
    def evidence(self) -> float:
        """Against a canary that is no worse than control; 1 says nothing, 1/alpha decides."""
        return self._process.evidence

    def document(self) -> dict[str, object]:
        """Return what `LabelGuard` can go on from."""
        return self._process.document()
