"""
Counts that are kept on plain integers, because they are counted for every request or every step.

An increment of a client metric costs 0.8 us with its labels resolved and 3 us without; one of a dictionary
0.1 us. So what happens is counted under what was known then, and spelt out by feature, arm and cause only
when somebody asks. Every one of them is written by one thread; the page may be made in another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from rollout.guards import Arm
from rollout.shares import Cause
from rollout.spec import FULL_MILLIPERCENT, Key
from rollout.stages import TRANSITIONS, Input, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.assignment import FlagSnapshot
    from rollout.spec import Feature
    from rollout.stages import State

GAP_BUCKETS_S = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Bucket bounds of gaps between tokens."""
PROBE_BUCKETS_S = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075),
    *(0.01, 0.02, 0.05, 0.1, 0.5, 1.0),
)
"""Bucket bounds of the time to answer a probe; 0.005 is the bar."""
VARIANTS = ("on", "off")
"""What a decision can come to."""
CAUSES_OF_ON = (Cause.DIRECT, Cause.STAGE, Cause.CEILING)
"""Causes of a share above 0; every cause can be one of `off`."""
LEVELS = {
    "x-session-id": Key.SESSION,
    "session_id": Key.SESSION,
    "prompt_cache_key": Key.SESSION,
    "safety_identifier": Key.USER,
    "user": Key.USER,
    "request": Key.REQUEST,
}
"""What a request's key is the key of, by where it came from."""
_KEYS_WITH_FALLBACK = (Key.SESSION, Key.USER)
AUTOMATIC = "auto:"
"""Begins the name of an actor that is nobody."""
_ONLY_BY_HAND = (Input.START, Input.STOP, Input.RESUME, Input.RESET)


class TimeHistogram:
    """
    Weighted counts of times.

    Args:
        bounds_s: Of the buckets.
    """

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self._bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, took_s: float, *, count: int = 1) -> None:
        """Count one time for so many that it took."""
        self.counts[bisect_left(self._bounds_s, took_s)] += count
        self.sum_s += took_s * count

    def buckets(self) -> list[tuple[str, float]]:
        """Return the counts as Prometheus adds them up: each bound with all that is at most it."""
        bounds = [*map(str, self._bounds_s), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class Decisions:
    """
    Decisions about features, one for each feature and request.

    A request is counted under the features that it is on, for the snapshot that decided; the causes are that
    snapshot's, and are looked up when it is replaced or when somebody asks.
    """

    def __init__(self, features: tuple[str, ...]) -> None:
        self._features = features
        self._current = _Current(None, {}, _Spelt(features))

    def count(self, snapshot: FlagSnapshot, on: frozenset[str], key_source: str) -> None:
        """
        Count the decisions of one request.

        Args:
            snapshot: What decided.
            on: Features that the request is on.
            key_source: Where its key came from, as the request says.
        """
        if snapshot is not self._current.snapshot:
            self._current = _Current(snapshot, {}, self.spelt())
        counts, bucket = self._current.counts, (on, key_source)
        counts[bucket] = counts.get(bucket, 0) + 1

    def spelt(self) -> _Spelt:
        """Return all that was counted."""
        current = self._current
        spelt = _Spelt(self._features, before=current.settled)
        if current.snapshot is not None:
            spelt.add(current.snapshot, dict(current.counts))
        return spelt


class _Current(NamedTuple):
    """What is being counted; replaced as a whole, so that a page in between counts nothing twice or not."""

    snapshot: FlagSnapshot | None
    counts: dict[tuple[frozenset[str], str], int]
    """Requests of this snapshot, by what they are on and by where their key came from."""
    settled: _Spelt
    """Of the snapshots before."""


class _Spelt:
    """Decisions by feature, variant and cause; keys that were not the wanted ones by feature and level."""

    def __init__(self, features: tuple[str, ...], *, before: _Spelt | None = None) -> None:
        self._features = features
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        if before is None:
            self._begin()
        else:
            self.decisions.update(before.decisions)
            self.fallbacks.update(before.fallbacks)

    def _begin(self) -> None:
        for feature in self._features:
            for cause in Cause:
                self.decisions[feature, "off", cause] = 0
            for cause in CAUSES_OF_ON:
                self.decisions[feature, "on", cause] = 0
            for level in (Key.SESSION, Key.USER, Key.REQUEST):
                self.fallbacks[feature, level] = 0

    def add(self, snapshot: FlagSnapshot, counts: Mapping[tuple[frozenset[str], str], int]) -> None:
        """Spell out what was counted under one snapshot."""
        for feature in self._features:
            share, declared = snapshot.shares[feature], snapshot.spec.features[feature]
            needs_key = 0 < share.millipercent < FULL_MILLIPERCENT
            for (on, source), requests in counts.items():
                self.decisions[feature, "on" if feature in on else "off", share.cause] += requests
                if needs_key and (level := _fallback(declared, source)):
                    self.fallbacks[feature, level] += requests


def _fallback(feature: Feature, source: str) -> Key | None:
    """The kind of key that was taken instead of the wanted one; None where it is the wanted one."""
    level = LEVELS[source]
    return level if feature.key in _KEYS_WITH_FALLBACK and level is not feature.key else None


class EndedRequests:
    """Requests that ended, by arm of every feature and by outcome."""

    def __init__(self, features: tuple[str, ...], outcomes: tuple[str, ...]) -> None:
        self._features = features
        self._outcomes = outcomes
        self._counts: dict[tuple[frozenset[str], str], int] = {}

    def count(self, on: frozenset[str], outcome: str) -> None:
        """Count a request that ended, for each feature in the arm that it was in."""
        bucket = (on, outcome)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def spelt(self) -> Counter[tuple[str, str, str]]:
        """Return the counts by feature, arm and outcome."""
        spelt = Counter(
            {
                (feature, str(arm), outcome): 0
                for feature in self._features
                for arm in Arm
                for outcome in self._outcomes
            }
        )
        for (on, outcome), requests in dict(self._counts).items():
            for feature in self._features:
                arm = Arm.CANARY if feature in on else Arm.CONTROL
                spelt[feature, str(arm), outcome] += requests
        return spelt


class Transitions:
    """Changes of phase and stage, seen by comparing the states of the features with those before."""

    def __init__(self, features: tuple[str, ...]) -> None:
        self.counts = Counter({(name, *change): 0 for name in features for change in possible_changes()})
        """By feature, phase before, phase after, and trigger: manual or automatic."""
        self._seen: dict[str, tuple[Phase, str | None]] | None = None

    def follow(self, states: Mapping[str, State]) -> None:
        """Take the states that are in force now. Those of the first call are where counting begins."""
        now = {name: (state.phase, state.stage) for name, state in states.items()}
        if self._seen is not None:
            for name, place in now.items():
                before = self._seen.get(name, (Phase.OFF, None))
                if place != before:
                    self._count(name, before[0], states[name])
        self._seen = now

    def _count(self, name: str, before: Phase, state: State) -> None:
        trigger = "automatic" if state.actor.startswith(AUTOMATIC) else "manual"
        change = (name, str(before), str(state.phase), trigger)
        # Two changes between two looks can make one that no single input makes; the set of labels is closed.
        if change in self.counts:
            self.counts[change] += 1


def possible_changes() -> list[tuple[str, str, str]]:
    """List the changes of phase that a single input can make, each with its trigger."""
    found: dict[tuple[str, str, str], None] = {}
    for (before, given), after in TRANSITIONS.items():
        if before is after and given is not Input.PROMOTE:
            continue
        ends = (after, Phase.COMPLETE) if given in (Input.START, Input.PROMOTE) else (after,)
        for end in ends:
            for trigger in ("manual",) if given in _ONLY_BY_HAND else ("manual", "automatic"):
                found[str(before), str(end), trigger] = None
    return list(found)
