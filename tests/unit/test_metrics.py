"""The page: the requirement's names bare, every label set from the first scrape, gaps as a true histogram."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from rollout.assignment import FlagSnapshot
from rollout.guards import ArmCounts, Attribution, Findings, Guard, Reading
from rollout.spec import Feature, Mode, Spec
from rollout.stages import Phase, State
from tests.unit.test_snapshot import FACTS
from wicketgate.facts import Objective, Quantiles, Rollout
from wicketgate.metrics import ROLLOUT_OUTCOMES, Metrics
from wicketgate.tallies import LEVELS

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
    rollouts=(
        Rollout(
            feature="ttft_pipeline",
            percentage=1.0,
            phase="running",
            revision=3,
            in_flight_on=2,
            findings=Findings(
                readings={
                    Guard.ERRORS: Reading(guard=Guard.ERRORS, evidence=100.0, limit=2000.0),
                    Guard.SHARE: Reading(guard=Guard.SHARE, evidence=0.1, limit=1000.0),
                },
                control=ArmCounts(finished=99_000, failed=20),
                canary_upper_ratio=0.004,
                needed_requests=465,
            ),
        ),
    ),
    phases=("off", "running"),
    state_age_s=0.05,
    killed_by=frozenset({"ledger"}),
)
Page = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def page(metrics: Metrics) -> Page:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return f"wicketgate_{name}", tuple(sorted(labels.items()))


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(CollectorRegistry(), models=("demo",), features=("ttft_pipeline",))
    made.read(lambda: FULL)
    return made


@pytest.fixture
def samples(metrics: Metrics) -> Page:
    metrics.gaps["demo"].observe(0.03, count=5)
    return page(metrics)


@pytest.mark.parametrize("name", TEN)
def test_the_requirements_ten_stand_bare(name: str, samples: Page) -> None:
    assert name in {key[0] for key in samples}


def test_the_p95_is_in_milliseconds(
    samples: Page,
) -> None:
    assert samples["ttft_p95_ms", (("model", "demo"),)] == 250.0


def test_every_outcome_is_there_before_any_request(
    samples: Page,
) -> None:
    assert samples[key("requests_total", **{"class": "interactive"}, model="demo", outcome="error")] == 0.0


def test_a_gap_counts_once_for_every_stream(
    samples: Page,
) -> None:
    name = "wicketgate_inter_token_latency_seconds_bucket"

    assert samples[name, (("le", "0.025"), ("model", "demo"))] == 0.0
    assert samples[name, (("le", "0.03"), ("model", "demo"))] == 5.0
    assert samples[name, (("le", "+Inf"), ("model", "demo"))] == 5.0


def test_exactly_one_state_of_an_objective_and_of_a_rollout_is_one(
    samples: Page,
) -> None:
    assert samples["wicketgate_slo_state", (("objective", "errors"), ("state", "ok"))] == 1.0
    assert samples["wicketgate_slo_state", (("objective", "errors"), ("state", "violated"))] == 0.0
    assert samples["wicketgate_rollout_phase", (("feature", "ttft_pipeline"), ("phase", "off"))] == 0.0
    assert samples["wicketgate_rollout_phase", (("feature", "ttft_pipeline"), ("phase", "running"))] == 1.0


def test_a_guard_tells_its_evidence_and_where_it_acts_as_powers_of_ten(samples: Page) -> None:
    assert samples[key("rollout_guard_log10_e", feature="ttft_pipeline", guard="errors")] == 2.0
    assert samples[key("rollout_guard_limit_log10_e", guard="errors")] == pytest.approx(3.301, abs=1e-3)


def test_a_guard_that_has_seen_nothing_says_nothing(samples: Page) -> None:
    assert samples[key("rollout_guard_log10_e", feature="ttft_pipeline", guard="itl_far")] == 0.0


def test_the_share_has_a_metric_of_its_own(samples: Page) -> None:
    assert samples[key("rollout_share_log10_e", feature="ttft_pipeline")] == -1.0
    assert key("rollout_guard_log10_e", feature="ttft_pipeline", guard="share") not in samples


def test_both_arms_have_a_bound_of_their_failure_rate(samples: Page) -> None:
    canary = samples[key("rollout_error_rate_bound", feature="ttft_pipeline", arm="canary", side="upper")]
    control = samples[key("rollout_error_rate_bound", feature="ttft_pipeline", arm="control", side="upper")]

    assert canary == 0.004
    assert 20 / 99_020 < control < 0.0005


def test_the_page_tells_what_is_missing_how_old_it_is_and_who_kills(samples: Page) -> None:
    assert samples[key("rollout_evidence_needed_requests", feature="ttft_pipeline")] == 465.0
    assert samples[key("rollout_state_age_seconds")] == 0.05
    assert samples[key("rollout_kill_switch", source="ledger")] == 1.0
    assert samples[key("rollout_kill_switch", source="file")] == 0.0


def test_every_rollback_that_can_be_is_there_before_any(samples: Page) -> None:
    triggers = {dict(labels)["trigger"] for name, labels in samples if name.endswith("rollbacks_total")}

    assert triggers == {"manual", "errors", "relative", "ttft_far", "itl_far"}
    shared = key("rollout_rollbacks_total", feature="ttft_pipeline", trigger="errors", attribution="shared")
    assert samples[shared] == 0.0


def test_a_rollback_counts_with_trigger_attribution_and_what_it_took(metrics: Metrics) -> None:
    metrics.rolled_back("ttft_pipeline", trigger=Guard.ERRORS, attribution=Attribution.CANARY)
    metrics.rollback_took(detect_s=2e-6, flip_s=0.0005, durable_s=None)

    told = page(metrics)
    counted = key("rollout_rollbacks_total", feature="ttft_pipeline", trigger="errors", attribution="canary")
    assert told[counted] == 1.0
    assert told[key("rollout_rollback_seconds_bucket", step="detect", le="1e-05")] == 1.0
    assert told[key("rollout_rollback_seconds_bucket", step="flip", le="0.0001")] == 0.0
    assert told[key("rollout_rollback_seconds_bucket", step="flip", le="0.001")] == 1.0
    assert told[key("rollout_rollback_seconds_count", step="durable")] == 0.0


def test_no_label_set_is_new_after_traffic(metrics: Metrics) -> None:
    before = set(page(metrics))
    feature = Feature(name="ttft_pipeline", mode=Mode.STAGED)
    running = State(feature="ttft_pipeline", phase=Phase.RUNNING, stage="canary", share_millipercent=1000)
    snapshot = FlagSnapshot(Spec(features={"ttft_pipeline": feature}), {"ttft_pipeline": running})

    for on in (frozenset({"ttft_pipeline"}), frozenset[str]()):
        for source in LEVELS:
            metrics.decisions.count(snapshot, on, source)
        for outcome in ROLLOUT_OUTCOMES:
            metrics.ended.count(on, outcome)
    metrics.transitions.follow({})
    metrics.transitions.follow(snapshot.states)
    metrics.persist_failures.inc()

    assert set(page(metrics)) == before
