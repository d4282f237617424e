"""Pins the host's end of the socket: what a slow, a silent and a broken gateway do to it."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from wicketgate.engine.frames import Splitter, WireError
from wicketgate.engine.host import MAX_UNSENT_BYTES, Line, serve
from wicketgate.engine.kv.cache import KvCache
from wicketgate.engine.options import HostOptions
from wicketgate.engine.plant import PlantParams
from wicketgate.engine.simulated import SimulatedBatch
from wicketgate.engine.stepper import Stepper
from wicketgate.engine.wire import (
    SOCKET_BUFFER_BYTES,
    Beat,
    Cancel,
    Fatal,
    Step,
    Stop,
    Submit,
    Tune,
    Warm,
    decode_from_host,
    encode,
)
from wicketgate.sleep import SleepWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = HostOptions(engine="simulated", max_batch_size=64, prefill_batch_size=64, vocabulary_size=1000)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    host, gateway = socket.socketpair()
    gateway.settimeout(30.0)
    gateway.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    with host, gateway:
        yield host, gateway


def stepper() -> Stepper:
    return Stepper(
        SimulatedBatch(OPTIONS, PlantParams(), sleep=lambda _seconds: None),
        OPTIONS,
        cache=KvCache(max_bytes=OPTIONS.prefix_cache_bytes, clock=time.monotonic),
        clock=time.monotonic,
    )


def told(**other: object) -> dict[str, Any]:
    """Return what `serve` is told besides: a machine that never sleeps."""
    awake = SleepWatch(awake=lambda: 0.0, always=lambda: 0.0)
    return {"clock": time.monotonic, "sleeps": awake, "woke": lambda: None, **other}


def test_a_host_that_is_told_to_stop_stops(pair: tuple[socket.socket, socket.socket]) -> None:
    host, gateway = pair
    gateway.sendall(encode(Submit(id=1, prompt=[1], max_tokens=3, seed=0)) + encode(Stop()))

    serve(Line(host), stepper(), **told())

    assert host.fileno() >= 0


def test_a_host_whose_gateway_is_gone_stops(pair: tuple[socket.socket, socket.socket]) -> None:
    host, gateway = pair
    gateway.sendall(encode(Submit(id=1, prompt=[1], max_tokens=30_000, seed=0)))
    gateway.close()
    line = Line(host)

    serve(line, stepper(), **told())

    assert not line.open


def test_after_a_sleep_the_device_is_looked_after_before_anything_is_computed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    host, gateway = pair
    served, always_s, seen = stepper(), iter([0.0, 3600.0]), []
    sleeps = SleepWatch(awake=lambda: 0.0, always=lambda: next(always_s, 3600.0))
    gateway.sendall(encode(Submit(id=1, prompt=[1], max_tokens=3, seed=0)))
    gateway.shutdown(socket.SHUT_WR)

    serve(Line(host), served, **told(sleeps=sleeps, woke=lambda: seen.append(served.number)))

    assert seen == [0]


def test_an_idle_host_beats(pair: tuple[socket.socket, socket.socket]) -> None:
    host, gateway = pair
    serving = threading.Thread(target=serve, args=(Line(host), stepper()), kwargs=told())
    serving.start()

    (body,) = Splitter().feed(gateway.recv(1 << 20))

    gateway.sendall(encode(Stop()))
    serving.join(10.0)
    assert isinstance(decode_from_host(body), Beat)
    assert not serving.is_alive()


def test_a_host_that_may_not_do_what_it_has_comes_to_rest(pair: tuple[socket.socket, socket.socket]) -> None:
    host, gateway = pair
    served = stepper()
    # Ten times as fast: the second for which it looks often is over after a tenth.
    clock = told(clock=lambda: 10.0 * time.monotonic())
    serving = threading.Thread(target=serve, args=(Line(host), served), kwargs=clock)
    gateway.sendall(encode(Tune(warm_allowed=False)) + encode(Warm(id=1, prompt=[1] * 100)))
    serving.start()
    threading.Event().wait(1.5)
    looks = served.number
    gateway.sendall(encode(Tune(warm_allowed=True)))
    splitter = Splitter()
    warmed: list[int] = []
    while not warmed:
        messages = [decode_from_host(body) for body in splitter.feed(gateway.recv(1 << 20))]
        warmed += [key for step in messages if isinstance(step, Step) for key in step.warmed]
    gateway.sendall(encode(Stop()))
    serving.join(10.0)

    assert warmed == [1]
    assert looks < 60


def test_a_host_whose_gateway_does_not_read_stops_stepping_and_loses_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    host, gateway = pair
    streams = range(1, 65)
    line, served = Line(host), stepper()
    serving = threading.Thread(target=serve, args=(line, served), kwargs=told())
    for stream in streams:
        gateway.sendall(encode(Submit(id=stream, prompt=[1], max_tokens=20_000, seed=0, logprobs=20)))
    serving.start()
    while not line.clogged and serving.is_alive():
        threading.Event().wait(0.05)
    stopped_at = served.number
    for stream in streams:
        gateway.sendall(encode(Cancel(stream)))
    threading.Event().wait(0.2)
    still_at = served.number

    collected: list[Step] = []
    splitter = Splitter()
    while not collected or collected[-1].load.rows:
        for body in splitter.feed(gateway.recv(1 << 20)):
            if isinstance(message := decode_from_host(body), Step):
                collected.append(message)
    gateway.sendall(encode(Stop()))
    serving.join(10.0)

    assert still_at - stopped_at <= 1
    numbers = [step.number for step in collected if not step.is_early]
    assert numbers == list(range(1, collected[-1].number + 1))
    assert {done.id for step in collected for done in step.done} == set(streams)


def test_what_does_not_fit_waits_within_a_bound_and_arrives_in_order(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    host, gateway = pair
    line = Line(host)
    sent = 0
    while not line.clogged:
        line.send(Fatal(f"{sent} {'x' * 100_000}"))
        sent += 1
    bodies: list[bytes] = []
    splitter = Splitter()
    while len(bodies) < sent:
        bodies += splitter.feed(gateway.recv(1 << 20))
        line.receive(0.0)

    assert sent * 100_000 < MAX_UNSENT_BYTES + 4 * 2**20
    assert [decode_from_host(body).message.split()[0] for body in bodies] == [str(n) for n in range(sent)]


def test_what_is_no_message_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    host, gateway = pair
    gateway.sendall(b"\x01\x00\x00\x00\xc1")

    with pytest.raises(WireError):
        Line(host).receive(1.0)
