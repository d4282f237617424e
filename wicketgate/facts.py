"""What is true at one moment, as values: the scrape, the snapshot and their tests are made from these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rollout.guards import Findings, GuardParams
from transport.connection_counters import ConnectionCounters
from transport.counters import Counters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """A sliding window's quantiles in seconds, and its samples; NaN where it holds nothing."""

    p50_s: float
    p95_s: float
    p99_s: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What the monitor says of one objective."""

    name: str
    state: str
    evidence_nats: float
    good: int
    """In the monitor's window."""
    bad: int
    """In the monitor's window."""
    violations: int
    recoveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Where one feature stands."""

    feature: str
    percentage: float
    phase: str
    revision: int
    in_flight_on: int
    findings: Findings = field(default_factory=Findings)
    """What its stage has shown so far; of a feature that nothing judges, nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How often something took how long."""

    buckets: Sequence[tuple[str, float]] = (("+Inf", 0.0),)
    """Of each bound, how many took at most so long."""
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What one model's engine host reports."""

    model: str
    rows: int
    kv_bytes: int
    disk_bytes: int
    memory_bytes: int
    pressure: int
    """Of memory: 0, 1 above the soft mark, 2 above the hard one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that is a state, read at scrape time."""

    model: str
    """The one that is served; `all` where there are several."""
    version: str
    ttft: Quantiles
    itl: Quantiles
    requests_per_s: float
    tokens_per_s: float
    in_flight: int
    streams: Mapping[str, int]
    """By state: queued, prefilling, decoding."""
    oldest_waiting_s: float
    error_ratio: float
    http2_connections: int
    http1_connections: int
    limit: int
    fixed_limit: int
    pipeline_hits_ratio: float
    objectives: tuple[Objective, ...]
    rollouts: tuple[Rollout, ...]
    objective_states: tuple[str, ...]
    phases: tuple[str, ...]
    engine_up: bool
    engine_restarts: int
    engines: tuple[EngineFacts, ...]
    """Of all configured models; one that is not loaded has zeros."""
    models_loaded: int
    loop_lag_s: float
    loop_tasks: int
    guard: GuardParams = field(default_factory=GuardParams)
    """What the guards hold."""
    state_age_s: float = 0.0
    """Since the flags' ledger was last read, or seen to be unchanged."""
    killed_by: frozenset[str] = frozenset()
    """Which kill switches are on: `file`, `ledger`."""
    h2: Counters = field(default_factory=Counters)
    """What the clients' HTTP/2 connections have done since the start."""
    arrivals: ConnectionCounters = field(default_factory=ConnectionCounters)
    """What became of the clients' connections since the start."""
    probes: Times = field(default_factory=Times)
    """How long plain probes of /health took, from the reading of their bytes to the writing of the answer."""
