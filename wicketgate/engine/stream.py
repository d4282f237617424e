"""One stream as the gateway sees it: what the host has produced, and who waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.engine.wire import Grammar, Submit
from wicketgate.errors import EngineFailedError, InvalidRequestError, UnavailableError
from wicketgate.inference import Finished, FinishReason, TokenChunk, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from wicketgate.engine.wire import Done, Started, Token
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Sampling


MEMORY_RETRY_S: Final = 2.0
"""Advice to a request that found no memory: about how long an answer lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How a request is served, beside what it asks for; as InferenceRequest says."""

    priority: int = 0
    salt: str = ""
    session: str = ""


class TokenStream:
    """
    The tokens of one request.

    Holds at most what the engine produced, which max_tokens bounds. `take`, `next`, `on_news` and `cancel`
    are for the consumer, of which there is one; the rest is the client's.
    """

    # Here, and in all that a token goes through: a step touches one stream after the other, out of cold
    # caches, and with a dictionary in each it costs 5 to 10 % more.
    __slots__ = (
        "_emitted",
        "_fresh",
        "_logprobs",
        "_on_cancel",
        "_prompt",
        "_sampling",
        "_service",
        "_waiter",
        "_was_started",
        "cached_tokens",
        "finished",
        "from_disk",
        "id",
        "on_news",
    )

    def __init__(
        self,
        stream_id: int,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        service: Service,
        on_cancel: Callable[[int], None],
    ) -> None:
        self.id = stream_id
        self.on_news: Callable[[], None] | None = None
        """Called once for all that a step brought, in its turn of the loop, and at an end but by `cancel`."""
        self.finished: Finished | None = None
        """Set at the end; what came before it may still have to be taken."""
        self.cached_tokens = 0
        """Prompt tokens whose KV existed when the first host began with it."""
        self.from_disk = False
        """Whether those tokens were loaded from disk for it."""
        self._was_started = False
        self._prompt = list(prompt)
        self._sampling = sampling
        self._service = service
        self._on_cancel = on_cancel
        self._emitted: list[int] = []
        self._fresh: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._waiter: asyncio.Future[None] | None = None

    def take(self) -> TokenChunk | None:
        """Return all tokens since the last call; None where none has come."""
        fresh = self._fresh
        if not fresh:
            return None
        self._fresh = []
        if self._sampling.logprobs is None:
            return TokenChunk(tuple(fresh))
        logprobs, self._logprobs = self._logprobs, []
        return TokenChunk(tuple(fresh), tuple(logprobs))

    async def next(self) -> TokenChunk | Finished:
        """Return all tokens since the last call, waiting for one if need be; once they are out, the end."""
        while (chunk := self.take()) is None:
            if self.finished is not None:
                return self.finished
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return chunk

    def cancel(self) -> None:
        """End the stream now; what was not yet taken is dropped. Does nothing after the end."""
        if self.finished is None:
            self._fresh.clear()
            self._logprobs.clear()
            self.finish(FinishReason.CANCELLED)
            self._wake()
            self._on_cancel(self.id)

    def start(self, started: Started) -> None:
        """Note that a host began to compute it; only the first one tells what was there without us."""
        if not self._was_started:
            self._was_started = True
            self.cached_tokens = started.cached_tokens
            self.from_disk = started.from_disk

    @property
    def has_tokens(self) -> bool:
        """Whether any token has come."""
        return bool(self._emitted)

    def feed(self, token: Token) -> None:
        """Add one token from the host; `tell` follows when the step has no more."""
        self._emitted.append(token.token)
        self._fresh.append(token.token)
        if token.logprob is not None:
            self._logprobs.append(TokenLogprob(token.token, token.logprob, tuple(token.top or ())))

    def tell(self) -> None:
        """Tell the consumer that there is something to take."""
        if self.on_news is not None:
            self.on_news()
        elif self._waiter is not None:
            self._wake()

    def finish(self, reason: FinishReason, error: WicketgateError | None = None) -> None:
        """Note the end, which the consumer sees after the tokens; `tell` follows."""
        self.finished = Finished(
            reason=reason,
            prompt_tokens=len(self._prompt),
            completion_tokens=len(self._emitted),
            cached_tokens=self.cached_tokens,
            error=error,
        )

    def finish_as(self, done: Done) -> None:
        """Note the end that the host reported; `tell` follows."""
        error = failure(done)
        self.finish(FinishReason.ERROR if error else FinishReason(done.reason), error)

    def end_reached(self, eos_token_ids: Collection[int]) -> FinishReason | None:
        """Say how the stream ended if its last token was the last one, though no host lived to say so."""
        sampling = self._sampling
        if self._emitted:
            last = self._emitted[-1]
            if last in sampling.stop_token_ids or (not sampling.ignore_eos and last in eos_token_ids):
                return FinishReason.STOP
        return FinishReason.LENGTH if len(self._emitted) >= sampling.max_tokens else None

    def submission(self, *, alone: bool = False) -> Submit:
        """Return the message that starts the stream, or goes on where a dead host left it."""
        sampling, grammar, service = self._sampling, self._sampling.grammar, self._service
        return Submit(
            id=self.id,
            prompt=self._prompt + self._emitted,
            prompt_tokens=len(self._prompt),
            position=len(self._emitted),
            max_tokens=sampling.max_tokens - len(self._emitted),
            seed=sampling.seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias),
            logprobs=sampling.logprobs,
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=sampling.ignore_eos,
            min_tokens=sampling.min_tokens,
            grammar=Grammar(grammar.kind, grammar.text, grammar.starts_after) if grammar else None,
            priority=service.priority,
            salt=service.salt,
            session=service.session,
            alone=alone,
        )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def failure(done: Done) -> WicketgateError | None:
    """Return the error that an end reported by the host stands for, or None for a good end."""
    match done.reason:
        case "refused":
            return InvalidRequestError(done.message or "the engine refused it")
        case "error":
            return EngineFailedError(done.message or "the engine failed")
        case "memory":
            text = f"the engine has no memory for this request now; try again in {MEMORY_RETRY_S:g} s"
            return UnavailableError(text, code="memory", retry_after_s=MEMORY_RETRY_S)
        case _:
            return None
