"""When the engine may be asked to start something, by the state of its host."""

from __future__ import annotations

from types import SimpleNamespace

from tests.fakes import Clock
from wicketgate.engine.client import EngineState
from wicketgate.pipeline.gate import RESTART_GRACE_S, GatedEngine


class Host:
    """What the gate looks at of an engine client."""

    def __init__(self, state: EngineState, *, was_ready: bool = True) -> None:
        self.state = state
        self.facts = SimpleNamespace(context_tokens=64) if was_ready else None
        self.last_exit = "it was killed by SIGKILL"

    def warm(self, ids: list[int]) -> int:
        return len(ids)


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
    jobs = {state: GatedEngine(Host(state), clock=Clock()).warm([1, 2, 3]) for state in EngineState}

    assert {state for state, job in jobs.items() if job is not None} == {EngineState.READY}
