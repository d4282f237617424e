"""
The engine as the gateway sees it: streams, jobs, warm jobs and questions, over one supervised host.

A host that dies is replaced, and what was in flight is asked of the next one: streams as prompt + tokens so
far with the same seed and position, so that they go on with the token that would have come.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from wicketgate.engine.in_flight import InFlight
from wicketgate.engine.stream import Service
from wicketgate.engine.supervisor import EngineParams, EngineState, Supervisor, wait
from wicketgate.engine.wire import (
    Assess,
    Assessed,
    Beat,
    CacheQuery,
    CacheReport,
    Cancel,
    Embed,
    Embedded,
    Score,
    Scored,
    Step,
    Tune,
    Warm,
)
from wicketgate.errors import UnavailableError
from wicketgate.inference import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.stream import TokenStream
    from wicketgate.engine.wire import FromHost, Load, Ready
    from wicketgate.inference import Sampling

__all__ = ["EngineClient", "EngineParams", "EngineState"]

STOP_S: Final = 10.0
"""How long a host may take to leave: one long step, and what it still writes to disk (host.CLOSE_S)."""
CACHE_TIMEOUT_S: Final = 10.0
"""How long a host may take to tell what its prefix store holds: one long step, and files to list."""


class EngineClient:
    """
    One engine host and its streams.

    `run` is one task of the runtime's group; everything else is called on the same event loop. After a death
    the host's prefix store in memory is empty: `on_state(RESTARTING)` is the news of that.
    """

    def __init__(
        self,
        params: EngineParams,
        *,
        on_step: Callable[[Step], None],
        on_state: Callable[[EngineState, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_step = on_step
        self._on_state = on_state
        self._host = Supervisor(params, owner=self, clock=clock)
        self._in_flight = InFlight(self._host.send, refusal=self._refusal)
        self._ids = itertools.count(1)
        self._queries: dict[int, asyncio.Future[CacheReport]] = {}
        self._tuning = Tune()
        self.is_draining = False
        """Whether it takes nothing new."""
        self.load: Load | None = None
        """Of the last step or beat; None while no host runs."""

    @property
    def state(self) -> EngineState:
        """Where the host stands."""
        return self._host.state

    @property
    def facts(self) -> Ready | None:
        """What the host that runs, or ran last, said of itself."""
        return self._host.facts

    @property
    def pid(self) -> int | None:
        """Process id of the host, None while there is none."""
        return self._host.pid

    @property
    def restarts(self) -> int:
        """How often a host was replaced."""
        return self._host.restarts

    @property
    def last_exit(self) -> str:
        """Why the last host ended, in words."""
        return self._host.last_exit

    @property
    def safe_mode(self) -> str:
        """Why the host runs in safe mode; empty when it does not."""
        return self._host.safe_mode

    @property
    def streams(self) -> int:
        """How many streams have not ended."""
        return self._in_flight.streams

    # What the pipeline asks for

    def submit(
        self, ids: Sequence[int], sampling: Sampling, *, priority: int = 0, salt: str = "", session: str = ""
    ) -> TokenStream:
        """Start a stream; while no host runs it waits for the next one."""
        service = Service(priority=priority, salt=salt, session=session)
        return self._in_flight.submit(next(self._ids), ids, sampling, service)

    async def score(
        self,
        query: Sequence[int],
        items: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        *,
        priority: int = 2,
        salt: str = "",
    ) -> Scored:
        """
        Rate labels as continuations of the query with each item.

        Raises:
            WicketgateError: refused, failed, or the engine is gone.
        """
        message = Score(
            id=next(self._ids),
            query=list(query),
            items=[list(item) for item in items],
            labels=[list(label) for label in labels],
            priority=priority,
            salt=salt,
        )
        (part,) = await self._in_flight.ask(message).result()
        assert isinstance(part, Scored)
        return part

    async def assess(
        self, prompt: Sequence[int], *, top: int, priority: int = 2, salt: str = ""
    ) -> list[TokenLogprob]:
        """
        Tell how likely each token of a prompt but the first is, and the likeliest ones at its place.

        Raises:
            WicketgateError: refused, failed, or the engine is gone.
        """
        message = Assess(id=next(self._ids), prompt=list(prompt), top=top, priority=priority, salt=salt)
        parts = await self._in_flight.ask(message).result()
        said = iter(message.prompt[1:])
        return [
            TokenLogprob(next(said), logprob, tuple(top_of))
            for part in parts
            if isinstance(part, Assessed)
            for logprob, top_of in zip(part.logprobs, part.top, strict=True)
        ]

    async def embed(
        self, prompts: Sequence[Sequence[int]], *, pooling: Literal["mean", "last"], priority: int = 2
    ) -> list[bytes]:
        """
        Return a vector for each of at most 256 prompts: little-endian float32, of length 1.

        Raises:
            WicketgateError: refused, failed, or the engine is gone.
        """
        message = Embed(
            id=next(self._ids),
            prompts=[list(prompt) for prompt in prompts],
            pooling=pooling,
            priority=priority,
        )
        (part,) = await self._in_flight.ask(message).result()
        assert isinstance(part, Embedded)
        return part.vectors

    def warm(self, ids: Sequence[int], *, salt: str = "") -> int:
        """
        Have a prefix computed in idle steps; returns the job, whose end a Step reports under `warmed`.

        A job asked for while no host is ready, or while suspects are tried, is lost, as all are when a host
        dies.
        """
        job = next(self._ids)
        if self.state is EngineState.READY and not self._in_flight.in_session:
            self._host.send(Warm(id=job, prompt=list(ids), salt=salt))
        return job

    def cancel_warm(self, job: int) -> None:
        """Give up a warm job."""
        self._host.send(Cancel(job))

    def tune(
        self,
        *,
        chunk_target_s: float | None = None,
        warm_allowed: bool | None = None,
        prefill_turn: bool | None = None,
    ) -> None:
        """Change what the governor may move, for this host and those after it; None leaves it as it is."""
        message = Tune(chunk_target_s=chunk_target_s, warm_allowed=warm_allowed, prefill_turn=prefill_turn)
        changes = {name: new for name, new in msgspec.structs.asdict(message).items() if new is not None}
        self._tuning = msgspec.structs.replace(self._tuning, **changes)
        self._host.send(message)

    async def cache(
        self, clear: Literal["", "memory", "disk", "all"] = "", *, timeout_s: float = CACHE_TIMEOUT_S
    ) -> CacheReport:
        """
        Return what the prefix store holds, after clearing it as asked.

        Raises:
            UnavailableError: no host runs, it died, or it did not answer in time.
        """
        if self.state is not EngineState.READY:
            raise self._refusal() or UnavailableError(
                "the engine is being restarted", code="engine_restarting"
            )
        query = CacheQuery(id=next(self._ids), clear=clear)
        answer: asyncio.Future[CacheReport] = asyncio.get_running_loop().create_future()
        self._queries[query.id] = answer
        self._host.send(query)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            text = f"the engine did not tell what its prefix store holds within {timeout_s:g} s"
            raise UnavailableError(text, code="engine_busy") from None
        finally:
            del self._queries[query.id]

    async def wait_ready(self, timeout_s: float) -> Ready:
        """
        Wait until a host is ready.

        Raises:
            UnavailableError: none was in time, or there will be none.
        """
        if not await wait(self._host.settled, timeout_s):
            raise UnavailableError(f"the engine was not ready within {timeout_s:g} s")
        if self.state is not EngineState.READY or self.facts is None:
            raise self._refusal() or UnavailableError(
                "the engine is being restarted", code="engine_restarting"
            )
        return self.facts

    def _refusal(self) -> UnavailableError | None:
        """Return why nothing new is taken, or None."""
        if self.state is EngineState.FAILED:
            return UnavailableError(f"the engine does not run: {self.last_exit}", code="engine_down")
        if self.state is EngineState.STOPPED or self.is_draining:
            return UnavailableError("the engine is stopping", code="draining")
        return None

    # From start to end

    async def run(self) -> None:
        """Keep a host running until `stop`; after too many deaths, only once `revive` is called."""
        await self._host.run()

    def revive(self) -> None:
        """Forget all deaths and leave safe mode; starts a host where none was to be started any more."""
        self._host.revive()

    async def drain(self, *, timeout_s: float) -> bool:
        """Take nothing new and let what is in flight end; returns whether it did in time."""
        self.is_draining = True
        return await wait(self._in_flight.emptied, timeout_s)

    async def stop(self, *, timeout_s: float = STOP_S) -> None:
        """End the host and `run`: ask, wait, then kill. What is still in flight ends as unavailable."""
        self.is_draining = True
        await self._host.stop(timeout_s=timeout_s)

    # Told by the supervisor

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight."""
        return self._in_flight.emptied.is_set()

    @property
    def doing(self) -> str:
        """What the host computes: prefill, decode, or empty."""
        return self._in_flight.doing

    def host_ready(self, ready: Ready) -> None:  # noqa: ARG002  the supervisor keeps it
        """Ask a new host for what is in flight."""
        if self._tuning != Tune():
            self._host.send(self._tuning)
        self._in_flight.host_ready()

    def host_said(self, message: FromHost) -> None:
        """Hand on what a host reports."""
        match message:
            case Step():
                self.load = message.load
                self._in_flight.take(message)
                self._on_step(message)
            case Beat():
                self.load = message.load
            case CacheReport():
                answer = self._queries.get(message.id)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case _:
                pass

    def host_gone(self, *, died: bool) -> None:
        """Hold what is in flight until the next host."""
        self.load = None
        eos_token_ids = self.facts.eos_token_ids if self.facts else ()
        self._in_flight.host_gone(eos_token_ids, died=died)
        for answer in self._queries.values():
            if not answer.done():
                answer.set_exception(UnavailableError("the engine died", code="engine_restarting"))

    def engine_over(self) -> None:
        """End what is in flight."""
        self._in_flight.end_all()

    def state_changed(self, state: EngineState, reason: str) -> None:
        """Pass the news on."""
        self._on_state(state, reason)
