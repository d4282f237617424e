"""
Facts as metric families: what is a state is asked at scrape time, so that no gauge is left at an old value.

Counts that are kept on plain integers (tallies.py) are spelt out here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
    UntypedMetricFamily,
)

from rollout.eprocess import log10
from rollout.guards import Arm, Guard
from rollout.promotion import upper_bound_ratio
from wicketgate.exposition_edge import edge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from rollout.guards import Findings
    from wicketgate.facts import Facts, Quantiles, Rollout
    from wicketgate.tallies import Decisions, EndedRequests, TimeHistogram, Transitions

    Counts = Iterable[tuple[tuple[str, ...], int]]

P = "wicketgate_"
"""Prefix of all names but the requirement's ten."""
KILL_SWITCHES = ("file", "ledger")
"""Where a kill switch can be on."""
GUARDS = tuple(guard for guard in Guard if guard is not Guard.SHARE)
"""Guards that judge the requests; that of the share has a metric of its own."""


def _gauge(name: str, text: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels or {}))
    family.add_metric(list((labels or {}).values()), value)
    return family


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def states(facts: Facts, pipeline_hits: int) -> Iterator[Metric]:
    """Yield every family that is a state."""
    yield from _required(facts, pipeline_hits)
    yield from _flow(facts)
    yield from _objectives(facts)
    yield from _rollouts(facts)
    yield from _engine(facts)
    yield from edge(facts)


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


def gaps(histograms: Mapping[str, TimeHistogram]) -> Metric:
    """Return the gaps between tokens."""
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

    def by_feature(name: str, text: str, value: Callable[[Rollout], float]) -> Metric:
        return _by(f"{P}rollout_{name}", text, "feature", {row.feature: value(row) for row in rows})

    yield by_feature("percentage", "Effective share.", lambda row: row.percentage)
    yield by_feature("revision", "Revision of the state.", lambda row: row.revision)
    yield by_feature(
        "inflight_on", "Requests in flight that are on the feature.", lambda row: row.in_flight_on
    )
    yield by_feature(
        "evidence_needed_requests",
        "Clean canary requests that are missing before the stage may be left upward.",
        lambda row: row.findings.needed_requests,
    )
    yield by_feature(
        "share_log10_e",
        "Evidence that the canary's part of the keys is not its share, as a power of ten.",
        lambda row: _log10(row.findings, Guard.SHARE),
    )
    yield _phases(facts)
    yield from _guards(facts)
    yield _bounds(rows)
    yield _gauge(P + "rollout_state_age_seconds", "Since the ledger was last read.", facts.state_age_s)
    yield _by(
        P + "rollout_kill_switch",
        "1 while the kill switch of the file, or of the ledger, is on.",
        "source",
        {source: float(source in facts.killed_by) for source in KILL_SWITCHES},
    )


def _phases(facts: Facts) -> Metric:
    family = GaugeMetricFamily(P + "rollout_phase", "1 for the phase it is in.", labels=["feature", "phase"])
    for row in facts.rollouts:
        for phase in facts.phases:
            family.add_metric([row.feature, phase], float(phase == row.phase))
    return family


def _guards(facts: Facts) -> Iterator[Metric]:
    text = "Evidence of a guard, as a power of ten; 0 says nothing."
    evidence = GaugeMetricFamily(P + "rollout_guard_log10_e", text, labels=["feature", "guard"])
    for row in facts.rollouts:
        for guard in GUARDS:
            evidence.add_metric([row.feature, guard], _log10(row.findings, guard))
    yield evidence
    yield _by(
        P + "rollout_guard_limit_log10_e",
        "Evidence at which a guard acts, as a power of ten.",
        "guard",
        {guard: log10(facts.guard.limit(guard)) for guard in Guard},
    )


def _log10(findings: Findings, guard: Guard) -> float:
    reading = findings.readings.get(guard)
    return 0.0 if reading is None else log10(reading.evidence)


def _bounds(rows: tuple[Rollout, ...]) -> Metric:
    text = "95 % upper bounds of the failure rate in the stage, valid whenever they are looked at."
    family = GaugeMetricFamily(P + "rollout_error_rate_bound", text, labels=["feature", "arm", "side"])
    for row in rows:
        control = row.findings.control
        family.add_metric([row.feature, Arm.CANARY, "upper"], row.findings.canary_upper_ratio)
        upper_ratio = upper_bound_ratio(control.finished, control.failed)
        family.add_metric([row.feature, Arm.CONTROL, "upper"], upper_ratio)
    return family


def decisions(tally: Decisions) -> Iterator[Metric]:
    """Yield the decisions about features, and the keys that were not the wanted ones."""
    spelt = tally.spelt()
    yield _counts(
        "decisions", "Decisions of requests.", ("feature", "variant", "cause"), spelt.decisions.items()
    )
    text = "Decisions by another key than the feature's, by what it was the key of."
    yield _counts("key_fallback", text, ("feature", "level"), spelt.fallbacks.items())


def ended(tally: EndedRequests) -> Metric:
    """Return the ended requests of each arm."""
    return _counts("requests", "Ended requests by arm.", ("feature", "arm", "outcome"), tally.spelt().items())


def transitions(tally: Transitions) -> Metric:
    """Return the changes of phase and stage."""
    labels = ("feature", "from", "to", "trigger")
    return _counts("transitions", "Changes of phase or stage.", labels, tally.counts.items())


def _counts(name: str, text: str, labels: tuple[str, ...], counts: Counts) -> Metric:
    family = CounterMetricFamily(f"{P}rollout_{name}", text, labels=labels)
    for values, count in counts:
        family.add_metric(values, count)
    return family


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
