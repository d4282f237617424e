"""Pins how the facts of /health come together from the parts that have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from qos.policy import State
from wicketgate.condition import Condition, Witnesses, kv_use_ratio, pressure
from wicketgate.config_edge import HealthSection
from wicketgate.pipeline.probe import Pulse


def model(
    name: str = "demo",
    *,
    pressure: int = 0,
    held_bytes: int = 0,
    kv_limit_bytes: int = 0,
    is_down: bool = False,
    pulse: Pulse | None = None,
    is_loaded: bool = True,
    disk_is_failing: bool = False,
) -> Any:
    load = SimpleNamespace(
        pressure=pressure,
        held_bytes=held_bytes,
        kv_limit_bytes=kv_limit_bytes,
        disk_is_failing=disk_is_failing,
    )
    return SimpleNamespace(name=name, load=load if is_loaded else None, is_down=is_down, pulse=pulse)


@dataclass
class Parts:
    """Parts that say what a test tells them to."""

    models: list[Any] = field(default_factory=lambda: [model()])
    verdicts: list[Any] = field(default_factory=list)
    draining: bool = False
    now_s: float = 0.0
    params: HealthSection = field(default_factory=HealthSection)

    def condition(self) -> Condition:
        witnesses: Any = Witnesses(
            fleet=SimpleNamespace(views=lambda: self.models, can_serve=True),  # type: ignore[arg-type]
            admission=SimpleNamespace(queued=3, in_flight=4),  # type: ignore[arg-type]
            monitor=SimpleNamespace(verdicts=lambda now_s: self.verdicts),  # type: ignore[arg-type]
            recorder=SimpleNamespace(cache_hit_ratio=0.25),  # type: ignore[arg-type]
            status=SimpleNamespace(draining=self.draining),  # type: ignore[arg-type]
            params=lambda: self.params,
            clock=lambda: self.now_s,
        )
        return Condition(witnesses)


def test_the_worst_pressure_of_any_host_counts() -> None:
    assert pressure([model(pressure=1), model(pressure=2), model(is_loaded=False)]) == 2


def test_without_hosts_there_is_no_pressure() -> None:
    assert pressure([model(is_loaded=False)]) == 0


def test_the_fullest_pool_counts_and_one_without_a_bound_does_not() -> None:
    pools = [
        model(held_bytes=9),
        model(held_bytes=1, kv_limit_bytes=4),
        model(held_bytes=3, kv_limit_bytes=4),
    ]

    assert kv_use_ratio(pools) == 0.75
    assert kv_use_ratio([model(held_bytes=9)]) is None


def test_a_pool_is_full_once_it_was_above_the_mark_for_long_enough() -> None:
    parts = Parts(models=[model(held_bytes=95, kv_limit_bytes=100)])
    condition = parts.condition()

    condition.poll(parts.models)
    at_once = condition.health().is_kv_full
    parts.now_s = parts.params.kv_for_s
    condition.poll(parts.models)

    assert (at_once, condition.health().is_kv_full) == (False, True)
    assert condition.health().kv_use_ratio == 0.95


def test_facts_come_from_those_who_have_them() -> None:
    health = Parts(draining=True).condition().health()

    assert health.is_draining
    assert not health.has_started
    assert (health.queue, health.in_flight, health.cache_hit_ratio) == (3, 4, 0.25)


@pytest.mark.parametrize(("names", "down"), [(["a"], ()), (["a", "b"], ("a", "b"))])
def test_a_model_is_told_to_be_down_only_where_there_are_others(names: list[str], down: tuple[str]) -> None:
    parts = Parts(models=[model(name, is_down=True) for name in names])

    assert parts.condition().health().models_down == down


STUCK = Pulse(is_stuck=True, token_age_s=9.0, beat_age_s=8.0)
WELL = Pulse(is_stuck=False, token_age_s=1.0, beat_age_s=0.1)


@pytest.mark.parametrize(
    ("models", "is_stuck", "down"),
    [
        ([model("a", pulse=STUCK)], True, ()),
        ([model("a", pulse=STUCK), model("b", pulse=WELL)], False, ("a",)),
        ([model("a", pulse=STUCK), model("b", pulse=WELL, is_down=True)], True, ("a", "b")),
        ([model("a", pulse=STUCK), model("b", is_loaded=False)], True, ("a",)),
    ],
    ids=["the only one", "one of two", "the other is down", "the other is not loaded"],
)
def test_a_stuck_engine_makes_the_gateway_stuck_only_where_no_other_computes(
    models: list[Any], is_stuck: bool, down: tuple[str, ...]
) -> None:
    health = Parts(models=models).condition().health()

    assert (health.is_stuck, health.models_down) == (is_stuck, down)


def test_ages_are_those_of_the_liveliest_token_and_the_stalest_beat() -> None:
    pulses = [WELL, STUCK, Pulse(is_stuck=False, token_age_s=None, beat_age_s=None)]
    health = Parts(models=[model(pulse=pulse) for pulse in pulses]).condition().health()

    assert (health.probe_age_s, health.beat_age_s) == (1.0, 8.0)


def test_a_host_that_cannot_write_its_kv_is_told() -> None:
    parts = Parts(models=[model("a"), model("b", disk_is_failing=True)])

    assert parts.condition().health().is_kv_disk_full


def test_a_violated_objective_is_named() -> None:
    verdicts = [
        SimpleNamespace(objective="ttft", state=State.VIOLATED),
        SimpleNamespace(objective="errors", state=State.OK),
    ]

    assert Parts(verdicts=verdicts).condition().health().violated == ("ttft",)
