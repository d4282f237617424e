"""Pins the prefix cache: what comes from memory and from disk, what is kept, and what is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.kv_fakes import entry_of
from wicketgate.engine.kv.cache import MIN_FETCHED_TOKENS, KvCache, open_cache
from wicketgate.engine.kv.disk import Found
from wicketgate.engine.kv.store import Prefix
from wicketgate.engine.options import HostOptions
from wicketgate.engine.wire import CacheQuery, CacheReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wicketgate.engine.kv.store import Entry


def tokens(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


def prefix(held: list[int], payload: object = "kv", *, size_bytes: int = 10) -> Prefix:
    return Prefix(tokens=held, payload=payload, size_bytes=size_bytes)


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeLoad:
    name: str
    entry: Entry[object] | None = None
    is_done: bool = False
    waiters: int = 0

    def wait(self, timeout_s: float) -> bool:
        return self.is_done

    def leave(self) -> None:
        self.waiters -= 1


@dataclass
class FakeDisk:
    """A disk tier whose loads are done when a test says so."""

    held: dict[str, Entry[object]] = field(default_factory=dict)
    estimated_s: float = 0.01
    max_bytes: int = 5000
    rejected_files: int = 3
    size_bytes: int = 77
    loads: dict[str, FakeLoad] = field(default_factory=dict)
    saved: list[Entry[object]] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    deeds: list[str] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)
    """Tokens of what it was given at the end."""
    is_fast: bool = False

    def find(self, prompt: Sequence[int], *, salt: str) -> Found | None:
        for name, entry in self.held.items():
            count = min(len(entry.tokens), len(prompt) - 1)
            if entry.salt == salt and entry.tokens[:count].tolist() == list(prompt[:count]):
                return Found(name=name, shared_tokens=count, estimated_s=self.estimated_s)
        return None

    def load(self, name: str) -> FakeLoad:
        load = self.loads.setdefault(name, FakeLoad(name))
        load.waiters += 1
        if self.is_fast:
            self.come(name)
        return load

    def come(self, name: str) -> None:
        self.loads[name].entry = self.held.get(name)
        self.loads[name].is_done = True

    def take(self, load: FakeLoad) -> bool:
        return self.loads.pop(load.name, None) is load

    def save(self, entry: Entry[object]) -> None:
        self.saved.append(entry)

    def touch(self, digest: str) -> None:
        self.touched.append(digest)

    def drop_unsaved(self, spared: set[str]) -> None:
        self.saved = [entry for entry in self.saved if entry.digest in spared]

    def clear(self) -> None:
        self.deeds.append("clear")
        self.held.clear()

    def close(self, timeout_s: float, *, rest: Iterable[Entry[Any]] = ()) -> None:
        self.deeds.append(f"close {timeout_s}")
        self.rest = [len(entry.tokens) for entry in rest]

    def wait_until_scanned(self, timeout_s: float) -> bool:
        return True

    def recent(self, count: int) -> list[str]:
        return list(self.held)[:count]

    def listed(self) -> list[tuple[Entry[object], float]]:
        return [(entry, 50.0) for entry in self.held.values()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk()


@pytest.fixture
def cache(clock: Clock, disk: FakeDisk) -> KvCache:
    return KvCache(max_bytes=20_000, clock=clock, disk=disk)


def reported(cache: KvCache, *, clear: str = "", now_s: float = 0.0) -> CacheReport:
    query = CacheQuery(id=7, clear=clear)
    return cache.report(query, now_s=now_s, kv_bytes_per_token=4, rows=2, rows_tokens=30, rows_bytes=160)


# Memory


def test_what_is_kept_is_found_under_its_salt_only(cache: KvCache) -> None:
    cache.keep(1, prefix(tokens(0, 50)), salt="a", session="")

    assert cache.find(tokens(0, 60), salt="b") is None
    hit = cache.find(tokens(0, 60), salt="a")
    assert hit is not None
    assert (hit.shared_tokens, hit.entry.payload) == (50, "kv")


def test_later_snapshots_of_a_prompt_replace_earlier_ones(cache: KvCache) -> None:
    for count in (50, 100, 150):
        assert cache.keep(1, prefix(tokens(0, count)), salt="", session="") == (True, [])

    assert cache.match(tokens(0, 200), salt="") == 150
    assert cache.size_bytes == 10


def test_a_payload_that_cannot_be_cut_is_found_whole_only(clock: Clock) -> None:
    cache = KvCache(max_bytes=100, clock=clock, is_trimmable=lambda payload: payload != "window")
    cache.keep(1, prefix(tokens(0, 50), "window"), salt="", session="")

    assert cache.match(tokens(0, 40), salt="") == 0
    assert cache.match(tokens(0, 60), salt="") == 50


def test_those_who_had_to_go_are_told(clock: Clock) -> None:
    cache = KvCache(max_bytes=20, clock=clock)
    for key in (1, 2):
        cache.keep(key, prefix(tokens(key * 100, 50)), salt="", session="")

    assert cache.keep(3, prefix(tokens(900, 50)), salt="", session="") == (True, [1])
    assert cache.keep(4, prefix(tokens(800, 50), size_bytes=21), salt="", session="") == (False, [])


def test_pressure_frees_memory_also_where_it_waits_to_be_written(cache: KvCache, disk: FakeDisk) -> None:
    cache.keep(1, prefix(tokens(0, 50)), salt="", session="", pinned=True)
    cache.keep(2, prefix(tokens(100, 50)), salt="", session="")

    assert cache.evict(5) == [2]
    assert [entry.is_pinned for entry in disk.saved] == [True]


def test_a_cache_of_no_bytes_keeps_nothing(clock: Clock) -> None:
    cache = KvCache(max_bytes=0, clock=clock)

    assert cache.keep(1, prefix(tokens(0, 50)), salt="", session="") == (False, [])


# Disk


def test_a_longer_prefix_is_fetched_and_stays_in_memory(cache: KvCache, disk: FakeDisk) -> None:
    disk.held["file"] = entry_of(tokens(0, 200), salt="a")
    fetch = cache.fetch(tokens(0, 300), salt="a", held_tokens=0)
    assert fetch is not None
    assert (fetch.is_done, fetch.hit, fetch.wait(0.0)) == (False, None, False)

    disk.come("file")

    assert (fetch.is_done, fetch.shared_tokens, fetch.estimated_s) == (True, 200, 0.01)
    assert fetch.hit is not None
    assert fetch.hit.shared_tokens == 200
    assert cache.match(tokens(0, 300), salt="a") == 200


def test_a_load_that_several_wait_for_comes_once(cache: KvCache, disk: FakeDisk) -> None:
    disk.held["file"] = entry_of(tokens(0, 200))
    fetches = [cache.fetch(tokens(0, 300), salt="", held_tokens=0) for _ in range(2)]
    disk.come("file")

    hits = [fetch.hit for fetch in fetches if fetch]

    assert [hit.shared_tokens for hit in hits if hit] == [200, 200]
    assert reported(cache).disk_hits == 1


def test_too_little_more_than_what_is_held_is_not_fetched(cache: KvCache, disk: FakeDisk) -> None:
    disk.held["file"] = entry_of(tokens(0, 200))

    assert cache.fetch(tokens(0, 300), salt="", held_tokens=200 - MIN_FETCHED_TOKENS + 1) is None
    assert cache.fetch(tokens(0, 300), salt="", held_tokens=200 - MIN_FETCHED_TOKENS) is not None


def test_a_restore_that_takes_longer_than_the_prefill_is_skipped(cache: KvCache, disk: FakeDisk) -> None:
    disk.held["file"] = entry_of(tokens(0, 200))
    disk.estimated_s = 0.5

    assert cache.fetch(tokens(0, 300), salt="", held_tokens=100, prefill_token_s=0.004) is None
    assert disk.loads == {}
    assert cache.fetch(tokens(0, 300), salt="", held_tokens=100, prefill_token_s=0.006) is not None


def test_nothing_is_fetched_for_another_salt_or_without_a_disk(clock: Clock, disk: FakeDisk) -> None:
    disk.held["file"] = entry_of(tokens(0, 200), salt="a")

    assert KvCache(max_bytes=10, clock=clock, disk=disk).fetch(tokens(0, 300), salt="", held_tokens=0) is None
    assert KvCache(max_bytes=10, clock=clock).fetch(tokens(0, 300), salt="a", held_tokens=0) is None


def test_a_load_that_failed_is_done_and_brings_nothing(cache: KvCache, disk: FakeDisk) -> None:
    disk.held["file"] = entry_of(tokens(0, 200))
    fetch = cache.fetch(tokens(0, 300), salt="", held_tokens=0)
    disk.held.clear()
    disk.come("file")

    assert fetch is not None
    assert (fetch.is_done, fetch.hit) == (True, None)


def test_a_cancelled_fetch_lets_go_once_and_brings_nothing(cache: KvCache, disk: FakeDisk) -> None:
    disk.held["file"] = entry_of(tokens(0, 200))
    fetch = cache.fetch(tokens(0, 300), salt="", held_tokens=0)
    assert fetch is not None

    fetch.cancel()
    fetch.cancel()
    disk.come("file")

    assert (fetch.is_done, fetch.hit, fetch.wait(0.0)) == (True, None, True)
    assert disk.loads["file"].waiters == 0
    assert cache.match(tokens(0, 300), salt="") == 0


def test_those_who_had_to_go_for_what_came_from_disk_are_told_once(clock: Clock, disk: FakeDisk) -> None:
    cache = KvCache(max_bytes=20_000, clock=clock, disk=disk)
    cache.keep(1, prefix(tokens(500, 50), size_bytes=10_000), salt="", session="")
    disk.held["file"] = entry_of(tokens(0, 200))
    fetch = cache.fetch(tokens(0, 300), salt="", held_tokens=0)
    disk.come("file")
    assert fetch is not None
    assert fetch.hit is not None

    assert cache.take_evicted() == [1]
    assert cache.take_evicted() == []


def test_what_came_from_disk_has_no_id_that_anybody_knows(clock: Clock, disk: FakeDisk) -> None:
    cache = KvCache(max_bytes=20_000, clock=clock, disk=disk)
    disk.held["file"] = entry_of(tokens(0, 200))
    disk.is_fast = True
    cache.preload(count=1, timeout_s=1.0)

    assert cache.keep(1, prefix(tokens(500, 50), size_bytes=10_000), salt="", session="") == (True, [])


def test_what_is_kept_is_saved_and_what_is_not_is_not(cache: KvCache, disk: FakeDisk) -> None:
    cache.keep(1, prefix(tokens(0, 50)), salt="a", session="one", pinned=True)
    cache.keep(2, prefix(tokens(0, 40)), salt="a", session="one")

    (saved,) = disk.saved
    assert (len(saved.tokens), saved.session, saved.is_pinned) == (50, "one", True)
    assert saved.salt == entry_of([1], salt="a").salt != "a"


def test_a_hit_in_memory_counts_as_use_of_the_file(cache: KvCache, disk: FakeDisk) -> None:
    cache.keep(1, prefix(tokens(0, 50)), salt="", session="")

    cache.match(tokens(0, 60), salt="")
    assert disk.touched == []
    cache.find(tokens(0, 60), salt="")
    assert disk.touched == [entry_of(tokens(0, 50)).digest]


def test_the_prefixes_used_last_are_loaded_before_there_are_requests(cache: KvCache, disk: FakeDisk) -> None:
    disk.held = {f"file {start}": entry_of(tokens(start, 40)) for start in (0, 1000, 2000)}
    disk.is_fast = True

    assert cache.preload(count=2, timeout_s=1.0) == 2
    assert cache.match(tokens(1000, 60), salt="") == 40
    assert cache.match(tokens(2000, 60), salt="") == 0


def test_loading_ahead_stops_where_memory_is_full_or_time_is_up(cache: KvCache, disk: FakeDisk) -> None:
    disk.held = {f"file {start}": entry_of(tokens(start, 120)) for start in (0, 1000)}
    disk.is_fast = True
    assert cache.preload(count=9, timeout_s=1.0) == 1
    assert disk.loads["file 1000"].waiters == 0

    disk.is_fast = False
    disk.loads.clear()
    assert cache.preload(count=9, timeout_s=1.0) == 0
    assert disk.loads["file 0"].waiters == 0


def test_a_file_that_fails_does_not_end_loading_ahead(cache: KvCache, disk: FakeDisk) -> None:
    disk.held = {"gone": entry_of(tokens(500, 40)), "there": entry_of(tokens(0, 40))}
    disk.is_fast = True
    disk.loads["gone"] = FakeLoad("gone", is_done=True)
    come = disk.come
    disk.come = lambda name: None if name == "gone" else come(name)

    assert cache.preload(count=9, timeout_s=1.0) == 1


def test_without_a_disk_nothing_is_loaded_ahead_and_nothing_is_closed(clock: Clock) -> None:
    cache = KvCache(max_bytes=10, clock=clock)

    cache.close(1.0)

    assert cache.preload(count=9, timeout_s=1.0) == 0
    assert cache.disk_bytes == 0


def test_closing_gives_the_disk_its_time_and_what_memory_holds_the_last_used_first(
    cache: KvCache, disk: FakeDisk
) -> None:
    for key, count in ((1, 70), (2, 80), (3, 90)):
        cache.keep(key, prefix(tokens(1000 * key, count)), salt="", session="")
    cache.find(tokens(1000, 70), salt="")

    cache.close(2.5)

    assert disk.deeds == ["close 2.5"]
    assert disk.rest == [70, 90, 80]


# Reports


def test_a_report_says_what_is_where_the_one_used_last_first(
    cache: KvCache, clock: Clock, disk: FakeDisk
) -> None:
    cache.keep(1, prefix(tokens(0, 50)), salt="", session="one", pinned=True)
    clock.now_s = 10.0
    cache.keep(2, prefix(tokens(100, 60)), salt="", session="two")
    disk.held = {
        "a": entry_of(tokens(0, 50)),
        "b": entry_of(tokens(900, 70), session="three"),
    }

    entries = reported(cache, now_s=12.0).entries

    assert [(each.tier, each.tokens, each.session, each.is_pinned, each.age_s) for each in entries] == [
        ("memory", 60, "two", False, 2.0),
        ("both", 50, "one", True, 12.0),
        ("disk", 70, "three", False, 50.0),
    ]
    assert [len(each.key) for each in entries] == [12, 12, 12]


def test_a_report_has_the_figures_of_both_tiers_and_of_the_rows(cache: KvCache) -> None:
    cache.keep(1, prefix(tokens(0, 50)), salt="", session="")
    for wanted in (tokens(0, 60), tokens(700, 60)):
        cache.find(wanted, salt="")

    report = reported(cache)

    assert replace_entries(report) == CacheReport(
        id=7,
        entries=[],
        memory_bytes=10,
        memory_limit_bytes=20_000,
        disk_bytes=77,
        disk_limit_bytes=5000,
        hits=1,
        misses=1,
        disk_hits=0,
        rejected_files=3,
        kv_bytes_per_token=4,
        rows=2,
        rows_tokens=30,
        rows_bytes=160,
    )


def replace_entries(report: CacheReport) -> CacheReport:
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    return CacheReport(**(fields | {"entries": []}))


@pytest.mark.parametrize(
    ("clear", "left", "deeds"),
    [
        ("", {"memory": 2, "disk": 1}, []),
        ("memory", {"memory": 1, "disk": 1}, []),
        ("disk", {"memory": 2}, ["clear"]),
        ("all", {"memory": 1}, ["clear"]),
    ],
)
def test_clearing_drops_what_the_query_says_but_for_pins(
    cache: KvCache, disk: FakeDisk, clear: str, left: dict[str, int], deeds: list[str]
) -> None:
    cache.keep(1, prefix(tokens(0, 50)), salt="", session="", pinned=True)
    cache.keep(2, prefix(tokens(100, 50)), salt="", session="")
    disk.held = {"b": entry_of(tokens(900, 70))}

    tiers = [each.tier for each in reported(cache, clear=clear).entries]

    assert {tier: tiers.count(tier) for tier in set(tiers)} == left
    assert disk.deeds == deeds
    assert cache.take_evicted() == ([2] if clear in {"memory", "all"} else [])


def test_a_report_without_a_disk_says_so_by_zeros(clock: Clock) -> None:
    report = reported(KvCache(max_bytes=10, clock=clock))

    assert (report.disk_bytes, report.disk_limit_bytes, report.rejected_files) == (0, 0, 0)


def test_options_without_a_folder_or_a_codec_open_memory_only(clock: Clock) -> None:
    options = HostOptions(prefix_cache_bytes=123, kv_dir="", kv_disk_bytes=1000)

    cache = open_cache(options, None, clock=clock)

    assert (cache.max_bytes, reported(cache).disk_limit_bytes) == (123, 0)
