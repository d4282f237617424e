"""
Pins that a host does not outlive its gateway, whatever it is stuck in, and that nothing else ends it.

WICKETGATE_PARENT_KILLS sets how often each kind of host is orphaned; by default 5.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.server import Gateway
from wicketgate.engine.parent import ParentWatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KILLS = int(os.environ.get("WICKETGATE_PARENT_KILLS", "5"))
LIMIT_S = 2.0

HOST = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from wicketgate.engine.parent import ParentWatch
watch = ParentWatch()
print(os.getpid(), watch.pid, flush=True)
if sys.argv[1] == "holds the interpreter lock":
    ctypes.PyDLL(None).sleep(60)
elif sys.argv[1] == "waits in native code":
    ctypes.CDLL(None).sleep(60)
elif sys.argv[1] == "computes":
    while True:
        pass
elif sys.argv[1] == "is stopped":
    os.kill(os.getpid(), signal.SIGSTOP)
elif sys.argv[1] == "dies":
    os._exit(3)
"""
GATEWAY = """
import os, subprocess, sys
theirs, ours = os.pipe()
host = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdin=theirs)
os.close(theirs)
sys.stdin.read()
"""


class Family:
    """A gateway, its host and the host's watcher, by their process ids."""

    def __init__(self, kind: str) -> None:
        self.gateway = subprocess.Popen(
            [sys.executable, "-c", GATEWAY, HOST, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.gateway.stdout is not None
        host, watcher = self.gateway.stdout.readline().split()
        self.host, self.watcher = int(host), int(watcher)

    def close(self) -> None:
        self.gateway.kill()
        self.gateway.communicate()


@pytest.fixture
def families() -> Iterator[list[Family]]:
    begun: list[Family] = []
    yield begun
    for family in begun:
        family.close()


def is_running(pid: int) -> bool:
    """Say whether a process runs; one that ended and was not yet waited for does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] not in ("", "Z")


def ends_within(pid: int, limit_s: float) -> bool:
    until_s = time.monotonic() + limit_s
    while is_running(pid):
        if time.monotonic() > until_s:
            return False
        pause()
    return True


def pause(timeout_s: float = 0.02) -> None:
    threading.Event().wait(timeout_s)


@pytest.mark.needs("ps")
@pytest.mark.parametrize(
    "kind", ["holds the interpreter lock", "waits in native code", "computes", "is stopped"]
)
def test_a_host_is_gone_within_2_s_of_its_gateway(kind: str, families: list[Family]) -> None:
    gone = 0

    for _ in range(KILLS):
        family = Family(kind)
        families.append(family)
        family.gateway.kill()
        gone += ends_within(family.host, LIMIT_S)
        assert ends_within(family.watcher, LIMIT_S)

    assert gone == KILLS


@pytest.mark.needs("ps")
def test_a_watcher_ends_with_its_host_although_the_gateway_lives(families: list[Family]) -> None:
    family = Family("dies")
    families.append(family)

    assert ends_within(family.watcher, LIMIT_S)
    assert family.gateway.poll() is None


@pytest.mark.needs("ps")
def test_signals_that_the_host_ignores_do_not_end_its_watcher(families: list[Family]) -> None:
    family = Family("computes")
    families.append(family)

    for ignored in (signal.SIGINT, signal.SIGTERM):
        os.kill(family.watcher, ignored)
    pause(0.3)

    assert is_running(family.watcher)
    assert is_running(family.host)


@pytest.mark.needs("ps")
def test_the_host_of_a_real_gateway_is_gone_within_2_s_although_it_is_stopped(tmp_path: Path) -> None:
    with Gateway(tmp_path, {"engine": {"kind": "simulated"}}) as gateway:
        host = gateway.host_pid
        assert host is not None
        os.kill(host, signal.SIGSTOP)

        os.kill(gateway.pid, signal.SIGKILL)

        assert ends_within(host, LIMIT_S)


def test_a_lifeline_that_is_no_pipe_is_not_watched() -> None:
    with open(os.devnull) as nothing:
        watch = ParentWatch(nothing.fileno())

        assert watch.pid is None
        watch.close()


@pytest.mark.needs("ps")
def test_a_watch_that_is_closed_leaves_its_process_alone() -> None:
    theirs, ours = os.pipe()
    watch = ParentWatch(theirs)
    watcher = watch.pid
    assert watcher is not None

    watch.close()

    assert not is_running(watcher)
    assert watch.pid is None
    os.close(ours)
    os.close(theirs)
