"""Pins the folder of KV files: what survives a restart, who has to go, and what is not ours."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.kv_fakes import ArrayCodec, arrays, entry_of
from wicketgate.engine.kv.folder import MAX_BAD_FILES
from wicketgate.engine.kv.shelf import SCAN_S, KvShelf, NotStorableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OTHER = "ffeeddccbbaa9988"


def tokens(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


def ignore() -> None:
    pass


class Clock:
    """Wall time that moves by a second with every look."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def opened(
    path: Path,
    *,
    max_bytes: int = 1_000_000,
    fingerprint: str | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> KvShelf:
    codec = ArrayCodec(fingerprint) if fingerprint else ArrayCodec()
    shelf = KvShelf(path / "kv", codec, max_bytes=max_bytes, clock=clock, wall_clock=Clock())
    shelf.open()
    return shelf


def files(path: Path) -> list[Path]:
    return sorted((path / "kv").glob("*.kv"))


def aged(file: Path, used_unix_s: float) -> None:
    os.utime(file, (used_unix_s, used_unix_s))


def test_what_is_stored_is_found_and_fetched_after_a_restart(tmp_path: Path) -> None:
    opened(tmp_path).store(entry_of(tokens(0, 100), salt="a", session="one"), ignore)

    shelf = opened(tmp_path)
    ((entry, _),) = shelf.listed()
    name, shared_tokens = shelf.match(tokens(0, 200), salt=entry.salt) or ("", 0)
    fetched = shelf.fetch(name, ignore)

    assert shared_tokens == 100
    assert fetched is not None
    assert (fetched.session, fetched.salt, fetched.size_bytes) == ("one", entry.salt, 3 * 100 * 8 * 4)
    assert all(map(np.array_equal, fetched.payload, arrays(tokens(0, 100))))


def test_folder_and_files_are_for_their_owner_only(tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir(mode=0o755)

    opened(tmp_path).store(entry_of(tokens(0, 100)), ignore)

    assert stat.S_IMODE((tmp_path / "kv").stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in files(tmp_path)] == [0o600]


def test_names_are_the_same_where_case_does_not_count(tmp_path: Path) -> None:
    opened(tmp_path).store(entry_of(tokens(0, 100), salt="Tenant"), ignore)

    (file,) = files(tmp_path)
    assert file.name == file.name.casefold()
    assert b"Tenant" not in file.read_bytes()


def test_a_file_is_a_safetensors_file(tmp_path: Path) -> None:
    opened(tmp_path).store(entry_of(tokens(5, 100)), ignore)
    safetensors = pytest.importorskip("safetensors.numpy")

    held = safetensors.load(files(tmp_path)[0].read_bytes())

    assert held["tokens"].tolist() == tokens(5, 100)
    assert np.array_equal(held["1"], arrays(tokens(5, 100))[1])


def test_a_grown_prefix_replaces_the_file_of_the_shorter_one(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    shelf.store(entry_of(tokens(0, 100)), ignore)
    shelf.store(entry_of(tokens(0, 200)), ignore)

    assert len(files(tmp_path)) == 1
    assert shelf.match(tokens(0, 300), salt="")[1] == 200


def test_files_used_last_stay_when_the_folder_is_full(tmp_path: Path) -> None:
    size_bytes = stored_size(tmp_path / "probe")
    shelf = opened(tmp_path, max_bytes=2 * size_bytes)
    for start in (0, 1000):
        shelf.store(entry_of(tokens(start, 100)), ignore)
        aged(max(files(tmp_path), key=lambda file: file.stat().st_ctime_ns), 1000.0 + start)
    shelf.fetch(shelf.match(tokens(0, 101), salt="")[0], ignore)

    shelf.store(entry_of(tokens(2000, 100)), ignore)

    assert shelf.match(tokens(0, 101), salt="") is not None
    assert shelf.match(tokens(1000, 101), salt="") is None
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 2 * size_bytes


def stored_size(path: Path) -> int:
    shelf = opened(path)
    shelf.store(entry_of(tokens(0, 100)), ignore)
    return shelf.size_bytes


def test_a_restart_keeps_the_order_of_use(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    for start in (0, 1000, 2000):
        shelf.store(entry_of(tokens(start, 100)), ignore)
    names = [shelf.match(tokens(start, 101), salt="")[0] for start in (0, 1000, 2000)]
    for name, used_unix_s in zip(names, (30.0, 10.0, 20.0), strict=True):
        aged(tmp_path / "kv" / name, used_unix_s)

    assert opened(tmp_path).recent(2) == [names[0], names[2]]


def test_use_in_memory_is_told_to_the_file_by_the_next_sweep(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    shelf.store(entry_of(tokens(0, 100)), ignore)
    (file,) = files(tmp_path)
    aged(file, 1000.0)
    shelf.touch(entry_of(tokens(0, 100)).digest)
    shelf.touch(entry_of(tokens(7, 100)).digest)

    shelf.sweep(None)

    assert file.stat().st_mtime > 1000.0


def test_pinned_files_stay_when_the_folder_is_full(tmp_path: Path) -> None:
    shelf = opened(tmp_path, max_bytes=stored_size(tmp_path / "probe"))
    pinned = entry_of(tokens(0, 100), is_pinned=True)
    shelf.pin(pinned.digest)
    shelf.store(pinned, ignore)

    shelf.forget()

    assert [entry.is_pinned for entry, _ in shelf.listed()] == [True]
    assert shelf.match(tokens(0, 101), salt="") is not None


def test_a_prefix_larger_than_the_folder_may_be_is_not_written(tmp_path: Path) -> None:
    shelf = opened(tmp_path, max_bytes=1000)

    shelf.store(entry_of(tokens(0, 100)), ignore)

    assert files(tmp_path) == []


def test_what_has_no_form_on_disk_is_refused(tmp_path: Path) -> None:
    entry = entry_of(tokens(0, 100))
    entry.payload.append(None)

    with pytest.raises(NotStorableError):
        opened(tmp_path).store(entry, ignore)


def test_forgotten_files_are_removed_by_the_sweep(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    shelf.store(entry_of(tokens(0, 100)), ignore)
    (tmp_path / "kv" / "bad").mkdir()
    (tmp_path / "kv" / "bad" / "old.kv").write_bytes(b"x")

    forgotten = shelf.forget()
    assert shelf.size_bytes == 0
    shelf.sweep(forgotten)

    assert list((tmp_path / "kv").rglob("*.kv")) == []


def test_writing_that_is_stopped_leaves_no_trace(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    shelf = opened(tmp_path)
    with pytest.raises(StopError):
        shelf.store(entry_of(tokens(0, 100)), stop)

    assert list((tmp_path / "kv").iterdir()) == []


# Several hosts and what is not ours


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    opened(tmp_path)
    left, written = tmp_path / "kv" / "left.kv.1.tmp", tmp_path / "kv" / "written.kv.2.tmp"
    left.write_bytes(b"half")
    with written.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        opened(tmp_path)

    assert not left.exists()
    assert written.exists()


def test_a_file_that_another_host_took_away_is_a_miss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = opened(tmp_path)
    shelf.store(entry_of(tokens(0, 100)), ignore)
    name, _ = shelf.match(tokens(0, 101), salt="")
    files(tmp_path)[0].unlink()

    assert shelf.fetch(name, ignore) is None
    assert shelf.match(tokens(0, 101), salt="") is None
    assert shelf.fetch(name, ignore) is None
    assert caplog.records == []


def test_a_file_that_another_host_wrote_is_known_after_the_next_write(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    opened(tmp_path).store(entry_of(tokens(0, 100)), ignore)

    shelf.store(entry_of(tokens(1000, 100)), ignore)

    assert shelf.match(tokens(0, 101), salt="")[1] == 100


def test_files_of_another_model_are_left_alone_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tmp_path, fingerprint=OTHER).store(entry_of(tokens(0, 100)), ignore)

    shelf = opened(tmp_path)

    assert shelf.match(tokens(0, 101), salt="") is None
    assert len(files(tmp_path)) == 1
    assert caplog.records == []


def test_files_of_another_model_count_and_may_have_to_go(tmp_path: Path) -> None:
    size_bytes = stored_size(tmp_path / "probe")
    opened(tmp_path, fingerprint=OTHER).store(entry_of(tokens(0, 100)), ignore)
    aged(files(tmp_path)[0], 1000.0)

    opened(tmp_path, max_bytes=size_bytes).store(entry_of(tokens(0, 100)), ignore)

    assert [file.name.startswith(OTHER) for file in files(tmp_path)] == [False]


def test_what_was_set_aside_goes_first_when_the_folder_is_full(tmp_path: Path) -> None:
    size_bytes = stored_size(tmp_path)
    aside = tmp_path / "kv" / "bad" / "old.kv"
    aside.parent.mkdir()
    aside.write_bytes(b"x" * size_bytes)

    opened(tmp_path, max_bytes=2 * size_bytes).store(entry_of(tokens(1000, 100)), ignore)

    assert not aside.exists()
    assert len(files(tmp_path)) == 2


def test_damaged_files_set_aside_are_few(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf = opened(tmp_path)
    for start in range(0, 1000 * (MAX_BAD_FILES + 3), 1000):
        shelf.store(entry_of(tokens(start, 100)), ignore)
    for file in files(tmp_path):
        file.write_bytes(b"damaged")

    again = opened(tmp_path)

    assert files(tmp_path) == []
    assert len(list((tmp_path / "kv" / "bad").iterdir())) == MAX_BAD_FILES
    assert again.rejected_files == len(caplog.records) == MAX_BAD_FILES + 3


def test_what_cannot_be_moved_away_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf = opened(tmp_path)
    (tmp_path / "kv" / "bad").write_bytes(b"in the way")
    shelf.store(entry_of(tokens(0, 100)), ignore)
    files(tmp_path)[0].write_bytes(b"damaged")
    caplog.set_level(logging.WARNING)

    again = opened(tmp_path)
    for start in (1000, 2000):
        again.store(entry_of(tokens(start, 100)), ignore)

    assert [record.message for record in caplog.records] == ["kv_file_ignored"]
    assert again.match(tokens(0, 101), salt="") is None


def test_a_good_file_in_the_place_of_a_bad_one_counts(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    shelf.store(entry_of(tokens(0, 100)), ignore)
    files(tmp_path)[0].write_bytes(b"damaged")
    again = opened(tmp_path)

    again.store(entry_of(tokens(0, 100)), ignore)

    assert again.match(tokens(0, 101), salt="")[1] == 100


def test_reading_headers_stops_at_its_bound_with_the_files_used_last(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    for start in (0, 1000, 2000):
        shelf.store(entry_of(tokens(start, 100)), ignore)
        name, _ = shelf.match(tokens(start, 101), salt="")
        aged(tmp_path / "kv" / name, 1000.0 + start)
    looks = iter([0.0, 0.0, SCAN_S + 1])

    short = opened(tmp_path, clock=lambda: next(looks))

    assert [entry.tokens[0] for entry, _ in short.listed()] == [2000]
