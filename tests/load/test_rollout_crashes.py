"""
Pins that no kill, and no system call that fails, tears the ledger, loses an answer or raises a share.

WICKETGATE_LEDGER_KILLS makes the kills more (500 is the bar), WICKETGATE_SYSCALLS=all takes every system
call of a change instead of some.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from rollout.spec import MILLIPERCENT
from tests.load import ledger_writer
from tests.load.ledger_writer import SPEC, STAGED
from wicketgate.flags import FlagBoard
from wicketgate.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.context import ForkServerContext
    from pathlib import Path

KILLS = int(os.environ.get("WICKETGATE_LEDGER_KILLS", "40"))
EVERY_SYSCALL = os.environ.get("WICKETGATE_SYSCALLS") == "all"
WRITERS = 4
LIFE_S = 0.25
"""Longest that a writer lives after all have begun."""
START_S = 30.0
TRACED_S = 120.0
"""Where locks fail SQLite waits for them, five seconds each time."""
SEED = 20261121


IDEMPOTENT = frozenset({"rollback", "kill", "unkill"})
"""Asked for what is so already, they are answered with the change that made it so."""


@dataclass
class Said:
    """What one writer said until it ended."""

    answered: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Revision and action, by reason."""
    doubtful: set[str] = field(default_factory=set)
    """Reasons of changes that failed or were cut off: they may have been made or not."""


def said_by(name: str, lines: Iterable[str]) -> Said:
    said = Said()
    for line in lines:
        word, number, *answer = line.split()
        reason = f"{name}:{number}"
        if word == "try":
            said.doubtful.add(reason)
        elif word != "failed":
            said.doubtful.discard(reason)
        if word == "done" and answer[0] != "0":
            said.answered[reason] = int(answer[0]), answer[1]
    return said


def audit_of(path: Path) -> list[dict]:
    with closing(sqlite3.connect(path)) as db:
        return [json.loads(row[0]) for row in db.execute("SELECT document FROM audit ORDER BY revision")]


def wrong(path: Path, said: list[Said]) -> list[str]:
    """Say what the ledger holds that nobody asked for, and what it lacks that was answered."""
    if Ledger(path).verify() == 0:
        return [f"{each.answered} is lost" for each in said if each.answered]
    rows = {row["revision"]: row for row in audit_of(path)}
    found = []
    asked: set[str] = set()
    for each in said:
        asked |= each.answered.keys() | each.doubtful
        for reason, (revision, action) in each.answered.items():
            row = rows.get(revision, {"action": None, "reason": None})
            if row["action"] != action or (row["reason"] != reason and action not in IDEMPOTENT):
                found.append(f"{reason} was answered with {action} at {revision}, which is {row}")
    found += [f"nobody asked for {row}" for row in rows.values() if row["reason"] not in asked]
    return found + wrong_exposure(path, rows.values())


def wrong_exposure(path: Path, rows: Iterable[dict]) -> list[str]:
    """Compare the shares that a gateway would serve after its start with what the audit's last rows say."""
    last = {row["feature"]: row["to"] for row in rows}
    killed = last.get("kill_switch", {}).get("engaged", False)
    board = FlagBoard(SPEC, Ledger(path))
    found = []
    for feature in STAGED:
        due = 0 if killed else last.get(feature, {}).get("share_millipercent", 0)
        share = board.snapshot.shares[feature].percentage
        if round(share * MILLIPERCENT) != due:
            found.append(f"{feature} is at {share} % and not at {due} thousandths of a percent")
    return found


class Life:
    """One writer from its beginning to its end."""

    def __init__(self, context: ForkServerContext, path: Path, *, name: str) -> None:
        self.name = name
        self.line_in, line_out = context.Pipe(duplex=False)
        self.process = context.Process(
            target=ledger_writer.write, args=(str(path), name, line_out, zlib.crc32(name.encode()))
        )
        self.process.start()
        line_out.close()

    def said(self) -> Said:
        """Wait for its end, and return what it said."""
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL, "a writer ended by itself"
        lines = []
        with suppress(EOFError):
            while True:
                lines.append(self.line_in.recv_bytes().decode())
        self.line_in.close()
        return said_by(self.name, lines)


@pytest.fixture(scope="module")
def fork() -> ForkServerContext:
    """Return what makes a process from one that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([ledger_writer.__name__])
    return context


def test_kills_of_processes_that_change_the_ledger_tear_nothing(tmp_path, fork, capsys):
    path = tmp_path / "ledger.db"
    chance = random.Random(SEED)
    said: list[Said] = []
    cut_off = 0
    for round_ in range(-(-KILLS // WRITERS)):
        lives = [Life(fork, path, name=f"{round_}.{number}") for number in range(WRITERS)]
        for life in lives:
            assert life.line_in.poll(START_S), "a writer did not begin"
        for life in chance.sample(lives, WRITERS):
            life.process.join(chance.uniform(0, 2 * LIFE_S / WRITERS))
            life.process.kill()
        ended = [life.said() for life in lives]
        said += ended
        cut_off += sum(bool(each.doubtful) for each in ended)

        assert wrong(path, said) == [], f"after round {round_}, seed {SEED}"

    revisions = Ledger(path).verify()
    answered = sum(len(each.answered) for each in said)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(said)} kills, {cut_off} in the middle of a change, {revisions} changes in the audit,"
            f" {answered} of them answered\n"
        )
    assert cut_off > len(said) / 4, "too few were killed at work; it proves little"


FAILURES = [
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("fdatasync", "EIO"),
    ("pread64", "EIO"),
    ("openat", "EMFILE"),
    ("fcntl", "ENOLCK"),
    ("ftruncate", "EIO"),
    ("mmap", "ENOMEM"),
    ("unlink", "EACCES"),
]
OFTEN = (3, 7) if not EVERY_SYSCALL else (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 17, 19, 23)


def traced(path: Path, *options: str, steps: int) -> tuple[int, Said, str]:
    """Run a writer under strace; returns its exit code, what it said, and the system calls on the ledger."""
    files = [f"{path}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]
    log = path.with_suffix(".strace")
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-o", str(log), *options),
            *(word for file in files for word in ("-P", file)),
            *(sys.executable, "-m", "tests.load.ledger_writer", str(path), str(steps)),
        ],
        capture_output=True,
        text=True,
        timeout=TRACED_S,
    )
    assert done.stdout or done.returncode < 0, done.stderr
    return done.returncode, said_by("alone", done.stdout.splitlines()), log.read_text()


def system_calls(log: str) -> list[tuple[str, int]]:
    """List a trace's system calls, each with how many of its name there were until then."""
    count: Counter[str] = Counter()
    found = []
    for name in re.findall(r"^\d+ +(\w+)\(", log, re.MULTILINE):
        count[name] += 1
        found.append((name, count[name]))
    return found


@pytest.mark.needs("strace")
def test_a_kill_at_a_system_call_leaves_the_ledger_before_or_after_the_change(tmp_path, capsys):
    (tmp_path / "whole").mkdir()
    points = system_calls(traced(tmp_path / "whole" / "ledger.db", steps=4)[2])
    tried = points if EVERY_SYSCALL else random.Random(SEED).sample(points, 10)
    for number, (call, which) in enumerate(tried):
        path = tmp_path / str(number) / "ledger.db"
        path.parent.mkdir()

        code, said, _ = traced(path, "-e", f"inject={call}:signal=KILL:when={which}", steps=4)

        assert code == -signal.SIGKILL
        assert wrong(path, [said]) == [], f"killed at {call} number {which}"
    assert len(points) > 100, "the trace was not understood"
    with capsys.disabled():
        sys.stdout.write(f"\nkilled at {len(tried)} of {len(points)} system calls on the ledger's files\n")


@pytest.mark.needs("strace")
@pytest.mark.parametrize(("call", "error"), FAILURES)
def test_a_system_call_that_fails_loses_no_answer(tmp_path, call, error):
    injected = 0
    for often in OFTEN:
        path = tmp_path / str(often) / "ledger.db"
        path.parent.mkdir()

        code, said, log = traced(path, "-e", f"inject={call}:error={error}:when={often}+{often}", steps=12)

        injected += log.count("(INJECTED)")
        assert code == 0
        assert wrong(path, [said]) == [], f"{call} fails with {error}, every {often}th"
    assert injected > 0
