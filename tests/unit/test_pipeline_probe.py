"""Pins when a silent engine is asked for a token, when it counts as stuck, and that a busy one does not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from wicketgate.engine.supervisor import EngineState
from wicketgate.engine.wire import Done, Load, Step, Token
from wicketgate.pipeline.probe import EngineProbe, ProbeEvent, ProbeParams, Pulse
from wicketgate.pipeline.prober import SALT, Prober

PARAMS = ProbeParams(interval_s=5.0, timeout_s=2.0)


def probe(*, is_up: bool = True) -> EngineProbe:
    made = EngineProbe(PARAMS, now_s=0.0)
    made.up(is_up, now_s=0.0)
    return made


def test_an_engine_that_is_silent_is_asked_for_a_token():
    engine = probe()

    assert engine.deadline_s == 5.0
    assert engine.advance(now_s=4.9) == []
    assert engine.advance(now_s=5.0) == [ProbeEvent.ASK]
    assert engine.advance(now_s=6.9) == []


def test_an_engine_that_shows_tokens_is_never_asked():
    engine = probe()
    for second in range(60):
        engine.token(now_s=float(second))
        assert engine.advance(now_s=second + 0.9) == []


def test_an_engine_that_gives_no_token_is_stuck_and_is_asked_again():
    engine = probe()
    engine.advance(now_s=5.0)

    assert engine.advance(now_s=7.0) == [ProbeEvent.GIVE_UP]
    assert engine.pulse(now_s=7.0).is_stuck
    assert engine.advance(now_s=12.0) == [ProbeEvent.ASK]
    assert engine.pulse(now_s=12.0).is_stuck


def test_any_token_whoever_it_is_for_is_the_answer():
    engine = probe()
    engine.advance(now_s=5.0)
    engine.token(now_s=6.9)

    assert engine.deadline_s == pytest.approx(11.9)
    assert engine.pulse(now_s=7.0) == Pulse(is_stuck=False, token_age_s=pytest.approx(0.1), beat_age_s=None)


def test_a_token_ends_being_stuck():
    engine = probe()
    engine.advance(now_s=5.0)
    engine.advance(now_s=7.0)
    engine.token(now_s=8.0)

    assert not engine.pulse(now_s=8.0).is_stuck


def test_a_probe_that_fails_makes_it_stuck_at_once():
    engine = probe()
    engine.advance(now_s=5.0)
    engine.failed(now_s=5.1)

    assert engine.pulse(now_s=5.1).is_stuck
    assert engine.deadline_s == pytest.approx(10.1)


def test_the_end_of_a_probe_that_was_answered_is_no_failure():
    engine = probe()
    engine.advance(now_s=5.0)
    engine.token(now_s=5.1)
    engine.failed(now_s=5.1)

    assert not engine.pulse(now_s=5.1).is_stuck


def test_no_host_is_asked_nothing_and_is_not_called_stuck():
    engine = probe()
    engine.advance(now_s=5.0)
    engine.advance(now_s=7.0)
    engine.up(False, now_s=8.0)

    assert engine.deadline_s is None
    assert engine.advance(now_s=100.0) == []
    assert not engine.pulse(now_s=100.0).is_stuck


def test_a_host_that_has_just_come_has_its_interval_before_it():
    engine = probe(is_up=False)
    engine.up(True, now_s=50.0)
    engine.up(True, now_s=54.0)

    assert engine.deadline_s == 55.0


def test_other_times_hold_at_once():
    engine = probe()
    engine.reconfigure(ProbeParams(interval_s=1.0, timeout_s=2.0))

    assert engine.advance(now_s=1.0) == [ProbeEvent.ASK]


def test_the_step_loop_is_heard_of():
    engine = probe()
    engine.beat(now_s=3.0)

    assert engine.pulse(now_s=4.5).beat_age_s == 1.5


@pytest.mark.parametrize("name", ["interval_s", "timeout_s"])
def test_times_of_nothing_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be above 0, got 0"):
        ProbeParams(**{name: 0.0})


@dataclass
class FakeStream:
    id: int
    cancelled: int = 0

    def cancel(self) -> None:
        self.cancelled += 1


@dataclass
class FakeEngine:
    """Keeps what it was asked."""

    load: Load | None = None
    state: EngineState = EngineState.READY
    asked: list[FakeStream] = field(default_factory=list)
    salts: list[str] = field(default_factory=list)
    now_s: float = 0.0

    def submit(self, ids, sampling, *, priority=0, salt="", session=""):
        assert (len(ids), sampling.max_tokens) == (1, 1)
        self.asked.append(FakeStream(id=len(self.asked) + 1))
        self.salts.append(salt)
        return self.asked[-1]

    def at(self, prober: Prober, now_s: float) -> None:
        self.now_s = now_s
        prober.poll()


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def prober(engine):
    made = Prober(engine, lambda: PARAMS, clock=lambda: engine.now_s)
    made.poll()
    return made


LOAD = Load(0, 0, 0, 0, 0, 0)


def step(*streams: int, done: tuple[int, ...] = (), reason: str = "length") -> Step:
    return Step(
        number=1,
        at_s=0.0,
        step_s=0.01,
        tokens=[Token(stream, 7) for stream in streams],
        done=[Done(stream, reason) for stream in done],
        load=LOAD,
    )


def test_a_silent_engine_is_asked_once_apart_from_everybodys_kv(engine, prober):
    for now_s in (5.0, 5.1, 6.0):
        engine.at(prober, now_s)

    assert (len(engine.asked), engine.salts) == (1, [SALT])


def test_its_own_token_is_the_answer_and_counts_as_nobodys(engine, prober):
    engine.at(prober, 5.0)
    counted = prober.stepped(step(1, 900, done=(1,)))
    engine.at(prober, 8.0)

    assert counted == 1
    assert not prober.pulse().is_stuck


def test_without_a_probe_all_tokens_are_of_requests(prober):
    assert prober.stepped(step(900, 901)) == 2


def test_an_engine_that_refuses_to_compute_is_stuck(engine, prober):
    engine.at(prober, 5.0)
    prober.stepped(step(done=(1,), reason="error"))

    assert prober.pulse().is_stuck


def test_what_was_given_up_is_taken_back(engine, prober):
    engine.at(prober, 5.0)
    engine.at(prober, 7.0)

    assert prober.pulse().is_stuck
    assert engine.asked[0].cancelled == 1


def test_a_probe_that_anothers_token_answered_is_taken_back_before_the_next(engine, prober):
    engine.at(prober, 5.0)
    prober.stepped(step(900))
    engine.at(prober, 10.0)

    assert [stream.cancelled for stream in engine.asked] == [1, 0]


def test_a_host_that_goes_takes_its_probe_along(engine, prober):
    engine.at(prober, 5.0)
    engine.state = EngineState.RESTARTING
    engine.at(prober, 6.0)
    engine.at(prober, 30.0)

    assert engine.asked[0].cancelled == 1
    assert (len(engine.asked), prober.pulse().is_stuck) == (1, False)


def test_every_other_load_is_a_sign_of_the_step_loop(engine, prober):
    assert prober.pulse().beat_age_s is None
    engine.load = LOAD
    engine.at(prober, 1.0)
    engine.at(prober, 2.0)
    engine.load = None
    engine.at(prober, 3.0)

    assert prober.pulse().beat_age_s == 2.0
