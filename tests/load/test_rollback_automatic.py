"""
Pins the automatic path on a real gateway: a fault on the canary's side rolls it back, and harms nobody else.

The engine is the simulated one; the fault is `phase4_rollout.drill`.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from bench.h2_client import finish, wait
from bench.load import PATH
from bench.prompts import completion
from tests.server import Gateway
from wicketgate.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.answers import Answer
    from bench.h2_client import Connection
    from bench.h2_streams import Stream

FEATURE = "ttft_pipeline"
STREAMS = 32
TOKENS = 400
MOST_FAILURES = 2
"""Of a canary that fails always, at the start of a stage."""
ON = {"enabled": True}
STAGES = [
    {"name": "half", "percentage": 50, "hold_s": "1h"},
    {"name": "full", "percentage": 100},
]


def config(**drill: object) -> dict[str, object]:
    return {
        "engine": {"kind": "simulated", "simulated": {"speed_ratio": 10}},
        "phase4_rollout": {
            "stages": STAGES,
            "drill": {"feature": FEATURE, **drill} if drill else {},
            "http2_transport": ON,
            FEATURE: {**ON, "mode": "staged"},
        },
    }


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose feature has just come to half of the sessions."""
    with Gateway(tmp_path, config()) as running:
        start(running)
        yield running


def start(gateway: Gateway) -> None:
    done = gateway.command("rollout", "start", FEATURE, "--reason", "test", "--yes")
    assert done.code == 0, done.out + done.err


def phase(gateway: Gateway) -> str:
    rows = gateway.snapshot()["rollouts"]
    return next(row["phase"] for row in rows if row["feature"] == FEATURE)


class Sessions:
    """Asks as one session after the other, each of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.asked = 0

    def post(self, connection: Connection, *, max_tokens: int) -> Stream:
        self.asked += 1
        body = completion([5, 6, 7], max_tokens=max_tokens)
        return connection.post(PATH, body, [("x-session-id", f"session-{self.asked}")])

    def one(self, connection: Connection) -> Answer:
        stream = self.post(connection, max_tokens=1)
        assert finish([connection], timeout_s=30)
        return stream.answer()

    def until(self, connection: Connection, is_so: Callable[[], bool], *, most: int) -> list[Answer]:
        """Ask again and again until something is so."""
        answers: list[Answer] = []
        while not is_so():
            assert len(answers) < most, f"not within {most} requests: {phase(self._gateway)}"
            answers.append(self.one(connection))
        return answers


def streaming(gateway: Gateway, sessions: Sessions, connection: Connection) -> list[Stream]:
    """Begin streams, of both arms, and wait for the first token of each."""
    streams = [sessions.post(connection, max_tokens=TOKENS) for _ in range(STREAMS)]
    assert wait([connection], until=lambda: all(each.chunks for each in streams), timeout_s=60)
    return streams


def history(gateway: Gateway) -> list[dict]:
    return Ledger(gateway.state_dir / "ledger.db").history(FEATURE)


def test_a_canary_that_fails_is_rolled_back_within_two_failures_and_no_stream_is_cut(
    gateway: Gateway,
) -> None:
    sessions = Sessions(gateway)
    with gateway.connect() as busy, gateway.connect() as connection:
        streams = streaming(gateway, sessions, busy)
        gateway.reconfigure(config(fail_ratio=1))
        asked = sessions.until(connection, lambda: phase(gateway) == "rolled_back", most=40)
        after = [sessions.one(connection) for _ in range(20)]
        busy.receive()
        still_running = busy.live
        assert finish([busy], timeout_s=120)

    canary = [each for each in asked if each.status != 200]
    control = [each for each in asked if each.status == 200]
    (row, *_) = history(gateway)
    answers = [stream.answer() for stream in streams]
    assert 1 <= len(canary) <= MOST_FAILURES
    assert [each.flags & {FEATURE} for each in control] == [frozenset()] * len(control)
    assert [(each.status, each.flags & {FEATURE}) for each in after] == [(200, frozenset())] * 20
    assert still_running == STREAMS, "streams ended before the rollback; it proves nothing"
    assert [(each.status, each.error, each.completion_tokens) for each in answers] == [
        (200, None, TOKENS)
    ] * STREAMS
    assert (row["action"], row["actor"]) == ("rollback", "auto:errors")
    # Two failures at half of the traffic cannot tell whose they are.
    assert row["evidence"]["attribution"] in ("canary", "unknown")
    assert row["evidence"]["canary"]["failed"] == len(canary)
    assert row["evidence"]["control"]["failed"] == 0


def test_a_rollback_that_a_guard_decided_survives_a_kill_right_after_it_was_saved(
    gateway: Gateway, tmp_path: Path
) -> None:
    gateway.reconfigure(config(fail_ratio=1))
    sessions = Sessions(gateway)
    with gateway.connect() as connection:
        sessions.until(connection, lambda: bool(gateway.events("rolled_back")), most=40)
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.stop()

    with Gateway(tmp_path, config()) as again, again.connect() as connection:
        answers = [Sessions(again).one(connection)]
        assert phase(again) == "rolled_back"
        assert [each.flags & {FEATURE} for each in answers] == [frozenset()]


def test_a_canary_that_is_far_slower_than_control_is_rolled_back_without_a_failure(gateway: Gateway) -> None:
    gateway.reconfigure(config(delay_s=0.2))
    sessions = Sessions(gateway)
    with gateway.connect() as connection:
        while phase(gateway) != "rolled_back":
            streams = [sessions.post(connection, max_tokens=1) for _ in range(32)]
            assert finish([connection], timeout_s=30)
            assert sessions.asked < 3200, phase(gateway)

    (row, *_) = history(gateway)
    assert {stream.answer().status for stream in streams} == {200}
    assert (row["action"], row["actor"]) == ("rollback", "auto:ttft_far")


def test_an_engine_host_that_is_killed_rolls_nothing_back(gateway: Gateway) -> None:
    sessions = Sessions(gateway)
    with gateway.connect() as busy:
        streams = streaming(gateway, sessions, busy)
        os.kill(gateway.host_pid, signal.SIGKILL)
        assert finish([busy], timeout_s=120)

    answers = [stream.answer() for stream in streams]
    assert [(each.status, each.completion_tokens) for each in answers] == [(200, TOKENS)] * STREAMS
    assert phase(gateway) == "running"
    assert [row["action"] for row in history(gateway)] == ["start"]
