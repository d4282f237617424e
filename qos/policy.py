"""
The monitor: facts of requests -> evidence per objective -> Violation, Recovery.

Theory of operation. Each objective counts good and bad events over a window. Once a tick the evidence
that its budget is exceeded is weighed on the whole window and on a short one, which sees a sudden
break sooner; the stronger one decides. What the evidence says (a `Reading`) moves the objective
through `TRANSITIONS`. Requests that wait for a first token past the threshold are bad already: a
monitor fed by finished requests never sees a hang. Too few events are no data: never ok, and never
the end of a violation.
"""

from __future__ import annotations

from dataclasses import dataclass

from qos.bounds import OutOfBoundsError, require_bounds
from qos.objective import Objective, Signal, burn_rate, evidence_nats
from qos.verdict import TRANSITIONS, Reading, Recovery, State, Verdict, Violation
from qos.window import Counts, WindowParams

__all__ = ["Monitor", "MonitorParams", "Recovery", "State", "Verdict", "Violation"]

_HEALTHY_SHARE = 0.8
"""A violation is over only below this share of the budget, not at its edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorParams:
    """Which objectives are watched, and how sure the monitor wants to be."""

    objectives: tuple[Objective, ...] = ()
    """The promises."""
    window_s: float = 60.0
    """Span of the events that are judged."""
    short_window_s: float = 15.0
    """Span in which a sudden break is looked for."""
    warn_nats: float = 9.2
    """Evidence for a warning: chance of 1e-4."""
    act_nats: float = 13.8
    """Evidence for a violation: chance of 1e-6."""
    hold_ticks: int = 3
    """Ticks in a row with that evidence."""
    recover_after_s: float = 120.0
    """How long an objective must be healthy before its violation is over."""
    tick_s: float = 1.0
    """Time between two judgements, and the step in which the windows slide."""

    def __post_init__(self) -> None:
        require_bounds(
            self,
            tick_s=(0.05, 60),
            short_window_s=(self.tick_s, 3600),
            window_s=(self.short_window_s, 1000 * self.tick_s),
            warn_nats=(0.1, 1000),
            act_nats=(self.warn_nats, 1000),
            hold_ticks=(1, 1000),
            recover_after_s=(0, 86_400),
        )
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise OutOfBoundsError(field="objectives", value=names, bound="named differently")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weighed:
    bad: int
    total: int
    facts: int
    span_s: float
    evidence_nats: float


class _Watch:
    """One objective, its events and its episode."""

    def __init__(self, objective: Objective, params: MonitorParams, *, now_s: float) -> None:
        self.objective = objective
        self.state = State.NO_DATA
        self._params = params
        self._counts = Counts(WindowParams(span_s=params.window_s, slot_s=params.tick_s), now_s=now_s)
        self._breach_ticks = 0
        self._violated_s: float | None = None
        self._healthy_s = now_s

    def count(self, value: float, *, events: int = 1, now_s: float) -> None:
        if self.objective.is_good(value):
            self._counts.add(good=events, now_s=now_s)
        else:
            self._counts.add(bad=events, now_s=now_s)

    def weigh(self, *, late: int, span_s: float | None, now_s: float) -> _Weighed:
        """Weigh a span (None: the window), with the late ones that still wait added to it."""
        tally = self._counts.read(now_s=now_s, span_s=span_s)
        bad, total, facts = tally.bad + late, tally.total + late, tally.facts + late
        # The tokens of one decode step are late together: they are one event, not as many as streams.
        nats = evidence_nats(
            bad=bad, total=total, budget_ratio=self.objective.budget_ratio, phi=total / max(facts, 1)
        )
        return _Weighed(
            bad=bad, total=total, facts=facts, span_s=span_s or self._params.window_s, evidence_nats=nats
        )

    def judge(self, *, late: int, now_s: float) -> tuple[_Weighed, _Weighed]:
        """Return the whole window, and the span with the stronger evidence."""
        whole = self.weigh(late=late, span_s=None, now_s=now_s)
        short = self.weigh(late=late, span_s=self._params.short_window_s, now_s=now_s)
        return whole, max(whole, short, key=lambda weighed: weighed.evidence_nats)

    def advance(self, *, late: int, now_s: float) -> Violation | Recovery | None:
        whole, strongest = self.judge(late=late, now_s=now_s)
        before = self.state
        self.state = TRANSITIONS[before, self._read(whole, strongest, now_s=now_s)]
        if self.state is State.RECOVERING and before is State.VIOLATED:
            self._healthy_s = now_s
        if self.state is State.VIOLATED and self._violated_s is None:
            self._violated_s = now_s
            return Violation(
                objective=self.objective.name,
                bad=strongest.bad,
                total=strongest.total,
                evidence_nats=strongest.evidence_nats,
                at_s=now_s,
                why=self.explain(whole, strongest),
            )
        if self.state is State.OK and self._violated_s is not None:
            duration_s, self._violated_s = now_s - self._violated_s, None
            return Recovery(objective=self.objective.name, duration_s=duration_s, at_s=now_s)
        return None

    def explain(self, whole: _Weighed, strongest: _Weighed) -> str:
        wanted = self.objective.min_events
        if whole.facts < wanted:
            return f"{whole.facts} of the {wanted} events needed in {whole.span_s:g} s"
        return self.objective.explain(bad=strongest.bad, total=strongest.total, span_s=strongest.span_s)

    def _read(self, whole: _Weighed, strongest: _Weighed, *, now_s: float) -> Reading:
        params = self._params
        breach = whole.facts >= self.objective.min_events and strongest.evidence_nats >= params.act_nats
        self._breach_ticks = self._breach_ticks + 1 if breach else 0
        if whole.facts < self.objective.min_events:
            return Reading.MISSING
        if self._breach_ticks >= params.hold_ticks:
            return Reading.BREACH
        if strongest.evidence_nats >= params.warn_nats:
            return Reading.SUSPECT
        if whole.bad > _HEALTHY_SHARE * self.objective.budget_ratio * whole.total:
            return Reading.FAIR
        if self.state is State.RECOVERING and now_s - self._healthy_s >= params.recover_after_s:
            return Reading.RECOVERED
        return Reading.HEALTHY


class Monitor:
    """Watches every objective; is told only of the requests that are to be watched."""

    def __init__(self, params: MonitorParams, *, now_s: float) -> None:
        self._params = params
        self._watches = tuple(_Watch(objective, params, now_s=now_s) for objective in params.objectives)
        self._by_signal = {
            signal: tuple(watch for watch in self._watches if watch.objective.signal is signal)
            for signal in Signal
        }
        self._pending: dict[str, float] = {}
        self._tokens = 0
        self._ticked_s = now_s

    @property
    def deadline_s(self) -> float | None:
        """When the next judgement is due; None when there is nothing to judge."""
        return self._ticked_s + self._params.tick_s if self._watches else None

    def arrived(self, request_id: str, *, now_s: float) -> None:
        """Note a request that now waits for its first token."""
        self._pending[request_id] = now_s

    def first_token(self, request_id: str, *, ttft_s: float, now_s: float) -> None:
        """Note the first token of a request."""
        self._pending.pop(request_id, None)
        for watch in self._by_signal[Signal.TTFT]:
            watch.count(ttft_s, now_s=now_s)

    def step(self, *, gap_s: float, streams: int, now_s: float) -> None:
        """Note one decode step: so many watched streams got a token, gap_s after the one before."""
        for watch in self._by_signal[Signal.ITL]:
            watch.count(gap_s, events=streams, now_s=now_s)

    def generated(self, *, tokens: int) -> None:
        """Note new tokens, for the throughput until the next tick."""
        self._tokens += tokens

    def finished(self, request_id: str, *, failed: bool, now_s: float) -> None:
        """Note the end of a request; one that failed without a first token is bad for TTFT, too."""
        arrived_s = self._pending.pop(request_id, None)
        if failed and arrived_s is not None:
            for watch in self._by_signal[Signal.TTFT]:
                watch.count(float("inf"), now_s=now_s)
        for watch in self._by_signal[Signal.ERROR]:
            watch.count(float(failed), now_s=now_s)

    def left(self, request_id: str, *, now_s: float) -> None:
        """Note a request that was cancelled or refused: it counts only if it waited too long first."""
        arrived_s = self._pending.pop(request_id, now_s)
        for watch in self._by_signal[Signal.TTFT]:
            if not watch.objective.is_good(now_s - arrived_s):
                watch.count(now_s - arrived_s, now_s=now_s)

    def advance(self, *, now_s: float) -> list[Violation | Recovery]:
        """Judge every objective, if a judgement is due."""
        deadline_s = self.deadline_s
        if deadline_s is None or now_s < deadline_s:
            return []
        self._count_throughput(now_s=now_s)
        self._ticked_s = now_s
        events = (watch.advance(late=self._late(watch, now_s=now_s), now_s=now_s) for watch in self._watches)
        return [event for event in events if event is not None]

    def verdicts(self, *, now_s: float) -> tuple[Verdict, ...]:
        """Return how every objective stands; nothing changes by asking."""
        return tuple(self._verdict(watch, now_s=now_s) for watch in self._watches)

    def _verdict(self, watch: _Watch, *, now_s: float) -> Verdict:
        whole, strongest = watch.judge(late=self._late(watch, now_s=now_s), now_s=now_s)
        return Verdict(
            objective=watch.objective.name,
            state=watch.state,
            bad=whole.bad,
            total=whole.total,
            burn_rate=burn_rate(bad=whole.bad, total=whole.total, target_ratio=watch.objective.target_ratio),
            evidence_nats=strongest.evidence_nats,
            why=watch.explain(whole, strongest),
        )

    def _late(self, watch: _Watch, *, now_s: float) -> int:
        """Count the requests that wait past the threshold; the oldest come first, so it stops early."""
        late = 0
        if watch.objective.signal is Signal.TTFT:
            for arrived_s in self._pending.values():
                if watch.objective.is_good(now_s - arrived_s):
                    break
                late += 1
        return late

    def _count_throughput(self, *, now_s: float) -> None:
        # Demand: somebody waits since before the last tick. Without it, low throughput is no fault.
        tokens_per_s = self._tokens / (now_s - self._ticked_s)
        self._tokens = 0
        if next(iter(self._pending.values()), now_s) <= self._ticked_s:
            for watch in self._by_signal[Signal.THROUGHPUT]:
                watch.count(tokens_per_s, now_s=now_s)
