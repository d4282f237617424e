"""
Which prefixes the engine holds, by running block hashes: the gateway's own view, for order and for reports.

The engine decides what is really reused; this index follows its `kept` and `evicted` news. Look-ups cost one
dictionary probe per block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK_TOKENS = 32
"""Tokens a block; a match is a whole number of blocks."""


def block_hashes(ids: Sequence[int], *, salt: str = "") -> Iterator[int]:
    """Yield one running hash per whole block: equal hashes mean equal tokens from the start, and one salt."""
    running = hash(salt)
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        running = hash((running, *ids[start : start + BLOCK_TOKENS]))
        yield running


class PrefixIndex:
    """Counts, per running block hash, how many kept entries contain it."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._entries: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def keep(self, entry: int, ids: Sequence[int], *, salt: str = "") -> None:
        """Note that the engine holds the KV of these tokens under this entry; a known entry is replaced."""
        self.drop(entry)
        hashes = tuple(block_hashes(ids, salt=salt))
        self._entries[entry] = hashes
        for value in hashes:
            self._holders[value] = self._holders.get(value, 0) + 1

    def drop(self, entry: int) -> None:
        """Note that the engine let an entry go; an unknown one is ignored."""
        for value in self._entries.pop(entry, ()):
            if self._holders[value] == 1:
                del self._holders[value]
            else:
                self._holders[value] -= 1

    def clear(self) -> None:
        """Forget everything: the engine host is a new one."""
        self._holders.clear()
        self._entries.clear()

    def match(self, ids: Sequence[int], *, salt: str = "") -> int:
        """Return how many leading tokens are held, a multiple of BLOCK_TOKENS, less than all of them."""
        blocks = 0
        for value in block_hashes(ids, salt=salt):
            if value not in self._holders:
                break
            blocks += 1
        matched = blocks * BLOCK_TOKENS
        return matched if matched < len(ids) else matched - BLOCK_TOKENS
