"""
The folder of KV files with its index: what is on disk, and the way there and back.

Anybody may ask what there is; what touches the folder is called by the disk tier's thread only. The index is
brought up to date with the folder before each write, so that hosts that share one see each other's files.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from wicketgate.engine.kv.file import KvHeader, file_bytes
from wicketgate.engine.kv.folder import KvFolder
from wicketgate.engine.kv.store import Entry, KvStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wicketgate.engine.kv.file import Encoded
    from wicketgate.engine.kv.folder import Listed, PayloadCodec

MAX_FILES: Final = 4096
SCAN_S: Final = 2.0
"""Longest that reading headers may take at once; what is left is read before the next write."""


class NotStorableError(ValueError):
    """The payload holds something that has no form on disk."""


class KvShelf:
    """Files by their names, which say which tokens they hold."""

    def __init__(
        self,
        path: Path,
        codec: PayloadCodec,
        *,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_bytes = max_bytes
        self._codec = codec
        self._folder = KvFolder(path, fingerprint=codec.fingerprint, max_bytes=max_bytes)
        self._clock = clock
        self._wall_clock = wall_clock
        # The three below are asked and changed by both threads, under the lock.
        self._lock = threading.Lock()
        self._index: KvStore[KvHeader] = KvStore(max_bytes=max_bytes, max_entries=MAX_FILES)
        self._pinned: set[str] = set()
        self._touched: set[str] = set()

    # From any thread

    @property
    def size_bytes(self) -> int:
        """What the files of this model take."""
        return self._index.size_bytes

    @property
    def rejected_files(self) -> int:
        """How many were damaged or made for something else, since the start."""
        return self._folder.rejected_files

    def match(self, prompt: Sequence[int], *, salt: str) -> tuple[str, int] | None:
        """Return the file that shares the longest prefix with the prompt, and how many tokens that is."""
        with self._lock:
            found = self._index.match(prompt, salt=salt)
        return (str(found[0]), found[1]) if found else None

    def held_tokens(self, tokens: NDArray[np.int32], *, salt: str) -> int:
        """Count the leading ones of (n,) int32 tokens that are on disk."""
        with self._lock:
            return self._index.held_tokens(tokens, salt=salt)

    def file_bytes(self, name: str) -> int:
        """Return the size of a file; 0 if there is none."""
        with self._lock:
            entry = self._index.get(name)
        return entry.size_bytes if entry else 0

    def pin(self, digest: str) -> None:
        """Keep the file of these tokens when others have to go; until the process ends."""
        with self._lock:
            self._pinned.add(self._folder.name_of(digest))

    def touch(self, digest: str) -> None:
        """Note that these tokens were used; the next sweep tells their file."""
        with self._lock:
            name = self._folder.name_of(digest)
            if name in self._index:
                self._touched.add(name)

    def forget(self) -> list[str]:
        """Leave what is not pinned out of the index; returns the files, to be removed by a sweep."""
        with self._lock:
            names = [str(key) for key, _, _ in self._index.entries() if key not in self._pinned]
            for name in names:
                self._index.drop(name)
        return names

    def listed(self) -> list[tuple[Entry[KvHeader], float]]:
        """Return what is on disk and the seconds since its last use."""
        now_s = self._wall_clock()
        with self._lock:
            return [
                (replace(entry, is_pinned=True) if key in self._pinned else entry, now_s - used_s)
                for key, entry, used_s in self._index.entries()
            ]

    def recent(self, count: int) -> list[str]:
        """Return the names of the files that were used last, the last one first."""
        with self._lock:
            entries = sorted(self._index.entries(), key=lambda each: -each[2])
        return [str(key) for key, _, _ in entries[:count]]

    # From the disk tier's thread

    def open(self) -> None:
        """
        Make the folder and read what is in it.

        Raises:
            OSError: it cannot be made or used.
        """
        self._folder.open()
        self._learn()

    def store(self, entry: Entry[object], between: Callable[[], None]) -> None:
        """
        Write a prefix, in place of files that it begins with.

        Args:
            entry: The prefix, in memory.
            between: Called between two tensors; what it raises ends the writing without a trace.

        Raises:
            NotStorableError: the payload has no form on disk.
            OSError: there is no room, or no right to write.
        """
        encoded = self._codec.encode(entry.payload)
        if encoded is None:
            raise NotStorableError
        header = self._header_of(entry, encoded)
        name, size_bytes = self._folder.name_of(entry.digest), file_bytes(header)
        if size_bytes > self.max_bytes:
            return
        self._learn()
        with self._lock:
            spared = set(self._pinned)
        self._drop(self._folder.make_room(size_bytes, spared=spared))
        for _ in self._folder.write(name, header, encoded):
            between()
        self._add(name, header, size_bytes, used_unix_s=self._wall_clock())

    def fetch(self, name: str, between: Callable[[], None]) -> Entry[object] | None:
        """
        Load a file; None for one that is gone, or was bad and is set aside now.

        Args:
            name: Of the file.
            between: Called before each tensor; what it raises ends the reading.
        """
        with self._lock:
            held = self._index.get(name)
        if held is None:
            return None
        read = self._folder.read(name, held.payload, self._codec, between)
        if read is None:
            self._drop([name])
            return None
        self._use([name])
        payload, size_bytes = read
        return Entry(
            tokens=held.tokens,
            payload=payload,
            size_bytes=size_bytes,
            salt=held.salt,
            session=held.session,
            is_trimmable=held.is_trimmable,
        )

    def sweep(self, forgotten: list[str] | None) -> None:
        """Tell files of their use; remove what `forget` returned, if called, and what was set aside."""
        with self._lock:
            touched, self._touched = self._touched, set()
        self._use(sorted(touched))
        if forgotten is not None:
            for name in forgotten:
                self._folder.remove(name)
            self._folder.remove_bad()

    def _header_of(self, entry: Entry[object], encoded: Encoded) -> KvHeader:
        return KvHeader(
            fingerprint=self._codec.fingerprint,
            salt=entry.salt,
            session=entry.session,
            is_trimmable=entry.is_trimmable,
            layout=encoded.layout,
            tokens=entry.tokens,
            specs=encoded.specs,
        )

    def _learn(self) -> None:
        """Bring the index up to date with the folder, the files used last first."""
        until_s = self._clock() + SCAN_S
        listed = self._folder.listed()
        names = {file.name for file in listed}
        with self._lock:
            known = {str(key) for key, _, _ in self._index.entries()}
        self._drop(known - names)
        found: list[tuple[Listed, KvHeader]] = []
        for file in reversed(listed):
            if self._clock() > until_s:
                break
            header = self._folder.header(file.name) if file.name not in known else None
            if header is not None:
                found.append((file, header))
        for file, header in reversed(found):
            self._add(file.name, header, file.size_bytes, used_unix_s=file.used_unix_s)

    def _add(self, name: str, header: KvHeader, size_bytes: int, *, used_unix_s: float) -> None:
        entry = Entry(
            tokens=header.tokens,
            payload=header,
            size_bytes=size_bytes,
            salt=header.salt,
            session=header.session,
            is_trimmable=header.is_trimmable,
        )
        with self._lock:
            kept, needless = self._index.put(name, entry, now_s=used_unix_s)
            if not kept and name not in self._index:
                needless.append(name)
        for other in needless:
            self._folder.remove(str(other))

    def _use(self, names: Sequence[str]) -> None:
        for name in names:
            with self._lock:
                if name in self._index:
                    self._index.use(name, now_s=self._wall_clock())
            self._folder.touch(name)

    def _drop(self, names: Sequence[str] | set[str]) -> None:
        with self._lock:
            for name in names:
                if name in self._index:
                    self._index.drop(name)
