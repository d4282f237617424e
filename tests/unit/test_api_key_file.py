"""Pins how a changed file of keys is taken up, that a bad one opens no door, and how a line is made."""

from __future__ import annotations

import logging
import os

import pytest

from wicketgate.api.key_file import KeyFile, key_line, new_key
from wicketgate.api.keys import Keys, Role
from wicketgate.errors import AuthenticationError, ConfigurationError, UsageError


def write(path, *lines: str, mode: int = 0o600) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(mode)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys"
    write(path, key_line("alice", Role.USER, "s1"))
    return path


def test_a_key_that_is_added_is_let_in_once_the_file_has_stood_still(path):
    file = KeyFile(path)
    write(path, key_line("alice", Role.USER, "s1"), key_line("bob", Role.ADMIN, "s2"))
    file.poll()
    assert len(file.keys) == 1
    file.poll()

    assert file.keys.check("Bearer s2").id == "bob"


def test_a_key_that_is_struck_out_is_refused(path):
    file = KeyFile(path)
    write(path, key_line("bob", Role.USER, "s2"))
    file.poll()
    file.poll()

    with pytest.raises(AuthenticationError):
        file.keys.check("Bearer s1")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: write(path, "nonsense"),
        write,
        lambda path: path.unlink(),
        lambda path: path.chmod(0o644),
    ],
    ids=["a wrong line", "empty", "gone", "open to others"],
)
def test_a_file_that_cannot_be_used_changes_nothing_and_is_logged_once(path, spoil, caplog):
    file = KeyFile(path)
    spoil(path)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            file.poll()

    assert file.keys.check("Bearer s1").id == "alice"
    with pytest.raises(AuthenticationError):
        file.keys.check("Bearer nope")
    assert [record.message for record in caplog.records] == ["api_keys_refused"]


def test_the_mode_that_was_the_fault_is_seen_to_be_mended(path):
    file = KeyFile(path)
    write(path, key_line("bob", Role.USER, "s2"), mode=0o644)
    file.poll()
    file.poll()
    path.chmod(0o600)
    file.poll()
    file.poll()

    assert file.keys.check("Bearer s2").id == "bob"


def test_a_file_replaced_by_another_of_the_same_size_and_time_is_noticed(path):
    file = KeyFile(path)
    other = path.with_name("other")
    write(other, key_line("alicf", Role.USER, "s2"))
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    file.poll()
    file.poll()

    assert file.keys.check("Bearer s2").id == "alicf"


def test_a_first_file_that_cannot_be_used_is_refused(path):
    write(path, "nonsense")

    with pytest.raises(ConfigurationError, match="line 1"):
        KeyFile(path)


def test_a_line_is_what_the_file_reads(path):
    secret = new_key()
    write(path, key_line("alice", Role.ADMIN, secret, limits={"streams": 4, "tokens_per_minute": None}))
    key = Keys.load(path).check(f"Bearer {secret}")

    assert (key.id, key.role, key.limits) == (
        "alice",
        Role.ADMIN,
        (("streams", 4), ("tokens_per_minute", None)),
    )
    assert secret not in path.read_text()


def test_no_two_keys_are_the_same():
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize("key_id", ["", "a b", "#a", "a\nb", "x" * 129])
def test_an_id_that_no_line_can_hold_is_refused(key_id):
    with pytest.raises(UsageError, match="an id must be"):
        key_line(key_id, Role.USER, "s")


@pytest.mark.parametrize("limits", [{"stream": 1}, {"streams": 0}])
def test_a_limit_that_no_line_can_hold_is_refused(limits):
    with pytest.raises(UsageError, match="must be one of"):
        key_line("a", Role.USER, "s", limits=limits)


def test_a_poll_tells_whether_something_new_was_taken_up_or_refused(path):
    file = KeyFile(path)
    told = [file.poll()]
    for line in (key_line("bob", Role.USER, "s2"), "nonsense"):
        write(path, line)
        told += [file.poll(), file.poll()]

    assert [*told, file.poll()] == [None, None, True, None, False, None]
