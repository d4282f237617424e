"""Pins what wicketgate.platform answers for each system, on the system that the test runs on."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from wicketgate import platform

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
