"""
The streams of one host, step by step: who waits, who is computed, what is news. The same over any batch.

Theory of operation. A batch holds the streams that have KV. Streams beyond its size wait here, so that a
prefix is looked up when its stream's turn comes. Each step takes what `scheduler.plan` says from the queue
and asks the batch for its next tokens. An exception there leaves the other rows wrong without a word (seen in
mlx-lm 0.32.2), so the batch is thrown away then, and its streams start again as prompt + tokens so far: one
by one, until each has had a token or the one that fails has named itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from wicketgate.engine.kv_store import Hit, KvStore
from wicketgate.engine.scheduler import Occupancy, plan, refusal
from wicketgate.engine.wire import Done, Load, Started, Step, Submit, Token, Warm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.wire import HostOptions

log = logging.getLogger(__name__)

MAX_FAULTS: Final = 3
"""A stream that was running at more failures than this is given up."""


class DeviceError(RuntimeError):
    """The device failed: whatever it computed is garbage, and the process must go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """KV to keep: all tokens that it holds, and the batch's own form of it."""

    tokens: Sequence[int]
    payload: object
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """One token that came out of a batch."""

    token: Token
    finish_reason: str | None = None
    """stop or length, with the last token."""
    prefix: Prefix | None = None
    """KV of the finished stream, where the batch was asked to hand it over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How much of a prompt is still to be computed; 0 when the stream decodes from now on."""

    id: int
    remaining_tokens: int


class Prefill(Protocol):
    """A prefix being computed outside of the batch."""

    @property
    def remaining_tokens(self) -> int:
        """How many tokens are still to be computed."""

    def advance(self, chunk_tokens: int) -> None:
        """Compute that many more."""

    def prefix(self) -> Prefix:
        """Return the result, once nothing remains."""


class Batch(Protocol):
    """The streams that have KV; rows are known by the ids of their requests."""

    @property
    def vocabulary_size(self) -> int:
        """How many token ids there are."""

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""

    @property
    def kv_bytes(self) -> int:
        """KV of all rows."""

    @property
    def memory_bytes(self) -> int:
        """What is allocated in all."""

    def insert(self, message: Submit, hit: Hit[object] | None) -> int:
        """Add a row; returns how many tokens of its prompt came from the hit."""

    def remove(self, ids: Sequence[int]) -> None:
        """Drop rows, in whatever state they are."""

    def next(self, chunk_tokens: int) -> tuple[list[Progress], list[Emitted]]:
        """Compute a token for each row that decodes and up to `chunk_tokens` of each prompt in progress."""

    def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> Prefill:
        """Begin to compute a prefix outside of the batch."""

    def reset(self) -> None:
        """Forget all rows and every trace of a failed step."""


@dataclass(slots=True)
class _Stream:
    """One stream from its arrival to its end."""

    message: Submit
    remaining_tokens: int
    """Prompt tokens still to compute."""
    decoding: bool = False
    emitted: list[int] = field(default_factory=list)
    """Tokens since `message`."""
    faults: int = 0
    suspect: bool = False
    """It was running when the batch failed, and has not had a token since."""

    def rewind(self) -> None:
        """Make the request one that goes on after the tokens emitted so far."""
        old, emitted = self.message, self.emitted
        self.message = msgspec.structs.replace(
            old,
            prompt=old.prompt + emitted,
            max_tokens=old.max_tokens - len(emitted),
            position=old.position + len(emitted),
        )
        self.emitted = []
        self.decoding = False
        self.remaining_tokens = len(self.message.prompt)


@dataclass(slots=True)
class _News:
    """What the next Step reports."""

    tokens: list[Token] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    warmed: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    evicted: list[int] = field(default_factory=list)


class Stepper:
    """Takes requests at any time; `step` does one engine step and tells what is new."""

    def __init__(self, batch: Batch, options: HostOptions, *, clock: Callable[[], float]) -> None:
        self._batch = batch
        self._options = options
        self._clock = clock
        self._store: KvStore[object] = KvStore(max_bytes=options.prefix_cache_bytes)
        self._waiting: dict[int, _Stream] = {}
        self._running: dict[int, _Stream] = {}
        self._cancelled: list[int] = []
        self._warm_jobs: dict[int, tuple[Warm, Prefill | None]] = {}
        self._news = _News()
        self._number = 0

    @property
    def number(self) -> int:
        """How many steps were done."""
        return self._number

    @property
    def busy(self) -> bool:
        """Whether there is something to do or to tell."""
        news = self._news.done or self._news.warmed
        return bool(news or self._running or self._waiting or self._warm_jobs or self._cancelled)

    def submit(self, message: Submit) -> None:
        """Take a request; one that cannot be run ends with an error and touches nobody else."""
        reason = refusal(
            message,
            vocabulary_size=self._batch.vocabulary_size,
            context_tokens=self._batch.context_tokens,
        )
        if message.id in self._waiting or message.id in self._running:
            reason = f"the id {message.id} is in use"
        if reason is not None:
            self._news.done.append(Done(message.id, "refused", reason))
            return
        self._waiting[message.id] = _Stream(message, len(message.prompt))

    def warm(self, message: Warm) -> None:
        """Take a warm job; its prompt is judged when its turn comes."""
        self._warm_jobs[message.id] = (message, None)

    def cancel(self, key: int) -> None:
        """End a stream or a warm job before the next step; unknown ids are ignored."""
        if self._running.pop(key, None) is not None:
            self._cancelled.append(key)
            self._news.done.append(Done(key, "cancelled"))
        elif self._waiting.pop(key, None) is not None:
            self._news.done.append(Done(key, "cancelled"))
        elif self._warm_jobs.pop(key, None) is not None:
            self._news.warmed.append(key)

    def load(self) -> Load:
        """Tell how busy the host is."""
        decoding = sum(stream.decoding for stream in self._running.values())
        queued = [*self._waiting.values(), *self._running.values()]
        return Load(
            rows=decoding,
            waiting=len(queued) - decoding,
            waiting_tokens=sum(stream.remaining_tokens for stream in queued),
            warm_jobs=len(self._warm_jobs),
            kv_bytes=self._batch.kv_bytes + self._store.size_bytes,
            memory_bytes=self._batch.memory_bytes,
        )

    def step(self) -> Step:
        """
        Do one engine step.

        Raises:
            DeviceError: the process must go.
        """
        began_s = self._clock()
        chosen = plan(self._occupancy(), self._options)
        cancelled, self._cancelled = self._cancelled, []
        try:
            if cancelled:
                self._batch.remove(cancelled)
            if chosen.warm:
                self._advance_warm_job(chosen.chunk_tokens)
            else:
                self._start(chosen.start)
                self._advance(chosen.chunk_tokens)
        except DeviceError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it was, the streams beside it must not pay
            self._recover(error, warming=chosen.warm)
        return self._report(began_s)

    def _report(self, began_s: float) -> Step:
        news, self._news = self._news, _News()
        self._number += 1
        now_s = self._clock()
        return Step(
            number=self._number,
            at_s=now_s,
            step_s=now_s - began_s,
            tokens=news.tokens,
            started=news.started,
            done=news.done,
            warmed=news.warmed,
            kept=news.kept,
            evicted=news.evicted,
            load=self.load(),
        )

    def _occupancy(self) -> Occupancy:
        decoding = sum(stream.decoding for stream in self._running.values())
        return Occupancy(
            decoding=decoding,
            prefilling=len(self._running) - decoding,
            waiting=len(self._waiting),
            on_trial=any(stream.suspect for stream in self._running.values()),
            suspects=sum(stream.suspect for stream in self._waiting.values()),
            warm_jobs=len(self._warm_jobs),
        )

    def _start(self, count: int) -> None:
        for key in list(self._waiting)[:count]:
            stream = self._running[key] = self._waiting.pop(key)
            cached_tokens = self._batch.insert(stream.message, self._store.find(stream.message.prompt))
            stream.remaining_tokens -= cached_tokens
            self._news.started.append(Started(key, cached_tokens))

    def _advance(self, chunk_tokens: int) -> None:
        if not self._running:
            return
        progress, emitted = self._batch.next(chunk_tokens)
        for part in progress:
            stream = self._running[part.id]
            stream.remaining_tokens = part.remaining_tokens
            stream.decoding = part.remaining_tokens == 0
        for each in emitted:
            self._emit(each)

    def _emit(self, emitted: Emitted) -> None:
        token = emitted.token
        stream = self._running[token.id]
        stream.emitted.append(token.token)
        stream.suspect = False
        self._news.tokens.append(token)
        if emitted.finish_reason is not None:
            del self._running[token.id]
            self._news.done.append(Done(token.id, emitted.finish_reason))
        if emitted.prefix is not None:
            self._keep(token.id, emitted.prefix)

    def _keep(self, key: int, prefix: Prefix) -> None:
        kept, evicted = self._store.put(key, prefix.tokens, prefix.payload, size_bytes=prefix.size_bytes)
        if kept:
            self._news.kept.append(key)
        self._news.evicted += evicted

    def _advance_warm_job(self, chunk_tokens: int) -> None:
        key, (message, prefill) = next(iter(self._warm_jobs.items()))
        if prefill is None:
            if not self._warmable(message):
                self._end_warm_job(key)
                return
            prefill = self._batch.prefill(message.prompt, self._store.find(message.prompt))
            self._warm_jobs[key] = (message, prefill)
        prefill.advance(chunk_tokens)
        if not prefill.remaining_tokens:
            # Kept before it is ended: if that fails, `_recover` ends the first job, and it must be this one.
            self._keep(key, prefill.prefix())
            self._end_warm_job(key)

    def _end_warm_job(self, key: int) -> None:
        del self._warm_jobs[key]
        self._news.warmed.append(key)

    def _warmable(self, message: Warm) -> bool:
        reason = refusal(
            Submit(id=message.id, prompt=message.prompt, max_tokens=1, seed=0),
            vocabulary_size=self._batch.vocabulary_size,
            context_tokens=self._batch.context_tokens,
        )
        return reason is None and self._store.max_bytes > 0

    def _recover(self, error: Exception, *, warming: bool) -> None:
        log.error("engine_step_failed", exc_info=error, extra={"streams": len(self._running)})
        self._batch.reset()
        if warming:
            self._end_warm_job(next(iter(self._warm_jobs)))
        convicted = {key for key, stream in self._running.items() if stream.suspect}
        survivors: dict[int, _Stream] = {}
        for key, stream in self._running.items():
            stream.faults += not convicted
            if key in convicted or stream.faults > MAX_FAULTS:
                reason = f"the engine failed while it ran this request: {type(error).__name__}"
                self._news.done.append(Done(key, "error", reason))
                continue
            stream.rewind()
            stream.suspect = True
            survivors[key] = stream
        self._running = {}
        self._waiting = survivors | self._waiting
