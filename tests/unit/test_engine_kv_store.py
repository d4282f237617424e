"""Pins the prefix store: what it finds, what it keeps, and who goes when it is full."""

from __future__ import annotations

import numpy as np

from wicketgate.engine.kv_store import MIN_REUSED_TOKENS, KvStore, common_prefix


def tokens(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


def test_the_longest_shared_prefix_is_found() -> None:
    store: KvStore[str] = KvStore(max_bytes=1000)
    store.put(1, [*tokens(0, 20), 900], "short", size_bytes=1)
    store.put(2, [*tokens(0, 40), 901], "long", size_bytes=1)

    hit = store.find(tokens(0, 100))

    assert hit is not None
    assert hit.entry.payload == "long"
    assert hit.shared_tokens == 40


def test_a_prompt_found_whole_leaves_its_last_token_to_compute() -> None:
    store: KvStore[str] = KvStore(max_bytes=1000)
    store.put(1, tokens(0, 50), "kv", size_bytes=1)

    hit = store.find(tokens(0, 50))

    assert hit is not None
    assert hit.shared_tokens == 49


def test_a_shared_prefix_too_short_to_pay_is_no_hit() -> None:
    store: KvStore[str] = KvStore(max_bytes=1000)
    store.put(1, tokens(0, 100), "kv", size_bytes=1)
    prompt = [*tokens(0, MIN_REUSED_TOKENS - 1), 999, 998]

    assert store.find(prompt) is None
    assert store.find(tokens(0, MIN_REUSED_TOKENS)) is None


def test_an_empty_store_finds_nothing() -> None:
    store: KvStore[str] = KvStore(max_bytes=1000)

    assert store.find(tokens(0, 50)) is None


def test_the_least_recently_used_entry_goes_first() -> None:
    store: KvStore[str] = KvStore(max_bytes=20)
    store.put(1, tokens(100, 30), "one", size_bytes=10)
    store.put(2, tokens(200, 30), "two", size_bytes=10)
    store.find(tokens(100, 40))

    outcome = store.put(3, tokens(300, 30), "three", size_bytes=10)

    assert outcome == (True, [2])
    assert store.size_bytes == 20


def test_the_number_of_entries_is_bounded_too() -> None:
    store: KvStore[str] = KvStore(max_bytes=1000, max_entries=2)
    for key in (1, 2):
        store.put(key, tokens(key * 100, 20), "kv", size_bytes=1)

    assert store.put(3, tokens(300, 20), "kv", size_bytes=1) == (True, [1])
    assert len(store) == 2


def test_an_entry_larger_than_the_store_is_not_kept() -> None:
    store: KvStore[str] = KvStore(max_bytes=10)

    assert store.put(1, tokens(0, 20), "kv", size_bytes=11) == (False, [])
    assert store.put(2, [], "kv", size_bytes=1) == (False, [])
    assert store.size_bytes == 0


def test_a_longer_entry_takes_the_place_of_those_that_it_begins_with() -> None:
    store: KvStore[str] = KvStore(max_bytes=1000)
    store.put(1, tokens(0, 20), "turn 1", size_bytes=5)

    outcome = store.put(2, tokens(0, 40), "turn 2", size_bytes=9)

    assert outcome == (True, [1])
    assert store.size_bytes == 9


def test_tokens_that_are_there_already_are_not_kept_twice_and_count_as_used() -> None:
    store: KvStore[str] = KvStore(max_bytes=20)
    store.put(1, tokens(0, 40), "long", size_bytes=10)
    store.put(2, tokens(500, 40), "other", size_bytes=10)

    assert store.put(3, tokens(0, 30), "short", size_bytes=5) == (False, [])
    assert store.put(4, tokens(900, 40), "new", size_bytes=10) == (True, [2])


def test_common_prefixes_of_any_lengths() -> None:
    def count(left: list[int], right: list[int]) -> int:
        return common_prefix(np.array(left, dtype=np.int32), np.array(right, dtype=np.int32))

    assert count([], [1]) == 0
    assert count([1, 2], [1, 2]) == 2
    assert count([1, 2, 3], [1, 2]) == 2
    assert count([9, 2], [1, 2]) == 0
    assert count([1, 2, 3], [1, 2, 4]) == 2
