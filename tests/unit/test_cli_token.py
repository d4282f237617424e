"""`wicketgate token`: a key is shown once, its hash is what the file keeps, and the file lets it in."""

from __future__ import annotations

import json
import stat

import pytest

from wicketgate.api.keys import Keys, Role
from wicketgate.cli.main import run
from wicketgate.errors import ExitCode


def test_a_key_that_is_added_is_let_in_and_is_not_in_the_file(tmp_path, capsys) -> None:
    file = tmp_path / "keys"

    code = run(["token", "alice", "--role", "admin", "--add", str(file)])
    key = capsys.readouterr().out.strip()

    assert code == ExitCode.DONE
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = Keys.load(file).check(f"Bearer {key}")
    assert (found.id, found.role) == ("alice", Role.ADMIN)


def test_a_second_name_goes_behind_the_first_even_without_a_newline(tmp_path, capsys) -> None:
    file = tmp_path / "keys"
    run(["token", "alice", "--add", str(file)])
    file.write_text(file.read_text().rstrip("\n"))
    capsys.readouterr()

    run(["token", "bob", "--add", str(file), "--json"])
    document = json.loads(capsys.readouterr().out)

    assert Keys.load(file).check(None, document["key"]).id == "bob"
    assert document["file"] == str(file)


@pytest.mark.parametrize("name", ["alice", "two words", "#x"])
def test_a_name_that_cannot_be_added_changes_nothing(tmp_path, capsys, name) -> None:
    file = tmp_path / "keys"
    run(["token", "alice", "--add", str(file)])
    before = file.read_text()

    code = run(["token", name, "--add", str(file)])

    assert code == ExitCode.USAGE
    assert file.read_text() == before


def test_without_a_file_the_line_is_shown(capsys) -> None:
    code = run(["token", "alice"])
    shown = capsys.readouterr()

    assert code == ExitCode.DONE
    assert shown.out.startswith("wg_")
    assert "alice user " in shown.err


def test_a_folder_in_place_of_the_file_is_an_error_that_names_it(tmp_path, capsys) -> None:
    code = run(["token", "alice", "--add", str(tmp_path)])

    assert code == ExitCode.USAGE
    assert str(tmp_path) in capsys.readouterr().err
