"""
Who is in the batch and who waits: every change of place of a stream of an engine host.

Theory of operation. An exception in the batch leaves the rows beside it wrong without a word (seen in mlx-lm
0.32.2), so the batch is thrown away then, and its streams start again as prompt + tokens so far, each alone
until it has had a token: the one that fails alone is the culprit. What was emitted is not emitted again, and
what a failed call computed is lost with it: a stream's tokens are the same whatever happens beside it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from wicketgate.engine.batch import Chunk, RowError
from wicketgate.engine.jobs import MIN_KEPT_TOKENS
from wicketgate.engine.kv.store import Entry, Hit, as_tokens
from wicketgate.engine.news import News
from wicketgate.engine.wire import Done, Started

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.batch import Batch, Emitted
    from wicketgate.engine.kv.cache import KvCache
    from wicketgate.engine.kv.store import Prefix
    from wicketgate.engine.pace import Pace
    from wicketgate.engine.streams import Stream

log = logging.getLogger(__name__)

MAX_FAULTS: Final = 3
"""A stream that was running at more failures than this is given up."""
FETCH_FLOOR_S: Final = 0.5
FETCH_PATIENCE: Final = 2.0
"""KV from disk is waited for that many times as long as computing it would take: a disk may hang for ever."""
SAVED_TOKENS: Final = 2048
"""A prompt in progress is put into the prefix cache whenever so many more tokens of it were computed."""


class Roster:
    """The streams of a host by their ids, and the batch that they are in."""

    def __init__(self, batch: Batch, cache: KvCache) -> None:
        self._batch = batch
        self._cache = cache
        self.waiting: dict[int, Stream] = {}
        """Without KV in the batch, those that gave way included."""
        self.prompts: dict[int, Stream] = {}
        """In the batch, their prompts not yet computed."""
        self.rows: dict[int, Stream] = {}
        """In the batch and decoding."""
        self.on_trial: dict[int, None] = {}
        """Those that must run with nobody beside them."""
        self.news = News()
        self._fetching: dict[int, Stream] = {}
        self._cancelled: list[Stream] = []

    @property
    def busy(self) -> bool:
        """Whether anybody is here, or has to leave the batch."""
        return bool(self.rows or self.waiting or self.prompts or self._cancelled)

    @property
    def fetches(self) -> bool:
        """Whether anybody's KV is on its way from disk."""
        return bool(self._fetching)

    @property
    def held_bytes(self) -> int:
        """KV of the streams that gave way."""
        return sum(stream.held.size_bytes for stream in self.waiting.values() if stream.held is not None)

    @property
    def loaded_bytes(self) -> int:
        """KV that came from disk, in hand for streams that still wait."""
        return sum(
            stream.loaded.entry.size_bytes for stream in self.waiting.values() if stream.loaded is not None
        )

    def reserved(self) -> list[tuple[int, int]]:
        """Return (1, tokens) of each prompt that will be a row, and of each stream that gave way."""
        held = [stream for stream in self.waiting.values() if stream.held is not None]
        return [(1, len(stream.message.prompt)) for stream in (*self.prompts.values(), *held)]

    def __contains__(self, key: int) -> bool:
        return key in self.rows or key in self.waiting or key in self.prompts

    def add(self, stream: Stream) -> None:
        """Take a new stream."""
        self.waiting[stream.id] = stream
        if stream.trial_tokens:
            self.on_trial[stream.id] = None

    def leave(self, key: int, reason: str, message: str | None = None) -> bool:
        """End a stream wherever it is, with the next step at the latest; returns whether there was one."""
        stream = self.rows.pop(key, None) or self.prompts.pop(key, None)
        if stream is not None:
            self._cancelled.append(stream)
        else:
            stream = self.waiting.pop(key, None)
            if stream is None:
                return False
            self._let_go(stream)
        self.on_trial.pop(key, None)
        self.news.done.append(Done(key, reason, message))
        return True

    def _let_go(self, stream: Stream) -> None:
        """Give back what a waiting stream has a hold on."""
        self._fetching.pop(stream.id, None)
        if stream.fetch is not None:
            stream.fetch.cancel()
        held, message = stream.held, stream.message
        if held is not None and len(held.tokens) >= MIN_KEPT_TOKENS:
            is_whole = len(held.tokens) >= len(message.prompt) - message.position
            self._keep(stream, held, is_whole=is_whole)

    def _keep(self, stream: Stream, prefix: Prefix, *, is_whole: bool) -> None:
        message = stream.message
        self.news.keep(
            self._cache,
            message.id,
            prefix,
            salt=message.salt,
            session=message.session,
            is_whole=is_whole,
        )

    def sweep(self, *, keep: bool) -> None:
        """Take those that left out of the batch; `keep` puts what they had computed into the prefix cache."""
        if not self._cancelled:
            return
        gone, self._cancelled = self._cancelled, []
        kept = {stream.id: stream for stream in gone if keep and stream.kv_tokens >= MIN_KEPT_TOKENS}
        self._batch.remove([stream.id for stream in gone if stream.id not in kept], keep=False)
        for key, prefix in self._batch.remove(list(kept), keep=True).items():
            self._keep(kept[key], prefix, is_whole=not kept[key].remaining_tokens)

    # Into the batch

    def open(self, key: int, pace: Pace, *, now_s: float) -> None:
        """Begin with a waiting stream, unless it cannot be run or its KV has to come from disk first."""
        stream = self.waiting[key]
        hit = self._hit(stream, pace, now_s)
        if stream.fetch is not None:
            return
        del self.waiting[key]
        self.prompts[key] = stream
        try:
            cached_tokens = self._batch.open(stream.message, hit)
        except RowError as error:
            del self.prompts[key]
            self.on_trial.pop(key, None)
            self.news.done.append(Done(key, "refused", str(error)))
            return
        stream.held = None
        stream.remaining_tokens = len(stream.message.prompt) - cached_tokens
        stream.saved_tokens = cached_tokens
        if not stream.started:
            stream.started = True
            from_disk = stream.loaded is not None and stream.loaded is hit
            self.news.started.append(Started(key, cached_tokens, from_disk))
        stream.loaded = None

    def _hit(self, stream: Stream, pace: Pace, now_s: float) -> Hit[object] | None:
        message, held = stream.message, stream.held
        if held is not None:
            entry = Entry(tokens=as_tokens(held.tokens), payload=held.payload, size_bytes=held.size_bytes)
            return Hit(entry=entry, shared_tokens=stream.held_tokens) if stream.held_tokens else None
        hit = self._cache.find(message.prompt, salt=message.salt)
        cached_tokens = hit.shared_tokens if hit else 0
        if stream.loaded is not None and stream.loaded.shared_tokens >= cached_tokens:
            return stream.loaded
        # On trial nothing is added that could be the culprit itself.
        if not (stream.fetched or stream.trial_tokens):
            stream.fetched = True
            self._fetch(stream, cached_tokens, pace, now_s)
        return hit

    def _fetch(self, stream: Stream, cached_tokens: int, pace: Pace, now_s: float) -> None:
        """Have KV loaded from disk where that is faster than computing it."""
        message = stream.message
        tokens = len(message.prompt) - cached_tokens
        prefill_s = pace.chunk_s(tokens, context_tokens=cached_tokens)
        fetch = self._cache.fetch(
            message.prompt,
            salt=message.salt,
            held_tokens=cached_tokens,
            prefill_token_s=prefill_s / tokens,
        )
        if fetch is None:
            return
        stream.fetch = fetch
        stream.fetch_until_s = now_s + max(FETCH_FLOOR_S, FETCH_PATIENCE * prefill_s)
        self._fetching[stream.id] = stream

    def collect(self, now_s: float) -> None:
        """Take what has come from disk, and wait no longer for what should have."""
        for key, stream in list(self._fetching.items()):
            fetch = stream.fetch
            if fetch is None or not (fetch.is_done or now_s >= stream.fetch_until_s):
                continue
            del self._fetching[key]
            stream.fetch = None
            stream.loaded = fetch.hit
            self.news.evicted += self._cache.take_evicted()
            if stream.loaded is None:
                fetch.cancel()
            else:
                stream.remaining_tokens = len(stream.message.prompt) - stream.loaded.shared_tokens

    def drop_loaded(self) -> None:
        """Let go of KV that came from disk for streams that still wait: evicting it is to free memory."""
        for stream in self.waiting.values():
            if stream.loaded is not None:
                stream.loaded = None
                stream.remaining_tokens = len(stream.message.prompt)

    # In the batch

    def ready(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return the chunks of those that are open, as far as there is anything left to compute."""
        prompts = self.prompts
        return [
            Chunk(chunk.id, min(chunk.tokens, prompts[chunk.id].remaining_tokens))
            for chunk in chunks
            if chunk.id in prompts
        ]

    def compute(self, chunks: Sequence[Chunk]) -> None:
        """Compute chunks of those that are open."""
        emitted = self._batch.compute(chunks)
        for chunk in chunks:
            self.prompts[chunk.id].remaining_tokens -= chunk.tokens
        self._take(emitted)
        self._save(chunks)

    def decode(self) -> None:
        """Give every row its next token."""
        if self.rows:
            self._take(self._batch.decode())

    def _take(self, emitted: Sequence[Emitted]) -> None:
        rows = self.rows
        tokens = self.news.tokens
        for each in emitted:
            token = each.token
            stream = rows.get(token.id)
            if stream is None:
                stream = rows[token.id] = self.prompts.pop(token.id)
            stream.emitted.append(token.token)
            tokens.append(token)
            if stream.trial_tokens:
                self._try(stream)
            if each.finish_reason is not None:
                del rows[token.id]
                self.on_trial.pop(token.id, None)
                self.news.done.append(Done(token.id, each.finish_reason, each.message))
                if each.prefix is not None:
                    self._keep(stream, each.prefix, is_whole=True)

    def _try(self, stream: Stream) -> None:
        stream.trial_tokens -= 1
        if not stream.trial_tokens:
            del self.on_trial[stream.id]

    def _save(self, chunks: Sequence[Chunk]) -> None:
        if not self._cache.max_bytes:
            return
        for chunk in chunks:
            stream = self.prompts.get(chunk.id)
            if stream is not None and stream.context_tokens - stream.saved_tokens >= SAVED_TOKENS:
                stream.saved_tokens = stream.context_tokens
                prefix = self._batch.progress(chunk.id)
                if prefix is not None:
                    self._keep(stream, prefix, is_whole=False)

    # Out of the batch

    def preempt(self, keys: Sequence[int]) -> None:
        """Take streams out of the batch; they wait with their KV in hand."""
        held = self._batch.remove(keys, keep=True)
        for key in keys:
            stream = self.rows.pop(key, None) or self.prompts.pop(key)
            stream.rewind(held.get(key))
            stream.preempted = True
            self.waiting[key] = stream

    def drop_held(self, size_bytes: int) -> None:
        """Free so much KV of streams that gave way, the least urgent first; they compute it again."""
        holding = [stream for stream in self.waiting.values() if stream.held is not None]
        for stream in sorted(holding, key=lambda each: (-each.priority, -each.arrived_s)):
            if size_bytes <= 0 or stream.held is None:
                break
            size_bytes -= stream.held.size_bytes
            stream.rewind(None)

    def recover(self, error: Exception) -> None:
        """Begin anew after a failure of the batch."""
        inside = self.rows | self.prompts
        log.error("engine_step_failed", exc_info=error, extra={"streams": len(inside)})
        self._batch.reset()
        self._cancelled.clear()
        self.rows, self.prompts = {}, {}
        is_trial = any(stream.trial_tokens for stream in inside.values())
        survivors = {}
        for key, stream in inside.items():
            stream.faults += not is_trial
            if stream.trial_tokens or stream.faults > MAX_FAULTS:
                self.on_trial.pop(key, None)
                reason = f"the engine failed while it ran this request: {type(error).__name__}"
                self.news.done.append(Done(key, "error", reason))
                continue
            stream.rewind(None)
            stream.trial_tokens = 1
            self.on_trial[key] = None
            survivors[key] = stream
        self.waiting = survivors | self.waiting
