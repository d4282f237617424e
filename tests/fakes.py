"""Stand-ins with behaviour for the seams of the runtime: a clock, an engine, a model's text."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from wicketgate.assigned import Assigned
from wicketgate.errors import InvalidRequestError, NotFoundError
from wicketgate.inference import (
    Finished,
    FinishReason,
    InferenceRequest,
    Sampling,
    TextPrompt,
    TokenChunk,
    TokenPrompt,
)
from wicketgate.pipeline.text import TextChunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.ending import Ending
    from wicketgate.errors import UnavailableError
    from wicketgate.inference import Prompt
    from wicketgate.pipeline.lane import Lane


class Clock:
    """Monotonic seconds that move only when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class FakeStream:
    """A stream whose news the test feeds."""

    def __init__(self, stream_id: int, ids: Sequence[int], sampling: Sampling) -> None:
        self.id = stream_id
        self.ids = list(ids)
        self.sampling = sampling
        self.cached_tokens = 0
        self.cancelled = False
        self._news: deque[TokenChunk | Finished] = deque()
        self._arrived = asyncio.Event()

    def give(self, *tokens: int) -> None:
        self._put(TokenChunk(tokens=tokens))

    def finish(self, reason: FinishReason = FinishReason.STOP) -> None:
        self._put(Finished(reason=reason, prompt_tokens=len(self.ids), completion_tokens=0))

    def _put(self, news: TokenChunk | Finished) -> None:
        self._news.append(news)
        self._arrived.set()

    async def next(self) -> TokenChunk | Finished:
        while not self._news:
            self._arrived.clear()
            await self._arrived.wait()
        return self._news.popleft()

    def cancel(self) -> None:
        self.cancelled = True
        self._news.clear()
        self.finish(FinishReason.CANCELLED)


class FakeEngine:
    """An engine that starts streams and warm jobs and produces nothing by itself."""

    def __init__(self, *, context_tokens: int = 64) -> None:
        self.context_tokens = context_tokens
        self.streams: list[FakeStream] = []
        self.warm_jobs: dict[int, list[int]] = {}
        self.error: UnavailableError | None = None
        self._ids = iter(range(1, 1_000_000))

    def unavailable(self) -> UnavailableError | None:
        return self.error

    def submit(self, ids: Sequence[int], request: InferenceRequest) -> FakeStream:
        stream = FakeStream(next(self._ids), ids, request.sampling)
        self.streams.append(stream)
        return stream

    def warm(self, ids: Sequence[int], *, salt: str) -> int | None:
        if self.error is not None:
            return None
        job = next(self._ids)
        self.warm_jobs[job] = list(ids)
        return job

    def cancel_warm(self, job: int) -> None:
        self.warm_jobs.pop(job, None)


class FakeLanes:
    """One model's lane, always open; another name is unknown."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.gate = asyncio.Event()
        self.gate.set()

    async def enter(self, model: str) -> Lane:
        if model != self.lane.model:
            raise NotFoundError(f"no model {model}", code="model_not_found")
        await self.gate.wait()
        self.lane.holders += 1
        return self.lane

    def leave(self, lane: Lane) -> None:
        lane.holders -= 1


class FakeRollouts:
    """Gives every request one side, and keeps what is told of it."""

    def __init__(self) -> None:
        self.endings: list[str] = []
        self.arrivals: list[str] = []
        self.ttfts_s: list[float] = []
        self.tpots_s: list[float | None] = []

    def assigned(self, on: frozenset[str]) -> Assigned:
        """Return the flags of a request."""
        return Assigned(on, 1, (object(),), (object(),))

    def arrived(self, assigned: Assigned, request: InferenceRequest) -> None:
        self.arrivals.append(request.id)

    def first_token(self, assigned: Assigned, *, ttft_s: float) -> None:
        self.ttfts_s.append(ttft_s)

    def ended(
        self, assigned: Assigned, request: InferenceRequest, *, ending: Ending, tpot_s: float | None
    ) -> None:
        self.endings.append(str(ending))
        self.tpots_s.append(tpot_s)


class FakeTextStream:
    """Text of character codes; one stop text, matched whole chunks only."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self.stopped = False
        self.tokens = 0

    def feed(self, chunk: TokenChunk) -> TextChunk | None:
        self.tokens += len(chunk.tokens)
        text = "".join(map(chr, chunk.tokens))
        self.stopped = text in self._stops
        return None if self.stopped else TextChunk(text=text, tokens=len(chunk.tokens))

    def flush(self) -> TextChunk | None:
        return None


class FakeText:
    """A model's text side where every character is a token; `gate` holds tokenising back."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def encode_prompt(self, prompt: Prompt, *, inline_chars: int = 2000) -> list[int]:
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        match prompt:
            case TokenPrompt(ids=ids):
                return list(ids)
            case TextPrompt(text="refused"):
                raise InvalidRequestError("the template refuses", param="messages")
            case TextPrompt(text=text):
                return [ord(character) for character in text]
            case _:
                return [1, 2, 3]

    def stream(
        self, stops: Sequence[str] = (), *, stop_token_ids: Sequence[int] = (), continues_text: bool = False
    ) -> FakeTextStream:
        return FakeTextStream(stops)


def request(
    name: str = "r1",
    *,
    text: str = "hello",
    arrived_s: float = 100.0,
    max_tokens: int = 8,
    stop: tuple[str, ...] = (),
    model: str = "demo",
) -> InferenceRequest:
    """Return a completion request for a text."""
    return InferenceRequest(
        id=name,
        model=model,
        prompt=TextPrompt(text=text),
        sampling=Sampling(max_tokens=max_tokens, seed=1),
        arrived_s=arrived_s,
        key=name,
        key_source="request",
        stop=stop,
        api="completions",
    )
