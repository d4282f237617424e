"""Pins when a Mac is kept awake, and how a sleep is told from a slow clock."""

from __future__ import annotations

import pytest

from wicketgate.sleep import Awake, SleepWatch


class FakeCaffeinate:
    """A program that runs until it is killed."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.code = -9

    def wait(self) -> int | None:
        return self.code


class FakeSystem:
    """Starts programs, or has none."""

    def __init__(self, *, has_program: bool = True) -> None:
        self.has_program = has_program
        self.started: list[FakeCaffeinate] = []
        self.attempts = 0

    def start(self, command: list[str]) -> FakeCaffeinate:
        self.attempts += 1
        if not self.has_program:
            raise FileNotFoundError(command[0])
        self.started.append(FakeCaffeinate(command))
        return self.started[-1]


@pytest.fixture
def system() -> FakeSystem:
    return FakeSystem()


@pytest.fixture
def awake(system: FakeSystem) -> Awake:
    return Awake(4711, start=system.start)


def test_a_machine_without_work_may_sleep(awake: Awake, system: FakeSystem) -> None:
    awake.observe(is_busy=False, now_s=100.0)

    assert not awake.is_held
    assert system.started == []


def test_work_keeps_the_machine_awake_for_as_long_as_we_live(awake: Awake, system: FakeSystem) -> None:
    for now in range(300):
        awake.observe(is_busy=True, now_s=float(now))

    assert awake.is_held
    assert [each.command for each in system.started] == [["caffeinate", "-i", "-w", "4711"]]


def test_the_machine_may_sleep_a_minute_after_the_last_work(awake: Awake) -> None:
    awake.observe(is_busy=True, now_s=100.0)

    held = {}
    for now_s in (130.0, 160.0, 160.1):
        awake.observe(is_busy=False, now_s=now_s)
        held[now_s] = awake.is_held

    assert held == {130.0: True, 160.0: True, 160.1: False}


def test_a_holder_that_ended_is_started_again(awake: Awake, system: FakeSystem) -> None:
    awake.observe(is_busy=True, now_s=100.0)
    system.started[0].kill()

    awake.observe(is_busy=True, now_s=101.0)

    assert awake.is_held
    assert len(system.started) == 2


def test_a_program_that_is_missing_is_looked_for_once() -> None:
    system = FakeSystem(has_program=False)
    awake = Awake(4711, start=system.start)

    for now in range(10):
        awake.observe(is_busy=True, now_s=float(now))

    assert not awake.is_held
    assert system.attempts == 1


def test_closing_lets_the_machine_sleep(awake: Awake) -> None:
    awake.observe(is_busy=True, now_s=100.0)

    awake.close()
    awake.close()

    assert not awake.is_held


class FakeClocks:
    """One clock that stops in sleep and one that does not."""

    def __init__(self) -> None:
        self.awake_s = 1000.0
        self.always_s = 5000.0

    def run(self, seconds: float) -> None:
        self.awake_s += seconds
        self.always_s += seconds

    def sleep(self, seconds: float) -> None:
        self.always_s += seconds


def test_an_hour_of_sleep_is_told_once() -> None:
    clocks = FakeClocks()
    watch = SleepWatch(awake=lambda: clocks.awake_s, always=lambda: clocks.always_s)
    clocks.run(10.0)
    clocks.sleep(3600.0)
    clocks.run(0.5)

    assert watch.slept_s() == 3600.0
    assert watch.slept_s() == 0.0


def test_time_that_only_passed_is_no_sleep() -> None:
    clocks = FakeClocks()
    watch = SleepWatch(awake=lambda: clocks.awake_s, always=lambda: clocks.always_s)

    clocks.run(86_400.0)
    clocks.sleep(0.002)

    assert watch.slept_s() == 0.0
