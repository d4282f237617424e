"""
The gateway's end: keeps one engine host alive, and carries streams across its deaths.

A host that dies or freezes is replaced after a pause that grows with the deaths of the last minute. Its
streams are submitted to the next one as prompt + tokens so far with the same seed and position, so that they
go on with the token that would have come.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from wicketgate.engine.line import HostLine
from wicketgate.engine.stream import TokenStream
from wicketgate.engine.supervision import FreezeWatch, RestartParams, Restarts
from wicketgate.engine.wire import (
    PROTOCOL_VERSION,
    SOCKET_BUFFER_BYTES,
    Beat,
    Cancel,
    Fatal,
    HostOptions,
    Ready,
    Step,
    Stop,
    Warm,
)
from wicketgate.errors import EngineFailedError, UnavailableError
from wicketgate.inference import FinishReason
from wicketgate.platform import engine_environment, engine_silence_s

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Sequence

    from wicketgate.engine.wire import FromHost, Load, ToHost
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Sampling

log = logging.getLogger(__name__)

TICK_S: Final = 0.25
"""How often a host is looked at."""
EXIT_GRACE_S: Final = 2.0
"""How long a host that closed its socket may take to end."""

STDERR: Final = 2


class EngineState(StrEnum):
    """Where the engine host stands."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParams:
    """How a host is started and watched."""

    options: HostOptions
    start_timeout_s: float = 60.0
    """From the start of the process to Ready."""
    freeze_floor_s: float = field(default_factory=engine_silence_s)
    """Least silence that counts as frozen; a host speaks every half second."""
    restart: RestartParams = field(default_factory=RestartParams)
    max_deaths_per_stream: int = 2
    """A stream that was with more dying hosts than this is given up."""
    blas: str = "auto"
    """auto or off, see platform.engine_environment."""


class EngineClient:
    """
    One engine host and its streams.

    `run` is one task of the runtime's group; everything else is called on the same event loop. After a death
    the host's prefix store is empty: `on_state(RESTARTING)` is the news of that.
    """

    def __init__(
        self,
        params: EngineParams,
        *,
        on_step: Callable[[Step], None],
        on_state: Callable[[EngineState, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._params = params
        self._on_step = on_step
        self._on_state = on_state
        self._clock = clock
        self._restarts = Restarts(params.restart)
        self._streams: dict[int, TokenStream] = {}
        self._ids = itertools.count(1)
        self._line: HostLine | None = None
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._over = asyncio.Event()
        self.state = EngineState.STARTING
        self.facts: Ready | None = None
        """Of the host that runs, or ran last."""
        self.load: Load | None = None
        """Of the last step or beat; None while no host runs."""
        self.restarts = 0
        self.last_exit = ""
        """Why the last host ended, in words."""

    @property
    def pid(self) -> int | None:
        """Process id of the host, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def streams(self) -> int:
        """How many streams have not ended."""
        return len(self._streams)

    # What the pipeline asks for

    def submit(self, ids: Sequence[int], sampling: Sampling) -> TokenStream:
        """Start a stream; while no host runs it waits for the next one."""
        stream = TokenStream(next(self._ids), ids, sampling, on_cancel=self._cancel)
        if self.state in (EngineState.FAILED, EngineState.STOPPED):
            stream.finish(FinishReason.ERROR, self._unavailable())
            return stream
        self._streams[stream.id] = stream
        if self.state is EngineState.READY:
            self._send(stream.submission())
        return stream

    def warm(self, ids: Sequence[int]) -> int:
        """
        Have a prefix computed in idle steps; returns the job, whose end a Step reports under `warmed`.

        A job asked for while no host is ready is lost, as all are when a host dies.
        """
        job = next(self._ids)
        if self.state is EngineState.READY:
            self._send(Warm(id=job, prompt=list(ids)))
        return job

    def cancel_warm(self, job: int) -> None:
        """Give up a warm job."""
        self._send(Cancel(job))

    def _cancel(self, stream_id: int) -> None:
        if self._streams.pop(stream_id, None) is not None:
            self._send(Cancel(stream_id))

    async def wait_ready(self, timeout_s: float) -> Ready:
        """
        Wait until a host is ready.

        Raises:
            UnavailableError: none was in time, or there will be none.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise UnavailableError(f"the engine was not ready within {timeout_s:g} s") from None
        if self.state is not EngineState.READY or self.facts is None:
            raise self._unavailable()
        return self.facts

    def _unavailable(self) -> WicketgateError:
        if self.state is EngineState.FAILED:
            return UnavailableError(f"the engine does not run: {self.last_exit}", code="engine_down")
        return UnavailableError("the engine is stopping", code="draining")

    # Supervision

    async def run(self) -> None:
        """Keep a host running until `stop`, or until hosts died too often."""
        try:
            environment = await asyncio.to_thread(engine_environment, self._params.blas)
            while not self._stopping.is_set():
                was_ready = await self._live(environment)
                if self._stopping.is_set():
                    return
                pause_s = self._restarts.died(was_ready=was_ready, now_s=self._clock())
                if pause_s is None:
                    self._set_state(EngineState.FAILED, self.last_exit)
                    return
                self.restarts += 1
                self._set_state(EngineState.RESTARTING, self.last_exit)
                await _wait(self._stopping, pause_s)
        finally:
            if self.state is not EngineState.FAILED:
                self._set_state(EngineState.STOPPED, "")
            for stream in self._streams.values():
                stream.finish(FinishReason.ERROR, self._unavailable())
            self._streams.clear()
            self._over.set()

    async def stop(self, *, timeout_s: float = 5.0) -> None:
        """End the host and `run`: ask, wait, then kill. Streams that still run end as unavailable."""
        self._stopping.set()
        self._send(Stop())
        await _wait(self._over, timeout_s)
        self._kill()

    async def _live(self, environment: dict[str, str]) -> bool:
        """Run one host to its end; returns whether it was ever ready."""
        line = HostLine(self._receive)
        given_up = "the gateway let go of it"
        try:
            ours = await self._spawn(environment)
            await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=ours)
            self._line = line
            given_up = await self._watch(line)
        except OSError as error:
            given_up = f"it could not be started: {error}"
        finally:
            self._lose(line)
            code = await self._reap(grace_s=0.0 if given_up else EXIT_GRACE_S)
        self.last_exit = line.fatal or given_up or _exit_in_words(code)
        log.info("engine_host_ended", extra={"reason": self.last_exit, "code": code})
        return line.watch is not None

    def _lose(self, line: HostLine) -> None:
        """Let go of a host; from here on new streams wait for the next one."""
        line.close()
        self._line = None
        self.load = None
        self._settled.clear()
        if self.state is EngineState.READY:
            self.state = EngineState.RESTARTING
        if line.watch is not None and not self._stopping.is_set():
            self._bury()

    async def _reap(self, *, grace_s: float) -> int | None:
        """Wait for the end of the process, which comes by force after the grace; returns its exit code."""
        process = self._process
        if process is None:
            return None
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            self._kill()
            await process.wait()
        finally:
            self._process = None
        return process.returncode

    async def _spawn(self, environment: dict[str, str]) -> socket.socket:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            ours.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        with ExitStack() as on_error, theirs:
            on_error.callback(ours.close)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "wicketgate.engine.host",
                f"--fd={theirs.fileno()}",
                f"--options={msgspec.json.encode(self._params.options).decode()}",
                stdin=asyncio.subprocess.DEVNULL,
                # Whatever a library prints must not mix with the output of our own command.
                stdout=STDERR,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
            )
            on_error.pop_all()
        return ours

    async def _watch(self, line: HostLine) -> str:
        """Return when the host is gone, with the reason if it was we who gave it up."""
        began_s = last_s = self._clock()
        while not await _wait(line.lost, TICK_S):
            now_s = self._clock()
            if line.watch is None:
                if self._stopping.is_set():
                    return "stopped while it was starting"
                if now_s - began_s > self._params.start_timeout_s:
                    return f"not ready within {self._params.start_timeout_s:g} s"
            elif line.watch.tick(now_s - last_s):
                return f"frozen for {line.watch.silence_s:.1f} s"
            last_s = now_s
        return ""

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            try:
                # Not Process.kill(): it polls first, and so takes the exit status from asyncio's own watcher.
                os.kill(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _bury(self) -> None:
        """Decide for each stream of a dead host whether it goes on with the next one."""
        eos_token_ids = self.facts.eos_token_ids if self.facts else ()
        for stream in list(self._streams.values()):
            stream.deaths += 1
            ended = stream.end_reached(eos_token_ids)
            if ended is not None:
                stream.finish(ended)
            elif stream.deaths > self._params.max_deaths_per_stream:
                text = f"the engine died {stream.deaths} times while it ran this request"
                stream.finish(FinishReason.ERROR, EngineFailedError(text))
            else:
                continue
            del self._streams[stream.id]

    # Messages

    def _send(self, message: ToHost) -> None:
        if self._line is not None:
            self._line.send(message)

    def _receive(self, line: HostLine, message: FromHost) -> None:
        match message:
            case Step():
                self._take(line, message)
            case Beat():
                self.load = message.load
            case Ready():
                self._welcome(line, message)
            case Fatal():
                line.fatal = message.message

    def _welcome(self, line: HostLine, ready: Ready) -> None:
        if ready.version != PROTOCOL_VERSION:
            line.fatal = f"the host speaks version {ready.version}, this gateway {PROTOCOL_VERSION}"
            line.close()
            return
        floor_s = self._params.freeze_floor_s
        line.watch = FreezeWatch(floor_s=floor_s, full_chunk_s=ready.full_chunk_s, tick_s=TICK_S)
        self._restarts.became_ready()
        self.facts = ready
        for stream in self._streams.values():
            line.send(stream.submission())
        self._set_state(EngineState.READY, "")

    def _take(self, line: HostLine, step: Step) -> None:
        if line.watch is not None:
            line.watch.stepped(step.step_s)
        self.load = step.load
        streams = self._streams
        for started in step.started:
            if (stream := streams.get(started.id)) is not None and not stream.deaths:
                stream.cached_tokens = started.cached_tokens
        for token in step.tokens:
            if (stream := streams.get(token.id)) is not None:
                stream.feed(token)
        for done in step.done:
            if (stream := streams.pop(done.id, None)) is not None:
                stream.finish_as(done)
        self._on_step(step)

    def _set_state(self, state: EngineState, reason: str) -> None:
        self.state = state
        if state in (EngineState.READY, EngineState.FAILED, EngineState.STOPPED):
            self._settled.set()
        self._on_state(state, reason)


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event; returns whether it came in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _exit_in_words(code: int | None) -> str:
    if code is None or code >= 0:
        return f"it ended with exit code {code}"
    return f"it was killed by {signal.Signals(-code).name}"
