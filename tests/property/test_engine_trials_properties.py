"""Pins, over a simulated host and poisonous requests, that the poison and nobody else is convicted."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from wicketgate.engine.trials import TRIAL_TOKENS, Trials


@dataclass
class Request:
    """A request that kills the host that computes its token number `kills_at`, if any."""

    wanted: int
    kills_at: int | None
    emitted: int = 0
    started: bool = False
    sent: bool = False


class World:
    """
    A gateway that follows the trials, and hosts that compute whom they like in whatever order.

    Hosts tell what they begin before they compute it, or after.
    """

    def __init__(self, requests: dict[int, Request], seed: int, *, announces: bool = True) -> None:
        self.announces = announces
        self.live = requests
        self.chance = random.Random(seed)
        self.trials = Trials()
        self.convicted: list[int] = []
        self.finished: list[int] = []
        self.deaths = 0
        self.alone: int | None = None
        for key in requests:
            self.trials.add(key)

    def send(self) -> None:
        called = self.trials.call()
        for key in called:
            self.live[key].sent = True
        if called:
            self.alone = called[0]
        elif not self.trials.in_session:
            for request in self.live.values():
                request.sent = True

    def step(self, *, outside_kill: bool = False) -> None:
        sent = [key for key, request in self.live.items() if request.sent]
        chosen = self.chance.sample(sent, self.chance.randint(1, len(sent)))
        if self.alone is not None:
            chosen = [self.alone]
        for key in chosen:
            self.live[key].started |= self.announces
        if outside_kill or any(self.live[key].emitted == self.live[key].kills_at for key in chosen):
            self.die()
            return
        for key in chosen:
            self.live[key].started = True
            self.emit(key)

    def emit(self, key: int) -> None:
        request = self.live[key]
        request.emitted += 1
        if self.trials.emitted(key, tokens=1):
            self.alone = None
        if request.emitted == request.wanted:
            self.trials.end(key)
            self.finished.append(key)
            del self.live[key]
            if key == self.alone:
                self.alone = None

    def die(self) -> None:
        self.deaths += 1
        self.alone = None
        computed = [key for key, request in self.live.items() if request.started]
        waited = [key for key, request in self.live.items() if request.sent]
        for key in self.trials.died(computed, waited=waited):
            self.convicted.append(key)
            del self.live[key]
        for request in self.live.values():
            request.started = request.sent = False

    def run(self, *, outside_kill_at: int | None = None) -> None:
        for number in range(10_000):
            if not self.live:
                return
            self.send()
            self.step(outside_kill=number == outside_kill_at)
        raise AssertionError("requests were lost: the world stands still")


@st.composite
def requests(draw: st.DrawFn) -> dict[int, Request]:
    count = draw(st.integers(1, 12))
    made = {}
    for key in range(1, count + 1):
        wanted = draw(st.integers(1, 3 * TRIAL_TOKENS))
        kills_at = draw(st.none() | st.integers(0, wanted - 1))
        made[key] = Request(wanted, kills_at)
    return made


@given(
    made=requests(),
    seed=st.integers(0, 2**32),
    announces=st.booleans(),
    kill_at=st.none() | st.integers(0, 60),
)
def test_exactly_the_poison_is_convicted_and_everybody_else_finishes(
    made: dict[int, Request], seed: int, announces: bool, kill_at: int | None
) -> None:
    poison = sorted(key for key, request in made.items() if request.kills_at is not None)
    everybody = sorted(made)
    world = World(dict(made), seed, announces=announces)

    world.run(outside_kill_at=kill_at)

    assert sorted(world.convicted) == poison
    assert sorted(world.convicted + world.finished) == everybody


@given(made=requests(), seed=st.integers(0, 2**32), announces=st.booleans())
def test_a_poison_costs_a_handful_of_deaths(made: dict[int, Request], seed: int, announces: bool) -> None:
    poison = sum(request.kills_at is not None for request in made.values())
    world = World(made, seed, announces=announces)

    world.run()

    assert world.deaths <= 7 * poison
