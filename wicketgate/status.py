"""
Asks every part what is true now: facts for the scrape, the snapshot for screens, rollback for the operator.

It is what the admin application talks to. It keeps nothing but counts of episodes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from qos.policy import Recovery, State, Violation
from rollout.guards import Attribution, Findings
from rollout.spec import Trouble
from rollout.stages import Phase
from wicketgate import snapshot
from wicketgate.facts import EngineFacts, Facts, Objective, Quantiles, Rollout, Times
from wicketgate.metrics import MANUAL
from wicketgate.model import ModelState
from wicketgate.snapshot import Identity
from wicketgate.tallies import PROBE_BUCKETS_S, TimeHistogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from governor.admission import Admission
    from governor.limit import Limit
    from qos import figures as qos_figures
    from qos.policy import Monitor
    from transport.server import Connections, EdgeCounters
    from wicketgate.config import RuntimeConfig
    from wicketgate.drill import DrillParams
    from wicketgate.flags import FlagBoard
    from wicketgate.fleet import Fleet
    from wicketgate.loops import LoopLag
    from wicketgate.lowering import Lowering
    from wicketgate.metrics import Metrics
    from wicketgate.model import ModelView
    from wicketgate.recorder import Recorder
    from wicketgate.rollouts import Rollouts

log = logging.getLogger(__name__)

ALL_MODELS = "all"
"""Label of what covers several models."""
_BROKEN = (ModelState.RESTARTING, ModelState.FAILED)
_LOADED = (ModelState.READY, ModelState.RESTARTING, ModelState.UNLOADING)
DIRECT = "direct"
"""What metrics call the phase of a feature that serves its percentage directly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The parts that are asked."""

    recorder: Recorder
    figures: qos_figures.Figures
    monitor: Monitor
    admission: Admission
    limit: Limit
    flags: FlagBoard
    rollouts: Rollouts
    drill: Callable[[], DrillParams]
    fleet: Fleet
    connections: Callable[[], Connections]
    edge: Callable[[], EdgeCounters]
    metrics: Metrics
    lag: LoopLag
    clock: Callable[[], float]


class Status:
    """What the admin application asks of the runtime."""

    def __init__(self, sources: Sources, identity: Identity) -> None:
        self._sources = sources
        self.identity = identity
        self._began_s = sources.clock()
        self._violations: Counter[str] = Counter()
        self._recoveries: Counter[str] = Counter()
        self.probes = TimeHistogram(PROBE_BUCKETS_S)
        """How long probes took; told by their routes."""
        self.draining = False
        self.config_error: str | None = None

    def judged(self, event: Violation | Recovery) -> None:
        """Count an episode of the monitor, and log it."""
        match event:
            case Violation(objective=objective, why=why):
                self._violations[objective] += 1
                log.warning("objective_violated", extra={"objective": objective, "why": why})
            case Recovery(objective=objective, duration_s=duration_s):
                self._recoveries[objective] += 1
                log.info("objective_recovered", extra={"objective": objective, "after_s": duration_s})

    def troubles(self) -> Iterator[Trouble]:
        """Yield what is wrong now and may keep a rollout from going on."""
        if self._violations.total() > self._recoveries.total():
            yield Trouble.VIOLATION
        if self._sources.admission.is_held:
            yield Trouble.RESOURCE
        if any(model.state in _BROKEN for model in self._sources.fleet.views()):
            yield Trouble.INCIDENT

    def metrics(self) -> bytes:
        """Return the metrics page."""
        return self._sources.metrics.render()

    def features(self) -> Sequence[Mapping[str, object]]:
        """Return where every feature stands."""
        sources = self._sources
        return [
            {**row, "in_flight_on": sources.recorder.on_in_flight(str(row["feature"]))}
            for row in sources.flags.describe(judged=sources.rollouts.judged())
        ]

    def models(self) -> Sequence[Mapping[str, object]]:
        """Return where every model stands, the default one first."""
        return [model_row(model) for model in self._sources.fleet.views()]

    def state(self) -> tuple[str, str]:
        """Return the runtime's state and the reason for it, in words."""
        if self.draining:
            return "draining", "streams in flight finish, nothing new is taken"
        models = self._sources.fleet.views()
        if self._sources.fleet.can_serve:
            loaded = sum(model.state is ModelState.READY for model in models)
            if len(models) == 1 and loaded:
                return "ready", "the model is loaded"
            return "ready", f"{loaded} of {len(models)} models are loaded, the others are on demand"
        # None serves: the first that should tells why.
        down = next(model for model in models if model.is_down)
        match down.state:
            case ModelState.FAILED:
                return "failed", f"the engine host died too often ({down.last_exit})"
            case ModelState.RESTARTING:
                return "restarting", f"the engine host is being restarted ({down.last_exit})"
            case _:
                return "starting", "the engine host loads the model"

    async def rollback(self, feature: str | None, *, actor: str, reason: str) -> Mapping[str, object]:
        """Take a feature, or all, to 0 %: in memory at once, then in the ledger, off the event loop."""
        lowering = self._sources.flags.lower(feature, actor=actor, reason=reason)
        for name in lowering.features:
            self._sources.metrics.rolled_back(name, trigger=MANUAL, attribution=Attribution.UNKNOWN)
        return await self._persist(lowering)

    async def kill(self, *, actor: str, reason: str) -> Mapping[str, object]:
        """Engage the kill switch: in memory at once, then in the ledger, off the event loop."""
        return await self._persist(self._sources.flags.kill(actor=actor, reason=reason))

    async def _persist(self, lowering: Lowering) -> Mapping[str, object]:
        recorder = self._sources.recorder
        in_flight = {name: recorder.on_in_flight(name) for name in lowering.features}
        done = await asyncio.to_thread(self._sources.flags.persist, lowering)
        self._sources.metrics.rollback_took(flip_s=done.flip_s, durable_s=done.durable_s)
        return {
            "schema": "wicketgate.kill/1" if lowering.kills else "wicketgate.rollback/1",
            "ok": True,
            "features": [{**asdict(row), "in_flight_on": in_flight[row.feature]} for row in done.features],
            "flip_s": done.flip_s,
            "durable_s": done.durable_s,
            "revision": done.revision,
        }

    def snapshot(self) -> Mapping[str, object]:
        """Return what is true now."""
        sources = self._sources
        state, reason = self.state()
        moment = snapshot.Moment(
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            uptime_s=sources.clock() - self._began_s,
            state=state,
            reason=reason,
            models=tuple(self.models()),
            shed_total=sources.recorder.shed,
            rollouts=tuple(self.features()),
            objectives=tuple(
                {**asdict(verdict), "name": verdict.objective}
                for verdict in sources.monitor.verdicts(now_s=sources.clock())
            ),
            config_error=self.config_error,
            drill=str(sources.drill()) if sources.drill().is_on else None,
        )
        return snapshot.build(self.identity, moment, self.facts())

    def facts(self) -> Facts:
        """Return everything that is a state, for the scrape."""
        sources = self._sources
        now_s = sources.clock()
        models = sources.fleet.views()
        loads = [model.load for model in models if model.load is not None]
        recorder, figures, admission = sources.recorder, sources.figures, sources.admission
        connections, edge = sources.connections(), sources.edge()
        return Facts(
            model=models[0].name if len(models) == 1 else ALL_MODELS,
            version=self.identity.version,
            ttft=_quantiles(figures.ttft(now_s=now_s)),
            itl=_quantiles(figures.itl(now_s=now_s)),
            requests_per_s=figures.throughput_rps(now_s=now_s),
            tokens_per_s=figures.throughput_tps(now_s=now_s),
            in_flight=admission.in_flight,
            streams={
                "queued": admission.queued,
                "prefilling": sum(load.waiting for load in loads),
                "decoding": sum(load.rows for load in loads),
            },
            oldest_waiting_s=recorder.oldest_waiting_s(),
            error_ratio=figures.error_ratio(now_s=now_s) or 0.0,
            http2_connections=connections.h2,
            http1_connections=connections.h1,
            h2=edge.h2,
            arrivals=edge.connections,
            probes=Times(buckets=self.probes.buckets(), sum_s=self.probes.sum_s),
            limit=sources.limit.value,
            fixed_limit=admission.fixed_limit,
            pipeline_hits_ratio=sources.metrics.pipeline_hits / recorder.pipelined
            if recorder.pipelined
            else 0.0,
            objectives=self._objectives(now_s),
            rollouts=self._rollouts(),
            objective_states=tuple(State),
            phases=(*Phase, DIRECT),
            engine_up=not any(model.is_down for model in models),
            engine_restarts=sum(model.restarts for model in models),
            engines=tuple(_engine(model) for model in models),
            models_loaded=sum(model.state in _LOADED for model in models),
            loop_lag_s=sources.lag.worst_s,
            loop_tasks=len(asyncio.all_tasks()),
            guard=sources.rollouts.params,
            state_age_s=sources.flags.age_s,
            killed_by=sources.flags.killed_by,
        )

    def _objectives(self, now_s: float) -> tuple[Objective, ...]:
        return tuple(
            Objective(
                name=verdict.objective,
                state=str(verdict.state),
                evidence_nats=verdict.evidence_nats,
                good=verdict.total - verdict.bad,
                bad=verdict.bad,
                violations=self._violations[verdict.objective],
                recoveries=self._recoveries[verdict.objective],
            )
            for verdict in self._sources.monitor.verdicts(now_s=now_s)
        )

    def _rollouts(self) -> tuple[Rollout, ...]:
        sources = self._sources
        judged = sources.rollouts.judged()
        return tuple(
            Rollout(
                feature=str(row["feature"]),
                percentage=float(str(row["percentage"])),
                phase=str(row["phase"] or DIRECT),
                revision=int(str(row["revision"])),
                in_flight_on=sources.recorder.on_in_flight(str(row["feature"])),
                findings=judged[row["feature"]].findings if row["feature"] in judged else Findings(),
            )
            for row in sources.flags.describe()
        )


def identify(config: RuntimeConfig, *, state_dir: Path, file: Path | None) -> Identity:
    """Tell what does not change while this runtime lives; its addresses are as bound only once it listens."""
    return Identity(
        name=config.name,
        version=version("wicketgate"),
        pid=os.getpid(),
        api=config.server.bind,
        admin=config.admin.bind,
        state_dir=str(state_dir),
        config=None if file is None else str(file),
    )


def model_row(model: ModelView) -> dict[str, object]:
    """Write a model as screens and commands read it."""
    load = model.load
    return {
        "id": model.name,
        "state": str(model.state),
        "pinned": model.is_pinned,
        "load": "start" if model.loads_at_start else "demand",
        "weights_bytes": model.weights_bytes,
        "context_tokens": model.context_tokens,
        "pid": model.pid,
        "restarts": model.restarts,
        "last_exit": model.last_exit or None,
        "safe_mode": model.safe_mode or None,
        "in_use": model.in_use,
        "idle_s": round(model.idle_s, 1),
        "rows": load.rows if load else 0,
        "kv_bytes": load.kv_bytes if load else 0,
        "memory_bytes": load.memory_bytes if load else 0,
        "memory_pressure": load.pressure if load else 0,
    }


def _engine(model: ModelView) -> EngineFacts:
    load = model.load
    return EngineFacts(
        model=model.name,
        rows=load.rows if load else 0,
        kv_bytes=load.kv_bytes if load else 0,
        disk_bytes=load.disk_bytes if load else 0,
        memory_bytes=load.memory_bytes if load else 0,
        pressure=load.pressure if load else 0,
    )


def _quantiles(window: qos_figures.Quantiles | None) -> Quantiles:
    if window is None:
        return Quantiles(p50_s=math.nan, p95_s=math.nan, p99_s=math.nan, count=0)
    return Quantiles(p50_s=window.p50, p95_s=window.p95, p99_s=window.p99, count=round(window.count))
