"""Pins `wicketgate rollback --all` with the gateway stopped, its event loop blocked, or killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FEATURES = frozenset({"adaptive_governor", "http2_transport", "qos_monitoring", "ttft_pipeline"})
CONFIG: dict[str, object] = {
    "engine": {"kind": "simulated", "simulated": {"speed_ratio": 100}},
    "phase4_rollout": {
        "adaptive_governor": {"enabled": True},
        "http2_transport": {"enabled": True},
        "ttft_pipeline": {"enabled": True, "mode": "staged"},
        "qos_monitoring": {"enabled": True},
    },
}
SOON_S = 10.0
BLOCK_ON_SIGUSR1 = """
import signal, sys, time

def block(number, frame):
    print('{"event": "blocked"}', file=sys.stderr, flush=True)
    time.sleep(2.0)
    print('{"event": "unblocked", "at": %r}' % time.time(), file=sys.stderr, flush=True)

signal.signal(signal.SIGUSR1, block)
"""
"""Python runs a signal's handler in the main thread, and so between two turns of the event loop."""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of its own, with every feature on for everybody."""
    with Gateway(tmp_path, CONFIG) as running:
        put_all_on(running)
        yield running


@pytest.fixture
def blockable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """The same, with an event loop that stands still for two seconds at SIGUSR1."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK_ON_SIGUSR1)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    with Gateway(tmp_path, CONFIG) as running:
        monkeypatch.undo()
        put_all_on(running)
        yield running


def put_all_on(gateway: Gateway) -> None:
    gateway.command("rollout", "start", "ttft_pipeline", "--at", "full", "--yes")
    assert flags(gateway) == FEATURES


def flags(gateway: Gateway) -> frozenset[str]:
    """Send a request and return the features that it was on."""
    body = {"model": "demo", "prompt": "a", "max_tokens": 1}
    status, headers, content = gateway.post("/v1/completions", body)
    assert status == 200, content
    return frozenset(headers["x-wicketgate-flags"].split(",")) - {"", "-"}


def changed_unix_s(gateway: Gateway) -> float:
    """Return when the gateway's shares changed last, by its log."""
    return datetime.fromisoformat(gateway.events("flags_changed")[-1]["at"]).timestamp()


def rolled_back(gateway: Gateway) -> set[str]:
    """Return what the ledger holds as rolled back, as the command line tells it."""
    rows = json.loads(gateway.command("rollout", "status").out)["features"]
    return {row["feature"] for row in rows if row["phase"] == "rolled_back"}


def test_a_stopped_gateway_is_rolled_back_in_the_ledger_and_follows_when_it_goes_on(
    gateway: Gateway,
    eventually: Callable[[str, Callable[[], bool], float], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = len(gateway.events("flags_changed"))
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        done = gateway.command("rollback", "--all")
        saved = rolled_back(gateway)
    finally:
        continued_unix_s = time.time()
        os.kill(gateway.pid, signal.SIGCONT)
    eventually("it takes that up", lambda: len(gateway.events("flags_changed")) > changes, SOON_S)
    off_s = changed_unix_s(gateway) - continued_unix_s
    with capsys.disabled():
        sys.stdout.write(f"\noff {1000 * off_s:.0f} ms after SIGCONT; the command took {done.wall_s:.2f} s\n")

    assert done.code == 0, done.out + done.err
    assert json.loads(done.out)["durable_s"] is not None
    assert saved == FEATURES
    assert flags(gateway) == frozenset()


def test_a_gateway_whose_event_loop_is_blocked_is_rolled_back_before_it_goes_on(
    blockable: Gateway,
    eventually: Callable[[str, Callable[[], bool], float], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.kill(blockable.pid, signal.SIGUSR1)
    eventually("the loop is blocked", lambda: bool(blockable.events("blocked")), SOON_S)

    began_unix_s = time.time()
    done = blockable.command("rollback", "--all")

    eventually("the loop goes on", lambda: bool(blockable.events("unblocked")), SOON_S)
    off_unix_s = changed_unix_s(blockable)
    with capsys.disabled():
        sys.stdout.write(
            f"\noff {1000 * (off_unix_s - began_unix_s):.0f} ms after the command began, its loop blocked\n"
        )
    assert done.code == 0, done.out + done.err
    assert off_unix_s < blockable.events("unblocked")[0]["at"]
    assert flags(blockable) == frozenset()


def test_what_was_rolled_back_before_or_after_the_gateway_was_killed_is_not_on_again(
    gateway: Gateway, tmp_path: Path
) -> None:
    before = gateway.command("rollback", "ttft_pipeline")
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.stop()
    saved_at_the_kill = rolled_back(gateway)

    after = gateway.command("rollback", "--all")

    with Gateway(tmp_path, CONFIG) as again:
        assert (before.code, after.code) == (0, 0), before.err + after.err
        assert saved_at_the_kill == {"ttft_pipeline"}
        assert flags(again) == frozenset()
        assert rolled_back(again) == FEATURES
