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
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec

from wicketgate.engine.stepper import Stepper
from wicketgate.engine.wire import (
    SOCKET_BUFFER_BYTES,
    Beat,
    Cancel,
    Fatal,
    HostOptions,
    Splitter,
    Stop,
    Submit,
    Warm,
    decode_to_host,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.engine.stepper import Batch
    from wicketgate.engine.wire import FromHost, Ready, ToHost

log = logging.getLogger(__name__)

BEAT_S: Final = 0.5
MAX_UNSENT_BYTES: Final = 8 * 1024 * 1024
"""With so much unread by the gateway, stepping stops: no token would reach anybody."""
_RECEIVE_BYTES: Final = 256 * 1024
_PARENT_WATCH_S: Final = 1.0


class Line:
    """The host's end of the socket: never blocks on sending, and blocks on receiving only as asked."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0.0)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self._sock = sock
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
        # poll and not select: the descriptor's number comes from the gateway and may be above 1023.
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        poll.poll(timeout_s * 1000)
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


def serve(line: Line, stepper: Stepper, *, clock: Callable[[], float]) -> None:
    """Step until the gateway says stop or is gone."""
    sent_s = clock()
    while line.open:
        working = stepper.busy and not line.clogged
        until_beat_s = max(0.0, sent_s + BEAT_S - clock())
        for message in line.receive(0.0 if working else until_beat_s):
            if isinstance(message, Stop):
                return
            _apply(message, stepper)
        if stepper.busy and not line.clogged:
            line.send(stepper.step())
            sent_s = clock()
        elif clock() - sent_s >= BEAT_S:
            line.send(Beat(number=stepper.number, at_s=clock(), load=stepper.load()))
            sent_s = clock()


def _apply(message: Submit | Cancel | Warm, stepper: Stepper) -> None:
    match message:
        case Submit():
            stepper.submit(message)
        case Cancel():
            stepper.cancel(message.id)
        case Warm():
            stepper.warm(message)


def open_engine(options: HostOptions) -> tuple[Batch, Ready]:
    """Build the engine that the options name; only here is mlx imported, and only when it is asked for."""
    if options.engine == "simulated":
        from wicketgate.engine.simulated import open_simulated

        return open_simulated(options, clock=time.monotonic, sleep=time.sleep)
    from wicketgate.engine.mlx.model import open_mlx

    return open_mlx(options, clock=time.monotonic)


def watch_parent(parent: int) -> None:
    """End the process when its parent is gone, even while a step hangs in the device's driver."""
    while os.getppid() == parent:
        time.sleep(_PARENT_WATCH_S)
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Run a host until its gateway lets go of it."""
    parser = argparse.ArgumentParser(prog="wicketgate.engine.host")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the gateway, inherited")
    parser.add_argument("--options", required=True, help="HostOptions as JSON")
    parsed = parser.parse_args(arguments)
    # The gateway decides when its host ends: Ctrl-C reaches both, and the gateway drains first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    threading.Thread(target=watch_parent, args=(os.getppid(),), daemon=True).start()
    line = Line(socket.socket(fileno=parsed.fd))
    try:
        options = msgspec.json.decode(parsed.options, type=HostOptions)
        batch, ready = open_engine(options)
        line.send(ready)
        serve(line, Stepper(batch, options, clock=time.monotonic), clock=time.monotonic)
    except Exception as error:  # the top of the process: the gateway must hear why
        log.exception("engine_host_failed")
        line.send(Fatal(f"{type(error).__name__}: {error}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
