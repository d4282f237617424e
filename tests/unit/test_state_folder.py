"""The state folder is private, belongs to one runtime at a time, and keeps its token."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wicketgate.errors import ConfigurationError, RefusedError
from wicketgate.state_folder import StateFolder

if TYPE_CHECKING:
    from pathlib import Path


def test_it_is_made_private(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "a" / "state")

    assert state.path.stat().st_mode & 0o777 == 0o700
    state.close()


def test_a_second_runtime_is_told_who_holds_it(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)

    with pytest.raises(RefusedError, match=f"pid {os.getpid()}.*--state-dir"):
        StateFolder(tmp_path)

    first.close()


def test_a_closed_folder_is_free_again(tmp_path: Path) -> None:
    StateFolder(tmp_path).close()

    StateFolder(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match=r"state_dir is .*file/state"):
        StateFolder(tmp_path / "file" / "state")


def test_the_admin_token_is_made_once_and_private(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)

    token = state.admin_token()

    assert token.startswith("wg-")
    assert state.admin_token() == token
    assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600
    state.close()


def test_the_ledger_can_be_forgotten(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"ledger.db{suffix}").touch()

    state.forget_ledger()

    assert list(tmp_path.glob("ledger.db*")) == []
    state.close()


def test_a_token_that_is_none_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_bytes(b"\xff")
    state = StateFolder(tmp_path)

    with pytest.raises(ConfigurationError, match=r"admin\.token.*Remove it"):
        state.admin_token()

    state.close()
