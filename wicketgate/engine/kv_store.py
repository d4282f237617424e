"""
The prefix store: KV of finished streams and warm jobs, for requests that begin with the same tokens.

Bounded by bytes and by entries, least recently used out first. It knows nothing of mlx: a payload is whatever
the engine keeps for the tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

P = TypeVar("P")

MIN_REUSED_TOKENS: Final = 16
"""A shorter common prefix is computed again: copying it would save less than a chunk's fixed cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[P]):
    """KV of some tokens."""

    tokens: NDArray[np.int32]
    """(n,) int32, all tokens that the payload holds."""
    payload: P
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit(Generic[P]):
    """The longest useful prefix that the store has."""

    entry: Entry[P]
    shared_tokens: int
    """How many leading tokens may be reused, always fewer than the prompt has."""


class KvStore(Generic[P]):
    """Prefixes by the id of the stream or warm job that left them."""

    def __init__(self, *, max_bytes: int, max_entries: int = 64) -> None:
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.size_bytes = 0
        self._entries: OrderedDict[int, Entry[P]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, prompt: Sequence[int]) -> Hit[P] | None:
        """Return the entry that shares the longest prefix with the prompt, and mark it as used."""
        # A prompt found whole still needs its last token computed, to have something to sample from.
        most = len(prompt) - 1
        if most < MIN_REUSED_TOKENS or not self._entries:
            return None
        wanted = np.asarray(prompt[:most], dtype=np.int32)
        shared_tokens, best = max(
            (common_prefix(wanted, entry.tokens), key) for key, entry in self._entries.items()
        )
        if shared_tokens < MIN_REUSED_TOKENS:
            return None
        self._entries.move_to_end(best)
        return Hit(entry=self._entries[best], shared_tokens=shared_tokens)

    def put(self, key: int, tokens: Sequence[int], payload: P, *, size_bytes: int) -> tuple[bool, list[int]]:
        """
        Keep a payload, unless it is too large or an entry holds its tokens already.

        Returns:
            Whether it was kept, and the keys that had to go.
        """
        if size_bytes > self.max_bytes or not tokens:
            return False, []
        entry = Entry(tokens=np.asarray(tokens, dtype=np.int32), payload=payload, size_bytes=size_bytes)
        covered = []
        for other_key, other in self._entries.items():
            shared_tokens = common_prefix(entry.tokens, other.tokens)
            if shared_tokens == len(entry.tokens):
                self._entries.move_to_end(other_key)
                return False, []
            if shared_tokens == len(other.tokens):
                covered.append(other_key)
        for other_key in covered:
            self._drop(other_key)
        self._entries[key] = entry
        self.size_bytes += size_bytes
        return True, covered + self._shrink()

    def _shrink(self) -> list[int]:
        evicted = []
        while self.size_bytes > self.max_bytes or len(self._entries) > self.max_entries:
            oldest = next(iter(self._entries))
            self._drop(oldest)
            evicted.append(oldest)
        return evicted

    def _drop(self, key: int) -> None:
        self.size_bytes -= self._entries.pop(key).size_bytes


def common_prefix(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """Count the leading tokens that two (n,) int32 arrays share."""
    shortest = min(len(left), len(right))
    different = left[:shortest] != right[:shortest]
    first = int(np.argmax(different)) if shortest else 0
    return first if shortest and different[first] else shortest
