"""One stream as the gateway sees it: what the host has produced, and who waits for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wicketgate.engine.wire import Submit
from wicketgate.errors import EngineFailedError, InvalidRequestError
from wicketgate.inference import Finished, FinishReason, TokenChunk, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from wicketgate.engine.wire import Done, Token
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Sampling


class TokenStream:
    """
    The tokens of one request.

    Holds at most what the engine produced, which max_tokens bounds. `next` and `cancel` are for the consumer,
    of which there is one; the rest is the client's.
    """

    def __init__(
        self, stream_id: int, prompt: Sequence[int], sampling: Sampling, *, on_cancel: Callable[[int], None]
    ) -> None:
        self.id = stream_id
        self.cached_tokens = 0
        """Prompt tokens whose KV existed when the host began with it."""
        self.deaths = 0
        """How many hosts died while they had this stream."""
        self._prompt = list(prompt)
        self._sampling = sampling
        self._on_cancel = on_cancel
        self._emitted: list[int] = []
        self._fresh: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._finished: Finished | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next(self) -> TokenChunk | Finished:
        """Return all tokens since the last call, waiting for one if need be; once they are out, the end."""
        while not self._fresh:
            if self._finished is not None:
                return self._finished
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        fresh, self._fresh = self._fresh, []
        logprobs, self._logprobs = self._logprobs, []
        return TokenChunk(tuple(fresh), tuple(logprobs) if self._sampling.logprobs is not None else None)

    def cancel(self) -> None:
        """End the stream now; what was not yet taken is dropped. Does nothing after the end."""
        if self._finished is None:
            self._fresh.clear()
            self._logprobs.clear()
            self.finish(FinishReason.CANCELLED)
            self._on_cancel(self.id)

    def feed(self, token: Token) -> None:
        """Add one token from the host."""
        self._emitted.append(token.token)
        self._fresh.append(token.token)
        if token.logprob is not None:
            self._logprobs.append(TokenLogprob(token.token, token.logprob, tuple(token.top or ())))
        self._wake()

    def finish(self, reason: FinishReason, error: WicketgateError | None = None) -> None:
        """Note the end; the consumer sees it after the tokens."""
        self._finished = Finished(
            reason=reason,
            prompt_tokens=len(self._prompt),
            completion_tokens=len(self._emitted),
            cached_tokens=self.cached_tokens,
            error=error,
        )
        self._wake()

    def finish_as(self, done: Done) -> None:
        """Note the end that the host reported."""
        if done.reason == "refused":
            self.finish(FinishReason.ERROR, InvalidRequestError(done.message or "the engine refused it"))
        elif done.reason == "error":
            self.finish(FinishReason.ERROR, EngineFailedError(done.message or "the engine failed"))
        else:
            self.finish(FinishReason(done.reason))

    def end_reached(self, eos_token_ids: Collection[int]) -> FinishReason | None:
        """Say how the stream ended if its last token was the last one, though no host lived to say so."""
        sampling = self._sampling
        if self._emitted:
            last = self._emitted[-1]
            if last in sampling.stop_token_ids or (not sampling.ignore_eos and last in eos_token_ids):
                return FinishReason.STOP
        return FinishReason.LENGTH if len(self._emitted) >= sampling.max_tokens else None

    def submission(self) -> Submit:
        """Return the message that starts the stream, or goes on where a dead host left it."""
        sampling = self._sampling
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
            logprobs=sampling.logprobs,
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=sampling.ignore_eos,
        )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
