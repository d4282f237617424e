"""
A request that runs: what it is made of as it comes, its deadline, and its end, which gives all back once.

Tokens stay tokens until somebody takes them, so that those of a reader who is slow become one text. At the
end of its stream an answer takes what is left by itself: ticket and lane do not wait for a reader.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from governor.admission import Outcome
from wicketgate.errors import DeadlineExceededError, InternalError, InvalidRequestError
from wicketgate.inference import Finished, FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from governor.admission import Ticket
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import InferenceRequest
    from wicketgate.pipeline.lane import Lane, TokenStream
    from wicketgate.pipeline.pieces import Piece
    from wicketgate.pipeline.text_stream import TextStream
    from wicketgate.recorder import Record

GRAMMAR: Final = "grammar: "
"""Begins what the engine says of a grammar that it refuses."""
OUTCOMES: Final = {FinishReason.CANCELLED: Outcome.CANCELLED, FinishReason.ERROR: Outcome.FAILED}
"""What the ticket of a request is released with; all others have finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a running request holds until it ends."""

    record: Record
    ticket: Ticket
    lane: Lane
    stream: TokenStream
    text: TextStream
    prompt_ids: Sequence[int]
    is_prompt_only: bool = False
    """No tokens were asked for: the one that the engine makes is thrown away."""


class Desk(Protocol):
    """What an answer asks of the dispatcher."""

    request_timeout_s: float

    def time_left_s(self, record: Record) -> float:
        """Return how long a request may still run."""

    def first_tokens(self, record: Record, count: int, cached_tokens: int) -> None:
        """Tell the recorder that the first tokens arrived."""

    def ended(self, run: Run, finished: Finished, outcome: Outcome, *, code: str) -> None:
        """Tell that a stream ended, and take back what it held; `code` is why it was cancelled."""


class Answer:
    """What `Answer` of the API layer says."""

    __slots__ = (
        "_desk",
        "_is_over",
        "_ready",
        "_record",
        "_run",
        "_stream",
        "_text",
        "_timer",
        "_waiter",
        "flags",
        "on_news",
        "prompt_ids",
    )

    def __init__(self, desk: Desk, run: Run) -> None:
        self._desk = desk
        self._run = run
        self._record, self._stream, self._text = run.record, run.stream, run.text
        self._ready: list[Piece | Finished] = []
        """Taken at the end of the stream, and not yet by the reader."""
        self._is_over = False
        self._waiter: asyncio.Future[None] | None = None
        self.on_news: Callable[[], None] | None = None
        """Called, in the turn of the loop in which it happens, when tokens or the end have come."""
        # One timer an answer: a timeout around every wait for tokens was measured at 7 us each (Linux CPU).
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, desk.time_left_s(run.record)), self._expire)
        self.prompt_ids = run.prompt_ids
        self.flags = tuple(sorted(run.record.on))
        self._stream.on_news = self._arrived
        if self._stream.finished is not None:
            self._arrived()

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens whose KV existed; 0 until the first token."""
        return self._record.cached_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer that were taken so far."""
        return self._record.completion_tokens

    def take(self) -> list[Piece | Finished]:
        """Return all that there is, perhaps nothing, without waiting; Finished comes once, last."""
        if self._is_over:
            ready, self._ready = self._ready, []
            return ready
        return self._drained()

    async def next(self) -> list[Piece | Finished]:
        """Wait until there is something, and return all of it."""
        while not (items := self.take()):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return items

    def _arrived(self) -> None:
        if self._stream.finished is not None and not self._is_over:
            self._ready = self._drained()
        if self.on_news is not None:
            self.on_news()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drained(self) -> list[Piece | Finished]:
        """Take what the stream has, as text."""
        stream, text = self._stream, self._text
        items: list[Piece | Finished] = []
        try:
            chunk = stream.take()
            if chunk is not None:
                self._note(0 if self._run.is_prompt_only else len(chunk.tokens))
                if not self._run.is_prompt_only:
                    items = cast("list[Piece | Finished]", text.feed(chunk))
                if text.stopped:
                    stream.cancel()
                    items += text.flush()
                    items.append(self._end(FinishReason.STOP))
                    return items
            if (finished := stream.finished) is not None:
                items += text.flush()
                is_whole = self._run.is_prompt_only and finished.error is None
                reason = FinishReason.LENGTH if is_whole else finished.reason
                items.append(self._end(reason, blamed(finished.error, self._record.request)))
        except Exception:
            # A fault in the text is a failure of ours, and no client that went away.
            stream.cancel()
            self._end(FinishReason.ERROR, InternalError("a fault in the text of the answer"))
            raise
        return items

    def _note(self, tokens: int) -> None:
        """Count tokens; of the first ones everybody hears."""
        record = self._record
        if record.first_token_s is None:
            self._desk.first_tokens(record, tokens, self._stream.cached_tokens)
        else:
            record.completion_tokens += tokens

    def _expire(self) -> None:
        limit_s = self._desk.request_timeout_s
        error = f"the answer took longer than {limit_s:g} s (server.request_timeout_s)"
        self._stream.cancel()
        self._ready = [self._end(FinishReason.ERROR, DeadlineExceededError(error))]
        self._arrived()

    def _end(
        self, reason: FinishReason, error: WicketgateError | None = None, *, code: str = "cancelled"
    ) -> Finished:
        self._is_over = True
        self._timer.cancel()
        self._stream.on_news = None
        record, text = self._record, self._text
        if text.stopped:  # usage counts up to the token that completed the stop text
            record.completion_tokens = text.tokens
        record.reasoning_tokens = text.reasoning_tokens
        finished = Finished(
            reason=reason,
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=record.completion_tokens,
            cached_tokens=record.cached_tokens,
            error=error,
            reasoning_tokens=text.reasoning_tokens,
            calls=text.calls,
            stop=text.stop,
        )
        self._desk.ended(self._run, finished, OUTCOMES.get(reason, Outcome.FINISHED), code=code)
        return finished

    def cancel(self, *, code: str = "cancelled") -> None:
        """
        Stop and give the ticket back, through no fault of ours; idempotent, and nothing after the end.

        Args:
            code: Why, for the log: cancelled, or slow_reader.
        """
        if not self._is_over:
            self._stream.cancel()
            self._end(FinishReason.CANCELLED, code=code)

    def fail(self, error: WicketgateError) -> None:
        """Stop as `cancel` does, because of a fault."""
        if not self._is_over:
            self._stream.cancel()
            self._end(FinishReason.ERROR, error)


def blamed(error: WicketgateError | None, request: InferenceRequest) -> WicketgateError | None:
    """Name the request's field in what the engine says of its grammar; other errors stay as they are."""
    grammar = request.sampling.grammar
    if grammar is None or not isinstance(error, InvalidRequestError) or not error.message.startswith(GRAMMAR):
        return error
    field = grammar.param or "the grammar"
    return InvalidRequestError(
        f"{field} cannot be enforced: {error.message.removeprefix(GRAMMAR)}",
        param=grammar.param,
        code="invalid_json_schema",
    )
