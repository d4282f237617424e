"""
The engine host: one process that runs one model, driven over one socket by its gateway.

One thread does everything in turn: read what the gateway sent, do one engine step, send one Step. The process
ends when its socket closes, so a gateway that was killed leaves no orphan.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import socket
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from wicketgate import logs
from wicketgate.engine.assembly import Engine, build, prewarm
from wicketgate.engine.frames import Splitter
from wicketgate.engine.kv.cache import open_cache
from wicketgate.engine.memory import default_limit
from wicketgate.engine.options import HostOptions
from wicketgate.engine.parent import ParentWatch
from wicketgate.engine.wire import (
    SOCKET_BUFFER_BYTES,
    Assess,
    Beat,
    CacheQuery,
    Cancel,
    Embed,
    Fatal,
    Score,
    Stop,
    Submit,
    Tune,
    Warm,
    decode_to_host,
    encode,
)
from wicketgate.platform import mac, process_memory_bytes, sleeping_clock, usable_memory_bytes
from wicketgate.sleep import SleepWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.engine.stepper import Stepper
    from wicketgate.engine.wire import FromHost, JobMessage, ToHost

log = logging.getLogger(__name__)

BEAT_S: Final = 0.5
STALL_S: Final = 0.005
"""How long to wait for news where nothing can be done for the work there is: its KV comes from disk, say."""
STALL_POLL_S: Final = 1.0
"""Where it is not the disk that is waited for, that often only for so long, and then with each beat."""
STALL_NEWS_S: Final = 0.02
"""How often a host says meanwhile that it goes on stepping: who takes the GPU's turn over waits for that."""
MAX_UNSENT_BYTES: Final = 8 * 1024 * 1024
"""With so much unread by the gateway, stepping stops: no token would reach anybody."""
CLOSE_S: Final = 5.0
"""How long KV that is not yet on disk may take to get there at the end."""
_RECEIVE_BYTES: Final = 256 * 1024


class Line:
    """The host's end of the socket: never blocks on sending, and blocks on receiving only as asked."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0.0)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self._sock = sock
        # poll and not select: the descriptor's number comes from the gateway and may be above 1023.
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._splitter = Splitter()
        self._unsent = bytearray()
        self.open = True
        """False once the gateway is gone."""

    @property
    def clogged(self) -> bool:
        """Whether the gateway has left too much unread."""
        return len(self._unsent) > MAX_UNSENT_BYTES

    def send(self, message: FromHost) -> None:
        """Send a message, or what the socket takes of it now."""
        self._unsent += encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what is left, as far as the socket takes it."""
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.open = False

    def receive(self, timeout_s: float) -> list[ToHost]:
        """Wait at most so long for the socket to move; return the messages that have arrived."""
        self._poll.modify(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        moved = self._poll.poll(timeout_s * 1000)
        if not moved:
            return []
        self.flush()
        bodies: list[bytes] = []
        try:
            while self.open:
                data = self._sock.recv(_RECEIVE_BYTES)
                if not data:
                    self.open = False
                bodies += self._splitter.feed(data)
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
        return [decode_to_host(body) for body in bodies]


def serve(
    line: Line, stepper: Stepper, *, clock: Callable[[], float], sleeps: SleepWatch, woke: Callable[[], None]
) -> None:
    """Step until the gateway says stop or is gone; after a sleep `woke` comes before any computation."""
    stepper.tell = line.send
    sent_s = worked_s = clock()
    wait_s = 0.0
    while line.open:
        for message in line.receive(wait_s):
            if isinstance(message, Stop):
                stepper.close()
                return
            _apply(message, stepper, line)
        if sleeps.slept_s():
            woke()
        working = stepper.busy and not line.clogged
        if working:
            step = stepper.step()
            if not stepper.stalled:
                worked_s = clock()
            if not stepper.stalled or clock() - sent_s >= STALL_NEWS_S:
                line.send(step)
                sent_s = clock()
                wait_s = 0.0
                continue
        now_s = clock()
        if now_s - sent_s >= BEAT_S:
            stepper.watch_memory()
            line.send(Beat(number=stepper.number, at_s=now_s, load=stepper.load()))
            sent_s = now_s
        is_soon = working and (stepper.fetches or now_s - worked_s < STALL_POLL_S)
        wait_s = STALL_S if is_soon else max(0.0, sent_s + BEAT_S - now_s)


def _apply(
    message: Submit | Cancel | Warm | JobMessage | Tune | CacheQuery, stepper: Stepper, line: Line
) -> None:
    match message:
        case Submit():
            stepper.submit(message)
        case Cancel():
            stepper.cancel(message.id)
        case Warm():
            stepper.warm(message)
        case Score() | Assess() | Embed():
            stepper.ask(message)
        case Tune():
            stepper.tune(message)
        case CacheQuery():
            line.send(stepper.report_cache(message))


def open_engine(options: HostOptions) -> Engine:
    """Open the engine that the options name; only here is mlx imported, and only when it is asked for."""
    if options.engine == "simulated":
        from wicketgate.engine.simulated import open_simulated

        plant, said = open_simulated(options, clock=time.monotonic, sleep=time.sleep)
        return Engine(batch=plant, ready=said, limit_bytes=options.memory_bytes or plant.device_bytes)
    from wicketgate.engine.mlx.device import works
    from wicketgate.engine.mlx.kv_files import KvFiles, model_identity
    from wicketgate.engine.mlx.model import open_mlx

    batch, ready, wiring = open_mlx(options, clock=time.monotonic)
    identity = model_identity(Path(options.model))
    machine = mac()
    if machine is not None:
        machine.prefer_this_thread()
    return Engine(
        batch=batch,
        ready=ready,
        limit_bytes=options.memory_bytes or default_limit(batch.network.device, usable_memory_bytes()),
        codec=KvFiles(batch.network.model, identity=identity, bits=options.kv_disk_bits),
        footprint=lambda: process_memory_bytes(os.getpid(), this_mac=machine),
        pressure=lambda: 0 if machine is None else machine.memory_pressure() or 0,
        woke=lambda: wiring.woke(works),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a host until its gateway lets go of it."""
    parser = argparse.ArgumentParser(prog="wicketgate.engine.host")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the gateway, inherited")
    parser.add_argument("--options-fd", type=int, required=True, help="HostOptions as JSON, inherited")
    parsed = parser.parse_args(arguments)
    # The gateway decides when its host ends, and drains first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    watch = ParentWatch()
    line = Line(socket.socket(fileno=parsed.fd))
    with logs.written(level="warning"), closing(watch):
        try:
            with open(parsed.options_fd, "rb") as told:
                options = msgspec.json.decode(told.read(), type=HostOptions)
            run(line, options)
        except Exception as error:  # the top of the process: the gateway must hear why
            log.exception("engine_host_failed")
            line.send(Fatal(f"{type(error).__name__}: {error}"))
            return 1
    return 0


def run(line: Line, options: HostOptions) -> None:
    """Open the engine, say so, and serve."""
    clock = time.monotonic
    engine = open_engine(options)
    cache = open_cache(options, engine.codec, clock=clock)
    try:
        if options.prewarm:
            prewarm(engine, cache, options)
        stepper = build(engine, cache, options, clock=clock)
        line.send(engine.ready)
        sleeps = SleepWatch(awake=clock, always=sleeping_clock())
        serve(line, stepper, clock=clock, sleeps=sleeps, woke=engine.woke)
    finally:
        cache.close(CLOSE_S)


def leave(code: int) -> NoReturn:
    """End this process now: freeing what a model holds, object by object, takes it 0.3 s and more."""
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
