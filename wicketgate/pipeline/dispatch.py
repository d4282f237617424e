"""
From an arrived request to its token stream: flags, ticket, text, engine, and the ticket back exactly once.

Everything here runs on the event loop and decides nothing by itself: `governor/admission.py` says who may
run, `queue.py` who is next, the engine what comes out. A request that waits holds no resources but its place.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from governor.admission import Admitted, Outcome, Queued, Shed
from wicketgate.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
    WicketgateError,
)
from wicketgate.inference import Finished, FinishReason, TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from governor.admission import Admission, Ticket
    from wicketgate.flags import Assignment
    from wicketgate.inference import InferenceRequest, Sampling, TokenChunk
    from wicketgate.pipeline.queue import WaitQueue
    from wicketgate.pipeline.text import TextChunk, TextModel, TextStream
    from wicketgate.pipeline.warm import Warmer
    from wicketgate.recorder import Record, Recorder

CHARACTERS_PER_TOKEN = 4
"""First guess of a prompt's length, until it is tokenised."""


class TokenStream(Protocol):
    """One stream of an engine."""

    @property
    def id(self) -> int:
        """The engine's number of the stream."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the prefix store; known from the first token on."""

    async def next(self) -> TokenChunk | Finished:
        """Wait for what came since the last call; Finished comes once, last."""

    def cancel(self) -> None:
        """Stop the stream; idempotent."""


class Engine(Protocol):
    """What the pipeline asks of an engine."""

    def unavailable(self) -> UnavailableError | None:
        """Return why nothing can be started now, or None."""

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus answer."""

    def submit(self, ids: Sequence[int], sampling: Sampling) -> TokenStream:
        """Start a stream."""


@dataclass(slots=True, kw_only=True)
class _Waiter:
    ticket: asyncio.Future[Ticket]
    adaptive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a dispatcher is made of."""

    assign: Callable[[InferenceRequest], Assignment]
    admission: Admission
    queue: WaitQueue
    recorder: Recorder
    text: TextModel
    engine: Engine
    warmer: Warmer
    clock: Callable[[], float]


class Dispatcher:
    """Opens requests: `open` returns an Answer that runs, or raises what the client should hear."""

    def __init__(self, parts: Parts, *, request_timeout_s: float) -> None:
        self._parts = parts
        self.request_timeout_s = request_timeout_s
        self._waiters: dict[str, _Waiter] = {}
        self.changed = asyncio.Event()
        """Set when the deadline of admission may have moved."""

    async def open(self, request: InferenceRequest) -> Answer:
        """
        Get a request its ticket and start it.

        Raises:
            OverloadedError: refused by admission, or waited too long.
            UnavailableError: the engine cannot serve now.
            InvalidRequestError: the prompt can never be served.
        """
        parts = self._parts
        assignment = parts.assign(request)
        record = parts.recorder.arrived(request, on=assignment.on, revision=assignment.revision)
        ticket: Ticket | None = None
        try:
            self._require_engine()
            ticket = await self._ticket(request, record)
            parts.recorder.admitted(record)
            self._require_engine()
            ids = await self._ids(request, record)
            sampling = self._fit(request, ids)
            parts.recorder.started(record, prompt_tokens=len(ids))
            stream = parts.engine.submit(ids, sampling)
        except BaseException as error:
            self._give_up(record, ticket, error)
            raise
        parts.warmer.started(stream.id, ids)
        text = parts.text.stream(
            request.stop,
            stop_token_ids=request.sampling.stop_token_ids,
            continues_text=request.api == "completions",
        )
        return Answer(self, record=record, ticket=ticket, stream=stream, text=text, prompt_tokens=len(ids))

    def _require_engine(self) -> None:
        error = self._parts.engine.unavailable()
        if error is not None:
            raise error

    async def _ticket(self, request: InferenceRequest, record: Record) -> Ticket:
        parts = self._parts
        adaptive = "adaptive_governor" in record.on
        now_s = parts.clock()
        match parts.admission.arrive(request_id=request.id, adaptive=adaptive, now_s=now_s):
            case Admitted(ticket=ticket):
                return ticket
            case Shed(reason=reason, retry_after_s=retry_after_s):
                if parts.admission.draining:
                    raise UnavailableError(
                        "the server is draining; send the request to another", code="draining"
                    )
                raise OverloadedError(
                    f"too many requests: {parts.admission.in_flight} in flight,"
                    f" {parts.admission.queued} waiting ({reason.replace('_', ' ')});"
                    f" try again in {retry_after_s:.0f} s",
                    retry_after_s=retry_after_s,
                )
            case Queued(predicted_wait_s=predicted_wait_s):
                return await self._wait(request, record, adaptive, predicted_wait_s or 0.0)

    async def _wait(self, request: InferenceRequest, record: Record, adaptive: bool, fcfs_s: float) -> Ticket:
        parts = self._parts
        future: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._waiters[request.id] = _Waiter(ticket=future, adaptive=adaptive)
        flagged = "ttft_pipeline" in record.on
        parts.queue.arrive(
            request.id,
            flagged=flagged,
            uncached_tokens=estimate_tokens(request),
            fcfs_s=fcfs_s,
            now_s=parts.clock(),
        )
        self.changed.set()
        self.pump()
        if flagged and not future.done():
            parts.warmer.waiting(request, sized=parts.queue.sized)
        try:
            return await future
        except asyncio.CancelledError:
            # The client went away. Its ticket may have been granted in this very turn of the loop.
            if future.done() and not future.cancelled() and future.exception() is None:
                parts.admission.release(future.result(), outcome=Outcome.CANCELLED, now_s=parts.clock())
            raise
        finally:
            del self._waiters[request.id]
            if parts.queue.remove(request.id):
                parts.admission.leave(request.id, now_s=parts.clock())
            self.pump()

    def reconfigured(self, *, request_timeout_s: float) -> None:
        """Go on with another time limit, after admission and queue have got their new parameters."""
        self.request_timeout_s = request_timeout_s
        self.changed.set()
        self.pump()

    def pump(self) -> None:
        """Give out the tickets that are free; called whenever one may have become so."""
        parts = self._parts
        now_s = parts.clock()
        while True:
            request_id = parts.queue.take(eligible=self._eligible, now_s=now_s)
            if request_id is None:
                return
            ticket = parts.admission.grant(request_id=request_id, now_s=now_s)
            if ticket is not None:
                self._waiters[request_id].ticket.set_result(ticket)

    def _eligible(self, request_id: str) -> bool:
        waiter = self._waiters[request_id]
        return not waiter.ticket.done() and self._parts.admission.has_room(adaptive=waiter.adaptive)

    @property
    def deadline_s(self) -> float | None:
        """When the longest waiting request will have waited too long."""
        return self._parts.admission.deadline_s

    def advance(self, *, now_s: float) -> tuple[()]:
        """Refuse those that waited longer than `governor.queue.max_wait_s`."""
        parts = self._parts
        for expired in parts.admission.advance(now_s=now_s):
            parts.queue.remove(expired.request_id)
            future = self._waiters[expired.request_id].ticket
            if future.done():  # its client went away in this very turn of the loop
                continue
            future.set_exception(
                OverloadedError(
                    "no place became free in time; try again in"
                    f" {expired.retry_after_s:.0f} s (governor.queue.max_wait_s)",
                    retry_after_s=expired.retry_after_s,
                )
            )
        return ()

    async def _ids(self, request: InferenceRequest, record: Record) -> list[int]:
        if "ttft_pipeline" in record.on:
            prepared = await self._parts.warmer.take(request.id)
            if prepared is not None:
                record.warmed = prepared.warmed
                return prepared.ids
        inline_chars = self._parts.warmer.params.inline_chars
        return await self._parts.text.encode_prompt(request.prompt, inline_chars=inline_chars)

    def _fit(self, request: InferenceRequest, ids: list[int]) -> Sampling:
        """Check a tokenised prompt against the model, and cut max_tokens to what the context leaves."""
        engine = self._parts.engine
        field = "messages" if request.api == "chat" else "prompt"
        if len(ids) >= engine.context_tokens:
            raise InvalidRequestError(
                f"{field} has {len(ids)} tokens; with at least one token of answer the model's context of"
                f" {engine.context_tokens} tokens is exceeded. Shorten it.",
                param=field,
                code="context_length_exceeded",
            )
        room = engine.context_tokens - len(ids)
        return replace(request.sampling, max_tokens=min(request.sampling.max_tokens, room))

    def _give_up(self, record: Record, ticket: Ticket | None, error: BaseException) -> None:
        recorder = self._parts.recorder
        self._parts.warmer.drop(record.request.id)
        if ticket is not None:
            self.release(ticket, Outcome.CANCELLED)
        match error:
            case OverloadedError() | UnavailableError(code="starting" | "draining"):
                recorder.refused(record, status=error.status, code=error.code)
            case InvalidRequestError():
                recorder.invalid(record, status=error.status, code=error.code)
            case WicketgateError():
                recorder.unavailable(record, status=error.status, code=error.code)
            case asyncio.CancelledError():
                recorder.cancelled(record)
            case _:
                recorder.unavailable(record, status=500, code="internal_error")

    def release(self, ticket: Ticket, outcome: Outcome) -> None:
        """Take a ticket back and pass it on."""
        if self._parts.admission.release(ticket, outcome=outcome, now_s=self._parts.clock()):
            self.changed.set()
            self.pump()

    def note_tokens(self, record: Record, count: int, cached_tokens: int) -> None:
        """Tell the recorder that tokens arrived."""
        self._parts.recorder.tokens(record, count=count, cached_tokens=cached_tokens)

    def note_end(self, record: Record, finished: Finished, *, stream_id: int) -> None:
        """Tell the recorder that a stream ended."""
        self._parts.warmer.ended(stream_id)
        self._parts.recorder.finished(record, finished)

    def time_left_s(self, record: Record) -> float:
        """Return how long a request may still run."""
        return self.request_timeout_s - (self._parts.clock() - record.request.arrived_s)


class Answer:
    """A request that runs: text as it comes, then how it ended."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        record: Record,
        ticket: Ticket,
        stream: TokenStream,
        text: TextStream,
        prompt_tokens: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._record = record
        self._ticket = ticket
        self._stream = stream
        self._text = text
        self._finished: Finished | None = None
        self._is_late = False
        # One timer an answer: a timeout around every wait for tokens was measured at 7 us each (Linux CPU).
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, dispatcher.time_left_s(record)), self._expire)
        self.prompt_tokens = prompt_tokens
        self.flags = tuple(sorted(record.on))

    async def next(self) -> TextChunk | Finished:
        """
        Wait for more text.

        Returns:
            A chunk with text or log-probabilities in it, or, once and last, how the answer ended.
        """
        while True:
            if self._finished is not None:
                return self._finished
            news = await self._stream.next()
            if isinstance(news, Finished):
                rest = self._text.flush()
                self._end(self._late_end() if self._is_late else news)
                if rest is not None:
                    return rest
                continue
            self._dispatcher.note_tokens(self._record, len(news.tokens), self._stream.cached_tokens)
            chunk = self._text.feed(news)
            if self._text.stopped:
                self._stream.cancel()
                self._end(self._ended(FinishReason.STOP, None))
            if chunk is not None:
                return chunk

    def _expire(self) -> None:
        self._is_late = True
        self._stream.cancel()

    def _late_end(self) -> Finished:
        limit_s = self._dispatcher.request_timeout_s
        error = DeadlineExceededError(f"the answer took longer than {limit_s:g} s (server.request_timeout_s)")
        return self._ended(FinishReason.ERROR, error)

    def _ended(self, reason: FinishReason, error: WicketgateError | None) -> Finished:
        return Finished(
            reason=reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self._record.completion_tokens,
            cached_tokens=self._stream.cached_tokens,
            error=error,
        )

    def _end(self, finished: Finished) -> None:
        self._timer.cancel()
        if self._text.stopped:  # usage counts up to the token that completed the stop text
            self._record.completion_tokens = self._text.tokens
        self._finished = replace(
            finished,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self._record.completion_tokens,
            cached_tokens=self._record.cached_tokens,
        )
        self._dispatcher.note_end(self._record, self._finished, stream_id=self._stream.id)
        outcome = {
            FinishReason.CANCELLED: Outcome.CANCELLED,
            FinishReason.ERROR: Outcome.FAILED,
        }.get(finished.reason, Outcome.FINISHED)
        self._dispatcher.release(self._ticket, outcome)

    def cancel(self) -> None:
        """Stop, because the client went away; idempotent, and nothing after the end."""
        if self._finished is None:
            self._stream.cancel()
            self._end(self._ended(FinishReason.CANCELLED, None))


def estimate_tokens(request: InferenceRequest) -> int:
    """Guess a prompt's length in tokens without tokenising it."""
    match request.prompt:
        case TokenPrompt(ids=ids):
            return len(ids)
        case TextPrompt(text=text):
            return len(text) // CHARACTERS_PER_TOKEN + 1
        case chat:
            length = sum(len(str(message.get("content", ""))) for message in chat.messages)
            return length // CHARACTERS_PER_TOKEN + 1
