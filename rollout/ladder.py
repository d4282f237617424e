"""
A bet on the arm of a request by how long it took: is the canary slower, or faster, than control?

Theory of operation: control's own values keep twelve thresholds, the rungs, at fixed quantiles of its
distribution. A request falls in one of the thirteen bins between them, and the bet is on its arm: a bin high
on the ladder is likelier to be the canary's if the canary is slower. It is the bet of `label_guard.py`, with
odds that depend on the bin.

1. What a canary is allowed is divided out of its value before it is placed: with a tolerance of 5 % a canary
   that takes exactly 1.05 times as long is placed as control would be.
2. The odds rise from bin to bin, and what a bet pays rises with them. So a canary that is stochastically no
   slower than allowed gains no more than one placed as control, for which the expected factor is exactly 1.
   The bet is fair wherever the rungs stand; badly placed rungs only make it dull. A load that both arms feel
   moves both at the same instant, and is no evidence either. (A test for FASTER turns all of this around.)
3. Rungs stand still within a tick and move after it: every bet is on rungs known before the request came, and
   the order within a tick cannot matter.
4. The odds are those of a normal distribution shifted by 0.1, 0.25, 0.5, 1 or 2 standard deviations, whatever
   the values' own distribution. Where their logarithms spread by 0.7, as a TTFT's do, that is a canary 7 %,
   19 %, 42 %, 100 % or 300 % slower than allowed. The three in the middle find +25 %, +50 % and x2; 2 makes a
   gross slowdown a matter of 6 requests instead of 8, for which a tenth of the stake is enough; without 0.1 a
   slowdown of 10 % would never be found, since larger shifts lose on it, however long it lasts.
5. The rungs follow control by stochastic approximation in the logarithm of the value: each moves by how far
   the part of the tick's values below it was from the quantile it stands for.

The first `WARM_UP` values of control place the rungs, and nothing counts until then.

Source:
    Shekhar, Ramdas, "Nonparametric two-sample testing by betting" (the bet); Robbins, Monro, "A stochastic
    approximation method" (the rungs).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from operator import mul
from typing import TYPE_CHECKING

from rollout.eprocess import EProcess
from rollout.guards import Arm
from rollout.label_guard import bounded_exp, label_logs
from rollout.saved import part, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WARM_UP = 50
"""Values of control that place the rungs."""

_SHIFTS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Alternatives: standard deviations between the arms."""
_WEIGHTS = (0.15, 0.25, 0.25, 0.25, 0.1)

_PLACES = tuple(-1.8 + 0.36 * rung for rung in range(12))
"""Where the rungs stand in a standard normal distribution: at its 3.6 % to 98.5 % quantiles.
Thirteen such bins keep 0.98 of the information on small shifts, 0.96 at a shift of 1, either way."""

_MEMORY = 150
"""Values of control after which a rung has mostly forgotten where it stood. Under loads that spread by 0.3
over 10 to 600 s, at 10 requests/s, evidence was measured to grow within 5 % of the best for 60 to 300."""

_LARGEST_STEP = 0.5
"""Of the way to where a tick's values put a rung; the whole way would overshoot where values lie densely."""

_NARROWEST = 0.01
"""Steps are made as if the values' logarithms spread at least so far: equal values would freeze the rungs."""

_LEAST_S, _MOST_S = 1e-9, 1e9
"""The rungs stay between these."""


class Direction(StrEnum):
    """What a test of a ladder looks for."""

    SLOWER = "slower"
    FASTER = "faster"


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderTest:
    """One question to a ladder."""

    name: str
    tolerance_ratio: float
    """SLOWER: the canary's values may be so much larger than control's. FASTER: the gain in speed that the
    evidence is for; the canary's values are smaller than control's even after being made so much larger."""
    direction: Direction = Direction.SLOWER

    def __post_init__(self) -> None:
        """Refuse a tolerance that is no number of at least 0."""
        if not 0 <= self.tolerance_ratio < math.inf:
            raise ValueError(f"tolerance_ratio of {self.name} must be at least 0, got {self.tolerance_ratio}")

    @property
    def factor(self) -> float:
        """What the rungs are multiplied by to place the canary's values."""
        allowed = 1 + self.tolerance_ratio
        return allowed if self.direction is Direction.SLOWER else 1 / allowed


class Ladder:
    """
    Evidence about how long the requests of two arms take.

    Args:
        share_ratio: Part of the requests that are the canary's, above 0 and below 1.
        tests: What is asked, under different names; each has evidence of its own.
        document: What `document()` gave before a restart; None begins anew. Values that were not folded yet
            when it was made are lost, which costs power and nothing else.

    Raises:
        ValueError: a share without two arms, two tests of one name, or a document of another shape.
    """

    __slots__ = ("_bets", "_by_name", "_canary", "_canary_edges", "_control", "_edges", "_odds", "_rungs")

    def __init__(
        self, share_ratio: float, tests: Sequence[LadderTest], document: Mapping[str, object] | None = None
    ) -> None:
        saved = None if document is None else part(document, "tests")
        self._bets = [_Bet(test, None if saved is None else part(saved, test.name)) for test in tests]
        self._by_name = {bet.name: bet for bet in self._bets}
        if len(self._by_name) < len(self._bets):
            raise ValueError(f"tests need names of their own, got {[test.name for test in tests]}")
        self._odds = {each: _Odds(each, share_ratio) for each in Direction}
        self._rungs = _Rungs(None if document is None else part(document, "rungs"))
        self._begin_tick()

    def observe(self, arm: Arm, value: float) -> None:
        """
        Count a value; no evidence moves before the next `fold`.

        Args:
            arm: Of the request.
            value: Seconds, 0 or more.
        """
        if arm is Arm.CANARY:
            # One search for all tests: between which edges of any of them the value lies.
            self._canary[bisect_right(self._canary_edges, value)] += 1
        elif self._edges:
            self._control[bisect_right(self._edges, value)] += 1
        else:
            self._rungs.begin(value)

    def fold(self, progress: float) -> None:
        """
        Take in what was counted since the last time, and let the rungs follow control. Called once a tick.

        Args:
            progress: Time served over time planned; lays down the stake.
        """
        for bet in self._bets:
            bet.process.advance(progress)
        if not self._edges:
            self._rungs.place()
        elif any(self._control) or any(self._canary):
            self._multiply()
            self._rungs.follow(self._control)
        else:
            return
        self._begin_tick()

    def evidence(self, name: str) -> float:
        """
        Return the evidence of a test; 1 says nothing, 1/alpha decides.

        Raises:
            KeyError: no test has this name.
        """
        return self._by_name[name].process.evidence

    def document(self) -> dict[str, object]:
        """Return what `Ladder` can go on from."""
        tests = {name: bet.process.document() for name, bet in self._by_name.items()}
        return {"rungs": self._rungs.document(), "tests": tests}

    def _begin_tick(self) -> None:
        self._edges = self._rungs.edges()
        for bet in self._bets:
            bet.edges = [edge * bet.factor for edge in self._edges]
        self._canary_edges = sorted(edge for bet in self._bets for edge in bet.edges)
        self._control = [0] * (len(self._edges) + 1)
        self._canary = [0] * (len(self._canary_edges) + 1)

    def _multiply(self) -> None:
        lowest = (-math.inf, *self._canary_edges)
        canary = [(low, count) for low, count in zip(lowest, self._canary, strict=True) if count]
        control = {each: odds.of_control(self._control) for each, odds in self._odds.items()}
        for bet in self._bets:
            logs = control[bet.direction]
            by_bin = self._odds[bet.direction].canary
            for low, count in canary:
                paid = by_bin[bisect_right(bet.edges, low)]
                logs = [log + count * each for log, each in zip(logs, paid, strict=True)]
            bet.process.multiply([bounded_exp(log) for log in logs])


class _Bet:
    """One test: where it places the canary's values, and its evidence."""

    __slots__ = ("direction", "edges", "factor", "name", "process")

    def __init__(self, test: LadderTest, document: Mapping[str, object] | None) -> None:
        self.name = test.name
        self.direction = test.direction
        self.factor = test.factor
        self.edges: list[float] = []
        """The canary's rungs of this tick, in seconds."""
        self.process = EProcess(_WEIGHTS, document)


class _Odds:
    """What the bets of a direction pay, as logarithms."""

    __slots__ = ("_control", "canary")

    def __init__(self, direction: Direction, share_ratio: float) -> None:
        sign = 1 if direction is Direction.SLOWER else -1
        logs = [
            [label_logs(odds, share_ratio=share_ratio) for odds in _shifted(sign * shift)]
            for shift in _SHIFTS
        ]
        self.canary = [[each for each, _ in alternatives] for alternatives in zip(*logs, strict=True)]
        """For a value of the canary: by bin, of each alternative."""
        self._control = [[each for _, each in bins] for bins in logs]
        """For a value of control: of each alternative, by bin."""

    def of_control(self, counts: Sequence[int]) -> list[float]:
        """Return what control's values by bin add to each alternative."""
        return [sum(map(mul, logs, counts)) for logs in self._control]


class _Rungs:
    """Where control's quantiles are."""

    __slots__ = ("_first", "_logs", "_seen")

    def __init__(self, document: Mapping[str, object] | None) -> None:
        self._first: list[float] = []
        """Logarithms of the first values, until they are enough."""
        self._logs: list[float] = []
        """Of the rungs, rising; none until they are placed."""
        self._seen = 0
        if document is not None:
            self._logs, self._seen = _rungs_from(document)

    def begin(self, value: float) -> None:
        """Take one of the first values in."""
        if len(self._first) < WARM_UP:
            self._first.append(math.log(min(max(_LEAST_S, value), _MOST_S)))

    def place(self) -> None:
        """Place the rungs by the first values, if these are enough."""
        if len(self._first) == WARM_UP:
            ordered = sorted(self._first)
            self._logs = [ordered[int(WARM_UP * quantile)] for quantile in _QUANTILES]
            self._seen = WARM_UP
            self._first = []

    def edges(self) -> list[float]:
        """Return the rungs in seconds; none until they are placed."""
        return [math.exp(log) for log in self._logs]

    def follow(self, counts: Sequence[int]) -> None:
        """Move after a tick with so many of control's values by bin."""
        count = sum(counts)
        if not count:
            return
        self._seen += count
        width = max((self._logs[-1] - self._logs[0]) / (_PLACES[-1] - _PLACES[0]), _NARROWEST)
        step = width * min(_LARGEST_STEP, count / min(self._seen, _MEMORY))
        wanted = zip(self._logs, _GAINS, _QUANTILES, accumulate(counts[:-1]), strict=True)
        moved = [log + step * gain * (quantile - below / count) for log, gain, quantile, below in wanted]
        self._logs = sorted(min(max(_LEAST_LOG, log), _MOST_LOG) for log in moved)

    def document(self) -> dict[str, object]:
        """Return what `_Rungs` can go on from; those that are not placed begin anew."""
        return {"logs": list(self._logs), "seen": self._seen}


def _normal_below(place: float) -> float:
    return 0.5 * math.erfc(-place / math.sqrt(2))


_QUANTILES = tuple(_normal_below(place) for place in _PLACES)
_GAINS = tuple(math.sqrt(2 * math.pi) * math.exp(place * place / 2) for place in _PLACES)
"""One over the standard normal density: how far a rung is off per part of the values on its wrong side."""
_LEAST_LOG, _MOST_LOG = math.log(_LEAST_S), math.log(_MOST_S)


def _shifted(shift: float) -> list[float]:
    """Return how many times as likely each bin is under a normal distribution shifted by so much."""
    return [
        (_normal_below(above - shift) - _normal_below(below - shift))
        / (_normal_below(above) - _normal_below(below))
        for below, above in pairwise((-math.inf, *_PLACES, math.inf))
    ]


def _rungs_from(document: Mapping[str, object]) -> tuple[list[float], int]:
    logs, seen = document.get("logs"), whole(document, "seen")
    if not isinstance(logs, list) or len(logs) not in {0, len(_PLACES)}:
        raise ValueError(f"no rungs in {dict(document)}")
    numbers = [each for each in logs if isinstance(each, float)]
    if len(numbers) < len(logs) or seen < len(numbers) or numbers != sorted(numbers):
        raise ValueError(f"rungs out of order in {dict(document)}")
    if not all(_LEAST_LOG <= each <= _MOST_LOG for each in numbers):
        raise ValueError(f"rungs out of range in {dict(document)}")
    return numbers, seen
