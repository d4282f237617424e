"""Stand-ins with behaviour for the seams of the runtime: a clock, an engine, a model's text."""

from __future__ import annotations

import asyncio
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
from wicketgate.pipeline.pieces import TextChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.ending import Ending
    from wicketgate.errors import UnavailableError, WicketgateError
    from wicketgate.inference import ChatPrompt, Prompt
    from wicketgate.pipeline.lane import Lane
    from wicketgate.pipeline.pieces import Piece


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
        self.on_news: Callable[[], None] | None = None
        self.finished: Finished | None = None
        self._tokens: list[int] = []

    def give(self, *tokens: int) -> None:
        self._tokens += tokens
        self._tell()

    def finish(self, reason: FinishReason = FinishReason.STOP, error: WicketgateError | None = None) -> None:
        self.finished = Finished(reason=reason, prompt_tokens=len(self.ids), completion_tokens=0, error=error)
        self._tell()

    def take(self) -> TokenChunk | None:
        tokens, self._tokens = self._tokens, []
        return TokenChunk(tokens=tuple(tokens)) if tokens else None

    def cancel(self) -> None:
        self.cancelled = True
        self._tokens.clear()
        if self.finished is None:
            self.finished = Finished(
                reason=FinishReason.CANCELLED, prompt_tokens=len(self.ids), completion_tokens=0
            )

    def _tell(self) -> None:
        if self.on_news is not None:
            self.on_news()


class FakeEngine:
    """An engine that starts streams and warm jobs and produces nothing by itself."""

    def __init__(self, *, context_tokens: int = 64) -> None:
        self.context_tokens = context_tokens
        self.streams: list[FakeStream] = []
        self.warm_jobs: dict[int, list[int]] = {}
        self.error: UnavailableError | None = None
        self.refusal: UnavailableError | None = None
        """What streams end with as soon as they are submitted."""
        self._ids = iter(range(1, 1_000_000))

    def unavailable(self) -> UnavailableError | None:
        return self.error

    def submit(self, ids: Sequence[int], request: InferenceRequest) -> FakeStream:
        stream = FakeStream(next(self._ids), ids, request.sampling)
        self.streams.append(stream)
        if self.refusal is not None:
            stream.finish(FinishReason.ERROR, self.refusal)
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
    """Text of character codes; stop texts end what was taken at once; holds `held` back until the end."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self.stopped = False
        self.stop: str | int | None = None
        self.tokens = 0
        self.reasoning_tokens = 0
        self.calls = 0
        self.held = ""

    def feed(self, chunk: TokenChunk) -> list[Piece]:
        self.tokens += len(chunk.tokens)
        text = "".join(map(chr, chunk.tokens))
        for stop in self._stops:
            if text.endswith(stop):
                self.stopped, self.stop, text = True, stop, text.removesuffix(stop)
        return [TextChunk(text=text, tokens=len(chunk.tokens))] if text else []

    def flush(self) -> list[Piece]:
        held, self.held = self.held, ""
        return [TextChunk(text=held, tokens=0)] if held else []


class FakeText:
    """A model's text side where every character is a token; `gate` holds tokenising back."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.think_end_id: int | None = None
        """Prompts of messages open reasoning where there is one."""
        self.streams: list[FakeTextStream] = []

    async def encode_prompt(
        self,
        prompt: Prompt,
        *,
        inline_chars: int = 2000,
        most_tokens: int | None = None,
        field: str | None = None,
    ) -> list[int]:
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

    def opens_reasoning(self, prompt: ChatPrompt) -> bool:
        return self.think_end_id is not None

    def stream(self, request: InferenceRequest) -> FakeTextStream:
        self.streams.append(FakeTextStream(request.stop))
        return self.streams[-1]


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
