"""The page: the requirement's names bare, every label set from the first scrape, gaps as a true histogram."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.test_snapshot import FACTS
from wicketgate.facts import Objective, Quantiles, Rollout
from wicketgate.metrics import Metrics

TEN = (
    "ttft_p95_ms",
    "throughput_rps",
    "throughput_tps",
    "concurrent_streams",
    "error_rate",
    "qos_violations_total",
    "remediations_executed",
    "http2_connections",
    "ttft_pipeline_hits",
    "pid_concurrency_limit",
)
FULL = replace(
    FACTS,
    ttft=Quantiles(p50_s=0.1, p95_s=0.25, p99_s=0.5, count=9),
    objectives=(
        Objective(name="errors", state="ok", evidence_nats=0.5, good=9, bad=1, violations=2, recoveries=1),
    ),
    objective_states=("ok", "violated"),
    rollouts=(Rollout(feature="ttft_pipeline", percentage=1.0, phase="running", revision=3, in_flight_on=2),),
    phases=("off", "running"),
)


@pytest.fixture
def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    metrics = Metrics(CollectorRegistry(), models=("demo",), features=("ttft_pipeline",))
    metrics.gaps["demo"].observe(0.03, streams=5)
    metrics.read(lambda: FULL)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("name", TEN)
def test_the_requirements_ten_stand_bare(
    name: str, samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]
) -> None:
    assert name in {key[0] for key in samples}


def test_the_p95_is_in_milliseconds(
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float],
) -> None:
    assert samples["ttft_p95_ms", (("model", "demo"),)] == 250.0


def test_every_outcome_is_there_before_any_request(
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float],
) -> None:
    key = (("class", "interactive"), ("model", "demo"), ("outcome", "error"))

    assert samples["wicketgate_requests_total", key] == 0.0


def test_a_gap_counts_once_for_every_stream(
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float],
) -> None:
    name = "wicketgate_inter_token_latency_seconds_bucket"

    assert samples[name, (("le", "0.025"), ("model", "demo"))] == 0.0
    assert samples[name, (("le", "0.03"), ("model", "demo"))] == 5.0
    assert samples[name, (("le", "+Inf"), ("model", "demo"))] == 5.0


def test_exactly_one_state_of_an_objective_and_of_a_rollout_is_one(
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float],
) -> None:
    assert samples["wicketgate_slo_state", (("objective", "errors"), ("state", "ok"))] == 1.0
    assert samples["wicketgate_slo_state", (("objective", "errors"), ("state", "violated"))] == 0.0
    assert samples["wicketgate_rollout_phase", (("feature", "ttft_pipeline"), ("phase", "off"))] == 0.0
    assert samples["wicketgate_rollout_phase", (("feature", "ttft_pipeline"), ("phase", "running"))] == 1.0
