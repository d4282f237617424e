"""
Every metric, defined once, on a registry that is passed in.

What happens now and then is counted on client metrics here; what happens for every request or step on plain
integers (tallies.py); what is a state is asked from a source at scrape time (exposition.py). Every label set
exists, at zero, from the first scrape.
"""

from __future__ import annotations

from itertools import product
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

from rollout.guards import Attribution, Guard
from wicketgate import exposition
from wicketgate.exposition import P
from wicketgate.tallies import GAP_BUCKETS_S, Decisions, EndedRequests, TimeHistogram, Transitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from wicketgate.facts import Facts

OUTCOMES = ("ok", "error", "cancelled", "shed", "deadline", "invalid")
"""How a request can end."""
ROLLOUT_OUTCOMES = (*OUTCOMES, "infrastructure")
"""The same for the arms of a rollout, where what was lost with an engine host stands by itself."""
CLASSES = ("interactive",)
"""Kinds of traffic with an objective of their own."""
PATHS = ("cold", "warm_memory", "prefilled_ahead")
"""How a prompt reached its first token: computed, found in the prefix store, or ahead of its ticket."""
TTFT_BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.35, 0.55, 0.8),
    *(1.2, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""Bucket bounds of the time to first token; 0.55 is the requirement's objective."""
REFUSAL_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
"""Bucket bounds of the time to refuse; 0.05 is the bar."""

ROLLBACK_BUCKETS_S = (1e-5, 1e-4, 1e-3, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Bucket bounds of the steps of a rollback; 0.001 to be in force and 0.05 to be saved are the bars."""
STEPS = ("detect", "flip", "durable")
"""Of a rollback: from the deciding request's end to the decision, to off for new requests, to saved."""
RELOADED = ("keys", "certificate")
"""Files that a running gateway follows, besides its configuration."""
MANUAL = "manual"
"""What triggers a rollback that somebody orders."""
ROLLBACK_GUARDS = (Guard.ERRORS, Guard.RELATIVE, Guard.TTFT_FAR, Guard.ITL_FAR)
"""Guards that trigger a rollback."""


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
        self.gaps = {model: TimeHistogram(GAP_BUCKETS_S) for model in models}
        self.pipeline_hits = 0
        self.decisions = Decisions(features)
        """Told of every request when its flags are fixed."""
        self.ended = EndedRequests(features, ROLLOUT_OUTCOMES)
        """Told of every request at its end."""
        self.transitions = Transitions(features)
        """Shown the states of the features whenever they may have changed."""

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
        self._rollbacks = counter(
            "rollout_rollbacks_total", "Rollbacks.", ("feature", "trigger", "attribution")
        )
        self._rollback_steps = histogram(
            "rollout_rollback_seconds", "How long a rollback took.", ("step",), ROLLBACK_BUCKETS_S
        )
        self.persist_failures = Counter(
            P + "rollout_persist_failures_total", "Changes that could not be saved.", registry=registry
        )
        self.reloads = counter("config_reloads_total", "Reloads of the configuration.", ("result",))
        self.edge_reloads = counter(
            "edge_reloads_total", "Changed files of keys and certificates.", ("what", "result")
        )
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
        registry.register(_Collector(self._tallies))

    def _tallies(self) -> Iterator[Metric]:
        yield from exposition.decisions(self.decisions)
        yield exposition.ended(self.ended)
        yield exposition.transitions(self.transitions)
        yield exposition.gaps(self.gaps)

    def _create_children(self, features: tuple[str, ...]) -> None:
        by_class = (self.prompt_tokens, self.cached_tokens, self.generated_tokens, self.ttft, self.duration)
        for model, kind in product(self.models, CLASSES):
            for outcome in OUTCOMES:
                self.requests.labels(model, kind, outcome)
            for metric in by_class:
                metric.labels(model, kind)
        for model in self.models:
            self.cache_queries.labels(model)
            self.cache_hits.labels(model)
        by_one: list[tuple[Counter | Histogram, tuple[str, ...]]] = [
            (self.queue_time, CLASSES),
            (self.refusal, CLASSES),
            (self.paths, PATHS),
            (self.reloads, ("applied", "refused")),
            (self._rollback_steps, STEPS),
        ]
        for metric, values in by_one:
            for value in values:
                metric.labels(value)
        for what, result in product(RELOADED, ("applied", "refused")):
            self.edge_reloads.labels(what, result)
        for feature in features:
            self._rollbacks.labels(feature, MANUAL, Attribution.UNKNOWN)
            for guard, attribution in product(ROLLBACK_GUARDS, Attribution):
                self._rollbacks.labels(feature, guard, attribution)

    def rolled_back(self, feature: str, *, trigger: str, attribution: Attribution) -> None:
        """
        Count a rollback.

        Args:
            feature: What was rolled back.
            trigger: `MANUAL`, or the guard that acted.
            attribution: Whose failures they were; unknown of one that somebody ordered.
        """
        self._rollbacks.labels(feature, trigger, attribution).inc()

    def rollback_took(self, *, flip_s: float, durable_s: float | None, detect_s: float | None = None) -> None:
        """
        Count how long a rollback took.

        Args:
            flip_s: From the decision until no new request could be on.
            durable_s: From the decision until it was saved; None: it is not.
            detect_s: From the end of the deciding request to the decision; None where a person decided.
        """
        for step, took_s in zip(STEPS, (detect_s, flip_s, durable_s), strict=True):
            if took_s is not None:
                self._rollback_steps.labels(step).observe(took_s)

    def read(self, source: Callable[[], Facts]) -> None:
        """Show on the page what this source says at each scrape."""
        self._registry.register(_Collector(lambda: exposition.states(source(), self.pipeline_hits)))

    def render(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._registry)


class _Collector:
    """Makes families when it is asked for them, not before: the runtime may not be built at registration."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        """Say nothing at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        return self._families()
