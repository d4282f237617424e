"""Pins KV on disk: saved and loaded beside the engine's thread, in nobody's way, whoever dies."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.kv_fakes import ArrayCodec, entry_of, parts, signed
from wicketgate.engine.kv.disk import MAX_LOADS, RETRY_S, KvDisk
from wicketgate.engine.kv.shelf import KvShelf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wicketgate.engine.kv.disk import DiskLoad

WAIT_S = 30.0
MAX_BYTES = 256 * 1024 * 1024


def ignore() -> None:
    pass


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("wicketgate")]


def shelf_of(codec: Any, tmp_path: Path) -> KvShelf:
    shelf = KvShelf(tmp_path / "kv", codec, max_bytes=MAX_BYTES)
    shelf.open()
    return shelf


def disk_of(tmp_path: Path, codec: Any, **settings: Any) -> KvDisk:
    shelf = KvShelf(tmp_path / "kv", codec, max_bytes=MAX_BYTES)
    return KvDisk(shelf, max_unsaved_bytes=settings.pop("max_unsaved_bytes", 10**9), **settings)


class SlowCodec(ArrayCodec):
    """Makes no second tensor before it is let, and notes how many tokens it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded_tokens: list[int] = []
        self.started, self.go = threading.Event(), threading.Event()

    def encode(self, payload: Any) -> Any:
        encoded = super().encode(payload)
        self.encoded_tokens.append(len(payload[0]))

        def buffers() -> Iterator[memoryview]:
            for buffer in encoded.buffers():
                yield buffer
                self.started.set()
                assert self.go.wait(WAIT_S)

        return type(encoded)(layout=encoded.layout, specs=encoded.specs, buffers=buffers)


def numbers(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


def test_loads_go_before_what_is_being_written(tmp_path: Path) -> None:
    shelf_of(ArrayCodec(), tmp_path).store(entry_of(numbers(0, 100)), ignore)
    codec = SlowCodec()
    disk = disk_of(tmp_path, codec)
    assert disk.wait_until_scanned(WAIT_S)
    disk.save(entry_of(numbers(1000, 100)))
    assert codec.started.wait(WAIT_S)

    found = disk.find(numbers(0, 101), salt="")
    assert found is not None
    load = disk.load(found.name)
    codec.go.set()

    assert load.wait(WAIT_S)
    assert load.entry is not None
    disk.close(WAIT_S)


def test_what_waits_to_be_written_is_bounded_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    codec = SlowCodec()
    size_bytes = entry_of(numbers(0, 100)).size_bytes
    disk = disk_of(tmp_path, codec, max_unsaved_bytes=2 * size_bytes)
    disk.save(entry_of(numbers(0, 100)))
    assert codec.started.wait(WAIT_S)
    for start in (1000, 2000, 3000):
        disk.save(entry_of(numbers(start, 100)))
    codec.go.set()
    disk.close(WAIT_S)

    shelf = shelf_of(ArrayCodec(), tmp_path)

    held = [shelf.match(numbers(start, 101), salt="") is not None for start in (0, 1000, 2000, 3000)]
    assert held == [True, False, True, True]


def test_at_the_end_what_memory_holds_and_the_disk_does_not_is_written_too(tmp_path: Path) -> None:
    codec = SlowCodec()
    entries = [entry_of(numbers(start, 100)) for start in (0, 1000, 2000, 3000)]
    disk = disk_of(tmp_path, codec, max_unsaved_bytes=entries[0].size_bytes)
    disk.save(entries[0])
    assert codec.started.wait(WAIT_S)
    for entry in entries[1:]:
        disk.save(entry)
    codec.go.set()
    disk.close(WAIT_S, rest=reversed(entries))

    shelf = shelf_of(ArrayCodec(), tmp_path)

    assert all(shelf.match([*entry.tokens.tolist(), 5], salt="") is not None for entry in entries)
    assert sorted(codec.encoded_tokens) == [100] * 4


def test_what_a_longer_prefix_replaces_is_not_written(tmp_path: Path) -> None:
    codec = SlowCodec()
    disk = disk_of(tmp_path, codec)
    disk.save(entry_of(numbers(5000, 100)))
    assert codec.started.wait(WAIT_S)
    for count in (100, 200, 300, 200):
        disk.save(entry_of(numbers(0, count)))
    codec.go.set()
    disk.close(WAIT_S)

    assert codec.encoded_tokens == [100, 300]


def test_two_who_want_one_file_share_a_load_and_the_first_takes_it(tmp_path: Path) -> None:
    shelf_of(ArrayCodec(), tmp_path).store(entry_of(numbers(0, 100)), ignore)
    disk = disk_of(tmp_path, ArrayCodec())
    assert disk.wait_until_scanned(WAIT_S)
    name = disk.recent(1)[0]

    one, other = disk.load(name), disk.load(name)
    assert one.wait(WAIT_S)

    assert one is other
    assert [disk.take(one), disk.take(other)] == [True, False]
    disk.close(WAIT_S)


def test_a_load_that_nobody_waits_for_is_forgotten(tmp_path: Path) -> None:
    shelf_of(ArrayCodec(), tmp_path).store(entry_of(numbers(0, 100)), ignore)
    disk = disk_of(tmp_path, ArrayCodec())
    assert disk.wait_until_scanned(WAIT_S)
    load = disk.load(disk.recent(1)[0])
    load.wait(WAIT_S)

    load.leave()

    assert not disk.take(load)
    disk.close(WAIT_S)


def test_the_time_of_a_load_is_learnt(tmp_path: Path) -> None:
    shelf_of(ArrayCodec(), tmp_path).store(entry_of(numbers(0, 20_000)), ignore)
    ticks = iter(range(1000))
    disk = disk_of(tmp_path, ArrayCodec(), clock=lambda: float(next(ticks)))
    assert disk.wait_until_scanned(WAIT_S)
    first = disk.find(numbers(0, 20_001), salt="")
    assert first is not None
    load = disk.load(first.name)
    assert load.wait(WAIT_S)
    assert disk.take(load)

    learnt = disk.find(numbers(0, 20_001), salt="")

    assert learnt is not None
    assert first.estimated_s < 0.01
    assert learnt.estimated_s == pytest.approx(0.3, rel=0.1)
    disk.close(WAIT_S)


class SlowReadCodec(ArrayCodec):
    """Looks at no second tensor before it is let, and then fails as told."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.started, self.go, self.error = threading.Event(), threading.Event(), error

    def decode(self, layout: str, specs: Any, buffers: Iterator[memoryview], *, tokens: int) -> Any:
        next(buffers)
        self.started.set()
        assert self.go.wait(WAIT_S)
        if self.error:
            raise self.error
        return list(buffers), 0


def loading(tmp_path: Path, codec: SlowReadCodec) -> tuple[KvDisk, DiskLoad]:
    shelf_of(ArrayCodec(), tmp_path).store(entry_of(numbers(0, 100)), ignore)
    disk = disk_of(tmp_path, codec)
    assert disk.wait_until_scanned(WAIT_S)
    load = disk.load(disk.recent(1)[0])
    assert codec.started.wait(WAIT_S)
    return disk, load


def test_a_load_that_all_have_left_stops_between_two_tensors(tmp_path: Path) -> None:
    codec = SlowReadCodec()
    disk, load = loading(tmp_path, codec)

    load.leave()
    codec.go.set()

    assert load.wait(WAIT_S)
    assert load.entry is None
    assert disk.find(numbers(0, 101), salt="") is not None
    disk.close(WAIT_S)


def test_a_load_for_which_there_is_no_memory_leaves_its_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codec = SlowReadCodec(RuntimeError("[malloc] Unable to allocate"))
    disk, load = loading(tmp_path, codec)
    codec.go.set()

    assert load.wait(WAIT_S)
    assert load.entry is None
    assert lines(caplog) == ["kv_load_failed"]
    assert disk.find(numbers(0, 101), salt="") is not None
    disk.close(WAIT_S)


def test_a_load_that_failed_is_tried_again_by_the_next_who_asks(tmp_path: Path) -> None:
    codec = SlowReadCodec(RuntimeError("[malloc] Unable to allocate"))
    disk, load = loading(tmp_path, codec)
    codec.go.set()
    assert load.wait(WAIT_S)
    codec.error = None

    again = disk.load(load.name)

    assert again.wait(WAIT_S)
    assert again.entry is not None
    disk.close(WAIT_S)


def test_what_is_being_loaded_during_a_clear_does_not_come(tmp_path: Path) -> None:
    codec = SlowReadCodec()
    disk, load = loading(tmp_path, codec)

    disk.clear()
    codec.go.set()

    assert load.wait(WAIT_S)
    assert load.entry is None
    assert not disk.take(load)
    disk.close(WAIT_S)


def test_what_was_loaded_and_not_taken_before_a_clear_is_not_kept(tmp_path: Path) -> None:
    codec = SlowReadCodec()
    disk, load = loading(tmp_path, codec)
    codec.go.set()
    assert load.wait(WAIT_S)

    disk.clear()

    assert not disk.take(load)
    disk.close(WAIT_S)


def test_a_fault_of_our_own_turns_the_tier_off_and_nobody_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codec = SlowReadCodec(KeyError("a fault"))
    disk, load = loading(tmp_path, codec)
    other = disk.load("another")
    codec.go.set()

    assert load.wait(WAIT_S)
    assert other.wait(WAIT_S)
    assert (load.entry, other.entry) == (None, None)
    assert lines(caplog) == ["kv_disk_off"]
    assert disk.find(numbers(0, 101), salt="") is None
    assert disk.load("later").is_done
    disk.save(entry_of(numbers(1000, 100)))
    disk.close(WAIT_S)


def test_with_too_many_loads_waiting_the_disk_finds_nothing_more(tmp_path: Path) -> None:
    codec = SlowReadCodec()
    shelf_of(ArrayCodec(), tmp_path).store(entry_of(numbers(5000, 100)), ignore)
    disk, load = loading(tmp_path, codec)
    for number in range(MAX_LOADS):
        disk.load(f"other {number}")

    found = [disk.find(numbers(start, 101), salt="") for start in (0, 5000)]
    codec.go.set()
    disk.close(WAIT_S)

    assert sum(each is not None for each in found) == 1
    assert load.is_done


def test_pressure_drops_what_waits_and_spares_what_memory_holds_anyway(tmp_path: Path) -> None:
    codec = SlowCodec()
    disk = disk_of(tmp_path, codec)
    disk.save(entry_of(numbers(0, 100)))
    assert codec.started.wait(WAIT_S)
    for start in (1000, 2000):
        disk.save(entry_of(numbers(start, 100)))

    disk.drop_unsaved({entry_of(numbers(2000, 100)).digest})
    codec.go.set()
    disk.close(WAIT_S)

    shelf = shelf_of(ArrayCodec(), tmp_path)
    held = [shelf.match(numbers(start, 101), salt="") is not None for start in (0, 1000, 2000)]
    assert held == [True, False, True]


class FullCodec(ArrayCodec):
    """Fails as a full disk does, while it is full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = True
        self.tries = 0
        self.tried = threading.Event()

    def encode(self, payload: Any) -> Any:
        encoded = super().encode(payload)

        def buffers() -> Iterator[memoryview]:
            self.tries += 1
            self.tried.set()
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield from encoded.buffers()

        return type(encoded)(layout=encoded.layout, specs=encoded.specs, buffers=buffers)


def test_a_full_disk_is_told_once_tried_later_and_leaves_reading_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf_of(ArrayCodec(), tmp_path).store(entry_of(numbers(0, 100)), ignore)
    codec, now = FullCodec(), [0.0]
    disk = disk_of(tmp_path, codec, clock=lambda: now[0])
    assert disk.wait_until_scanned(WAIT_S)

    for trial in range(3):
        codec.tried.clear()
        disk.save(entry_of(numbers(1000 * (trial + 1), 100)))
        assert codec.tried.wait(WAIT_S)
        settled(disk)
        disk.save(entry_of(numbers(9000, 100)))
        now[0] += RETRY_S + 1
    codec.is_full = False
    disk.save(entry_of(numbers(8000, 100)))
    load = disk.load(disk.recent(1)[0])

    assert load.wait(WAIT_S)
    assert load.entry is not None
    disk.close(WAIT_S)
    assert codec.tries == 4
    assert lines(caplog) == ["kv_disk_write_failed"]
    assert shelf_of(ArrayCodec(), tmp_path).match(numbers(8000, 101), salt="") is not None
    assert list((tmp_path / "kv").glob("*.tmp")) == []


def settled(disk: KvDisk) -> None:
    """Wait until the thread has come back from what it does: a load waits for that."""
    load = disk.load("no such file")
    assert load.wait(WAIT_S)
    disk.take(load)


def test_a_folder_that_cannot_be_made_turns_the_tier_off_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kv").write_bytes(b"in the way")
    disk = disk_of(tmp_path, ArrayCodec())
    assert disk.wait_until_scanned(WAIT_S)

    disk.save(entry_of(numbers(0, 100)))
    load = disk.load("anything")

    assert load.wait(WAIT_S)
    assert load.entry is None
    disk.close(WAIT_S)
    assert lines(caplog) == ["kv_disk_off"]


class PickyCodec(ArrayCodec):
    """Has no form for anything."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = threading.Event()

    def encode(self, payload: Any) -> None:
        self.tried.set()


def test_a_payload_that_has_no_form_on_disk_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codec = PickyCodec()
    disk = disk_of(tmp_path, codec)
    disk.save(entry_of(numbers(0, 100)))
    assert codec.tried.wait(WAIT_S)
    settled(disk)
    disk.save(entry_of(numbers(1000, 100)))
    disk.close(WAIT_S)

    assert lines(caplog) == ["kv_not_storable"]


def test_closing_does_not_wait_longer_than_it_may(tmp_path: Path) -> None:
    codec = SlowCodec()
    disk = disk_of(tmp_path, codec)
    disk.save(entry_of(numbers(0, 100)))
    assert codec.started.wait(WAIT_S)

    threading.Timer(0.2, codec.go.set).start()
    disk.close(0.0)

    assert list((tmp_path / "kv").iterdir()) == []
    assert disk.find(numbers(0, 101), salt="") is None


def test_clearing_stops_what_is_being_written(tmp_path: Path) -> None:
    codec = SlowCodec()
    disk = disk_of(tmp_path, codec)
    disk.save(entry_of(numbers(0, 100)))
    assert codec.started.wait(WAIT_S)
    disk.save(entry_of(numbers(1000, 100)))

    disk.clear()
    codec.go.set()
    disk.close(WAIT_S)

    assert list((tmp_path / "kv").glob("*.kv")) == []


# Whole processes

KILLED = """
import sys, threading
from pathlib import Path
from tests.kv_fakes import ArrayCodec, entry_of
from wicketgate.engine.kv.shelf import KvShelf

shelf = KvShelf(Path(sys.argv[1]), ArrayCodec(), max_bytes=10**9)
shelf.open()
shelf.store(entry_of(range(100)), lambda: None)

def hang() -> None:
    print("writing", flush=True)
    threading.Event().wait()

shelf.store(entry_of(range(1000, 1100)), hang)
"""


def test_a_writer_that_is_killed_leaves_nothing_for_the_next_start(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "kv")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        beside = shelf_of(ArrayCodec(), tmp_path)
        assert len(list((tmp_path / "kv").glob("*.tmp"))) == 1
        writer.kill()

    shelf = shelf_of(ArrayCodec(), tmp_path)

    assert [file.suffix for file in (tmp_path / "kv").iterdir()] == [".kv"]
    for each in (shelf, beside):
        assert each.match(list(range(101)), salt="") is not None
        assert each.match(list(range(1000, 1101)), salt="") is None


SCAN = """
import sys
from pathlib import Path
from tests.kv_fakes import ArrayCodec
from wicketgate.engine.kv.cache import open_cache
from wicketgate.engine.options import HostOptions

options = HostOptions(kv_dir=sys.argv[1], kv_disk_bytes=10**9)
cache = open_cache(options, ArrayCodec(), clock=lambda: 0.0)
cache.preload(count=0, timeout_s=30.0)
print(cache.disk_bytes > 0, len(list(Path(sys.argv[1]).glob("*.kv"))), "mlx" in sys.modules)
cache.close(1.0)
"""


def test_a_thousand_files_are_known_without_mlx(root: Path, tmp_path: Path) -> None:
    shelf = shelf_of(ArrayCodec(), tmp_path)
    shelf.store(entry_of(numbers(0, 64)), ignore)
    (file,) = (tmp_path / "kv").glob("*.kv")
    document, _, payload = parts(file.read_bytes())
    for start in range(1000, 1000 + 999):
        made = entry_of(numbers(start, 64))
        copied = file.with_name(f"{file.name[:16]}-{made.digest}.kv")
        copied.touch(mode=0o600)
        copied.write_bytes(signed(document, made.tokens.tobytes(), payload))

    found = subprocess.run(
        [sys.executable, "-c", SCAN, str(tmp_path / "kv")],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.split() == ["True", "1000", "False"]
