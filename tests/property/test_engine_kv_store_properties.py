"""The index finds what a plain search finds, and keeps its books."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from wicketgate.engine.kv.store import MIN_REUSED_TOKENS, Entry, KvStore, as_tokens

MAX_BYTES, MAX_ENTRIES = 100, 6

# Few different tokens and long lists, so that prefixes are often shared.
lists = st.lists(st.integers(0, 1), min_size=1, max_size=40).map(lambda tail: [7] * 14 + tail)
salts = st.sampled_from(["", "a"])


@dataclass(frozen=True)
class Put:
    key: int
    tokens: list[int]
    size_bytes: int
    salt: str
    is_pinned: bool
    is_trimmable: bool

    def entry(self) -> Entry[Put]:
        return Entry(
            tokens=as_tokens(self.tokens),
            payload=self,
            size_bytes=self.size_bytes,
            salt=self.salt,
            is_pinned=self.is_pinned,
            is_trimmable=self.is_trimmable,
        )

    def shared(self, prompt: list[int], salt: str) -> int:
        """Count by hand what this serves of a prompt, all its tokens but the last."""
        count = 0
        while count < min(len(self.tokens), len(prompt) - 1) and self.tokens[count] == prompt[count]:
            count += 1
        usable = self.is_trimmable or count == len(self.tokens)
        is_shared = salt == self.salt or (self.is_pinned and not self.salt)
        return count if usable and is_shared else 0


@dataclass(frozen=True)
class Find:
    prompt: list[int]
    salt: str


@dataclass(frozen=True)
class Evict:
    size_bytes: int


puts = st.builds(
    Put,
    key=st.integers(0, 9),
    tokens=lists,
    size_bytes=st.integers(1, 40),
    salt=salts,
    is_pinned=st.integers(0, 5).map(lambda drawn: drawn == 0),
    is_trimmable=st.integers(0, 3).map(bool),
)
deeds = st.lists(
    st.one_of(puts, puts, puts, st.builds(Find, lists, salts), st.builds(Evict, st.integers(1, 60))),
    max_size=30,
)


def done(store: KvStore[Put], deed: Put | Find | Evict, held: dict[int, Put]) -> None:
    """Do one thing to the store, and to the plain books as the store says."""
    gone: list[int | str] = []
    match deed:
        case Put():
            kept, gone = store.put(deed.key, deed.entry(), now_s=0.0)
            assert deed.key not in gone
            assert not any(held[int(key)].is_pinned for key in gone if held[int(key)].tokens != deed.tokens)
            if kept:
                held[deed.key] = deed
        case Find():
            store.find(deed.prompt, salt=deed.salt, now_s=0.0)
        case Evict():
            gone = store.evict(deed.size_bytes)
    for key in gone:
        del held[int(key)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(deeds, lists, salts)
def test_the_store_agrees_with_a_plain_search(
    all_deeds: list[Put | Find | Evict], prompt: list[int], salt: str
) -> None:
    store: KvStore[Put] = KvStore(max_bytes=MAX_BYTES, max_entries=MAX_ENTRIES)
    held: dict[int, Put] = {}
    for deed in all_deeds:
        done(store, deed, held)

        assert {key: entry.payload for key, entry, _ in store.entries()} == held
        assert store.size_bytes == sum(put.size_bytes for put in held.values()) <= MAX_BYTES
        assert len(store) <= MAX_ENTRIES

    best = max((put.shared(prompt, salt) for put in held.values()), default=0)
    hit = store.find(prompt, salt=salt, now_s=0.0)
    assert (hit.shared_tokens if hit else 0) == (best if best >= MIN_REUSED_TOKENS else 0)
    if hit is not None:
        assert hit.entry.payload.shared(prompt, salt) == best


@settings(max_examples=200, deadline=None, derandomize=True)
@given(deeds)
def test_nothing_is_left_of_what_was_dropped(all_deeds: list[Put | Find | Evict]) -> None:
    store: KvStore[Put] = KvStore(max_bytes=MAX_BYTES, max_entries=MAX_ENTRIES)
    held: dict[int, Put] = {}
    for deed in all_deeds:
        done(store, deed, held)

    for key in list(held):
        store.drop(key)

    assert (len(store), store.size_bytes) == (0, 0)
    for put in held.values():
        assert store.held_tokens(as_tokens(put.tokens), salt=put.salt) == 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(puts, max_size=12))
def test_whatever_is_put_last_is_served_whole(all_puts: list[Put]) -> None:
    store: KvStore[Put] = KvStore(max_bytes=10_000, max_entries=100)
    for number, put in enumerate(all_puts):
        store.put(number, put.entry(), now_s=0.0)

        assert store.held_tokens(as_tokens(put.tokens), salt=put.salt) == len(put.tokens)
