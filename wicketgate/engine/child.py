"""One process that runs an engine host: how it is started, ended, and waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import msgspec

from wicketgate.engine.wire import SOCKET_BUFFER_BYTES

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping, Sequence

    from wicketgate.engine.options import HostOptions

COMMAND: Final = (sys.executable, "-m", "wicketgate.engine.host")
KILL_S: Final = 5.0
"""How long a killed process may take to end; one that hangs in a driver never does."""
_STDERR: Final = 2


class HostProcess:
    """
    A process that was started; it is ours until `reap` returns.

    Args:
        process: It.
        lifeline: Our end of the pipe that is its stdin; while it is open, the gateway lives.
    """

    def __init__(self, process: Process, *, lifeline: int) -> None:
        self._process = process
        self._lifeline = lifeline

    @classmethod
    async def start(
        cls, command: Sequence[str], options: HostOptions, environment: Mapping[str, str]
    ) -> tuple[HostProcess, socket.socket]:
        """
        Start a host.

        Args:
            command: What runs it; the numbers of its socket and of the file with its options are added.
            options: What it is started with.
            environment: What it needs beside our own.

        Returns:
            The process, and our end of the socket to it.

        Raises:
            OSError: it could not be started.
        """
        with ExitStack() as either_way, ExitStack() as on_error:
            ours, theirs = socket.socketpair()
            either_way.callback(theirs.close)
            on_error.callback(ours.close)
            stdin, lifeline = os.pipe()
            either_way.callback(os.close, stdin)
            on_error.callback(os.close, lifeline)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                ours.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
            # Pinned prompts may be longer than an argument can be, and everybody can read arguments.
            told = either_way.enter_context(tempfile.TemporaryFile())
            told.write(msgspec.json.encode(options))
            told.seek(0)
            process = await asyncio.create_subprocess_exec(
                *command,
                f"--fd={theirs.fileno()}",
                f"--options-fd={told.fileno()}",
                stdin=stdin,
                # Whatever a library prints must not mix with the output of our own command.
                stdout=_STDERR,
                pass_fds=[theirs.fileno(), told.fileno()],
                env={**os.environ, **environment},
                # What a terminal sends to all it runs (Ctrl-C, its own end) is the gateway's to act on.
                start_new_session=True,
            )
            on_error.pop_all()
        return cls(process, lifeline=lifeline), ours

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_suspended(self) -> bool:
        """Say whether a signal has stopped it; False where the system cannot tell."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return False
        try:
            # WNOWAIT leaves the news, whatever it is, for asyncio's own watcher.
            news = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return news is not None

    def kill(self) -> None:
        """End it by force, unless it has ended."""
        if self._process.returncode is None:
            try:
                # Not Process.kill(): it polls first, and so takes the exit status from asyncio's own watcher.
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    async def reap(self, *, grace_s: float) -> int | None:
        """
        Wait for its end, which comes by force after the grace.

        Returns:
            Its exit code, minus the signal that ended it, or None if it would not end: then it is left alone.
        """
        try:
            if not await self._ended(grace_s):
                self.kill()
                if not await self._ended(KILL_S):
                    return None
            return self._process.returncode
        finally:
            self.kill()
            os.close(self._lifeline)

    async def _ended(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True
