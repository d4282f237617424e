"""
Answers that clients asked to be stored: in memory only, bounded by count, bytes and age (pure).

Every owner (an API key, or everybody where there are none) sees only its own. At a bound the oldest of the
owner who holds most goes, so that nobody pushes out what another has stored.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreParams:
    """How much is kept, and how long."""

    max_count: int = 1000
    """Answers of all owners together; 0 stores none."""
    max_bytes: int = 64 * 1024 * 1024
    """Of all owners together."""
    max_age_s: float = 3600.0
    unasked: bool = False
    """Store the answer to a request that does not say, too, as OpenAI does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One answer, as JSON: what it takes here is what it counts."""

    response: bytes
    """The response object."""
    items: bytes
    """What was asked, those of earlier answers included, and what was answered: where a next turn begins."""
    asked: int
    """So many of the items were asked."""

    @property
    def size_bytes(self) -> int:
        """What it counts."""
        return len(self.response) + len(self.items)


@dataclass(frozen=True, slots=True)
class _Entry:
    stored: Stored
    at_s: float


class ResponseStore:
    """
    The answers kept.

    Args:
        params: Bounds, for good.
    """

    def __init__(self, params: StoreParams) -> None:
        self._params = params
        self._owned: dict[str | None, OrderedDict[str, _Entry]] = {}
        self._bytes: dict[str | None, int] = {}

    @property
    def count(self) -> int:
        """Answers kept."""
        return sum(map(len, self._owned.values()))

    @property
    def size_bytes(self) -> int:
        """Their bytes."""
        return sum(self._bytes.values())

    def put(self, owner: str | None, name: str, stored: Stored, *, now_s: float) -> None:
        """Keep an answer under an id that was never used; one that is too large by itself is not kept."""
        self._expire(now_s)
        if stored.size_bytes > self._params.max_bytes:
            return
        self._owned.setdefault(owner, OrderedDict())[name] = _Entry(stored, now_s)
        self._bytes[owner] = self._bytes.get(owner, 0) + stored.size_bytes
        while self.count > self._params.max_count or self.size_bytes > self._params.max_bytes:
            largest = max(self._owned, key=lambda each: (self._bytes[each], len(self._owned[each])))
            self._drop(largest, next(iter(self._owned[largest])))

    def get(self, owner: str | None, name: str, *, now_s: float) -> Stored | None:
        """Return an answer; None where this owner has none of that id, or no longer."""
        self._expire(now_s)
        entry = self._owned[owner].get(name) if owner in self._owned else None
        return None if entry is None else entry.stored

    def find(self, owner: str | None, names: Iterable[str], *, now_s: float) -> dict[str, Stored]:
        """Return those of many answers that this owner has, by their ids."""
        self._expire(now_s)
        entries = self._owned.get(owner) or OrderedDict[str, _Entry]()
        return {name: entries[name].stored for name in names if name in entries}

    def delete(self, owner: str | None, name: str, *, now_s: float) -> bool:
        """Forget an answer; whether there was one."""
        is_there = self.get(owner, name, now_s=now_s) is not None
        if is_there:
            self._drop(owner, name)
        return is_there

    def _expire(self, now_s: float) -> None:
        born_s = now_s - self._params.max_age_s
        for owner, entries in list(self._owned.items()):
            old = takewhile(lambda named: named[1].at_s <= born_s, entries.items())
            for name in [name for name, _ in old]:
                self._drop(owner, name)

    def _drop(self, owner: str | None, name: str) -> None:
        entry = self._owned[owner].pop(name)
        self._bytes[owner] -= entry.stored.size_bytes
        if not self._owned[owner]:
            del self._owned[owner], self._bytes[owner]
