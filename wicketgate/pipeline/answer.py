"""A request that runs: its text as it comes, its deadline, and its end, which gives everything back once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from governor.admission import Outcome
from wicketgate.errors import DeadlineExceededError
from wicketgate.inference import Finished, FinishReason

if TYPE_CHECKING:
    from governor.admission import Ticket
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import TokenChunk
    from wicketgate.pipeline.lane import Lane, TokenStream
    from wicketgate.pipeline.text import TextChunk, TextStream
    from wicketgate.recorder import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a running request holds until it ends."""

    record: Record
    ticket: Ticket
    lane: Lane
    stream: TokenStream
    text: TextStream
    prompt_tokens: int


class Desk(Protocol):
    """What an answer asks of the dispatcher."""

    request_timeout_s: float

    def time_left_s(self, record: Record) -> float:
        """Return how long a request may still run."""

    def note_tokens(self, record: Record, count: int, cached_tokens: int) -> None:
        """Tell the recorder that tokens arrived."""

    def ended(self, run: Run, finished: Finished, outcome: Outcome) -> None:
        """Tell that a stream ended, and take back what it held."""


class Answer:
    """A request that runs: text as it comes, then how it ended."""

    def __init__(self, desk: Desk, run: Run) -> None:
        self._desk = desk
        self._run = run
        self._record, self._stream, self._text = run.record, run.stream, run.text
        self._finished: Finished | None = None
        self._is_late = False
        # One timer an answer: a timeout around every wait for tokens was measured at 7 us each (Linux CPU).
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, desk.time_left_s(run.record)), self._expire)
        self.prompt_tokens = run.prompt_tokens
        self.flags = tuple(sorted(run.record.on))

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
            self._desk.note_tokens(self._record, len(news.tokens), self._stream.cached_tokens)
            chunk = self._read(news)
            if self._text.stopped:
                self._stream.cancel()
                self._end(self._ended(FinishReason.STOP, None))
            if chunk is not None:
                return chunk

    def _read(self, news: TokenChunk) -> TextChunk | None:
        """Turn tokens into text; a fault in that is a failure of ours, and no client that went away."""
        try:
            return self._text.feed(news)
        except Exception:
            self._stream.cancel()
            self._end(self._ended(FinishReason.ERROR, None))
            raise

    def _expire(self) -> None:
        self._is_late = True
        self._stream.cancel()

    def _late_end(self) -> Finished:
        limit_s = self._desk.request_timeout_s
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
        outcome = {
            FinishReason.CANCELLED: Outcome.CANCELLED,
            FinishReason.ERROR: Outcome.FAILED,
        }.get(finished.reason, Outcome.FINISHED)
        self._desk.ended(self._run, self._finished, outcome)

    def cancel(self) -> None:
        """Stop, because the client went away; idempotent, and nothing after the end."""
        if self._finished is None:
            self._stream.cancel()
            self._end(self._ended(FinishReason.CANCELLED, None))
