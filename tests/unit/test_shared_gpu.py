"""The turn to compute prompts reaches hosts as Tune messages; hosts on a CPU never hear of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes import Clock
from wicketgate.engine.client import EngineState
from wicketgate.engine.wire import Load, Step
from wicketgate.shared_gpu import SharedGpu

SHARED_S = 0.05


class Host:
    """An engine client that notes what it is told."""

    def __init__(self, device: str = "Apple M4") -> None:
        self.facts = SimpleNamespace(device=device)
        self.told: list[tuple[bool, float]] = []

    def tune(self, *, prefill_turn: bool, chunk_target_s: float) -> None:
        self.told.append((prefill_turn, chunk_target_s))


class Room:
    """A GPU with hosts on it, the first of which has the turn."""

    def __init__(self, *hosts: Host) -> None:
        self.clock = Clock()
        self.gpu = SharedGpu(clock=self.clock, chunk_target_s=lambda: 0.1)
        for host in hosts:
            self.gpu.moved(host, EngineState.READY)

    def step(self, host: Host, *, waiting: int = 0, rows: int = 0) -> None:
        load = Load(rows=rows, waiting=waiting, waiting_tokens=0, warm_jobs=0, kv_bytes=0, memory_bytes=0)
        self.gpu.stepped(host, Step(number=1, at_s=self.clock(), step_s=0.001, load=load))


def test_the_second_host_is_told_that_the_turn_is_anothers() -> None:
    a, b = Host(), Host()
    Room(a, b)

    assert (a.told, b.told) == ([], [(False, 0.1)])


def test_hosts_on_a_cpu_are_told_nothing() -> None:
    a, b = Host("cpu"), Host("cpu, 2 cores")
    room = Room(a, b)

    room.gpu.asks(a)
    room.step(b, waiting=1)
    room.gpu.moved(a, EngineState.RESTARTING)

    assert (a.told, b.told) == ([], [])


def test_a_prompt_for_another_host_moves_the_turn_before_it_is_sent() -> None:
    a, b = Host(), Host()
    room = Room(a, b)

    room.gpu.asks(b)

    assert a.told == [(False, 0.1)]
    assert b.told[-1][0] is True


def test_chunks_are_small_while_another_host_decodes() -> None:
    a, b = Host(), Host()
    room = Room(a, b)
    room.gpu.asks(a)

    room.step(b, rows=3)

    assert a.told == [(True, SHARED_S)]
    assert room.gpu.chunk_target_s(a) == SHARED_S
    assert room.gpu.chunk_target_s(b) == pytest.approx(0.1)


def test_a_holder_that_others_wait_for_loses_the_turn_in_time() -> None:
    a, b = Host(), Host()
    room = Room(a, b)
    room.gpu.asks(a)
    room.gpu.asks(b)
    due_s = room.gpu.deadline_s
    room.clock.now_s = due_s

    room.gpu.advance(now_s=due_s)
    lost = a.told[-1]
    room.clock.advance(0.1)
    room.step(a, waiting=1)

    assert lost[0] is False
    assert b.told[-1] == (True, SHARED_S)


def test_a_host_that_dies_frees_the_turn_and_its_successor_begins_afresh() -> None:
    a, b = Host(), Host()
    room = Room(a, b)
    room.gpu.asks(b)

    room.gpu.moved(b, EngineState.RESTARTING)
    room.gpu.asks(a)

    assert b.told[-1] == (True, 0.1)
    assert a.told[-1][0] is True
