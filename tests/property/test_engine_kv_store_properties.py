"""The prefix store finds what a plain search finds, and keeps its books."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from wicketgate.engine.kv_store import MIN_REUSED_TOKENS, KvStore

# Few different tokens and long lists, so that prefixes are often shared.
lists = st.lists(st.integers(0, 1), min_size=1, max_size=40).map(lambda tail: [7] * 14 + tail)


def shared(left: list[int], right: list[int]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(lists, st.integers(1, 40)), max_size=12), lists)
def test_the_store_agrees_with_a_plain_search(puts: list[tuple[list[int], int]], prompt: list[int]) -> None:
    store: KvStore[int] = KvStore(max_bytes=100, max_entries=5)
    held: dict[int, tuple[list[int], int]] = {}
    for key, (tokens, size_bytes) in enumerate(puts):
        kept, evicted = store.put(key, tokens, key, size_bytes=size_bytes)
        if kept:
            held[key] = (tokens, size_bytes)
        for gone in evicted:
            del held[gone]

        assert store.size_bytes == sum(size for _, size in held.values()) <= 100
        assert len(store) == len(held) <= 5

    best = max((shared(prompt[:-1], tokens) for tokens, _ in held.values()), default=0)
    hit = store.find(prompt)
    assert (hit.shared_tokens if hit else 0) == (best if best >= MIN_REUSED_TOKENS else 0)
    if hit is not None:
        assert held[hit.entry.payload][0][:best] == prompt[:best]
