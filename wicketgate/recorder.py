"""
One request's facts, computed here once and fanned out to the monitor, the rollouts, the metrics and the log.

So they cannot disagree. The figures that the requirement names and the rollouts cover every request;
objectives are fed by requests on `qos_monitoring` only.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wicketgate.ending import Ending, ending_of
from wicketgate.inference import FinishReason
from wicketgate.logs import REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qos.figures import Figures
    from qos.policy import Monitor
    from wicketgate.assigned import Assigned
    from wicketgate.inference import Finished, InferenceRequest
    from wicketgate.metrics import Metrics
    from wicketgate.rollouts import Rollouts

_log = logging.getLogger(REQUESTS)

INTERACTIVE = "interactive"
"""The one class of traffic so far."""


@dataclass(slots=True, kw_only=True)
class Record:
    """What is known so far of one request; seconds are monotonic."""

    request: InferenceRequest
    assigned: Assigned
    admitted_s: float | None = None
    first_token_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    warmed: bool = False
    """Some of its prompt was computed before its ticket."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Of those the ones of reasoning."""
    client_request_id: str | None = None
    """The client's own name for it."""
    is_counted: bool = False
    """The rollouts have counted it already: its first token was late."""
    ended: bool = False

    @property
    def on(self) -> frozenset[str]:
        """Features that the request is on."""
        return self.assigned.on


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGap:
    """The time between two tokens of the streams that were in two successive steps."""

    gap_s: float
    streams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """Where facts go."""

    figures: Figures
    monitor: Monitor
    metrics: Metrics
    rollouts: Rollouts


class Recorder:
    """
    Takes the facts of every request, in the order in which they happen.

    Args:
        sink: Where they go.
        models: Those whose engine hosts are still to become ready; `engine_ready` tells of it.
        clock: Monotonic seconds.
    """

    def __init__(self, sink: Sink, *, models: Iterable[str] = (), clock: Callable[[], float]) -> None:
        self._sink = sink
        self._clock = clock
        self._live: dict[str, Record] = {}
        self._waiting: dict[str, Record] = {}
        """Those without a first token, in the order in which they arrived."""
        self._down_s = dict.fromkeys(models, math.inf)
        """By model, until when its engine host was not ready; infinity while it is not."""
        self._gap_steps = 0
        self._last_steps: dict[str, tuple[float, int]] = {}
        """By model: when the last step's tokens were known, and how many streams went on after it."""
        self.itl_sample_rate = 1
        """One step in this many feeds the objectives on gaps, with its weight."""
        self.log_requests = True
        self._prompt_tokens = self._cached_tokens = 0
        self.pipelined = 0
        self.shed = 0

    @property
    def live(self) -> int:
        """Requests between arrival and end."""
        return len(self._live)

    @property
    def cache_hit_ratio(self) -> float | None:
        """Return the part of all prompt tokens whose KV existed already; None before the first token."""
        return self._cached_tokens / self._prompt_tokens if self._prompt_tokens else None

    def on_in_flight(self, feature: str) -> int:
        """Return how many requests in flight are on a feature."""
        return sum(1 for r in self._live.values() if r.admitted_s is not None and feature in r.on)

    def oldest_waiting_s(self) -> float:
        """Return the age of the oldest request without a first token, 0 when there is none."""
        oldest = next(iter(self._waiting.values()), None)
        return 0.0 if oldest is None else self._clock() - oldest.request.arrived_s

    def arrived(
        self,
        request: InferenceRequest,
        assigned: Assigned,
        *,
        client_request_id: str | None = None,
        has_tokens: bool = True,
    ) -> Record:
        """
        Begin the record of a request whose body is complete.

        Args:
            request: What is asked for.
            assigned: Its features.
            client_request_id: The client's own name for it.
            has_tokens: Its answer comes token by token, the first of which may be late.
        """
        record = Record(request=request, assigned=assigned, client_request_id=client_request_id)
        self._live[request.id] = record
        if has_tokens:
            self._waiting[request.id] = record
        if assigned.compared:
            self._sink.rollouts.arrived(assigned, request)
        if "qos_monitoring" in assigned.on:
            self._sink.monitor.arrived(request.id, now_s=request.arrived_s)
        return record

    def check_first_tokens(self, *, deadline_s: float) -> None:
        """
        Count those that had no first token within the deadline as failed, while they go on.

        A hang must count, or a feature that hangs would show nothing at all.
        """
        arrived_before_s = self._clock() - deadline_s
        late = []
        for record in self._waiting.values():
            if record.request.arrived_s > arrived_before_s:
                break
            late.append(record)
        for record in late:
            del self._waiting[record.request.id]
            self._count(record, Ending.INFRASTRUCTURE if self._lost_time(record) else Ending.FAILED)

    def admitted(self, record: Record) -> None:
        """It has its ticket."""
        record.admitted_s = self._clock()
        wait_s = record.admitted_s - record.request.arrived_s
        self._sink.metrics.queue_time.labels(INTERACTIVE).observe(wait_s)

    def started(self, record: Record, *, prompt_tokens: int) -> None:
        """Its prompt went to the engine."""
        record.prompt_tokens = prompt_tokens

    def tokens(self, record: Record, *, count: int, cached_tokens: int) -> None:
        """Some of its tokens arrived."""
        if record.first_token_s is None:
            now_s = self._clock()
            record.first_token_s = now_s
            record.cached_tokens = cached_tokens
            ttft_s = now_s - record.request.arrived_s
            self._waiting.pop(record.request.id, None)
            if record.assigned.compared and not self._lost_time(record):
                self._sink.rollouts.first_token(record.assigned, ttft_s=ttft_s)
            self._sink.figures.first_token(ttft_s=ttft_s, now_s=now_s)
            if "qos_monitoring" in record.on:
                self._sink.monitor.first_token(record.request.id, ttft_s=ttft_s, now_s=now_s)
            self._count_start(record, ttft_s)
        record.completion_tokens += count

    def _count_start(self, record: Record, ttft_s: float) -> None:
        metrics, model = self._sink.metrics, record.request.model
        metrics.ttft.labels(model, INTERACTIVE).observe(ttft_s)
        self._prompt_tokens += record.prompt_tokens
        self._cached_tokens += record.cached_tokens
        metrics.prompt_tokens.labels(model, INTERACTIVE).inc(record.prompt_tokens)
        metrics.cached_tokens.labels(model, INTERACTIVE).inc(record.cached_tokens)
        metrics.cache_queries.labels(model).inc()
        if record.cached_tokens:
            metrics.cache_hits.labels(model).inc()
        if "ttft_pipeline" in record.on:
            path = "prefilled_ahead" if record.warmed else "warm_memory" if record.cached_tokens else "cold"
            metrics.paths.labels(path).inc()
            self.pipelined += 1
            if path != "cold":
                metrics.pipeline_hits += 1

    def step(
        self, model: str, *, at_s: float, tokens: int, rows: int, is_early: bool = False
    ) -> StepGap | None:
        """
        One engine step ended, or told of its first tokens before its end.

        Args:
            model: Whose.
            at_s: When its tokens were known.
            tokens: How many it brought.
            rows: Streams that go on decoding after it.
            is_early: Its rows have not had their tokens yet.

        Returns:
            The gap between this step's tokens and the last one's; None when no stream saw both.
        """
        last = self._last_steps.get(model)
        if not is_early:
            self._last_steps[model] = (at_s, rows)
        if tokens == 0:
            return None
        now_s = self._clock()
        self._sink.figures.generated(tokens=tokens, now_s=now_s)
        self._sink.monitor.generated(tokens=tokens)
        if last is None or last[1] == 0 or is_early:
            return None
        gap_s, streams = at_s - last[0], min(last[1], tokens)
        self._sink.metrics.gaps[model].observe(gap_s, count=streams)
        self._sink.figures.step(gap_s=gap_s, streams=streams, now_s=now_s)
        self._gap_steps += 1
        if self._gap_steps % self.itl_sample_rate == 0:
            self._sink.monitor.step(gap_s=gap_s, streams=streams * self.itl_sample_rate, now_s=now_s)
        return StepGap(gap_s=gap_s, streams=streams)

    def engine_lost(self, model: str) -> None:
        """The model's next step is another host's: no gap spans the two."""
        self._last_steps.pop(model, None)
        self._down_s[model] = math.inf

    def engine_ready(self, model: str) -> None:
        """The model has a host again; what is slow from here on is slow by itself."""
        self._down_s[model] = self._clock()

    def _lost_time(self, record: Record) -> bool:
        """Tell whether a request waited for an engine host: its times say nothing of a feature."""
        return self._down_s.get(record.request.model, -math.inf) >= record.request.arrived_s

    def refused(self, record: Record, *, status: int, code: str) -> None:
        """Admission said no; not an error, and no sample of latency."""
        self.shed += 1
        age_s = self._clock() - record.request.arrived_s
        self._sink.metrics.refusal.labels(INTERACTIVE).observe(age_s)
        self._end(record, outcome="shed", status=status, code=code)

    def unavailable(self, record: Record, *, status: int, code: str) -> None:
        """Nothing could be served: a failure of ours that the arms of a rollout share."""
        self._end(record, outcome="error", status=status, code=code, failed=True)

    def invalid(self, record: Record, *, status: int, code: str) -> None:
        """The request could never succeed: no failure of ours, and nothing that was served."""
        self._end(record, outcome="invalid", status=status, code=code)

    def cancelled(self, record: Record, *, code: str = "cancelled") -> None:
        """The client went away, did not read, or has cancelled it, as the code says."""
        self._end(record, outcome="cancelled", status=499, code=code)

    def finished(self, record: Record, finished: Finished) -> None:
        """The engine ended the stream."""
        match finished.reason:
            case FinishReason.CANCELLED:
                self.cancelled(record)
            case FinishReason.ERROR if finished.error is not None and finished.error.status < 500:
                self.invalid(record, status=finished.error.status, code=finished.error.code)
            case FinishReason.ERROR:
                error = finished.error
                status = error.status if error else 500
                code = error.code if error else "internal_error"
                outcome = "deadline" if status == 504 else "error"
                self._end(record, outcome=outcome, status=status, code=code, failed=True)
            case FinishReason.STOP | FinishReason.LENGTH:
                self._end(record, outcome="ok", status=200, code=str(finished.reason), failed=False)

    def _end(
        self, record: Record, *, outcome: str, status: int, code: str, failed: bool | None = None
    ) -> None:
        """Fan the end out, once; `failed` is None for what counts neither as finished nor as failed."""
        if record.ended:
            return
        record.ended = True
        self._live.pop(record.request.id, None)
        self._waiting.pop(record.request.id, None)
        now_s = self._clock()
        duration_s = now_s - record.request.arrived_s
        metrics, model = self._sink.metrics, record.request.model
        metrics.requests.labels(model, INTERACTIVE, outcome).inc()
        metrics.generated_tokens.labels(model, INTERACTIVE).inc(record.completion_tokens)
        if outcome == "ok":
            metrics.duration.labels(model, INTERACTIVE).observe(duration_s)
        ending = ending_of(outcome, code, lost_time=self._lost_time(record))
        metrics.ended.count(record.on, ending if ending is Ending.INFRASTRUCTURE else outcome)
        self._count(record, ending, tpot_s=_tpot_s(record, now_s))
        if failed is not None:
            self._sink.figures.finished(failed=failed, now_s=now_s)
        if "qos_monitoring" in record.on:
            if failed is not None:
                self._sink.monitor.finished(record.request.id, failed=failed, now_s=now_s)
            else:
                self._sink.monitor.left(record.request.id, now_s=now_s)
        if self.log_requests:
            _log.info("request", extra=line(record, outcome, status, code, now_s))

    def _count(self, record: Record, ending: Ending, *, tpot_s: float | None = None) -> None:
        """Tell the rollouts how a request came out, once."""
        if record.is_counted or not record.assigned.sides:
            return
        record.is_counted = True
        if self._lost_time(record):
            tpot_s = None
        self._sink.rollouts.ended(record.assigned, record.request, ending=ending, tpot_s=tpot_s)


def _tpot_s(record: Record, now_s: float) -> float | None:
    """Return the time per token after the first; None where there are none."""
    later = record.completion_tokens - 1
    return None if record.first_token_s is None or later < 1 else (now_s - record.first_token_s) / later


def line(record: Record, outcome: str, status: int, code: str, now_s: float) -> dict[str, object]:
    """Return the fields of the canonical log line, as docs/logs.md describes them; never any text."""
    request = record.request
    arrived_s = request.arrived_s
    first_s, admitted_s = record.first_token_s, record.admitted_s
    tpot_s = _tpot_s(record, now_s)
    return {
        "request_id": request.id,
        "client_request_id": record.client_request_id,
        "api": request.api,
        "choice": request.choice,
        "model": request.model,
        "class": INTERACTIVE,
        "stream": request.stream,
        "key_source": request.key_source,
        "on": sorted(record.on),
        "revision": record.assigned.revision,
        "outcome": outcome,
        "status": status,
        "code": code,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
        "reasoning_tokens": record.reasoning_tokens,
        "queue_s": _round(admitted_s - arrived_s) if admitted_s is not None else None,
        "ttft_s": _round(first_s - arrived_s) if first_s is not None else None,
        "tpot_s": None if tpot_s is None else _round(tpot_s),
        "duration_s": _round(now_s - arrived_s),
    }


def _round(value_s: float) -> float:
    return round(value_s, 6)
