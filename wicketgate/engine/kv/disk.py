"""
The disk tier: prefixes that outlive the host, saved and loaded by one background thread.

The engine's thread asks what there is and leaves jobs; it never waits for the disk. Loads go before saves,
also between two tensors of a save. What waits to be saved is bounded by bytes, the oldest is dropped for the
newest, and what a longer prefix will replace is not written at all. When writing fails the tier goes on
reading, says so once, and tries again later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.engine.kv.shelf import KvShelf, NotStorableError
from wicketgate.engine.kv.store import Entry, common_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from wicketgate.engine.kv.file import KvHeader

log = logging.getLogger(__name__)

MIN_SAVED_TOKENS: Final = 64
"""Fewer tokens, or fewer than this more than a file holds already, are computed sooner than loaded."""
MAX_LOADS: Final = 16
"""Most loads that wait; with more the disk finds nothing."""
RETRY_S: Final = 60.0
"""After a write failed, nothing is written for so long."""
FIRST_S_PER_BYTE: Final = 1e-9
"""Taken for a load until one was measured: a slow SSD."""
_LATENCY_S: Final = 0.002
_LEARNING: Final = 0.3
_LEAST_MEASURED_BYTES: Final = 1024 * 1024
_ABANDON_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The file that serves a prompt best."""

    name: str
    shared_tokens: int
    estimated_s: float


class DiskLoad:
    """One file on its way into memory, for all who wait for it."""

    def __init__(self, disk: KvDisk, name: str) -> None:
        self.name = name
        self.entry: Entry[object] | None = None
        """What came; None until it is done, and where it failed."""
        self.waiters = 0
        self._disk = disk
        self._done = threading.Event()

    @property
    def is_done(self) -> bool:
        """Whether it has come, or failed."""
        return self._done.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait at most so long; returns whether it is done."""
        return self._done.wait(timeout_s)

    def leave(self) -> None:
        """Wait no longer; a load that nobody waits for is not begun, or stops."""
        self._disk.leave(self)

    def finish(self, entry: Entry[object] | None) -> None:
        """Hand over what came, the first time; called by the disk tier."""
        if not self.is_done:
            self.entry = entry
            self._done.set()


class _StoppedError(Exception):
    """What is being read or written is not wanted any more."""


class KvDisk:
    """Prefixes on a shelf, saved and loaded in the background."""

    def __init__(
        self,
        shelf: KvShelf,
        *,
        max_unsaved_bytes: int,
        on_thread: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Begin to read what is on the shelf.

        Args:
            shelf: The files; from now on its folder is touched by this tier's thread only.
            max_unsaved_bytes: Bound of the KV that waits to be written; one prefix may exceed it.
            on_thread: Called first on the thread, such as to lower its priority.
            clock: Monotonic seconds.
        """
        self._shelf = shelf
        self._max_unsaved_bytes = max_unsaved_bytes
        self._on_thread = on_thread
        self._clock = clock
        self._scanned = threading.Event()
        self._changed = threading.Condition()
        # All below is shared with the thread, under the condition's lock.
        self._loads: OrderedDict[str, DiskLoad] = OrderedDict()
        self._unsaved: OrderedDict[str, Entry[object]] = OrderedDict()
        self._forgotten: list[str] | None = None
        self._s_per_byte = FIRST_S_PER_BYTE
        self._no_writes_until_s = float("-inf")
        self._is_failing = self._is_closing = self._is_abandoned = self._is_off = False
        self._thread = threading.Thread(target=self._run, name="kv-disk", daemon=True)
        self._thread.start()

    # What the engine's thread asks and orders

    @property
    def size_bytes(self) -> int:
        """What the files of this model take."""
        return self._shelf.size_bytes

    @property
    def max_bytes(self) -> int:
        """Bound of the folder."""
        return self._shelf.max_bytes

    @property
    def is_failing(self) -> bool:
        """Whether the last file could not be written: the disk is full, perhaps."""
        return self._is_failing

    @property
    def rejected_files(self) -> int:
        """How many were damaged or made for something else, since the start."""
        return self._shelf.rejected_files

    def find(self, prompt: Sequence[int], *, salt: str) -> Found | None:
        """Return the file that shares the longest prefix with the prompt."""
        match = self._shelf.match(prompt, salt=salt)
        if match is None:
            return None
        name, shared_tokens = match
        with self._changed:
            waiting = {other for other, load in self._loads.items() if not load.is_done}
            is_full = name not in waiting and len(waiting) >= MAX_LOADS
            if is_full or self._is_off or self._is_closing:
                return None
            size_bytes = sum(self._shelf.file_bytes(other) for other in waiting | {name})
            estimated_s = _LATENCY_S + size_bytes * self._s_per_byte
        return Found(name=name, shared_tokens=shared_tokens, estimated_s=estimated_s)

    def load(self, name: str) -> DiskLoad:
        """Begin to load a file, or join who waits for it."""
        with self._changed:
            load = self._loads.get(name)
            if load is None:
                load = DiskLoad(self, name)
                if self._is_off or self._is_closing:
                    load.finish(None)
                    return load
                self._loads[name] = load
                self._changed.notify_all()
            load.waiters += 1
            return load

    def leave(self, load: DiskLoad) -> None:
        """Count one fewer who waits."""
        with self._changed:
            load.waiters -= 1
            if load.waiters <= 0 and self._loads.get(load.name) is load:
                del self._loads[load.name]

    def take(self, load: DiskLoad) -> bool:
        """Let go of a load that is done; True for the first who does."""
        with self._changed:
            if self._loads.get(load.name) is not load:
                return False
            del self._loads[load.name]
            return True

    def save(self, entry: Entry[object]) -> None:
        """Write a prefix in the background, unless the disk holds about as much of it already."""
        if entry.is_pinned:
            self._shelf.pin(entry.digest)
        with self._changed:
            if self._queue(entry):
                while len(self._unsaved) > 1 and self._unsaved_bytes() > self._max_unsaved_bytes:
                    self._unsaved.popitem(last=False)
                self._changed.notify_all()

    def _queue(self, entry: Entry[object]) -> bool:
        """Note a prefix to be written; returns whether it is wanted on the disk."""
        if not self._is_missing(entry):
            return False
        is_off = self._is_off or self._is_closing or self._clock() < self._no_writes_until_s
        if is_off or any(_serves_as(queued, entry) for queued in self._unsaved.values()):
            return False
        for digest, queued in list(self._unsaved.items()):
            if _serves_as(entry, queued):
                del self._unsaved[digest]
        self._unsaved[entry.digest] = entry
        return True

    def _is_missing(self, entry: Entry[object]) -> bool:
        """Tell whether the disk holds too little of a prefix."""
        saved_tokens = self._shelf.held_tokens(entry.tokens, salt=entry.salt)
        return len(entry.tokens) - saved_tokens >= MIN_SAVED_TOKENS

    def drop_unsaved(self, spared: Collection[str]) -> None:
        """Forget what waits to be written, but for these digests, for the memory that it holds."""
        with self._changed:
            for digest in [digest for digest in self._unsaved if digest not in spared]:
                del self._unsaved[digest]

    def touch(self, digest: str) -> None:
        """Note that these tokens were used; their file is told when the thread has something to do."""
        self._shelf.touch(digest)

    def clear(self) -> None:
        """Remove what is not pinned, and what was set aside; what is being loaded does not come."""
        with self._changed:
            loads, self._loads = self._loads, OrderedDict()
            for digest in [digest for digest, entry in self._unsaved.items() if not entry.is_pinned]:
                del self._unsaved[digest]
            self._forgotten = (self._forgotten or []) + self._shelf.forget()
            self._changed.notify_all()
        for load in loads.values():
            load.waiters = 0
            load.finish(None)

    def listed(self) -> list[tuple[Entry[KvHeader], float]]:
        """Return what is on disk and the seconds since its last use."""
        return self._shelf.listed()

    def recent(self, count: int) -> list[str]:
        """Return the names of the files that were used last, the last one first."""
        return self._shelf.recent(count)

    def wait_until_scanned(self, timeout_s: float) -> bool:
        """Wait at most so long until what is on the shelf is known."""
        return self._scanned.wait(timeout_s)

    def close(self, timeout_s: float, *, rest: Iterable[Entry[object]] = ()) -> None:
        """
        Write what waits, for at most so long, and end the thread.

        Args:
            timeout_s: How long the writing may take.
            rest: What memory holds, the most wanted first: what is not on disk is written after what waits.
        """
        with self._changed:
            for entry in rest:
                self._queue(entry)
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._is_abandoned = True
        self._thread.join(_ABANDON_S)

    def _unsaved_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self._unsaved.values())

    # What the thread does

    def _run(self) -> None:
        try:
            self._on_thread()
            self._shelf.open()
            self._scanned.set()
            while self._work():
                pass
        except OSError as error:
            log.warning("kv_disk_off", extra={"reason": str(error)})
        except Exception:  # the top of the thread: without its disk the host goes on
            log.exception("kv_disk_off")
        finally:
            with self._changed:
                self._is_off = True
                self._unsaved.clear()
                loads, self._loads = self._loads, OrderedDict()
            for load in loads.values():
                load.finish(None)
            self._scanned.set()

    def _work(self) -> bool:
        """Wait for something to do and do it; returns whether there may be more."""
        with self._changed:
            self._changed.wait_for(self._is_wanted)
            forgotten, self._forgotten = self._forgotten, None
        self._shelf.sweep(forgotten)
        self._serve_loads()
        with self._changed:
            if not self._unsaved:
                return not self._is_closing
            _, entry = self._unsaved.popitem(last=False)
        # It may have been queued while the same was being written.
        if self._is_missing(entry):
            self._save(entry)
        return not self._is_abandoned

    def _is_wanted(self) -> bool:
        has_jobs = self._unsaved or self._forgotten is not None or self._next_load()
        return bool(self._is_closing or has_jobs)

    def _save(self, entry: Entry[object]) -> None:
        def between() -> None:
            self._serve_loads()
            if self._is_abandoned or self._forgotten is not None:
                raise _StoppedError

        try:
            self._shelf.store(entry, between)
            self._is_failing = False
        except _StoppedError:
            pass
        except NotStorableError:
            log.warning(
                "kv_not_storable", extra={"reason": "the model's caches have a form that is not known"}
            )
            self._no_writes_until_s = float("inf")
        except (OSError, RuntimeError, MemoryError) as error:
            self._write_failed(error)

    def _write_failed(self, error: Exception) -> None:
        with self._changed:
            self._unsaved.clear()
            self._no_writes_until_s = self._clock() + RETRY_S
        if not self._is_failing:
            log.warning("kv_disk_write_failed", extra={"reason": str(error), "retry_s": RETRY_S})
        self._is_failing = True

    def _serve_loads(self) -> None:
        while True:
            with self._changed:
                load = self._next_load()
            if load is None:
                return
            entry = self._loaded(load)
            if entry is None:
                # Else whoever asks for a better file of this name later would join the failure.
                self.take(load)
            load.finish(entry)

    def _next_load(self) -> DiskLoad | None:
        return next((load for load in self._loads.values() if not load.is_done), None)

    def _loaded(self, load: DiskLoad) -> Entry[object] | None:
        def between() -> None:
            if load.waiters <= 0 or self._is_abandoned:
                raise _StoppedError

        began_s = self._clock()
        file_bytes = self._shelf.file_bytes(load.name)
        try:
            entry = self._shelf.fetch(load.name, between)
        except _StoppedError:
            return None
        except (RuntimeError, MemoryError) as error:
            # What mlx raises when there is no memory; the file is not to blame.
            log.warning("kv_load_failed", extra={"reason": str(error)})
            return None
        if entry is not None:
            measured = (self._clock() - began_s) / max(file_bytes, _LEAST_MEASURED_BYTES)
            self._s_per_byte += _LEARNING * (measured - self._s_per_byte)
        return entry


def _serves_as(longer: Entry[object], shorter: Entry[object]) -> bool:
    """Tell whether the longer entry serves whoever the shorter one would."""
    if longer.salt != shorter.salt or len(longer.tokens) < len(shorter.tokens):
        return False
    is_same = len(longer.tokens) == len(shorter.tokens)
    is_begun = common_prefix(longer.tokens, shorter.tokens) == len(shorter.tokens)
    return is_begun and (is_same or longer.is_trimmable)
