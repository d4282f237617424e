"""Pins that requests leave nothing behind: memory, files, tasks, rows of the engine, requests in flight."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.h2_client import Connection, finish, wait
from bench.load import PATH
from bench.prompts import Prompts, completion
from tests.load.facts import open_files, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.server import Server

AT_ONCE = 20
ROUNDS = 10
MAX_GROWTH = 1.05
"""
Of the least reading at the end over the median reading at the beginning. The engine host's memory goes up and
down by 7 % for ever, with the buffers that it happens to hold when it is looked at (12,000 requests watched);
what is never given back raises its lowest reading too.
"""


class Requests:
    """
    Requests of 4 to 8 tokens: streamed, whole, and given up after their first bytes.

    The same prompts come over and over: what the prefix store keeps of them is kept, not leaked.
    """

    def __init__(self, server: Server, connection: Connection, prompts: list[list[int]]) -> None:
        self._server = server
        self._connection = connection
        self._prompts = prompts
        self.made = 0

    def round(self) -> None:
        """Make AT_ONCE of them."""
        numbers = range(self.made, self.made + AT_ONCE)
        streams = [self._post(number) for number in numbers]
        given_up = streams[::4]
        assert wait([self._connection], until=lambda: all(s.status for s in given_up), timeout_s=30)
        for stream in given_up:
            self._connection.cancel(stream)
        assert finish([self._connection], timeout_s=30)
        assert {stream.status for stream in streams} == {200}
        self.made += AT_ONCE

    def _post(self, number: int):
        prompt = self._prompts[number % len(self._prompts)]
        return self._connection.post(
            PATH, completion(prompt, max_tokens=4 + number % 5, stream=number % 4 < 3)
        )

    def memory(self) -> tuple[list[int], list[int]]:
        """Read the memory of gateway and host after each of some more rounds."""
        host = self._server.host_pid
        gateway_bytes, host_bytes = [], []
        for _ in range(ROUNDS):
            self.round()
            gateway_bytes.append(resident_bytes(self._server.pid))
            host_bytes.append(resident_bytes(host))
        return gateway_bytes, host_bytes


def test_after_1000_requests_nothing_is_left_that_was_not_there_after_100(
    server: Server, prompts: Prompts, eventually: Callable[[str, Callable[[], bool], float], None]
):
    def is_idle() -> bool:
        now = server.metrics()
        return now["wicketgate_engine_rows"] == 0 and now['concurrent_streams{model="demo"}'] == 0

    with server.connect() as connection:
        requests = Requests(server, connection, [prompts.take(32) for _ in range(50)])
        while requests.made < 100:
            requests.round()
        eventually("nothing runs", is_idle, 10)
        host = server.host_pid
        tasks = server.metrics()["wicketgate_event_loop_tasks"]
        files = open_files(server.pid), open_files(host)
        before = requests.memory()
        while requests.made < 1000 - ROUNDS * AT_ONCE:
            requests.round()
        after = requests.memory()

        eventually("nothing runs", is_idle, 10)
        assert requests.made == 1000
        assert server.host_pid == host
        running = "wicketgate_event_loop_tasks"
        eventually("no more tasks than before", lambda: server.metrics()[running] <= tasks, 10)
        # Our own questions over HTTP come and go.
        eventually("no more open files than before", lambda: open_files(server.pid) <= files[0], 10)
        assert open_files(host) == files[1]
        for name, first, last in zip(("gateway", "host"), before, after, strict=True):
            assert min(last) <= MAX_GROWTH * statistics.median(first), name
