"""
What a token costs the gateway of a real server, beside its engine host: `python -m bench.gateway_server`.

Starts `wicketgate serve` on the demo model and reads streamed chats over one HTTP/2 connection, at several
numbers of streams in turns. CPU of the gateway's process is read at two moments while all of them run: that
of an idle gateway is told apart, the rest is split into what each step costs and what each token does.
Speculation is off, so that a step brings one token of each stream. Exit code 8: the bar was missed.

The same code costs more here than in `bench.gateway_cost`, whose steps follow each other at once: between two
of a real engine its host and everybody else have filled the caches (see its `--pause-s`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.gateway_cost import BAR_S
from bench.h2_client import wait
from bench.server import Server
from wicketgate.errors import ExitCode
from wicketgate.platform import process_cpu_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.h2_client import Connection
    from bench.h2_streams import Stream

STREAMS: Final = (8, 32, 64)
JUDGED: Final = 32
"""So many streams the bar is for."""
START_S: Final = 60.0
"""Longest until all streams have begun."""
SETTLE_S: Final = 1.0
EVENT: Final = b"data: "
ON: Final = {"enabled": True}
CONFIG: Final[dict[str, object]] = {
    "engine": {"speculation": {"mode": "off"}},
    "governor": {"limit": {"min": max(STREAMS), "initial": max(STREAMS)}},
    "phase4_rollout": {
        name: ON for name in ("adaptive_governor", "http2_transport", "qos_monitoring", "ttft_pipeline")
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What happened between two moments."""

    wall_s: float
    cpu_s: float
    """Of the gateway's process, user and system."""
    tokens: int
    steps: int

    def __add__(self, other: Window) -> Window:
        """Return both together."""
        return Window(
            wall_s=self.wall_s + other.wall_s,
            cpu_s=self.cpu_s + other.cpu_s,
            tokens=self.tokens + other.tokens,
            steps=self.steps + other.steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where the CPU of windows goes."""

    step_s: float
    token_s: float


def cpu_s(pid: int) -> float:
    """Return what a process has used."""
    used_s = process_cpu_s(pid)
    assert used_s is not None
    return used_s


def idle(server: Server, seconds: float) -> Window:
    """Watch a server that nobody asks."""
    began_s, before_s = time.monotonic(), cpu_s(server.pid)
    time.sleep(seconds)
    return Window(wall_s=time.monotonic() - began_s, cpu_s=cpu_s(server.pid) - before_s, tokens=0, steps=0)


def window(server: Server, streams: int, seconds: float) -> Window:
    """
    Run streams, and watch the server while all of them do.

    Raises:
        RuntimeError: one did not begin, or ended.
    """
    with server.connect() as connection:
        asked = [connection.post("/v1/chat/completions", body(number)) for number in range(streams)]
        begun = wait(
            [connection], until=lambda: all(len(each.chunks) > 1 for each in asked), timeout_s=START_S
        )
        pass_time(connection, SETTLE_S)
        seen = [len(each.chunks) for each in asked]
        began_s, before_s = time.monotonic(), cpu_s(server.pid)
        pass_time(connection, seconds)
        wall_s, used_s = time.monotonic() - began_s, cpu_s(server.pid) - before_s
        tokens = [events(each, since) for each, since in zip(asked, seen, strict=True)]
        if not begun or any(each.ended_s is not None for each in asked):
            raise RuntimeError(f"{streams} streams did not run through: {[each.status for each in asked]}")
        for each in asked:
            connection.cancel(each)
    return Window(wall_s=wall_s, cpu_s=used_s, tokens=sum(tokens), steps=max(tokens))


def body(number: int) -> bytes:
    """Return a chat that outlasts its window."""
    return json.dumps(
        {
            "model": "demo",
            "stream": True,
            "max_tokens": 7000,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": f"What is a list, number {number}?"}],
        }
    ).encode()


def pass_time(connection: Connection, seconds: float) -> None:
    """Read whatever comes."""
    wait([connection], until=lambda: False, timeout_s=seconds)


def events(stream: Stream, since: int) -> int:
    """Count the events that came after so many frames: each is a token's text."""
    return sum(data.count(EVENT) for _, data in stream.chunks[since:])


def split(windows: Sequence[Window], *, idle_ratio: float) -> Split:
    """
    Fit CPU = idle + a step's cost x steps + a token's cost x tokens, by least squares.

    Args:
        windows: Of at least two numbers of streams.
        idle_ratio: Seconds of CPU a second that nobody asks for.
    """
    ss = sum(each.steps**2 for each in windows)
    tt = sum(each.tokens**2 for each in windows)
    st = sum(each.steps * each.tokens for each in windows)
    busy = [each.cpu_s - idle_ratio * each.wall_s for each in windows]
    sb = sum(each.steps * busy_s for each, busy_s in zip(windows, busy, strict=True))
    tb = sum(each.tokens * busy_s for each, busy_s in zip(windows, busy, strict=True))
    determinant = ss * tt - st**2
    return Split(step_s=(sb * tt - tb * st) / determinant, token_s=(tb * ss - sb * st) / determinant)


def main() -> int:
    """Measure, print, and say whether the bar was met."""
    parser = argparse.ArgumentParser(prog="bench.gateway_server")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one window")
    parser.add_argument("--rounds", type=int, default=3, help="of windows at each number of streams")
    parser.add_argument("--idle-s", type=float, default=20.0, help="how long the idle gateway is watched")
    asked = parser.parse_args()
    seen: defaultdict[int, list[Window]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), CONFIG) as server:
        time.sleep(SETTLE_S)
        quiet = idle(server, asked.idle_s)
        for _ in range(asked.rounds):
            for streams in STREAMS:
                seen[streams].append(window(server, streams, asked.seconds))
    idle_ratio = quiet.cpu_s / quiet.wall_s
    print(f"idle: {1e3 * idle_ratio:.1f} ms of CPU a second")
    print("streams  tokens/s  steps/s   us a token   of them not idle")
    for streams, windows in seen.items():
        whole = sum(windows[1:], windows[0])
        busy_s = whole.cpu_s - idle_ratio * whole.wall_s
        print(
            f"{streams:7}{whole.tokens / whole.wall_s:10.0f}{whole.steps / whole.wall_s:9.0f}"
            f"{1e6 * whole.cpu_s / whole.tokens:13.1f}{1e6 * busy_s / whole.tokens:19.1f}"
        )
    parts = split([each for windows in seen.values() for each in windows], idle_ratio=idle_ratio)
    print(f"{1e6 * parts.step_s:.0f} us a step, and {1e6 * parts.token_s:.1f} us a token")
    judged = sum(seen[JUDGED][1:], seen[JUDGED][0])
    met = judged.cpu_s <= BAR_S * judged.tokens
    print(f"bar: {BAR_S * 1e6:g} us a token at {JUDGED} streams, {'met' if met else 'missed'}")
    return ExitCode.DONE if met else ExitCode.CHECK_FAILED


if __name__ == "__main__":
    sys.exit(main())
