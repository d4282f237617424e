"""
Pins what the edge owes to everybody while 75 streams run: probes, the end of what nobody reads, fair turns.

The bars' times are for a machine of its own. What is asserted here holds beside other tests too; each test
records its figure, which the end of the run tells.
"""

from __future__ import annotations

import http.client
import json
import os
import selectors
import signal
import socket
import time
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest

from bench.h2_client import Connection, finish, wait
from bench.load import PATH
from bench.prompts import completion
from bench.server import HOST
from bench.statistics import quantile
from tests.load.facts import CONFIG, STREAMS, resident_bytes
from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.h2_streams import Stream
    from bench.prompts import Prompts
    from bench.server import Server

MOST_S: Final = 60.0
PROBES: Final = 100
PROBE: Final = b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n"
STREAM_BYTES: Final = 20 * 1024
TOKEN_BYTES: Final = 36
"""Of a token that is kept, so that another engine host could go on: its number, and a place in a list."""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Start a gateway that soon loses patience, on an engine that never ends by itself."""
    config = {
        **CONFIG,
        "engine": {"kind": "simulated", "freeze_floor_s": 30, "max_batch_size": 1024},
        "governor": {"limit": {"fixed": 2000, "max": 2000, "initial": 2000, "min": 2000}},
        "server": {"slow_reader_timeout_s": 1},
        "health": {"probe_interval_s": 0.5, "probe_timeout_s": 0.5},
    }
    with Gateway(tmp_path_factory.mktemp("simulated"), config) as server:
        yield server


def begin(connection: Connection, bodies: list[bytes]) -> list[Stream]:
    """Start streams, and wait until each has brought text."""
    streams = [connection.post(PATH, body) for body in bodies]
    assert wait([connection], until=lambda: all(s.chunks for s in streams), timeout_s=MOST_S)
    return streams


def endless(prompts: Prompts, count: int) -> list[bytes]:
    return [completion(prompts.take(16), max_tokens=4000) for _ in range(count)]


def is_idle(server: Server) -> bool:
    now = server.metrics()
    return not now["wicketgate_engine_rows"] and not now['concurrent_streams{model="demo"}']


def probe_all(port: int) -> list[float]:
    """Send all probes at once, over connections that are known; returns how long each took."""
    with selectors.DefaultSelector() as selector:
        probes = [socket.create_connection((HOST, port), timeout=MOST_S) for _ in range(PROBES)]
        for probe in probes:
            probe.sendall(PROBE)
            assert probe.recv(4096).startswith(b"HTTP/1.1 200")
            selector.register(probe, selectors.EVENT_READ)
        began_s = time.monotonic()
        for probe in probes:
            probe.sendall(PROBE)
        took_s = []
        while len(took_s) < PROBES:
            for key, _ in selector.select(MOST_S):
                assert key.fileobj.recv(4096).startswith(b"HTTP/1.1 200")
                took_s.append(time.monotonic() - began_s)
                selector.unregister(key.fileobj)
                key.fileobj.close()
    return took_s


def test_a_hundred_probes_at_once_are_all_answered_while_75_streams_run(
    server: Server, prompts: Prompts, record_property: Callable[[str, object], None]
):
    with server.connect() as connection:
        streams = begin(connection, endless(prompts, STREAMS))
        before = server.metrics()
        took_s = probe_all(server.port)
        after = server.metrics()
        for stream in streams:
            connection.cancel(stream)

    answered, at_once = (
        after[name] - before[name]
        for name in ("wicketgate_probe_seconds_count", 'wicketgate_probe_seconds_bucket{le="0.005"}')
    )
    record_property("probe_p95_ms", 1000 * quantile(took_s, 0.95))
    record_property("probes_within_5_ms_of_the_gateway", at_once / answered)
    assert answered == 2 * PROBES  # each connection asks once before, to be known
    assert len(took_s) == PROBES
    assert max(took_s) < 1.0


def test_a_stopped_engine_fails_readiness_and_not_liveness(
    simulated: Gateway, eventually, record_property: Callable[[str, object], None]
):
    host = simulated.host_pid
    reason = lambda: json.loads(simulated.get(simulated.port, "/health/ready")[1])["reason"]  # noqa: E731

    os.kill(host, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        eventually("the engine counts as stuck", lambda: reason() == "engine_stuck", 5)
        took_s = time.monotonic() - began_s
        live = simulated.get(simulated.port, "/health/live")[0]
        ready = simulated.readiness()
    finally:
        os.kill(host, signal.SIGCONT)

    eventually("it is ready again", lambda: simulated.readiness() == 200, 5)
    record_property("until_not_ready_s", took_s)
    assert (live, ready) == (200, 503)
    assert simulated.host_pid == host


def reset(server: Server, connection: Connection, stream: Stream) -> None:
    connection.cancel(stream)


def disconnect(server: Server, connection: Connection, stream: Stream) -> None:
    connection.close()


def delete(server: Server, connection: Connection, stream: Stream) -> None:
    with closing(http.client.HTTPConnection(HOST, server.port, timeout=MOST_S)) as other:
        other.request("DELETE", f"/v1/requests/{stream.headers['x-request-id']}")
        assert other.getresponse().status == 200


@pytest.mark.parametrize("give_up", [reset, disconnect, delete])
def test_what_a_client_gives_up_leaves_the_engine(
    server: Server,
    prompts: Prompts,
    eventually,
    record_property: Callable[[str, object], None],
    give_up: Callable[[Server, Connection, Stream], None],
):
    eventually("nothing runs", lambda: is_idle(server), MOST_S)
    took_s = []
    for _ in range(10):
        with server.connect() as connection:
            (stream,) = begin(connection, endless(prompts, 1))
            began_s = time.monotonic()
            give_up(server, connection, stream)
            eventually("the row is gone", lambda: server.snapshot()["engine"]["rows"] == 0, 5)
            took_s.append(time.monotonic() - began_s)

    median_s, worst_s = quantile(took_s, 0.5), max(took_s)
    record_property("median_ms", 1000 * median_s)
    record_property("worst_ms", 1000 * worst_s)
    assert median_s < 0.5


def with_logprobs(body: bytes) -> bytes:
    """Make its events so large that they must wait for a slow reader."""
    return json.dumps({**json.loads(body), "logprobs": 5}).encode()


def read_slowly(slow: Connection, stream: Stream, fast: Connection) -> None:
    """Read the fast ones as they come, and the slow one 1 KB a second; then the rest of it."""
    while fast.live:
        slow.open(stream, 100)
        wait([fast, slow], until=lambda: not fast.live, timeout_s=0.1)
    while not stream.ended_s:
        slow.open(stream, 1 << 20)
        finish([slow], timeout_s=0.1)


def gap_p99_s(fast: Connection, bodies: list[bytes], meanwhile: Callable[[], None]) -> float:
    """Run streams; returns the 99th percentile of the gaps between what they bring."""
    streams = [fast.post(PATH, body) for body in bodies]
    meanwhile()
    assert finish([fast], timeout_s=MOST_S)
    times = [[at_s for at_s, _ in stream.chunks] for stream in streams]
    return quantile([b - a for at in times for a, b in pairwise(at)], 0.99)


def test_a_reader_of_1_kb_a_second_gets_its_whole_text_and_slows_nobody(
    server: Server, prompts: Prompts, record_property: Callable[[str, object], None]
):
    many = [completion(prompts.take(16), max_tokens=64) for _ in range(STREAMS - 1)]
    one = with_logprobs(completion(prompts.take(16), max_tokens=256))
    with server.connect() as fast:
        whole = fast.post(PATH, one)
        assert finish([fast], timeout_s=MOST_S)
        alone_s = gap_p99_s(fast, many, lambda: None)
        with Connection(HOST, server.port, window=1000) as slow:
            (stream,) = begin(slow, [one])
            beside_s = gap_p99_s(fast, many, lambda: read_slowly(slow, stream, fast))

    record_property("gap_p99_ratio", beside_s / alone_s)
    assert stream.answer().error is None
    assert stream.answer().text == whole.answer().text


def test_a_reader_who_is_slow_but_reads_is_not_cut(simulated: Gateway, prompts: Prompts):
    body = with_logprobs(completion(prompts.take(16), max_tokens=1500))
    with Connection(HOST, simulated.port, window=1000) as connection:
        (stream,) = begin(connection, [body])
        for _ in range(40):
            connection.open(stream, 2000)
            finish([connection], timeout_s=0.1)
        assert stream.reset is None
        connection.open(stream, 1 << 24)
        assert finish([connection], timeout_s=MOST_S)

    assert stream.reset is None
    assert stream.answer().completion_tokens == 1500


def test_a_reader_who_does_not_read_is_cut_and_its_log_line_says_so(
    simulated: Gateway, prompts: Prompts, eventually
):
    body = with_logprobs(completion(prompts.take(16), max_tokens=4000))
    with Connection(HOST, simulated.port, window=1000) as connection:
        (stream,) = begin(connection, [body])
        name = stream.headers["x-request-id"]
        assert finish([connection], timeout_s=MOST_S)
    said = [event for event in simulated.events("request") if event["request_id"] == name]

    assert stream.reset is not None
    assert [(each["outcome"], each["code"]) for each in said] == [("cancelled", "slow_reader")]


def test_an_open_stream_costs_the_gateway_little_memory(
    simulated: Gateway, prompts: Prompts, record_property: Callable[[str, object], None]
):
    sizes: list[int] = []
    streams: list[Stream] = []
    connections = [simulated.connect() for _ in range(5)]
    for count in (200, 1000):
        for connection in connections:
            streams += begin(connection, endless(prompts, count // 5 - connection.live))
        tokens = sum(data.count(b"data: ") for stream in streams for _, data in stream.chunks)
        sizes.append(resident_bytes(simulated.pid) - tokens * TOKEN_BYTES)
    for connection in connections:
        connection.close()

    slope_bytes = (sizes[1] - sizes[0]) / 800
    record_property("stream_bytes", slope_bytes)
    assert slope_bytes <= STREAM_BYTES
