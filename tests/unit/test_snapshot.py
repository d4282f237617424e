"""The snapshot: one dictionary of plain values, a true sentence first, None where there is no data."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from wicketgate import snapshot
from wicketgate.facts import EngineFacts, Facts, Quantiles
from wicketgate.snapshot import Identity, Moment

EMPTY = Quantiles(p50_s=math.nan, p95_s=math.nan, p99_s=math.nan, count=0)
IDENTITY = Identity(
    name="demo", version="0.1.0", pid=1, api="http://a", admin="http://b", state_dir="/s", config=None
)
DEMO = {
    "id": "demo",
    "state": "ready",
    "pid": 2,
    "context_tokens": 8192,
    "last_exit": None,
    "safe_mode": None,
}
MOMENT = Moment(
    at="2026-01-01T00:00:00.000+00:00",
    uptime_s=3.14,
    state="ready",
    reason="the model is loaded",
    models=(DEMO,),
    shed_total=3,
    rollouts=(),
    objectives=(),
    config_error=None,
)
FACTS = Facts(
    model="demo",
    version="0.1.0",
    ttft=EMPTY,
    itl=EMPTY,
    requests_per_s=0.0,
    tokens_per_s=0.0,
    in_flight=4,
    streams={"queued": 2, "prefilling": 1, "decoding": 3},
    oldest_waiting_s=0.0,
    error_ratio=0.0,
    http2_connections=1,
    http1_connections=0,
    limit=16,
    fixed_limit=32,
    pipeline_hits_ratio=0.0,
    objectives=(),
    rollouts=(),
    objective_states=(),
    phases=(),
    engine_up=True,
    engine_restarts=0,
    engines=(EngineFacts(model="demo", rows=3, kv_bytes=0, disk_bytes=0, memory_bytes=0, pressure=0),),
    models_loaded=1,
    loop_lag_s=0.0,
    loop_tasks=0,
)


def test_it_is_plain_json() -> None:
    built = snapshot.build(IDENTITY, MOMENT, FACTS)

    assert json.loads(json.dumps(built, allow_nan=False))["schema"] == "wicketgate.snapshot/1"


def test_a_quantile_without_data_is_none_and_not_zero() -> None:
    built = snapshot.build(IDENTITY, MOMENT, FACTS)

    assert built["latency"]["ttft_ms"] == {"p50": None, "p95": None, "p99": None}


def test_a_quantile_with_data_is_in_milliseconds() -> None:
    facts = replace(FACTS, ttft=Quantiles(p50_s=0.1, p95_s=0.25, p99_s=0.5, count=9))

    built = snapshot.build(IDENTITY, MOMENT, facts)

    assert built["latency"]["ttft_ms"] == {"p50": 100.0, "p95": 250.0, "p99": 500.0}


@pytest.mark.parametrize(
    ("p95_s", "count", "words"),
    [
        (0.925, 219, "TTFT p95 is 925 ms over 219 requests"),
        (12.34, 1, "TTFT p95 is 12.3 s over 1 request in"),
    ],
)
def test_the_sentence_of_a_running_server_gives_value_and_span(p95_s: float, count: int, words: str) -> None:
    facts = replace(FACTS, ttft=Quantiles(p50_s=0.1, p95_s=p95_s, p99_s=p95_s, count=count))

    assert words in snapshot.sentence(MOMENT, facts)


def test_the_sentence_of_an_idle_server_says_so() -> None:
    assert snapshot.sentence(MOMENT, FACTS) == "Ready; no request in the last 60 s."


def test_the_sentence_of_a_server_that_is_not_ready_says_why() -> None:
    moment = replace(MOMENT, state="starting", reason="the engine host loads the model")

    assert snapshot.sentence(moment, FACTS) == "starting: the engine host loads the model"


def test_a_violated_objective_comes_first() -> None:
    why = "TTFT p95 is 925 ms for 500 ms"
    moment = replace(MOMENT, objectives=({"name": "ttft", "state": "violated", "why": why},))

    assert snapshot.sentence(moment, FACTS) == why


def test_a_drill_is_told_before_whatever_it_may_have_caused() -> None:
    moment = replace(MOMENT, drill="requests on ttft_pipeline: 25 % of them fail")

    text = snapshot.sentence(moment, FACTS)

    assert text.startswith("A drill is on (phase4_rollout.drill): requests on ttft_pipeline: 25 %")


def test_the_engine_is_the_default_models_and_its_loads_are_everybodys() -> None:
    other = EngineFacts(model="b", rows=2, kv_bytes=10, disk_bytes=20, memory_bytes=30, pressure=1)
    facts = replace(FACTS, engines=(*FACTS.engines, other))
    moment = replace(MOMENT, models=(DEMO, {**DEMO, "id": "b", "pid": 9}))

    built = snapshot.build(IDENTITY, moment, facts)

    assert built["engine"] == {
        "state": "ready",
        "pid": 2,
        "last_exit": None,
        "safe_mode": None,
        "restarts": 0,
        "rows": 5,
        "kv_bytes": 10,
        "disk_bytes": 20,
        "memory_bytes": 30,
        "memory_pressure": 1,
    }
    assert [row["id"] for row in built["models"]] == ["demo", "b"]


def test_a_model_that_fails_beside_others_is_told_first() -> None:
    failed = {**DEMO, "id": "b", "state": "failed", "last_exit": "it was killed by SIGKILL"}
    moment = replace(MOMENT, models=(DEMO, failed))

    assert snapshot.sentence(moment, FACTS) == "b is failed: it was killed by SIGKILL"


@pytest.mark.parametrize(
    ("model", "engine"),
    [("loading", "starting"), ("unloading", "stopped"), ("unloaded", "stopped"), ("failed", "failed")],
)
def test_the_engine_keeps_its_own_words_for_where_it_stands(model: str, engine: str) -> None:
    built = snapshot.build(IDENTITY, replace(MOMENT, models=({**DEMO, "state": model},)), FACTS)

    assert built["engine"]["state"] == engine
