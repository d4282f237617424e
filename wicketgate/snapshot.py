"""
What is true now, for every screen: one dictionary, `wicketgate.snapshot/1`, built from facts alone.

`status`, `--json`, the page and tests all read this one, so screens cannot disagree. Its first line is a
sentence: what is, for which bound, over which span. All figures in it share one window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wicketgate.facts import Facts, Quantiles

SCHEMA = "wicketgate.snapshot/1"
"""Within a schema number fields are only added."""
_HOST_STATES = {"loading": "starting", "unloading": "stopped", "unloaded": "stopped"}
"""What a model's state is for its engine host, where the words differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What does not change while a runtime lives."""

    name: str
    version: str
    pid: int
    api: str
    """URL of the API listener."""
    admin: str
    """URL of the admin listener."""
    state_dir: str
    config: str | None
    """The configuration file in force, None for the packaged one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What the snapshot needs beside the scrape's facts."""

    at: str
    """RFC 3339, UTC."""
    uptime_s: float
    state: str
    """starting, ready, draining, restarting or failed."""
    reason: str
    models: tuple[Mapping[str, object], ...]
    """Name, state, pid and so on of each, the default one first."""
    shed_total: int
    rollouts: tuple[Mapping[str, object], ...]
    objectives: tuple[Mapping[str, object], ...]
    config_error: str | None
    """Why the last edit of the configuration was not taken, None when it was."""
    drill: str | None = None
    """What is done to requests on purpose, None while nothing is."""


def build(identity: Identity, moment: Moment, facts: Facts) -> dict[str, object]:
    """Return the snapshot: plain values only, ready for JSON; what has no data is None, never 0."""
    default = moment.models[0]
    return {
        "schema": SCHEMA,
        "ok": True,
        "at": moment.at,
        "name": identity.name,
        "version": identity.version,
        "pid": identity.pid,
        "uptime_s": round(moment.uptime_s, 1),
        "state": moment.state,
        "reason": moment.reason,
        "sentence": sentence(moment, facts),
        "listeners": {"api": identity.api, "admin": identity.admin},
        "state_dir": identity.state_dir,
        "config": {"file": identity.config, "error": moment.config_error},
        "model": {"id": default["id"], "context_tokens": default["context_tokens"]},
        "engine": _engine(default, facts),
        "models": list(moment.models),
        "flow": {
            "in_flight": facts.in_flight,
            "queued": facts.streams["queued"],
            "limit": facts.limit,
            "fixed_limit": facts.fixed_limit,
            "oldest_waiting_s": round(facts.oldest_waiting_s, 3),
            "shed_total": moment.shed_total,
        },
        "latency": {
            "window_s": 60,
            "ttft_ms": _quantiles(facts.ttft),
            "itl_ms": _quantiles(facts.itl),
        },
        "throughput": {
            "requests_per_s": round(facts.requests_per_s, 3),
            "tokens_per_s": round(facts.tokens_per_s, 1),
        },
        "errors": {"error_ratio": facts.error_ratio},
        "drill": moment.drill,
        "connections": {"h2": facts.http2_connections, "h1": facts.http1_connections},
        "objectives": list(moment.objectives),
        "rollouts": list(moment.rollouts),
    }


def sentence(moment: Moment, facts: Facts) -> str:
    """Say in one plain sentence what an operator should know first; at most 150 characters."""
    if moment.state != "ready":
        return f"{moment.state}: {moment.reason}"[:150]
    if moment.drill is not None:
        return f"A drill is on (phase4_rollout.drill): {moment.drill}."[:150]
    troubled = [
        f"{row['id']} is {row['state']}: {row['last_exit']}"
        for row in moment.models
        if row["state"] in ("failed", "restarting")
    ]
    if troubled:
        return troubled[0][:150]
    violated = [str(row["why"]) for row in moment.objectives if row["state"] == "violated"]
    if violated:
        return violated[0][:150]
    if facts.ttft.count == 0:
        return "Ready; no request in the last 60 s."
    p95 = _milliseconds(facts.ttft.p95_s)
    requests = "1 request" if facts.ttft.count == 1 else f"{facts.ttft.count} requests"
    return (
        f"TTFT p95 is {p95} over {requests} in 60 s; {facts.in_flight} in flight of {facts.limit},"
        f" {facts.streams['queued']} queued."
    )


def _engine(default: Mapping[str, object], facts: Facts) -> dict[str, object]:
    """Tell of the default model's host where it stands, and of all hosts what they hold."""
    return {
        "state": _HOST_STATES.get(str(default["state"]), default["state"]),
        **{key: default[key] for key in ("pid", "last_exit", "safe_mode")},
        "restarts": facts.engine_restarts,
        "rows": sum(each.rows for each in facts.engines),
        "kv_bytes": sum(each.kv_bytes for each in facts.engines),
        "disk_bytes": sum(each.disk_bytes for each in facts.engines),
        "memory_bytes": sum(each.memory_bytes for each in facts.engines),
        "memory_pressure": max((each.pressure for each in facts.engines), default=0),
    }


def _milliseconds(value_s: float) -> str:
    return f"{1000 * value_s:.0f} ms" if value_s < 10 else f"{value_s:.1f} s"


def _quantiles(window: Quantiles) -> dict[str, float | None]:
    values = {"p50": window.p50_s, "p95": window.p95_s, "p99": window.p99_s}
    return {key: None if math.isnan(value) else round(1000 * value, 2) for key, value in values.items()}
