"""
The prefix cache of one host: kept prefixes in memory, and behind them on disk.

On unified memory what the device holds and what the host holds are the same bytes, so there is no tier
between memory and disk. All calls come from the engine's thread; the disk tier has a thread of its own and
hands over what it has loaded when the engine's thread asks.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from wicketgate.engine.kv.disk import KvDisk
from wicketgate.engine.kv.shelf import KvShelf
from wicketgate.engine.kv.store import Entry, Hit, KvStore, as_tokens, salt_id
from wicketgate.engine.wire import CacheEntry, CacheReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.kv.disk import DiskLoad
    from wicketgate.engine.kv.folder import PayloadCodec
    from wicketgate.engine.kv.store import Key, Prefix
    from wicketgate.engine.options import HostOptions
    from wicketgate.engine.wire import CacheQuery

P = TypeVar("P")

MIN_FETCHED_TOKENS: Final = 64
"""A load that saves fewer tokens than this is not worth a visit to the disk."""
UNSAVED_SHARE: Final = 4
"""KV that waits to be written may take a quarter of what the tier in memory may, beside it."""
MAX_REPORTED: Final = 1000
DIGEST_DIGITS: Final = 12
"""Of a digest in reports."""


class Fetch:
    """A longer prefix on its way from disk; asked from the engine's thread."""

    def __init__(self, cache: KvCache, load: DiskLoad, *, shared_tokens: int, estimated_s: float) -> None:
        self.shared_tokens = shared_tokens
        """How many leading tokens of the prompt it will bring."""
        self.estimated_s = estimated_s
        """How long it takes from the call of `KvCache.fetch`, as earlier loads tell."""
        self._cache = cache
        self._load = load
        self._is_cancelled = False

    @property
    def is_done(self) -> bool:
        """Whether it has come, or failed."""
        return self._is_cancelled or self._load.is_done

    @property
    def hit(self) -> Hit[object] | None:
        """What came; None before it is done, and where it failed or was cancelled."""
        entry = None if self._is_cancelled else self._load.entry
        if entry is None:
            return None
        self._cache.adopt(self._load)
        return Hit(entry=entry, shared_tokens=self.shared_tokens)

    def wait(self, timeout_s: float) -> bool:
        """Wait at most so long; returns whether it is done."""
        return self._is_cancelled or self._load.wait(timeout_s)

    def cancel(self) -> None:
        """Let go of it; a load that nobody else waits for stops."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._load.leave()


class KvCache:
    """Both tiers behind one face."""

    def __init__(
        self,
        *,
        max_bytes: int,
        clock: Callable[[], float],
        disk: KvDisk | None = None,
        is_trimmable: Callable[[object], bool] = lambda _: True,
    ) -> None:
        self._store: KvStore[object] = KvStore(max_bytes=max_bytes)
        self._clock = clock
        self._disk = disk
        self._is_trimmable = is_trimmable
        self._evicted: list[int] = []
        self._hits = self._misses = self._disk_hits = 0

    @property
    def size_bytes(self) -> int:
        """KV in memory."""
        return self._store.size_bytes

    @property
    def max_bytes(self) -> int:
        """Bound of the KV in memory; 0 keeps nothing."""
        return self._store.max_bytes

    @property
    def disk_bytes(self) -> int:
        """KV on disk."""
        return self._disk.size_bytes if self._disk else 0

    @property
    def disk_is_failing(self) -> bool:
        """Whether KV cannot be written to disk."""
        return self._disk is not None and self._disk.is_failing

    def match(self, prompt: Sequence[int], *, salt: str) -> int:
        """Count the leading tokens that `find` would bring; counts as no use."""
        found = self._store.match(prompt, salt=salt_id(salt))
        return found[1] if found else 0

    def find(self, prompt: Sequence[int], *, salt: str) -> Hit[object] | None:
        """Return the longest prefix in memory, and mark it as used."""
        hit = self._store.find(prompt, salt=salt_id(salt), now_s=self._clock())
        if hit is None:
            self._misses += 1
            return None
        self._hits += 1
        if self._disk is not None:
            self._disk.touch(hit.entry.digest)
        return hit

    def fetch(
        self, prompt: Sequence[int], *, salt: str, held_tokens: int, prefill_token_s: float | None = None
    ) -> Fetch | None:
        """
        Begin to load a prefix that is longer than what is held.

        Args:
            prompt: All tokens of the prompt.
            salt: As for `find`.
            held_tokens: How many of its leading tokens are in memory.
            prefill_token_s: How long one token takes to compute; a load that is estimated to take longer than
                computing what it would save is not begun. None loads whatever is longer.

        Returns:
            The load, or None where the disk has nothing that is worth it.
        """
        found = self._disk.find(prompt, salt=salt_id(salt)) if self._disk else None
        if self._disk is None or found is None:
            return None
        gained_tokens = found.shared_tokens - held_tokens
        if gained_tokens < MIN_FETCHED_TOKENS:
            return None
        if prefill_token_s is not None and found.estimated_s > gained_tokens * prefill_token_s:
            return None
        load = self._disk.load(found.name)
        return Fetch(self, load, shared_tokens=found.shared_tokens, estimated_s=found.estimated_s)

    def adopt(self, load: DiskLoad) -> None:
        """Keep in memory what was loaded from disk, for the next who asks; once for all who waited for it."""
        if self._disk is not None and load.entry is not None and self._disk.take(load):
            self._disk_hits += 1
            self._note(self._store.put(load.name, load.entry, now_s=self._clock())[1])

    def keep(
        self, key: int, prefix: Prefix, *, salt: str, session: str, pinned: bool = False
    ) -> tuple[bool, list[int]]:
        """
        Keep a prefix in memory, in place of what was kept under the same key, and save it in the background.

        Returns:
            Whether it was kept, and the keys that had to go for it.
        """
        tokens, salt = as_tokens(prefix.tokens), salt_id(salt)
        entry = Entry(
            tokens=tokens,
            payload=prefix.payload,
            size_bytes=prefix.size_bytes,
            salt=salt,
            session=session,
            is_pinned=pinned,
            is_trimmable=self._is_trimmable(prefix.payload),
        )
        kept, evicted = self._store.put(key, entry, now_s=self._clock())
        if kept and self._disk is not None:
            self._disk.save(entry)
        return kept, _ids(evicted)

    def evict(self, size_bytes: int) -> list[int]:
        """Free so much memory, least recently used first and pinned prefixes last; returns who had to go."""
        evicted = _ids(self._store.evict(size_bytes))
        if self._disk is not None:
            # What waits to be written and is in memory no more would still hold its bytes.
            self._disk.drop_unsaved({entry.digest for _, entry, _ in self._store.entries()})
        return evicted

    def take_evicted(self) -> list[int]:
        """Return the keys that had to go for what came from disk, or because they were cleared, once."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def preload(self, *, count: int, timeout_s: float) -> int:
        """
        Load the prefixes on disk that were used last, as far as memory is free, before there are requests.

        Returns:
            How many came in time.
        """
        if self._disk is None:
            return 0
        until_s = self._clock() + timeout_s
        self._disk.wait_until_scanned(timeout_s)
        loaded = 0
        for name in self._disk.recent(count):
            load = self._disk.load(name)
            if not load.wait(max(0.0, until_s - self._clock())):
                load.leave()
                break
            if load.entry is None:
                continue
            if self._store.size_bytes + load.entry.size_bytes > self._store.max_bytes:
                load.leave()
                break
            self.adopt(load)
            loaded += 1
        return loaded

    def report(
        self,
        query: CacheQuery,
        *,
        now_s: float,
        kv_bytes_per_token: int,
        rows: int,
        rows_tokens: int,
        rows_bytes: int,
    ) -> CacheReport:
        """Clear as the query says, then tell what is held; the figures of rows are passed through."""
        if query.clear in {"memory", "all"}:
            self._note(self._store.clear())
        if query.clear in {"disk", "all"} and self._disk is not None:
            self._disk.clear()
        disk = self._disk
        return CacheReport(
            id=query.id,
            entries=self._listed(now_s),
            memory_bytes=self._store.size_bytes,
            memory_limit_bytes=self._store.max_bytes,
            disk_bytes=self.disk_bytes,
            disk_limit_bytes=disk.max_bytes if disk else 0,
            hits=self._hits,
            misses=self._misses,
            disk_hits=self._disk_hits,
            rejected_files=disk.rejected_files if disk else 0,
            kv_bytes_per_token=kv_bytes_per_token,
            rows=rows,
            rows_tokens=rows_tokens,
            rows_bytes=rows_bytes,
        )

    def close(self, timeout_s: float) -> None:
        """Write what is not on disk yet, waiting at most so long; nothing is kept or loaded after it."""
        if self._disk is not None:
            self._disk.close(timeout_s, rest=[entry for _, entry, _ in self._store.entries()])

    def _listed(self, now_s: float) -> list[CacheEntry]:
        on_disk = {entry.digest: (entry, age_s) for entry, age_s in self._disk.listed()} if self._disk else {}
        listed = []
        for _, entry, used_s in self._store.entries():
            tier = "both" if on_disk.pop(entry.digest, None) else "memory"
            listed.append(_line(entry, tier, now_s - used_s))
        listed += [_line(entry, "disk", age_s) for entry, age_s in on_disk.values()]
        return list(islice(sorted(listed, key=lambda line: line.age_s), MAX_REPORTED))

    def _note(self, evicted: list[Key]) -> None:
        self._evicted += _ids(evicted)


def _line(entry: Entry[P], tier: str, age_s: float) -> CacheEntry:
    return CacheEntry(
        entry.digest[:DIGEST_DIGITS],
        len(entry.tokens),
        entry.size_bytes,
        tier,
        entry.is_pinned,
        entry.session,
        max(0.0, age_s),
    )


def _ids(keys: list[Key]) -> list[int]:
    """Return the keys that somebody outside knows: what came from disk is kept under the name of its file."""
    return [key for key in keys if isinstance(key, int)]


def open_cache(
    options: HostOptions,
    codec: PayloadCodec | None,
    *,
    clock: Callable[[], float],
    on_disk_thread: Callable[[], None] = lambda: None,
) -> KvCache:
    """
    Open the tiers that the options name.

    Args:
        options: Bounds of both tiers, and the folder.
        codec: What turns the engine's payloads into tensors; without one there is no disk tier.
        clock: Monotonic seconds.
        on_disk_thread: Called first on the disk tier's thread.
    """
    disk = None
    if codec and options.kv_dir and options.kv_disk_bytes and options.prefix_cache_bytes:
        shelf = KvShelf(Path(options.kv_dir), codec, max_bytes=options.kv_disk_bytes, clock=clock)
        unsaved_bytes = options.prefix_cache_bytes // UNSAVED_SHARE
        disk = KvDisk(shelf, max_unsaved_bytes=unsaved_bytes, on_thread=on_disk_thread, clock=clock)
    return KvCache(
        max_bytes=options.prefix_cache_bytes,
        clock=clock,
        disk=disk,
        is_trimmable=codec.is_trimmable if codec else lambda _: True,
    )
