"""Pins the index of prefixes: what it finds, what it keeps, and who goes when it is full."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wicketgate.engine.kv.store import (
    MIN_REUSED_TOKENS,
    Entry,
    Key,
    KvStore,
    as_tokens,
    common_prefix,
    digest_of,
    salt_id,
)


def tokens(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


def put(
    store: KvStore[str],
    key: Key,
    held: list[int],
    payload: str = "kv",
    *,
    size_bytes: int = 1,
    now_s: float = 0.0,
    **fields: Any,
) -> tuple[bool, list[Key]]:
    entry = Entry(tokens=as_tokens(held), payload=payload, size_bytes=size_bytes, **fields)
    return store.put(key, entry, now_s=now_s)


def keys(store: KvStore[str]) -> list[Key]:
    return [key for key, _, _ in store.entries()]


@pytest.fixture
def store() -> KvStore[str]:
    return KvStore(max_bytes=1000)


# What is found


def test_the_longest_shared_prefix_is_found(store: KvStore[str]) -> None:
    put(store, 1, [*tokens(0, 20), 900], "short")
    put(store, 2, [*tokens(0, 40), 901], "long")

    hit = store.find(tokens(0, 100), now_s=0.0)

    assert hit is not None
    assert (hit.entry.payload, hit.shared_tokens) == ("long", 40)


def test_a_prompt_found_whole_leaves_its_last_token_to_compute(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 50))

    hit = store.find(tokens(0, 50), now_s=0.0)

    assert hit is not None
    assert hit.shared_tokens == 49


def test_an_entry_longer_than_the_match_serves_by_its_first_tokens(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 500))

    hit = store.find([*tokens(0, 30), 900, 901], now_s=0.0)

    assert hit is not None
    assert (len(hit.entry.tokens), hit.shared_tokens) == (500, 30)


def test_a_shared_prefix_too_short_to_pay_is_no_hit(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 100))

    assert store.find([*tokens(0, MIN_REUSED_TOKENS - 1), 999, 998], now_s=0.0) is None
    assert store.find(tokens(0, MIN_REUSED_TOKENS), now_s=0.0) is None


def test_an_empty_store_finds_nothing(store: KvStore[str]) -> None:
    assert store.find(tokens(0, 50), now_s=0.0) is None
    assert store.held_tokens(as_tokens(tokens(0, 50))) == 0


def test_another_salt_finds_nothing_of_the_same_tokens(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 50), salt="a")

    assert store.find(tokens(0, 50), salt="b", now_s=0.0) is None
    assert store.find(tokens(0, 50), now_s=0.0) is None
    assert store.find(tokens(0, 50), salt="a", now_s=0.0) is not None


def test_what_cannot_be_cut_serves_only_where_all_of_it_is_shared(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 50), is_trimmable=False)

    assert store.find(tokens(0, 50), now_s=0.0) is None
    assert store.find([*tokens(0, 40), 900], now_s=0.0) is None
    assert store.match(tokens(0, 51)) == (1, 50)


def test_a_part_of_what_can_be_cut_is_taken_where_what_cannot_is_shorter(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 20), is_trimmable=False)
    put(store, 2, [*tokens(0, 30), *tokens(500, 30)])
    put(store, 3, [*tokens(0, 40), *tokens(700, 30)], is_trimmable=False)

    assert store.match(tokens(0, 100)) == (2, 30)


def test_what_cannot_be_cut_is_taken_where_it_is_longer(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 40), is_trimmable=False)
    put(store, 2, [*tokens(0, 30), *tokens(500, 30)])

    assert store.match(tokens(0, 100)) == (1, 40)


def test_nothing_is_found_where_nothing_can_be_cut_to_fit(store: KvStore[str]) -> None:
    put(store, 1, [*tokens(0, 40), 900], is_trimmable=False)
    put(store, 2, [*tokens(0, 40), 901], is_trimmable=False)

    assert store.match(tokens(0, 100)) is None


def test_of_several_that_serve_alike_the_one_used_last_is_taken(store: KvStore[str]) -> None:
    for key in (1, 2, 3):
        put(store, key, [*tokens(0, 30), *tokens(key * 100, 30)])
    store.use(2, now_s=5.0)

    assert store.match([*tokens(0, 30), 900, 901]) == (2, 30)


def test_looking_without_using_leaves_the_order_as_it_is(store: KvStore[str]) -> None:
    put(store, 1, tokens(100, 30))
    put(store, 2, tokens(200, 30))

    store.match(tokens(100, 40))

    assert keys(store) == [2, 1]


def test_all_tokens_count_for_what_is_held(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 50))

    assert store.held_tokens(as_tokens(tokens(0, 50))) == 50
    assert store.held_tokens(as_tokens(tokens(0, 5))) == 5


# Who stays


def test_the_least_recently_used_entry_goes_first() -> None:
    store: KvStore[str] = KvStore(max_bytes=20)
    put(store, 1, tokens(100, 30), size_bytes=10)
    put(store, 2, tokens(200, 30), size_bytes=10)
    store.find(tokens(100, 40), now_s=1.0)

    assert put(store, 3, tokens(300, 30), size_bytes=10) == (True, [2])
    assert store.size_bytes == 20


def test_the_number_of_entries_is_bounded_too() -> None:
    store: KvStore[str] = KvStore(max_bytes=1000, max_entries=2)
    for key in (1, 2):
        put(store, key, tokens(key * 100, 20))

    assert put(store, 3, tokens(300, 20)) == (True, [1])
    assert len(store) == 2


def test_an_entry_larger_than_the_store_is_not_kept() -> None:
    store: KvStore[str] = KvStore(max_bytes=10)

    assert put(store, 1, tokens(0, 20), size_bytes=11) == (False, [])
    assert put(store, 2, []) == (False, [])
    assert store.size_bytes == 0


def test_pinned_entries_stay_whatever_comes() -> None:
    store: KvStore[str] = KvStore(max_bytes=20)
    put(store, 1, tokens(100, 30), size_bytes=10, is_pinned=True)
    put(store, 2, tokens(200, 30), size_bytes=10)

    assert put(store, 3, tokens(300, 30), size_bytes=10) == (True, [2])
    assert put(store, 4, tokens(400, 30), size_bytes=11) == (False, [])
    assert keys(store) == [3, 1]


def test_where_all_places_are_pinned_nothing_else_is_kept() -> None:
    store: KvStore[str] = KvStore(max_bytes=1000, max_entries=1)
    put(store, 1, tokens(100, 30), is_pinned=True)

    assert put(store, 2, tokens(200, 30)) == (False, [])


def test_a_longer_entry_takes_the_place_of_those_that_it_begins_with(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 20), size_bytes=5)

    assert put(store, 2, tokens(0, 40), size_bytes=9) == (True, [1])
    assert store.size_bytes == 9


def test_a_pinned_prefix_without_a_salt_serves_every_salt(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 50), "pinned", is_pinned=True)
    put(store, 2, tokens(0, 20), "shorter", is_pinned=True, is_trimmable=False)
    put(store, 3, tokens(0, 60), "tenant's")
    put(store, 4, [*tokens(0, 30), 900], "own", salt="a")

    hit = store.find(tokens(0, 80), salt="a", now_s=0.0)

    assert hit is not None
    assert (hit.entry.payload, hit.shared_tokens) == ("pinned", 50)


def test_a_pinned_prefix_that_cannot_be_cut_serves_only_as_a_whole(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 50), is_pinned=True, is_trimmable=False)

    assert store.find(tokens(0, 40), salt="a", now_s=0.0) is None

    assert store.find(tokens(0, 60), salt="a", now_s=0.0) is not None


def test_a_pinned_prefix_of_another_salt_stays_its_own(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 50), salt="b", is_pinned=True)

    assert store.find(tokens(0, 60), salt="a", now_s=0.0) is None


def test_a_longer_entry_leaves_pinned_ones_and_other_salts_alone(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 20), is_pinned=True)
    put(store, 2, tokens(0, 30), salt="a")

    assert put(store, 3, tokens(0, 40)) == (True, [])


def test_a_longer_entry_that_cannot_be_cut_leaves_the_shorter_ones(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 20))

    assert put(store, 2, tokens(0, 40), is_trimmable=False) == (True, [])


def test_tokens_that_are_there_already_are_not_kept_twice_and_count_as_used() -> None:
    store: KvStore[str] = KvStore(max_bytes=20)
    put(store, 1, tokens(0, 40), size_bytes=10)
    put(store, 2, tokens(500, 40), size_bytes=10)

    assert put(store, 3, tokens(0, 30), size_bytes=5) == (False, [])
    assert put(store, 4, tokens(900, 40), size_bytes=10) == (True, [2])


def test_the_same_tokens_are_kept_once_also_where_they_cannot_be_cut(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 40), is_trimmable=False)

    assert put(store, 2, tokens(0, 40), is_trimmable=False) == (False, [])


def test_a_pin_takes_the_place_of_the_same_tokens_unpinned(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 40), is_trimmable=False)

    assert put(store, 2, tokens(0, 40), is_pinned=True, is_trimmable=False) == (True, [1])
    assert put(store, 3, tokens(0, 40), is_pinned=True) == (False, [])


def test_a_pin_is_kept_beside_a_longer_entry_that_may_go(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 60))

    assert put(store, 2, tokens(0, 40), is_pinned=True) == (True, [])
    assert keys(store) == [2, 1]


def test_what_is_kept_again_under_a_key_replaces_what_was(store: KvStore[str]) -> None:
    put(store, 1, tokens(0, 20), size_bytes=5)

    assert put(store, 1, tokens(0, 40), size_bytes=9) == (True, [])
    assert put(store, 1, tokens(500, 40), size_bytes=4) == (True, [])
    assert (len(store), store.size_bytes) == (1, 4)
    assert store.match(tokens(0, 60)) is None


def test_what_is_dropped_is_found_no_more_and_its_neighbours_are(store: KvStore[str]) -> None:
    put(store, 1, [*tokens(0, 30), *tokens(500, 30)])
    put(store, 2, [*tokens(0, 30), *tokens(700, 30)])

    store.drop(1)

    assert store.match([*tokens(0, 30), *tokens(500, 30)]) == (2, 30)
    assert store.match([*tokens(0, 30), *tokens(700, 31)]) == (2, 60)
    assert 1 not in store
    assert store.get(1) is None
    store.drop(2)
    assert store.match(tokens(0, 60)) is None


def test_pressure_takes_pinned_ones_last(store: KvStore[str]) -> None:
    put(store, 1, tokens(100, 30), size_bytes=10, is_pinned=True)
    put(store, 2, tokens(200, 30), size_bytes=10)
    put(store, 3, tokens(300, 30), size_bytes=10)

    assert store.evict(15) == [2, 3]
    assert store.evict(1) == [1]
    assert store.evict(1) == []
    assert store.size_bytes == 0


def test_clearing_spares_pinned_ones(store: KvStore[str]) -> None:
    put(store, 1, tokens(100, 30), is_pinned=True)
    put(store, 2, tokens(200, 30))

    assert store.clear() == [2]
    assert keys(store) == [1]


def test_entries_are_told_in_the_order_of_their_use(store: KvStore[str]) -> None:
    put(store, 1, tokens(100, 30), now_s=1.0)
    put(store, 2, tokens(200, 30), now_s=2.0)
    store.find(tokens(100, 40), now_s=3.0)

    assert [(key, used_s) for key, _, used_s in store.entries()] == [(1, 3.0), (2, 2.0)]


# Names and tokens


def test_common_prefixes_of_any_lengths() -> None:
    def count(left: list[int], right: list[int]) -> int:
        return common_prefix(np.array(left, dtype=np.int32), np.array(right, dtype=np.int32))

    assert count([], [1]) == 0
    assert count([1, 2], [1, 2]) == 2
    assert count([1, 2, 3], [1, 2]) == 2
    assert count([9, 2], [1, 2]) == 0
    assert count([1, 2, 3], [1, 2, 4]) == 2


def test_digests_tell_tokens_and_salts_apart() -> None:
    one, other = as_tokens([1, 2, 3]), as_tokens([1, 2, 4])

    digests = {digest_of(held, salt=salt_id(salt)) for held in (one, other) for salt in ("", "a", "b")}

    assert len(digests) == 6
    assert digest_of(one, salt=salt_id("a")) == digest_of(as_tokens(one), salt=salt_id("a"))


def test_a_salt_is_not_to_be_read_from_what_stands_for_it() -> None:
    assert salt_id("") == ""
    assert "tenant" not in salt_id("tenant")
    assert len(salt_id("tenant")) == 32
