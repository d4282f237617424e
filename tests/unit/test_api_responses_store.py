"""Pins the bounds of stored responses: count, bytes, age, and fairness between those who store."""

from __future__ import annotations

from wicketgate.api.responses.store import ResponseStore, Stored, StoreParams


def stored(size_bytes=10):
    return Stored(response=b"r" * size_bytes, items=b"", asked=0)


def make(**params):
    return ResponseStore(StoreParams(**params))


def kept(store, owner, *names, now_s=0.0):
    return [name for name in names if store.get(owner, name, now_s=now_s) is not None]


def test_the_oldest_goes_when_there_are_too_many():
    store = make(max_count=2)

    for name in "abc":
        store.put("ann", name, stored(), now_s=0.0)

    assert kept(store, "ann", *"abc") == ["b", "c"]
    assert (store.count, store.size_bytes) == (2, 20)


def test_the_oldest_go_when_they_take_too_much():
    store = make(max_bytes=30)

    for name, size_bytes in {"a": 10, "b": 10, "c": 25}.items():
        store.put("ann", name, stored(size_bytes), now_s=0.0)

    assert kept(store, "ann", *"abc") == ["c"]


def test_one_that_is_too_large_by_itself_pushes_nothing_out():
    store = make(max_bytes=30)
    store.put("ann", "a", stored(), now_s=0.0)

    store.put("ann", "b", stored(31), now_s=0.0)

    assert kept(store, "ann", "a", "b") == ["a"]


def test_who_stores_most_makes_room():
    store = make(max_bytes=100)
    store.put("ann", "mine", stored(), now_s=0.0)

    for number in range(20):
        store.put("bob", str(number), stored(), now_s=1.0)

    assert kept(store, "ann", "mine") == ["mine"]
    assert kept(store, "bob", *map(str, range(20))) == [str(number) for number in range(11, 20)]


def test_no_count_stores_nothing():
    store = make(max_count=0)

    store.put(None, "a", stored(), now_s=0.0)

    assert (store.count, store.size_bytes) == (0, 0)


def test_age_ends_those_that_are_old_enough():
    store = make(max_age_s=10.0)
    store.put("ann", "old", stored(), now_s=0.0)
    store.put("ann", "young", stored(), now_s=5.0)
    store.put("bob", "old", stored(), now_s=0.0)

    assert kept(store, "ann", "old", "young", now_s=10.0) == ["young"]
    assert (store.count, store.size_bytes) == (1, 10)


def test_owners_do_not_see_each_other():
    store = make()
    store.put("ann", "a", stored(), now_s=0.0)

    assert kept(store, "bob", "a") == kept(store, None, "a") == []
    assert not store.delete("bob", "a", now_s=0.0)
    assert kept(store, "ann", "a") == ["a"]


def test_what_is_deleted_takes_no_room():
    store = make()
    store.put(None, "a", stored(), now_s=0.0)

    assert store.delete(None, "a", now_s=0.0)
    assert not store.delete(None, "a", now_s=0.0)
    assert (store.count, store.size_bytes) == (0, 0)
