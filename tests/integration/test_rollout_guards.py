"""
Pins, on a real server, that a guard takes a feature back by itself, and what must not make it do so.

The fault is a drill (`phase4_rollout.drill`): the same requests, engine and clients, and failures on purpose.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from bench.h2_client import finish, wait
from bench.load import PATH
from bench.prompts import completion
from tests.server import Gateway
from wicketgate.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.h2_client import Connection
    from bench.h2_streams import Stream

FEATURE = "ttft_pipeline"
ON = {"enabled": True}
TOKENS = 1600
"""Of a stream that is to outlast a rollback, on a slow machine too."""
PHASE4: dict[str, object] = {
    "stages": [{"name": "half", "percentage": 50, "hold_s": "1h"}, {"name": "full", "percentage": 100}],
    "guard": {"ttft": {"rollback_at_percent": 400}},
    "http2_transport": ON,
    "adaptive_governor": ON,
    FEATURE: {**ON, "mode": "staged"},
}
CONFIG: dict[str, object] = {
    "engine": {"kind": "simulated", "simulated": {"speed_ratio": 10}, "memory": {"max_bytes": "64GiB"}},
    "phase4_rollout": PHASE4,
}


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one feature at half of the sessions."""
    with Gateway(tmp_path_factory.mktemp("gateway"), CONFIG) as running:
        done = running.command("rollout", "start", FEATURE)
        assert done.code == 0, done.out + done.err
        yield running


def drill(gateway: Gateway, **params: float) -> None:
    """Let the requests on the feature fail, or wait."""
    phase4 = {**PHASE4, "drill": {"feature": FEATURE, **params}}
    gateway.reconfigure({**CONFIG, "phase4_rollout": phase4})


def ask(connection: Connection, sessions: range, *, max_tokens: int = 2) -> list[Stream]:
    """Send a request of each session; they leave with the next `wait`."""
    body = completion([5, 6, 7], max_tokens=max_tokens)
    return [connection.post(PATH, body, [("x-session-id", f"session-{each}")]) for each in sessions]


def serve(gateway: Gateway, sessions: range) -> None:
    """Have a request of each session answered, eight at a time."""
    with gateway.connect() as connection:
        for first in range(sessions.start, sessions.stop, 8):
            ask(connection, range(first, min(first + 8, sessions.stop)))
            assert finish([connection], timeout_s=30)


def serve_until(gateway: Gateway, is_over: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Serve other sessions until the feature stands as wanted; return its row."""
    deadline_s = time.monotonic() + 30
    first = 1000
    while not is_over(row(gateway)):
        assert time.monotonic() < deadline_s, row(gateway)
        serve(gateway, range(first, first + 16))
        first += 16
    return row(gateway)


def row(gateway: Gateway) -> dict[str, Any]:
    """Return where the feature stands."""
    return next(each for each in gateway.snapshot()["rollouts"] if each["feature"] == FEATURE)


def until(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait for something that another process does."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s


def ledger(gateway: Gateway) -> Ledger:
    return Ledger(gateway.state_dir / "ledger.db")


def test_a_broken_feature_is_off_after_two_failures_and_streams_in_flight_finish(gateway: Gateway) -> None:
    with gateway.connect() as connection, gateway.connect() as another:
        streams = ask(connection, range(16), max_tokens=TOKENS)
        assert wait([connection], until=lambda: all(each.chunks for each in streams), timeout_s=60)
        drill(gateway, fail_ratio=1.0)

        for session in range(100, 120):
            ask(another, range(session, session + 1))
            assert finish([another], timeout_s=30)
        connection.receive()
        still_running = connection.live
        assert finish([connection], timeout_s=120)

    answers = [each.answer() for each in streams]
    failed = [line for line in gateway.events("request") if line["outcome"] != "ok"]
    assert still_running == len(streams), "streams ended before the rollback; it proves nothing"
    assert [(each.status, each.completion_tokens) for each in answers] == [(200, TOKENS)] * len(streams)
    assert 4 <= sum(FEATURE in each.flags for each in answers) <= 12
    assert [(line["status"], line["code"], FEATURE in line["on"]) for line in failed] == [
        (500, "drill", True)
    ] * 2
    until(lambda: ledger(gateway).read().revision == 2)
    record = ledger(gateway).history()[0]
    evidence = record["evidence"]
    assert (record["action"], record["actor"]) == ("rollback", "auto:errors")
    assert "2 of 2 canary requests failed" in record["reason"]
    assert (evidence["canary"]["failed"], evidence["control"]["failed"]) == (2, 0)
    assert ledger(gateway).verify() == 2
    assert gateway.snapshot()["drill"] == f"requests on {FEATURE}: 100 % of them fail"


def test_a_slow_feature_is_paused_and_a_far_slower_one_rolled_back(gateway: Gateway) -> None:
    serve(gateway, range(64))
    usual_s = gateway.snapshot()["latency"]["ttft_ms"]["p50"] / 1000
    drill(gateway, delay_s=1.5 * usual_s)
    paused = serve_until(gateway, lambda each: each["phase"] != "running")
    drill(gateway, delay_s=20 * usual_s)

    rolled_back = serve_until(gateway, lambda each: each["phase"] != "paused")

    assert (paused["phase"], paused["percentage"], paused["actor"]) == ("paused", 50, "auto:ttft")
    assert (rolled_back["phase"], rolled_back["percentage"]) == ("rolled_back", 0)
    # What was delayed comes together, so that on a busy machine the gaps may be found first.
    assert rolled_back["actor"] in {"auto:ttft_far", "auto:itl_far"}
    until(lambda: ledger(gateway).read().revision == 3)
    assert [each["action"] for each in ledger(gateway).history()] == ["rollback", "pause", "start"]
    assert all(line["outcome"] == "ok" for line in gateway.events("request"))


def test_a_killed_engine_host_rolls_nothing_back(gateway: Gateway) -> None:
    impatient = {**PHASE4, "guard": {"first_token_deadline_s": 0.1}}
    with gateway.connect() as connection:
        streams = ask(connection, range(24), max_tokens=TOKENS)
        assert wait([connection], until=lambda: all(each.chunks for each in streams), timeout_s=60)
        gateway.reconfigure({**CONFIG, "phase4_rollout": impatient})
        host = gateway.host_pid
        assert host is not None
        os.kill(host, signal.SIGKILL)
        waiting = ask(connection, range(100, 124))
        assert finish([connection], timeout_s=60)

    answers = [each.answer() for each in (*streams, *waiting)]
    findings = row(gateway)["findings"]
    assert [each.status for each in answers] == [200] * 48
    assert findings["canary"]["failed"] == findings["control"]["failed"] == 0
    assert findings["canary"]["infrastructure"] > 0
    assert (row(gateway)["phase"], row(gateway)["percentage"]) == ("running", 50)
    assert ledger(gateway).read().revision == 1


def test_a_feature_stands_where_it_stood_after_it_was_disabled_and_after_a_restart(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("gateway")
    disabled = {**PHASE4, FEATURE: {"enabled": False, "mode": "staged"}}
    with Gateway(folder, CONFIG) as first:
        assert first.command("rollout", "start", FEATURE).code == 0
        serve(first, range(16))
        first.reconfigure({**CONFIG, "phase4_rollout": disabled})
        off = row(first)
        serve(first, range(16))
        first.reconfigure(CONFIG)
        on = row(first)

    with Gateway(folder, CONFIG) as second:
        restarted = row(second)

    assert (off["percentage"], off["cause"]) == (0, "disabled")
    for each in (on, restarted):
        assert (each["percentage"], each["phase"], each["stage"]) == (50, "running", "half")
        shown = each["findings"]
        assert shown["canary"]["finished"] + shown["control"]["finished"] == 16
