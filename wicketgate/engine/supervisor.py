"""
Keeps one engine host running: starts it, watches it, replaces it, and knows when to give up.

A host that dies or freezes is replaced, at once if it had served for a while. What kind of end it was is for
exits.py, how patient to be for supervision.py, what the next host is asked to do for the supervisor's owner.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from wicketgate.engine.child import COMMAND, HostProcess
from wicketgate.engine.exits import BY_GPU, REBOOT, End, Exit, classify, in_words, is_leaked_memory
from wicketgate.engine.line import HostLine
from wicketgate.engine.supervision import FreezeWatch, RestartParams, Restarts, SafeMode
from wicketgate.engine.wire import PROTOCOL_VERSION, Fatal, Ready, Step, Stop
from wicketgate.platform import (
    engine_environment,
    engine_silence_s,
    process_memory_bytes,
    usable_memory_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.engine.options import HostOptions
    from wicketgate.engine.wire import FromHost, ToHost

log = logging.getLogger(__name__)

TICK_S: Final = 0.25
"""How often a host is looked at."""
EXIT_GRACE_S: Final = 2.0
"""How long a host that closed its socket may take to end."""


def memory_used_ratio(pid: int) -> float | None:
    """Return the share of the memory that a process holds, or None where that cannot be told."""
    held, usable = process_memory_bytes(pid), usable_memory_bytes()
    # A process that has just ended holds nothing, which says nothing.
    return held / usable if held and usable else None


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
    blas: str = "auto"
    """auto or off, see platform.engine_environment."""
    used_ratio: Callable[[int], float | None] = memory_used_ratio
    """Tells the share of the machine's memory that a process holds, None where it cannot be told."""
    command: tuple[str, ...] = COMMAND
    """What runs a host."""


class Owner(Protocol):
    """Whom a supervisor tells what happens."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight."""

    @property
    def doing(self) -> str:
        """What the host computes: prefill, decode, or empty."""

    def host_ready(self, ready: Ready) -> None:
        """Take note of a host that has loaded its model."""

    def host_said(self, message: FromHost) -> None:
        """Take a message that is not about the host itself."""

    def host_gone(self, *, died: bool) -> None:
        """Take note of the end of a host that had been ready; `died` unless it was told to end."""

    def engine_over(self) -> None:
        """End what is in flight: there is no host, and there will be none by itself."""

    def state_changed(self, state: EngineState, reason: str) -> None:
        """Take note of another state."""


class Supervisor:
    """One host after the other. `run` is a task; everything else is called on the same event loop."""

    def __init__(self, params: EngineParams, *, owner: Owner, clock: Callable[[], float]) -> None:
        self._params = params
        self._owner = owner
        self._clock = clock
        self._line: HostLine | None = None
        self._process: HostProcess | None = None
        self._ready_s: float | None = None
        self._used_ratio: float | None = None
        self._stopping = asyncio.Event()
        self._revived = asyncio.Event()
        self._over = asyncio.Event()
        self._restarts = Restarts(params.restart)
        self._careful = SafeMode()
        self._careful_because = ""
        self.settled = asyncio.Event()
        """Set while it is known whether there is a host."""
        self.state = EngineState.STARTING
        self.facts: Ready | None = None
        """Of the host that runs, or ran last."""
        self.restarts = 0
        self.last_exit = ""
        """Why the last host ended, in words."""
        self.safe_mode = ""
        """Why the host that runs, or ran last, was started in safe mode; empty when it was not."""

    @property
    def pid(self) -> int | None:
        """Process id of the host, None while there is none."""
        return None if self._process is None else self._process.pid

    def send(self, message: ToHost) -> None:
        """Send a message to the host, if there is one."""
        if self._line is not None:
            self._line.send(message)

    async def run(self) -> None:
        """Keep a host running until `stop`; after too many deaths, only once `revive` is called."""
        try:
            environment = await asyncio.to_thread(engine_environment, self._params.blas)
            while not self._stopping.is_set():
                await self._live(environment)
                if self._stopping.is_set():
                    return
        finally:
            self._set_state(EngineState.STOPPED, "")
            self._owner.engine_over()
            self._over.set()

    async def stop(self, *, timeout_s: float) -> None:
        """End the host and `run`: ask, wait, then kill."""
        self._stopping.set()
        self._revived.set()
        self.send(Stop())
        if not await wait(self._over, timeout_s) and self._process is not None:
            self._process.kill()

    def revive(self) -> None:
        """Forget all deaths and leave safe mode; starts a host where none was to be started any more."""
        self._restarts = Restarts(self._params.restart)
        self._careful = SafeMode()
        if self.state is EngineState.FAILED:
            self._set_state(EngineState.STARTING, "revived")
        self._revived.set()

    # One host

    async def _live(self, environment: dict[str, str]) -> None:
        """Run one host to its end and decide what follows."""
        line = HostLine(self._receive)
        self._ready_s = self._used_ratio = None
        ended = Exit(given_up="the gateway let go of it")
        try:
            ended = await self._run_host(line, environment)
        finally:
            served_s = None if self._ready_s is None else self._clock() - self._ready_s
            ended = await self._bury(line, ended)
        if not self._stopping.is_set():
            await self._follow(ended, served_s=served_s)

    async def _run_host(self, line: HostLine, environment: dict[str, str]) -> Exit:
        careful = self._careful.is_on(now_s=self._clock())
        self.safe_mode = self._careful_because if careful else ""
        options = self._params.options
        options = msgspec.structs.replace(options, safe_mode=options.safe_mode or careful)
        try:
            self._process, ours = await HostProcess.start(self._params.command, options, environment)
            await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=ours)
        except OSError as error:
            return Exit(given_up=f"it could not be started: {error}")
        self._line = line
        return await self._watch(line)

    async def _watch(self, line: HostLine) -> Exit:
        """Return when the host is gone, or is to go, with what is known of why."""
        began_s = last_s = self._clock()
        leaving = False
        while not await wait(line.lost, TICK_S):
            now_s = self._clock()
            if line.watch is None:
                if self._stopping.is_set():
                    return Exit(given_up="stopped while it was starting")
                if now_s - began_s > self._params.start_timeout_s:
                    return Exit(given_up=f"not ready within {self._params.start_timeout_s:g} s")
            elif line.watch.tick(now_s - last_s):
                assert self._process is not None
                return Exit(silence_s=line.watch.silence_s, is_suspended=self._process.is_suspended())
            elif self.safe_mode and not leaving and self._may_leave_safe_mode(now_s):
                leaving = True
                line.send(Stop())
            last_s = now_s
        return Exit(stopping=leaving)

    def _may_leave_safe_mode(self, now_s: float) -> bool:
        return self._owner.is_idle and not self._careful.is_on(now_s=now_s)

    async def _bury(self, line: HostLine, ended: Exit) -> Exit:
        """Let go of a host and wait for its end; returns all that is known of it."""
        was_ready = line.watch is not None
        ended = replace(
            ended,
            was_ready=was_ready,
            fatal=line.fatal,
            stopping=ended.stopping or self._stopping.is_set(),
            doing=self._owner.doing,
            used_ratio=self._used_ratio,
        )
        line.close()
        self._line = None
        self.settled.clear()
        if self.state is EngineState.READY:
            self.state = EngineState.RESTARTING
        if was_ready:
            self._owner.host_gone(died=not ended.stopping)
        if self._process is not None:
            by_itself = not ended.given_up and ended.silence_s is None
            code = await self._process.reap(grace_s=EXIT_GRACE_S if by_itself else 0.0)
            ended = replace(ended, code=code)
            self._process = None
        self.last_exit = in_words(ended)
        log.info("engine_host_ended", extra={"reason": self.last_exit, "kind": str(classify(ended))})
        return ended

    async def _follow(self, ended: Exit, *, served_s: float | None) -> None:
        """Wait as long as the next host should wait for its start."""
        end, now_s = classify(ended), self._clock()
        if end is End.CLEAN:
            self._set_state(EngineState.RESTARTING, "it leaves safe mode")
            return
        has_gpu = self.facts is None or not self.facts.device.startswith("cpu")
        self._careful.died(by_gpu=has_gpu and end in BY_GPU, now_s=now_s)
        self._careful_because = f"the GPU failed {self._careful.gpu_deaths} times, last: {self.last_exit}"
        pause_s = self._restarts.died(served_s=served_s, now_s=now_s)
        if is_leaked_memory(ended):
            self.last_exit, pause_s = REBOOT, None
        if pause_s is None:
            await self._give_up()
        else:
            self.restarts += 1
            self._set_state(EngineState.RESTARTING, self.last_exit)
            await wait(self._stopping, pause_s)

    async def _give_up(self) -> None:
        """Serve nothing until somebody revives or stops us."""
        self._revived.clear()
        self._set_state(EngineState.FAILED, self.last_exit)
        self._owner.engine_over()
        await self._revived.wait()

    # Messages

    def _receive(self, line: HostLine, message: FromHost) -> None:
        match message:
            case Ready():
                self._welcome(line, message)
            case Fatal():
                line.fatal = message.message
                if self._process is not None:  # asked now: the memory of a process goes with it
                    self._used_ratio = self._params.used_ratio(self._process.pid)
            case Step():
                if line.watch is not None:
                    line.watch.stepped(message.step_s)
                self._owner.host_said(message)
            case _:
                self._owner.host_said(message)

    def _welcome(self, line: HostLine, ready: Ready) -> None:
        if ready.version != PROTOCOL_VERSION:
            line.fatal = f"the host speaks version {ready.version}, this gateway {PROTOCOL_VERSION}"
            line.close()
            return
        floor_s = self._params.freeze_floor_s
        line.watch = FreezeWatch(floor_s=floor_s, full_chunk_s=ready.full_chunk_s, tick_s=TICK_S)
        self._ready_s = self._clock()
        self.facts = ready
        self._owner.host_ready(ready)
        self._set_state(EngineState.READY, "")

    def _set_state(self, state: EngineState, reason: str) -> None:
        self.state = state
        if state in (EngineState.READY, EngineState.FAILED, EngineState.STOPPED):
            self.settled.set()
        else:
            self.settled.clear()
        self._owner.state_changed(state, reason)


async def wait(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event; returns whether it came in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
