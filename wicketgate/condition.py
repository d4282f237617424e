"""How the runtime is: the facts that /health is answered from, asked of the parts that have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qos.policy import State
from wicketgate.api.health import Health, KvMark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from governor.admission import Admission
    from qos.policy import Monitor
    from wicketgate.config_edge import HealthSection
    from wicketgate.fleet import Fleet
    from wicketgate.model import ModelView
    from wicketgate.recorder import Recorder
    from wicketgate.status import Status


def pressure(models: Iterable[ModelView]) -> int:
    """Return the worst memory pressure of any host: 0, SOFT or HARD."""
    return max((model.load.pressure for model in models if model.load is not None), default=0)


def kv_use_ratio(models: Iterable[ModelView]) -> float | None:
    """Return the fullest KV pool's part that cannot be evicted; None where nothing bounds one."""
    loads = [model.load for model in models if model.load is not None]
    return max((load.held_bytes / load.kv_limit_bytes for load in loads if load.kv_limit_bytes), default=None)


def _should_compute(model: ModelView) -> bool:
    return model.pulse is not None and not model.is_down


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """The parts that are asked."""

    fleet: Fleet
    admission: Admission
    monitor: Monitor
    recorder: Recorder
    status: Status
    params: Callable[[], HealthSection]
    """What runtime.yaml says now."""
    clock: Callable[[], float]


class Condition:
    """
    What is true of the runtime's health now.

    Args:
        witnesses: Who is asked.
    """

    def __init__(self, witnesses: Witnesses) -> None:
        self._witnesses = witnesses
        self._kv = KvMark()
        self._is_kv_full = False
        self.has_started = False
        """The models of the start have been ready once."""

    def poll(self, models: Iterable[ModelView]) -> None:
        """Look how full the KV pool is; call it several times a second, with the models as they are now."""
        witnesses = self._witnesses
        params = witnesses.params()
        self._is_kv_full = self._kv.observe(
            kv_use_ratio(models),
            mark_ratio=params.kv_use_ratio,
            for_s=params.kv_for_s,
            now_s=witnesses.clock(),
        )

    def health(self) -> Health:
        """Return the facts."""
        witnesses, now_s = self._witnesses, self._witnesses.clock()
        models = witnesses.fleet.views()
        pulses = [model.pulse for model in models if model.pulse is not None]
        stuck = [model for model in models if model.pulse is not None and model.pulse.is_stuck]
        down = [model.name for model in models if model.is_down or model in stuck]
        verdicts = witnesses.monitor.verdicts(now_s=now_s)
        return Health(
            has_started=self.has_started,
            engine_is_ready=witnesses.fleet.can_serve,
            is_draining=witnesses.status.draining,
            # One of several is told among those that are down: the others serve.
            is_stuck=bool(stuck) and all(model in stuck for model in models if _should_compute(model)),
            pressure=pressure(models),
            is_kv_full=self._is_kv_full,
            is_kv_disk_full=any(model.load is not None and model.load.disk_is_failing for model in models),
            models_down=tuple(down) if len(models) > 1 else (),
            violated=tuple(each.objective for each in verdicts if each.state is State.VIOLATED),
            kv_use_ratio=kv_use_ratio(models),
            cache_hit_ratio=witnesses.recorder.cache_hit_ratio,
            queue=witnesses.admission.queued,
            in_flight=witnesses.admission.in_flight,
            probe_age_s=min((p.token_age_s for p in pulses if p.token_age_s is not None), default=None),
            beat_age_s=max((p.beat_age_s for p in pulses if p.beat_age_s is not None), default=None),
        )
