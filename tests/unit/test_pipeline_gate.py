"""When the engine may be asked to start something, by the state of its host."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.fakes import Clock, request
from wicketgate.engine.client import EngineState
from wicketgate.pipeline.gate import HARD, RESTART_GRACE_S, SOFT, GatedEngine

if TYPE_CHECKING:
    from wicketgate.inference import Sampling


class Host:
    """What the gate looks at of an engine client."""

    def __init__(self, state: EngineState, *, was_ready: bool = True) -> None:
        self.state = state
        self.facts = SimpleNamespace(context_tokens=64) if was_ready else None
        self.last_exit = "it was killed by SIGKILL"

    load: SimpleNamespace | None = None

    def warm(self, ids: list[int], *, salt: str) -> int:
        return len(ids)

    def submit(self, ids: list[int], sampling: Sampling, **service: object) -> dict[str, object]:
        return service


def refusal(state: EngineState, *, down_for_s: float = 0.0) -> str | None:
    clock, host = Clock(), Host(state)
    gate = GatedEngine(host, clock=clock)
    gate.note(state)
    clock.advance(down_for_s)
    error = gate.unavailable()
    return None if error is None else error.code


def test_a_ready_engine_takes_requests() -> None:
    assert refusal(EngineState.READY) is None


def test_an_engine_that_was_just_lost_is_waited_for() -> None:
    assert refusal(EngineState.RESTARTING, down_for_s=RESTART_GRACE_S / 2) is None


def test_an_engine_that_stays_away_is_reported() -> None:
    assert refusal(EngineState.RESTARTING, down_for_s=RESTART_GRACE_S) == "engine_restarting"


def test_a_model_that_loads_is_reported() -> None:
    assert refusal(EngineState.STARTING) == "starting"


def test_an_engine_that_was_given_up_is_reported() -> None:
    assert refusal(EngineState.FAILED) == "engine_down"


def test_a_server_that_stops_is_reported() -> None:
    assert refusal(EngineState.STOPPED) == "draining"


def test_the_grace_runs_from_the_loss_and_not_from_the_start() -> None:
    clock, host = Clock(), Host(EngineState.READY)
    gate = GatedEngine(host, clock=clock)
    clock.advance(1000.0)
    host.state = EngineState.RESTARTING
    gate.note(EngineState.RESTARTING)

    assert gate.unavailable() is None


def test_restarts_that_fail_do_not_prolong_the_grace() -> None:
    clock, host = Clock(), Host(EngineState.RESTARTING)
    gate = GatedEngine(host, clock=clock)
    gate.note(EngineState.RESTARTING)
    clock.advance(RESTART_GRACE_S)

    gate.note(EngineState.RESTARTING)

    assert gate.unavailable() is not None


def test_before_the_first_host_was_ready_there_is_no_context() -> None:
    assert GatedEngine(Host(EngineState.STARTING, was_ready=False), clock=Clock()).context_tokens == 0


def test_a_first_start_that_is_repeated_is_still_a_start() -> None:
    gate = GatedEngine(Host(EngineState.RESTARTING, was_ready=False), clock=Clock())
    gate.note(EngineState.RESTARTING)

    error = gate.unavailable()

    assert error is not None
    assert error.code == "starting"


def test_only_a_ready_engine_is_offered_warm_jobs() -> None:
    jobs = {state: GatedEngine(Host(state), clock=Clock()).warm([1, 2, 3], salt="") for state in EngineState}

    assert {state for state, job in jobs.items() if job is not None} == {EngineState.READY}


@pytest.mark.parametrize(("pressure", "code"), [(0, None), (SOFT, None), (HARD, "memory")])
def test_above_the_hard_mark_of_memory_nothing_is_started(pressure: int, code: str | None) -> None:
    host = Host(EngineState.READY)
    host.load = SimpleNamespace(pressure=pressure)

    error = GatedEngine(host, clock=Clock()).unavailable()

    assert (None if error is None else error.code) == code
    assert error is None or "engine.memory.max_bytes" in error.message


def test_a_request_takes_its_class_its_salt_and_its_session_along() -> None:
    asked = replace(request(), priority=3, salt="alice", session="s1")

    service = GatedEngine(Host(EngineState.READY), clock=Clock()).submit([1], asked)

    assert service == {"priority": 3, "salt": "alice", "session": "s1"}
