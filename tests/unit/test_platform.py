"""Pins what wicketgate.platform answers for each system, on the system that the test runs on."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wicketgate import platform
from wicketgate.macos import Mac

HOME = Path("/home/anna")


def test_the_state_folder_on_linux_follows_xdg() -> None:
    env = {"XDG_STATE_HOME": "/var/lib/anna"}

    folder = platform.default_state_dir("demo", system="linux", env=env, home=HOME)

    assert folder == Path("/var/lib/anna/wicketgate/demo")


def test_the_state_folder_on_linux_has_a_default_without_xdg() -> None:
    folder = platform.default_state_dir("default", system="linux", env={}, home=HOME)

    assert folder == Path("/home/anna/.local/state/wicketgate/default")


def test_the_state_folder_on_macos_is_in_the_library() -> None:
    folder = platform.default_state_dir("default", system="darwin", env={"XDG_STATE_HOME": "/x"}, home=HOME)

    assert folder == Path("/home/anna/Library/Application Support/wicketgate/default")


def test_kv_on_macos_lies_among_the_caches_which_snapshots_leave_out() -> None:
    state = Path("/state")

    assert platform.default_kv_dir("d", state_dir=state, system="darwin", home=HOME) == Path(
        "/home/anna/Library/Caches/wicketgate/d/kv"
    )
    assert platform.default_kv_dir("d", state_dir=state, system="linux", home=HOME) == Path("/state/kv")


def test_the_control_socket_lies_in_the_state_folder_as_long_as_its_path_can_be_bound() -> None:
    folder = Path("/" + "x" * (103 - len("/control.sock") - 1))

    path = platform.control_socket_path(folder, home=HOME)

    assert path == folder / "control.sock"
    assert len(os.fsencode(path)) == 103


def test_the_control_socket_moves_to_a_short_path_when_its_own_would_be_too_long() -> None:
    folder = Path("/" + "x" * (104 - len("/control.sock") - 1))

    path = platform.control_socket_path(folder, home=HOME)

    # The first 16 hex digits of the SHA-256 of the folder's path.
    assert path == HOME / ".wicketgate" / "run" / "4776c7e8950e444a.sock"


def test_the_limit_of_open_files_never_falls() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    in_force = platform.raise_open_files_limit(1)

    assert in_force == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before


def test_the_limit_of_open_files_rises_to_what_is_wanted_or_allowed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        in_force = platform.raise_open_files_limit(512)

        assert in_force == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert in_force == (512 if hard == resource.RLIM_INFINITY else min(512, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sqlite_needs_full_syncs_on_macos_alone() -> None:
    assert platform.sqlite_needs_fullfsync("darwin")
    assert not platform.sqlite_needs_fullfsync("linux")


def test_a_process_is_read_from_proc(tmp_path: Path) -> None:
    folder = tmp_path / "42"
    folder.mkdir()
    (folder / "statm").write_text("9000 250 30 1 0 800 0\n")
    before_utime = "S 1 42 42 0 -1 4194304 1 2 3 4"
    (folder / "stat").write_text(f"42 (a ) name) {before_utime} 150 50 0 0 20 0 1 0 77\n")
    ticks = os.sysconf("SC_CLK_TCK")

    assert platform.process_memory_bytes(42, proc=tmp_path) == 250 * os.sysconf("SC_PAGE_SIZE")
    assert platform.process_cpu_s(42, proc=tmp_path) == 200 / ticks


def test_a_process_that_cannot_be_read_has_no_figures_rather_than_zero(tmp_path: Path) -> None:
    assert platform.process_memory_bytes(42, proc=tmp_path) is None
    assert platform.process_cpu_s(42, proc=tmp_path) is None


def test_damaged_figures_of_a_process_are_no_figures(tmp_path: Path) -> None:
    folder = tmp_path / "42"
    folder.mkdir()
    (folder / "statm").write_text("what")
    (folder / "stat").write_text("42 (x) S 1")

    assert platform.process_memory_bytes(42, proc=tmp_path) is None
    assert platform.process_cpu_s(42, proc=tmp_path) is None


def test_open_descriptors_are_counted_in_the_first_folder_that_can_be_listed(tmp_path: Path) -> None:
    for name in ("0", "1", "2", "3"):
        (tmp_path / name).touch()

    # One of the four is the listing's own.
    assert platform.open_file_descriptors(folders=(tmp_path / "missing", tmp_path)) == 3
    assert platform.open_file_descriptors(folders=(tmp_path / "missing",)) is None


def test_the_memory_of_the_machine_is_positive() -> None:
    total = platform.total_memory_bytes()

    assert total is not None
    assert total > 2**20


def test_openblas_is_never_preloaded_on_macos() -> None:
    environment = platform.engine_environment("auto", system="darwin", env={})

    assert "LD_PRELOAD" not in environment
    assert environment["MLX_METAL_FAST_SYNCH"] == "0"


def test_openblas_is_not_preloaded_when_it_is_switched_off() -> None:
    assert "LD_PRELOAD" not in platform.engine_environment("off", system="linux", env={})


def test_a_library_with_which_no_process_starts_is_not_preloaded(tmp_path: Path) -> None:
    folder = tmp_path / "x86_64-linux-gnu"
    folder.mkdir()
    (folder / "libopenblas.so.0").write_bytes(b"no library")

    found = platform.openblas_preload(system="linux", root=tmp_path, multiarch="x86_64-linux-gnu")

    assert found is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD belongs to Linux")
def test_a_found_openblas_goes_before_what_the_user_preloads() -> None:
    if platform.openblas_preload() is None:
        pytest.skip("no OpenBLAS on this machine")

    environment = platform.engine_environment("auto", env={"LD_PRELOAD": "/lib/mine.so"})

    assert environment["LD_PRELOAD"] == f"{platform.openblas_preload()}:/lib/mine.so"
    assert environment["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("system", "env", "blas"),
    [
        ("darwin", {}, "accelerate"),
        ("linux", {"LD_PRELOAD": "/usr/lib/libopenblas.so.0"}, "openblas"),
        ("linux", {}, "reference"),
    ],
)
def test_the_blas_in_use_is_named(system: str, env: dict[str, str], blas: str) -> None:
    assert platform.blas_in_use(system=system, env=env) == blas


def test_a_host_on_macos_may_be_silent_for_longer() -> None:
    assert platform.engine_silence_s("darwin") == 10.0
    assert platform.engine_silence_s("linux") == 2.0


# What only a Mac has


class FakeProcesses:
    """A library of macOS that counts 77 bytes for every process."""

    def proc_pid_rusage(self, pid: int, flavour: int, buffer: Any) -> int:
        ctypes.memmove(ctypes.addressof(buffer) + 72, struct.pack("=Q", 77), 8)
        return 0


def test_the_memory_of_a_process_on_macos_is_its_footprint() -> None:
    library: Any = FakeProcesses()
    this_mac = Mac(system=None, processes=library, run=lambda command: None)

    assert platform.process_memory_bytes(42, this_mac=this_mac) == 77


def test_a_mac_whose_libraries_are_missing_tells_nothing() -> None:
    this_mac = platform.mac("darwin")
    assert this_mac is not None
    if sys.platform == "darwin":
        pytest.skip("this one has them")

    assert this_mac.memory_pressure() is None
    assert this_mac.thermal_level() is None
    assert this_mac.power_mode() is None
    assert this_mac.footprint_bytes(os.getpid()) is None
    assert not this_mac.prefer_this_thread()


def test_another_system_is_no_mac() -> None:
    assert platform.mac("linux") is None
    assert platform.crash_reports(0.0, system="linux") == ()


def test_reports_of_a_crash_are_looked_for_at_home(tmp_path: Path) -> None:
    folder = tmp_path / "Library" / "Logs" / "DiagnosticReports"
    folder.mkdir(parents=True)
    for name, at_unix_s in (("new.panic", 1e6), ("old.panic", 1e6 - 8 * 86_400)):
        (folder / name).touch()
        os.utime(folder / name, (at_unix_s, at_unix_s))

    assert "new.panic" in platform.crash_reports(1e6 + 60, system="darwin", home=tmp_path)
    assert "old.panic" not in platform.crash_reports(1e6 + 60, system="darwin", home=tmp_path)


@pytest.mark.parametrize(
    ("system", "release", "version"),
    [
        ("darwin", "15.5", (15, 5)),
        ("darwin", "26.2.1", (26, 2, 1)),
        ("darwin", "", None),
        ("linux", "6", None),
    ],
)
def test_the_version_of_macos_is_compared_by_its_numbers(
    system: str, release: str, version: tuple[int, ...] | None
) -> None:
    assert platform.macos_version(system=system, release=release) == version


def test_the_version_of_this_system_is_found() -> None:
    assert (platform.macos_version() is None) == (sys.platform != "darwin")


class FakeDisk:
    """Records how a file is flushed."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.calls: list[tuple[str, int]] = []

    def control(self, descriptor: int, command: int) -> int:
        self.calls.append(("fcntl", command))
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return 0

    def sync(self, descriptor: int) -> None:
        self.calls.append(("fsync", descriptor))


def test_a_file_on_macos_is_flushed_through_the_drives_cache() -> None:
    disk = FakeDisk()

    platform.flush_to_disk(3, system="darwin", control=disk.control, sync=disk.sync)

    assert disk.calls == [("fcntl", 51)]


def test_a_file_elsewhere_is_synced() -> None:
    disk = FakeDisk()

    platform.flush_to_disk(3, system="linux", control=disk.control, sync=disk.sync)

    assert disk.calls == [("fsync", 3)]


def test_a_file_system_that_cannot_flush_fully_is_synced() -> None:
    disk = FakeDisk(errno.ENOTSUP)

    platform.flush_to_disk(3, system="darwin", control=disk.control, sync=disk.sync)

    assert disk.calls == [("fcntl", 51), ("fsync", 3)]


def test_a_disk_that_fails_is_not_taken_for_one_that_cannot() -> None:
    disk = FakeDisk(errno.EIO)

    with pytest.raises(OSError, match="Input/output error"):
        platform.flush_to_disk(3, system="darwin", control=disk.control, sync=disk.sync)


def test_a_container_may_use_what_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")

    assert platform.usable_memory_bytes(total_bytes=5000, groups=tmp_path) == 1000


def test_an_old_kind_of_container_may_use_what_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")

    assert platform.usable_memory_bytes(total_bytes=5000, groups=tmp_path) == 5000


def test_a_container_without_a_bound_may_use_the_machine(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")

    assert platform.usable_memory_bytes(total_bytes=5000, groups=tmp_path) == 5000
    assert platform.usable_memory_bytes(groups=tmp_path) == platform.total_memory_bytes()


def test_a_program_is_run_for_what_it_prints() -> None:
    assert platform.output_of([sys.executable, "-c", "print(5)"]) == "5\n"
    assert platform.output_of([sys.executable, "-c", "raise SystemExit(1)"]) is None
    assert platform.output_of(["/nowhere/pmset"]) is None


@pytest.mark.parametrize("system", ["darwin", "linux"])
def test_the_clock_that_counts_sleep_never_runs_behind(system: str) -> None:
    clock = platform.sleeping_clock(system)

    assert clock() <= clock()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="CLOCK_BOOTTIME belongs to Linux")
def test_the_clock_that_counts_sleep_on_linux_is_the_one_since_boot() -> None:
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)

    assert before_s <= platform.sleeping_clock()() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_socket_of_a_user_with_a_long_name_can_be_bound_on_every_system() -> None:
    home = Path("/Users") / ("u" * 40)
    state = platform.default_state_dir("n" * 64, system="darwin", home=home)

    path = platform.control_socket_path(state, home=home)

    assert len(os.fsencode(path)) <= 103
    assert path.parent == home / ".wicketgate" / "run"
