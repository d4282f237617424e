"""
What is done for requests of the `ttft_pipeline` while they wait: tokenise, match, compute ahead.

A waiting request is templated and tokenised at once, off the event loop when it is long, and matched to the
prefixes that the engine holds; that sizes it for the queue. Then its prompt is offered to the engine as a
warm job, which runs in steps that nobody else needs and stops at a chunk's edge. Computing ahead while other
streams decode was measured to buy nothing, so it is never done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wicketgate.pipeline.prefix import PrefixIndex

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from wicketgate.inference import InferenceRequest
    from wicketgate.pipeline.text import TextModel


class WarmEngine(Protocol):
    """What warming asks of an engine."""

    def warm(self, ids: Sequence[int], *, salt: str) -> int | None:
        """Offer tokens to compute in idle steps; returns the job's number, None when nobody takes it."""

    def cancel_warm(self, job: int) -> None:
        """Stop a warm job at its next chunk's edge; what was computed is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmParams:
    """Bounds of warming."""

    idle: bool = True
    """Compute waiting prompts in steps that nobody needs."""
    max_jobs: int = 4
    """Warm jobs offered to the engine at a time."""
    inline_chars: int = 2000
    """Longer texts are tokenised on a worker thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prompt whose text was done while it waited."""

    ids: list[int]
    warmed: bool
    """Whether some of it was computed ahead."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    task: asyncio.Task[list[int] | Exception]
    job: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A prompt whose KV the engine may keep."""

    ids: list[int]
    salt: str


class Warmer:
    """
    Prepares waiting requests, and keeps the index of what the engine holds.

    Args:
        params: Bounds.
        text: The model's text side.
        engine: Takes warm jobs.
        spawn: Starts a task in the runtime's task group.
    """

    def __init__(
        self,
        params: WarmParams,
        *,
        text: TextModel,
        engine: WarmEngine,
        spawn: Callable[
            [Coroutine[object, object, list[int] | Exception]],
            asyncio.Task[list[int] | Exception],
        ],
    ) -> None:
        self.params = params
        self._text = text
        self._engine = engine
        self._spawn = spawn
        self._waiting: dict[str, _Waiting] = {}
        self._streams: dict[int, _Held] = {}
        self._jobs: dict[int, _Held] = {}
        self._warmed: set[int] = set()
        self.index = PrefixIndex()

    def waiting(self, request: InferenceRequest, *, sized: Callable[[str, int], None]) -> None:
        """Begin to prepare a request that waits; `sized(id, uncached_tokens)` is told its size."""
        self._waiting[request.id] = _Waiting(task=self._spawn(self._prepare(request, sized)))

    async def _prepare(
        self, request: InferenceRequest, sized: Callable[[str, int], None]
    ) -> list[int] | Exception:
        try:
            ids = await self._text.encode_prompt(request.prompt, inline_chars=self.params.inline_chars)
        except Exception as error:  # noqa: BLE001  in a task of the runtime's group it would end the runtime
            return error
        sized(request.id, len(ids) - self.index.match(ids, salt=request.salt))
        if self.params.idle and len(self._jobs) < self.params.max_jobs and len(ids) > 1:
            job = self._engine.warm(ids, salt=request.salt)
            if job is not None:
                self._jobs[job] = _Held(ids=ids, salt=request.salt)
                self._waiting[request.id].job = job
        return ids

    async def take(self, request_id: str) -> Prepared | None:
        """
        Hand over what was prepared, now that the request has its ticket; None when it never waited.

        Raises:
            Exception: what templating or tokenising the prompt raised.
        """
        waiting = self._waiting.get(request_id)
        if waiting is None:
            return None
        ids = await waiting.task
        if isinstance(ids, Exception):
            raise ids
        warmed = waiting.job in self._warmed
        self.drop(request_id)
        return Prepared(ids=ids, warmed=warmed)

    def drop(self, request_id: str) -> None:
        """Stop preparing a request; unknown ones are ignored."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return
        waiting.task.cancel()
        if waiting.job is not None:
            self._warmed.discard(waiting.job)
            self._engine.cancel_warm(waiting.job)

    def started(self, stream_id: int, ids: list[int], *, salt: str) -> None:
        """Remember a stream's prompt, in case the engine keeps its KV."""
        self._streams[stream_id] = _Held(ids=ids, salt=salt)

    def ended(self, stream_id: int) -> None:
        """Forget the prompt of a stream that ended; its index entry, if any, stays."""
        self._streams.pop(stream_id, None)

    def news(self, *, kept: Iterable[int], evicted: Iterable[int], warmed: Iterable[int]) -> None:
        """
        Follow the engine's prefix store.

        Args:
            kept: Streams and jobs whose KV is now held.
            evicted: Those whose KV was let go.
            warmed: Warm jobs that ended, finished or not.
        """
        for entry in kept:
            held = self._streams.get(entry) or self._jobs.get(entry)
            if held is not None:
                self.index.keep(entry, held.ids, salt=held.salt)
        for entry in evicted:
            self.index.drop(entry)
        for job in warmed:
            if self._jobs.pop(job, None) is not None:
                self._warmed.add(job)
        waited_for = {waiting.job for waiting in self._waiting.values()}
        self._warmed &= {job for job in waited_for if job is not None}

    def engine_lost(self) -> None:
        """Forget what the dead host held."""
        self.index.clear()
        self._jobs.clear()
        self._warmed.clear()
