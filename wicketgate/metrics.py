"""
Every metric, defined once, on a registry that is passed in.

Counters and histograms of requests are counted as things happen; what is a state (streams, limits, states of
objectives and rollouts) is asked from a source at scrape time, so that a gauge can never be left at an old
value. Gaps between tokens come per engine step with a weight, which a client histogram cannot take, so they
are counted here and rendered by the collector. Every label set exists, at zero, from the first scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
    UntypedMetricFamily,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from wicketgate.facts import Facts, Quantiles

OUTCOMES = ("ok", "error", "cancelled", "shed", "deadline", "invalid")
"""How a request can end."""
CLASSES = ("interactive",)
"""Kinds of traffic with an objective of their own."""
PATHS = ("cold", "warm_memory", "prefilled_ahead")
"""How a prompt reached its first token: computed, found in the prefix store, or ahead of its ticket."""
TTFT_BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.35, 0.55, 0.8),
    *(1.2, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""Bucket bounds of the time to first token; 0.55 is the requirement's objective."""
GAP_BUCKETS_S = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Bucket bounds of gaps between tokens."""
REFUSAL_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
"""Bucket bounds of the time to refuse; 0.05 is the bar."""

P = "wicketgate_"


@dataclass(slots=True)
class GapHistogram:
    """Weighted counts of gaps between tokens; one `observe` a step, whatever the number of streams."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(GAP_BUCKETS_S) + 1))
    sum_s: float = 0.0

    def observe(self, gap_s: float, *, streams: int) -> None:
        """Count one step's gap for each stream that saw it."""
        self.counts[bisect_left(GAP_BUCKETS_S, gap_s)] += streams
        self.sum_s += gap_s * streams

    def buckets(self) -> list[tuple[str, float]]:
        """Return the counts as Prometheus adds them up: each bound with all that is at most it."""
        bounds = [*map(str, GAP_BUCKETS_S), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


def process_registry() -> CollectorRegistry:
    """Make a registry that holds what prometheus_client says of this process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


class Metrics:
    """The counted metrics and the renderer of the page."""

    def __init__(
        self, registry: CollectorRegistry, *, models: tuple[str, ...], features: tuple[str, ...]
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page and say nothing
        self._registry = registry
        self.models = models
        self.gaps = {model: GapHistogram() for model in models}
        self.pipeline_hits = 0

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(P + name, text, labels, registry=registry)

        def histogram(name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Histogram:
            return Histogram(P + name, text, labels, buckets=bounds, registry=registry)

        by_class = ("model", "class")
        self.requests = counter("requests_total", "Finished requests.", (*by_class, "outcome"))
        self.prompt_tokens = counter("prompt_tokens_total", "Prompt tokens of started requests.", by_class)
        self.cached_tokens = counter(
            "prefix_cache_tokens_total", "Prompt tokens whose KV existed already.", by_class
        )
        self.generated_tokens = counter("generated_tokens_total", "Tokens produced.", by_class)
        self.cache_queries = counter("prefix_cache_queries_total", "Prompts started.", ("model",))
        self.cache_hits = counter("prefix_cache_hits_total", "Prompts that found a prefix.", ("model",))
        self.paths = counter(
            "ttft_pipeline_requests_total", "Requests on the pipeline, by path of the prompt.", ("path",)
        )
        self.rollout_requests = counter(
            "rollout_requests_total", "Ended requests by arm.", ("feature", "arm", "outcome")
        )
        self.rollbacks = counter("rollout_rollbacks_total", "Rollbacks.", ("feature", "trigger"))
        self.reloads = counter("config_reloads_total", "Reloads of the configuration.", ("result",))
        self.ttft = histogram(
            "time_to_first_token_seconds", "From request received to first token.", by_class, TTFT_BUCKETS_S
        )
        self.duration = histogram(
            "request_duration_seconds", "From request received to its end.", by_class, TTFT_BUCKETS_S
        )
        self.queue_time = histogram("queue_time_seconds", "Wait for a ticket.", ("class",), TTFT_BUCKETS_S)
        self.refusal = histogram(
            "refusal_seconds", "From request received to its refusal.", ("class",), REFUSAL_BUCKETS_S
        )
        self._create_children(features)

    def _create_children(self, features: tuple[str, ...]) -> None:
        for kind in CLASSES:
            for model in self.models:
                for outcome in OUTCOMES:
                    self.requests.labels(model, kind, outcome)
                for metric in (self.prompt_tokens, self.cached_tokens, self.generated_tokens):
                    metric.labels(model, kind)
                self.ttft.labels(model, kind)
                self.duration.labels(model, kind)
            self.queue_time.labels(kind)
            self.refusal.labels(kind)
        for model in self.models:
            self.cache_queries.labels(model)
            self.cache_hits.labels(model)
        for path in PATHS:
            self.paths.labels(path)
        for feature in features:
            for outcome in OUTCOMES:
                self.rollout_requests.labels(feature, "canary", outcome)
                self.rollout_requests.labels(feature, "control", outcome)
            self.rollbacks.labels(feature, "manual")
        for result in ("applied", "refused"):
            self.reloads.labels(result)

    def read(self, source: Callable[[], Facts]) -> None:
        """Register the collector that asks this source at each scrape."""
        self._registry.register(_Collector(self, source))

    def render(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._registry)


class _Collector:
    """Turns Facts into metric families."""

    def __init__(self, metrics: Metrics, source: Callable[[], Facts]) -> None:
        self._metrics = metrics
        self._source = source

    def describe(self) -> list[Metric]:
        """Say nothing at registration: the first collect may come only when the runtime is built."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family that is a state."""
        facts = self._source()
        yield from _required(facts, self._metrics.pipeline_hits)
        yield from _flow(facts)
        yield from _objectives(facts)
        yield from _rollouts(facts)
        yield from _engine(facts)
        yield _gaps(self._metrics.gaps)


def _gauge(name: str, text: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels or {}))
    family.add_metric(list((labels or {}).values()), value)
    return family


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _required(facts: Facts, pipeline_hits: int) -> Iterator[Metric]:
    """
    Yield the requirement's ten metrics under their bare names.

    The two counts among them stand twice: bare, as the requirement writes them, and with `_total`, as the
    field does.
    """
    model = {"model": facts.model}
    yield _gauge("ttft_p95_ms", "TTFT p95 of the last 60 s, milliseconds.", 1000 * facts.ttft.p95_s, model)
    yield _gauge("throughput_rps", "Finished requests a second, last 60 s.", facts.requests_per_s, model)
    yield _gauge("throughput_tps", "Tokens produced a second, last 60 s.", facts.tokens_per_s, model)
    yield _gauge("concurrent_streams", "Requests in flight.", facts.in_flight, model)
    yield _gauge("error_rate", "Failed / (finished + failed), last 60 s.", facts.error_ratio, model)
    violations = CounterMetricFamily("qos_violations", "Violations of objectives.", labels=["objective"])
    for objective in facts.objectives:
        violations.add_metric([objective.name], objective.violations)
    yield violations
    text = "Remediations executed; none can be before the remediation engine exists."
    yield UntypedMetricFamily("remediations_executed", text, value=0)
    yield CounterMetricFamily("remediations_executed_total", text, value=0)
    yield _gauge("http2_connections", "Open HTTP/2 connections.", facts.http2_connections)
    text = "Requests on the pipeline whose prompt was at least partly computed before."
    yield UntypedMetricFamily("ttft_pipeline_hits", text, value=pipeline_hits)
    yield CounterMetricFamily("ttft_pipeline_hits_total", text, value=pipeline_hits)
    yield _gauge("pid_concurrency_limit", "In-flight limit of the PID controller.", facts.limit)


def _flow(facts: Facts) -> Iterator[Metric]:
    yield _by(P + "streams", "Requests by state.", "state", {k: float(v) for k, v in facts.streams.items()})
    yield _gauge(
        P + "oldest_waiting_seconds",
        "Age of the oldest request without a first token.",
        facts.oldest_waiting_s,
    )
    yield _by(
        P + "concurrency_limit",
        "In-flight limits: pid for requests on adaptive_governor, fixed for the rest.",
        "kind",
        {"pid": facts.limit, "fixed": facts.fixed_limit},
    )
    yield _gauge(P + "http1_connections", "Open HTTP/1.1 connections.", facts.http1_connections)
    yield _gauge(
        P + "ttft_pipeline_hit_ratio", "Share of pipeline requests that were hits.", facts.pipeline_hits_ratio
    )
    yield _gauge(P + "event_loop_lag_seconds", "Worst lag of the last second.", facts.loop_lag_s)
    yield _gauge(P + "event_loop_tasks", "Tasks of the event loop.", facts.loop_tasks)
    for name, window in (("time_to_first_token", facts.ttft), ("inter_token_latency", facts.itl)):
        yield _summary(f"{P}{name}_window_seconds", window, facts.model)


def _gaps(histograms: Mapping[str, GapHistogram]) -> Metric:
    family = HistogramMetricFamily(
        P + "inter_token_latency_seconds", "Gaps between tokens, weighted by streams.", labels=["model"]
    )
    for model, histogram in histograms.items():
        family.add_metric([model], buckets=histogram.buckets(), sum_value=histogram.sum_s)
    return family


def _summary(name: str, window: Quantiles, model: str) -> Metric:
    family = SummaryMetricFamily(name, "Sliding 60 s, from the t-digest; do not average.", labels=["model"])
    family.add_sample(name + "_count", {"model": model}, window.count)
    for quantile, value in (("0.5", window.p50_s), ("0.95", window.p95_s), ("0.99", window.p99_s)):
        family.add_sample(name, {"model": model, "quantile": quantile}, value)
    return family


def _objectives(facts: Facts) -> Iterator[Metric]:
    events = GaugeMetricFamily(
        P + "slo_window_events", "Judged events in the window.", labels=["objective", "verdict"]
    )
    recoveries = CounterMetricFamily(P + "qos_recoveries", "Recoveries.", labels=["objective"])
    evidence = GaugeMetricFamily(
        P + "slo_evidence_nats", "Evidence that the budget is exceeded.", labels=["objective"]
    )
    states = GaugeMetricFamily(P + "slo_state", "1 for the state it is in.", labels=["objective", "state"])
    for objective in facts.objectives:
        events.add_metric([objective.name, "good"], objective.good)
        events.add_metric([objective.name, "bad"], objective.bad)
        recoveries.add_metric([objective.name], objective.recoveries)
        evidence.add_metric([objective.name], objective.evidence_nats)
        for state in facts.objective_states:
            states.add_metric([objective.name, state], float(state == objective.state))
    yield from (events, recoveries, evidence, states)


def _rollouts(facts: Facts) -> Iterator[Metric]:
    rows = facts.rollouts
    yield _by(
        P + "rollout_percentage", "Effective share.", "feature", {row.feature: row.percentage for row in rows}
    )
    yield _by(
        P + "rollout_revision",
        "Revision of the state.",
        "feature",
        {row.feature: row.revision for row in rows},
    )
    yield _by(
        P + "rollout_inflight_on",
        "Requests in flight that are on the feature.",
        "feature",
        {row.feature: row.in_flight_on for row in rows},
    )
    phases = GaugeMetricFamily(P + "rollout_phase", "1 for the phase it is in.", labels=["feature", "phase"])
    for row in rows:
        for phase in facts.phases:
            phases.add_metric([row.feature, phase], float(phase == row.phase))
    yield phases


def _engine(facts: Facts) -> Iterator[Metric]:
    yield _gauge(P + "engine_up", "1 while the engine host is ready.", float(facts.engine_up))
    yield CounterMetricFamily(
        P + "engine_restarts", "Restarts of the engine host.", value=facts.engine_restarts
    )
    engines = facts.engines
    yield _gauge(P + "models_loaded", "Models whose weights are loaded.", facts.models_loaded)
    rows, kv_bytes = sum(each.rows for each in engines), sum(each.kv_bytes for each in engines)
    memory_bytes = sum(each.memory_bytes for each in engines)
    yield _gauge(P + "engine_rows", "Streams in the running batches.", rows)
    yield _gauge(P + "engine_kv_bytes", "KV of running streams and kept prefixes.", kv_bytes)
    yield _gauge(P + "engine_memory_bytes", "Allocated by the engine hosts.", memory_bytes)
    yield _by(
        P + "engine_memory_pressure",
        "0 normal, 1 above the soft mark, 2 above the hard mark.",
        "model",
        {each.model: each.pressure for each in engines},
    )
    yield _by(P + "kv_disk_bytes", "KV on disk.", "model", {each.model: each.disk_bytes for each in engines})
    yield _gauge(P + "build_info", "1.", 1, {"version": facts.version})
