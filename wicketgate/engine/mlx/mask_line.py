"""The host's end of the socket to a mask process, and the process itself."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from wicketgate.engine.frames import Splitter
from wicketgate.engine.mlx.mask_wire import Close, decode_state, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.mlx.mask_wire import Consume, Open, State, Vocabulary

COMMAND: Final = (sys.executable, "-m", "wicketgate.engine.mlx.mask_process")
ANSWER_S: Final = 1.5
"""
For any answer, and for the start; the process bounds its own work in processor time.

Below the 2 s without a step after which a host counts as frozen.
"""
COSTLY: Final = "it takes too much time or memory: simplify it"
UNAVAILABLE: Final = "grammars cannot be computed now: try again"
_OUTSIDE: Final = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)
_RECEIVE_BYTES: Final = 64 * 1024

Asker = TypeVar("Asker")


class MaskProcessError(RuntimeError):
    """
    The process is gone, or does not answer.

    Args:
        message: What is known of it.
        told: What those hear who wait for an answer and do not get one.
        has_started: Whether it had begun to work.
        is_verdict: Whether what it worked on ended it.
        is_outside: Whether somebody else ended it.
    """

    def __init__(
        self,
        message: str,
        *,
        told: str,
        has_started: bool = False,
        is_verdict: bool = False,
        is_outside: bool = False,
    ) -> None:
        super().__init__(message)
        self.told = told
        self.has_started = has_started
        self.is_verdict = is_verdict
        self.is_outside = is_outside


class MaskLine(Generic[Asker]):
    """
    One process, and who waits for answers from it.

    Raises:
        MaskProcessError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], vocabulary: Vocabulary) -> None:
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(0.0)
        arguments = (f"--fd={theirs.fileno()}", f"--vocabulary={msgspec.json.encode(vocabulary).decode()}")
        try:
            self._child = subprocess.Popen(
                [*command, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # The host's BLAS takes time and memory to load, and nothing is multiplied there.
                env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
            )
        except OSError as error:
            self._sock.close()
            raise MaskProcessError(str(error), told=UNAVAILABLE) from error
        finally:
            theirs.close()
        # Without this a line that is dropped would leave its process waiting for the next message.
        self._end = weakref.finalize(self, _end, self._sock, self._child)
        self._splitter = Splitter()
        self._askers: deque[Asker] = deque()
        self._outbox = bytearray()
        self._has_started = False

    @property
    def owed(self) -> list[Asker]:
        """Who waits for an answer, once per answer, the oldest first."""
        return list(self._askers)

    def owes(self, asker: Asker) -> bool:
        """Tell whether someone waits for an answer."""
        return asker in self._askers

    def forget(self, key: int) -> None:
        """Have a grammar forgotten some time."""
        self._outbox += encode(Close(key))

    def send(self, asker: Asker, message: Open | Consume) -> None:
        """Have a message sent, with all others of this step, when the first answer is waited for."""
        self._askers.append(asker)
        self._outbox += encode(message)

    def receive(self) -> list[tuple[Asker, State]]:
        """
        Wait until something can be sent or has come; returns the answers that are complete.

        Raises:
            MaskProcessError: the process is gone, cannot use the vocabulary, or does not answer.
        """
        states = [decode_state(body) for body in self._splitter.feed(self._exchange())]
        if states and not self._has_started:
            self._has_started = True
            hello = states.pop(0)
            if hello.error:
                told = f"this model's vocabulary cannot be used: {hello.error}"
                raise MaskProcessError(hello.error, told=told)
        return [(self._askers.popleft(), state) for state in states]

    def _exchange(self) -> bytes:
        # Both ways at once: after a restart there is more to send, and to be answered, than sockets hold.
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._outbox else 0))
        ready = poll.poll(ANSWER_S * 1000)
        if not ready:
            raise MaskProcessError(
                f"no answer for {ANSWER_S} s", told=UNAVAILABLE, has_started=self._has_started
            )
        try:
            if ready[0][1] & select.POLLOUT:
                del self._outbox[: self._sock.send(self._outbox)]
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self._lost() from error
        if not data:
            raise self._lost()
        return data

    def close(self) -> None:
        """End it at once."""
        self._end()

    def _lost(self) -> MaskProcessError:
        started = self._has_started
        try:
            code = self._child.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            return MaskProcessError("it closed its socket", told=UNAVAILABLE, has_started=started)
        outside = code in _OUTSIDE
        told = COSTLY if started and not outside else UNAVAILABLE
        return MaskProcessError(
            f"it ended: {code}",
            told=told,
            has_started=started,
            is_verdict=started and not outside,
            is_outside=outside,
        )


def _end(sock: socket.socket, child: subprocess.Popen[bytes]) -> None:
    sock.close()
    child.kill()
    child.wait()
