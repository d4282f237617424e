"""
The well-behaved client beside an attack, one process: it asks every PERIOD_S on one connection.

A request is timed from when it was due, so that a server that stands still is seen in all requests that it
keeps waiting. A line on the input is answered by what was measured since the last one, as JSON.
"""

from __future__ import annotations

import json
import select
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from bench.h2_client import Connection
from bench.h2_streams import ConnectionLostError

if TYPE_CHECKING:
    from bench.h2_streams import Stream

PERIOD_S: Final = 0.01
MAX_WAITING: Final = 90
"""Of a server that stands still no more is asked: it allows 100 streams."""


class Neighbour:
    """
    The client and what it has measured.

    Args:
        port: Of the server, on the loopback interface.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = Connection("127.0.0.1", port)
        self._waiting: list[tuple[Stream, float]] = []
        self._delays_ms: list[float] = []
        self._failures: list[str] = []
        self._due_s = time.monotonic()

    def run(self) -> None:
        """Ask until the input ends."""
        while True:
            wait_s = max(0.0, self._due_s - time.monotonic())
            ready, _, _ = select.select([self._connection, sys.stdin], (), (), wait_s)
            if sys.stdin in ready:
                if not sys.stdin.readline():
                    return
                print(json.dumps(self._take()), flush=True)
            try:
                self._turn(has_news=self._connection in ready)
            except (ConnectionLostError, OSError) as error:
                self._failures.append(str(error))
                self._waiting.clear()
                self._connection.close()
                self._connection = Connection("127.0.0.1", self._port)

    def _turn(self, *, has_news: bool) -> None:
        if has_news:
            self._connection.receive()
            for stream, due_s in self._waiting:
                if stream.ended_s is not None:
                    self._end(stream, due_s)
            self._waiting = [each for each in self._waiting if each[0].ended_s is None]
        if time.monotonic() >= self._due_s:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append((self._connection.post("/hello", b""), self._due_s))
                self._connection.flush()
            self._due_s = max(self._due_s + PERIOD_S, time.monotonic() - 1.0)

    def _end(self, stream: Stream, due_s: float) -> None:
        if stream.status == 200 and stream.reset is None:
            self._delays_ms.append(((stream.ended_s or 0.0) - due_s) * 1e3)
        else:
            self._failures.append(f"status {stream.status}, reset {stream.reset}")

    def _take(self) -> dict[str, Any]:
        now_s = time.monotonic()
        waiting_ms = [(now_s - due_s) * 1e3 for _, due_s in self._waiting]
        taken = {"delays_ms": self._delays_ms, "waiting_ms": waiting_ms, "failures": self._failures}
        self._delays_ms, self._failures = [], []
        return taken


if __name__ == "__main__":
    Neighbour(int(sys.argv[1])).run()
