"""
Pins that clients which vanish leave nothing behind, wherever they were and however they went.

2,000 of them, on HTTP/2 and HTTP/1.1: some close, some reset, some shut one direction, some say RST_STREAM,
and some do nothing any more at all: they neither read nor close, like a machine that has lost its network.
"""

from __future__ import annotations

import random
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from bench.h2_streams import MAX_WINDOW, Streams
from bench.prompts import Prompts, completion
from bench.server import HOST, Server
from tests.load.facts import CONFIG, resident_bytes
from wicketgate.platform import raise_open_files_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLIENTS: Final = 2000
WARM: Final = 500
AT_ONCE: Final = 50
MAX_GROWTH_BYTES: Final = 2_000_000
MAX_GARBAGE: Final = 10
"""Objects of one client that only the collector could free: 130 there were, and 3 MB that waited for it."""
SOON_S: Final = 15.0
PATH: Final = "/v1/completions"
WAYS: Final = ("close", "abort", "shut", "leave", "reset")
WEIGHTS: Final = (4, 4, 1, 1, 4)
IMPATIENT: Final = {
    "header_timeout_s": 1,
    "body_timeout_s": 1,
    "slow_reader_timeout_s": 1,
    "keep_alive_s": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One client's life."""

    request: bytes
    """What it sends, whole or not."""
    reads_bytes: int
    """So much it waits for."""
    farewell: bytes
    """What it sends at the end."""
    way: str


def plan(number: int, body: bytes, chance: random.Random) -> Plan:
    """Draw a client's life."""
    way = chance.choices(WAYS, WEIGHTS)[0]
    farewell = b""
    if number % 2:
        head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        request = head.encode() + body
    else:
        streams = Streams("x", window=chance.choice((MAX_WINDOW, chance.randint(0, 2000))))
        stream = streams.post(PATH, body)
        streams.release()
        request = bytes(streams.out)
        if way == "reset":
            streams.out.clear()
            streams.cancel(stream, now_s=0.0)
            farewell = bytes(streams.out)
    is_whole = chance.random() < 0.8
    return Plan(
        request=request if is_whole else request[: chance.randrange(len(request))],
        reads_bytes=chance.choice((0, chance.randint(1, 3000))) if is_whole else 0,
        farewell=farewell,
        way=way,
    )


class Crowd:
    """The clients; those that only left stay connected until the end."""

    def __init__(self, server: Server, prompts: Prompts) -> None:
        self._server = server
        self._chance = random.Random(1)
        self._bodies = [completion(prompts.take(8), max_tokens=16) for _ in range(AT_ONCE)]
        self._open: list[socket.socket] = []
        self.count = 0

    def come_and_go(self, until: int) -> None:
        """Let clients live their lives, AT_ONCE of them at a time, until so many have."""
        while self.count < until:
            plans = [plan(self.count + each, self._bodies[each], self._chance) for each in range(AT_ONCE)]
            self.count += AT_ONCE
            clients = [socket.create_connection((HOST, self._server.port), timeout=SOON_S) for _ in plans]
            for client, each in zip(clients, plans, strict=True):
                client.sendall(each.request)
            for client, each in zip(clients, plans, strict=True):
                self._finish(client, each)

    def _finish(self, client: socket.socket, plan: Plan) -> None:
        try:
            read_bytes = 0
            while read_bytes < plan.reads_bytes and (got := len(client.recv(plan.reads_bytes))):
                read_bytes += got
                # With its window shut it gets no more than that.
                client.settimeout(0.05)
        except TimeoutError:
            pass
        match plan.way:
            case "close":
                client.close()
                return
            case "abort":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                return
            case "shut":
                client.shutdown(socket.SHUT_WR)
            case "reset":
                client.sendall(plan.farewell)
        self._open.append(client)

    def close(self) -> None:
        """Close what is still open."""
        for client in self._open:
            client.close()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Server]:
    """Start a gateway that soon lets go of those who do nothing."""
    with Server(tmp_path, {**CONFIG, "server": IMPATIENT}) as server:
        yield server


def test_2000_clients_that_vanish_leave_no_task_no_slot_and_no_memory(
    impatient: Server, prompts: Prompts, eventually: Callable[[str, Callable[[], bool], float], None]
):
    raise_open_files_limit()
    crowd = Crowd(impatient, prompts)
    tasks = "wicketgate_event_loop_tasks"
    alone = impatient.metrics()[tasks]

    def left() -> dict[str, float]:
        now = impatient.metrics()
        opened, closed = (now[f"wicketgate_http2_streams_{each}_total"] for each in ("opened", "closed"))
        names = (
            'concurrent_streams{model="demo"}',
            "wicketgate_engine_rows",
            "http2_connections",
            "wicketgate_http1_connections",
        )
        found = {"streams": opened - closed, "tasks": max(0, now[tasks] - alone)}
        return {name: value for name, value in (found | {n: now[n] for n in names}).items() if value}

    def resident() -> int:
        eventually("nothing is left", lambda: not left(), SOON_S)
        return resident_bytes(impatient.pid)

    def garbage() -> float:
        names = (f'python_gc_objects_collected_total{{generation="{each}"}}' for each in range(3))
        return sum(map(impatient.metrics().__getitem__, names))

    crowd.come_and_go(until=WARM)
    before_bytes, garbage_before = resident(), garbage()
    crowd.come_and_go(until=CLIENTS)
    after_bytes = resident()

    crowd.close()
    served = impatient.metrics()
    assert served["wicketgate_http2_streams_opened_total"] > CLIENTS / 4
    assert served["wicketgate_engine_restarts_total"] == 0
    assert after_bytes - before_bytes <= MAX_GROWTH_BYTES
    assert garbage() - garbage_before <= MAX_GARBAGE * (CLIENTS - WARM)
