"""Puts the parts of an engine host together, whichever engine it is, and warms it up."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.engine.memory import Budget, MemoryGuard, MemoryParams
from wicketgate.engine.pace import Pace
from wicketgate.engine.stepper import Stepper
from wicketgate.engine.validation import warm_refusal
from wicketgate.engine.wire import Warm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.batch import Batch, MemoryUse
    from wicketgate.engine.kv.cache import KvCache
    from wicketgate.engine.kv.folder import PayloadCodec
    from wicketgate.engine.memory import Relief
    from wicketgate.engine.options import HostOptions
    from wicketgate.engine.wire import Ready

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the system is asked what it counts for this process: the device's own figures cost less."""
PRELOADED: Final = 8
"""Prefixes that are loaded from disk before the first request, as far as there is room."""
PRELOAD_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that has been opened, and what is known of its device."""

    batch: Batch
    ready: Ready
    limit_bytes: int | None
    """What weights, KV and work may use together; None is no bound."""
    codec: PayloadCodec | None = None
    """What brings its KV to disk and back; None keeps it in memory."""
    footprint: Callable[[], int | None] = lambda: None
    """Asks the system what it counts for this process."""
    pressure: Callable[[], int] = lambda: 0
    """Asks how short of memory the system is: 0 normal, 1 warning, 2 critical."""
    woke: Callable[[], None] = lambda: None
    """Told that the machine slept."""


def build(engine: Engine, cache: KvCache, options: HostOptions, *, clock: Callable[[], float]) -> Stepper:
    """
    Return the step loop over an engine.

    Raises:
        TooLittleMemoryError: the model alone takes more than there may be in use.
    """
    batch, ready, limit_bytes = engine.batch, engine.ready, engine.limit_bytes
    memory = budget = None
    if limit_bytes is not None:
        memory = MemoryWatch(engine, limit_bytes=limit_bytes)
        budget = Budget(
            limit_bytes=limit_bytes,
            weights_bytes=ready.weights_bytes,
            kv_bytes_per_token=batch.kv_bytes_per_token,
            chunk_tokens=options.prefill_step_tokens,
        )
    pace = Pace(full_chunk_tokens=options.prefill_step_tokens, full_chunk_s=ready.full_chunk_s)
    return Stepper(batch, options, cache=cache, clock=clock, pace=pace, memory=memory, budget=budget)


class MemoryWatch:
    """A memory guard that also asks the system, now and then."""

    def __init__(self, engine: Engine, *, limit_bytes: int) -> None:
        use = engine.batch.memory()
        self._guard = MemoryGuard(MemoryParams(limit_bytes=limit_bytes), baseline_bytes=use.active_bytes)
        self._engine = engine
        self._looked_s = float("-inf")
        self._pressure = 0
        # The interpreter and its libraries are no part of what the limit is about.
        self._own_bytes = max(0, (engine.footprint() or 0) - use.active_bytes - use.pool_bytes)

    def __call__(self, use: MemoryUse, *, kept_bytes: int, now_s: float) -> Relief:
        """Say what to do now."""
        footprint_bytes = None
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._pressure = self._engine.pressure()
            counted_bytes = self._engine.footprint()
            footprint_bytes = None if counted_bytes is None else max(0, counted_bytes - self._own_bytes)
        return self._guard.observe(
            use, kept_bytes=kept_bytes, now_s=now_s, footprint_bytes=footprint_bytes, pressure=self._pressure
        )


def prewarm(engine: Engine, cache: KvCache, options: HostOptions) -> None:
    """Compute the pinned prefixes, or find them on disk, and load what was used last before the restart."""
    if not cache.max_bytes:
        return
    batch = engine.batch
    for index, pin in enumerate(options.pins):
        reason = warm_refusal(
            Warm(id=0, prompt=pin), vocabulary_size=batch.vocabulary_size, context_tokens=batch.context_tokens
        )
        if reason is None:
            # Streams and jobs have ids from 1 on.
            _pin(batch, cache, -1 - index, pin, step_tokens=options.prefill_step_tokens)
        else:
            log.warning("pin_refused", extra={"pin": index, "reason": reason})
    cache.preload(count=PRELOADED, timeout_s=PRELOAD_S)


def _pin(batch: Batch, cache: KvCache, key: int, pin: Sequence[int], *, step_tokens: int) -> None:
    hit = cache.find(pin, salt="")
    fetch = cache.fetch(pin, salt="", held_tokens=hit.shared_tokens if hit else 0)
    if fetch is not None:
        fetch.wait(PRELOAD_S)
        hit = fetch.hit or hit
        fetch.cancel()
    prefill = batch.prefill(pin, hit)
    while prefill.remaining_tokens:
        prefill.advance(step_tokens)
    cache.keep(key, prefill.prefix(), salt="", session="", pinned=True)
