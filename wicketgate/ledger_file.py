"""
The SQLite file of the ledger: how it is made, opened, laid out and watched.

Write-ahead log with synchronous=FULL: what was answered survives a power cut. Imports nothing of ours but
the errors, because `rollback` runs through it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wicketgate.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LAYOUT = 1
_SCHEMA = (
    "CREATE TABLE state (feature TEXT PRIMARY KEY, revision INTEGER NOT NULL, document TEXT NOT NULL)",
    "CREATE TABLE audit (revision INTEGER PRIMARY KEY, document TEXT NOT NULL, hash TEXT NOT NULL)",
    f"PRAGMA user_version = {_LAYOUT}",
)
_WAL_RETRY_S = 0.002


def make(path: Path) -> None:
    """
    Make folder and file for our user only; the write-ahead log takes the file's mode over.

    Raises:
        LedgerError: one of them cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only a new file is opened: closing any descriptor of a database drops all POSIX locks that this
        # process holds on it, SQLite's own among them, and its watch would miss what others write.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise unusable(path, error) from error


@contextmanager
def opened(path: Path, *, timeout_s: float, fullfsync: bool) -> Iterator[sqlite3.Connection]:
    """
    Open the file for one use.

    Args:
        path: The file, which exists.
        timeout_s: How long a change waits for another one before it gives up.
        fullfsync: Flush the drive's own cache too (macOS, where fsync alone does not).

    Raises:
        LedgerError: what SQLite, or a document that is no JSON, raised.
    """
    db: sqlite3.Connection | None = None
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=timeout_s)
        _use_wal(db, timeout_s=timeout_s)
        db.execute("PRAGMA synchronous = FULL")
        if fullfsync:
            db.execute("PRAGMA fullfsync = 1")
        _prepare(db, path)
        yield db
    except (sqlite3.Error, json.JSONDecodeError) as error:
        raise unusable(path, error) from error
    finally:
        if db is not None:
            db.close()


@contextmanager
def transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Do all of it or nothing; `kind` is DEFERRED to read, IMMEDIATE to write."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


class Watch:
    """Notices that the ledger was changed, replaced or removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._seen: tuple[int, int, int] | None = None
        self._looked = False

    def changed(self) -> bool:
        """
        Tell whether something changed since the last look. The first look says yes.

        Raises:
            LedgerError: the file cannot be opened.
        """
        try:
            seen = self._look()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise unusable(self._path, error) from error
        changed = not self._looked or seen != self._seen
        self._seen, self._looked = seen, True
        return changed

    def close(self) -> None:
        """Let the file go."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _look(self) -> tuple[int, int, int] | None:
        """Return device, inode and SQLite's data version; None where there is no file."""
        try:
            stat = os.stat(self._path)  # noqa: PTH116 - Path.stat costs five times as much
        except FileNotFoundError:
            self.close()
            return None
        if self._db is None or self._seen is None or self._seen[:2] != (stat.st_dev, stat.st_ino):
            self.close()
            self._db = sqlite3.connect(self._path, isolation_level=None)
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        return stat.st_dev, stat.st_ino, version


def _use_wal(db: sqlite3.Connection, *, timeout_s: float) -> None:
    """
    Put the file into WAL mode, where it is not yet.

    Of several who do that to a new file at once, SQLite answers all but one that it is locked, at once and
    whatever the connection's timeout; it is nothing that could be waited for, so we ask again.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
        time.sleep(_WAL_RETRY_S)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Lay out a new file; refuse one from the future."""
    layout = db.execute("PRAGMA user_version").fetchone()[0]
    if layout == 0:
        with transaction(db, "IMMEDIATE"):
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA:
                    db.execute(statement)
    elif layout != _LAYOUT:
        raise LedgerError(
            f"{path} has layout {layout}; this version of wicketgate knows layout {_LAYOUT}. "
            "Use the version that wrote it, or another --state-dir."
        )


def unusable(path: Path, error: Exception) -> LedgerError:
    """Say what cannot be used, why, and what to do."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
        return LedgerError(f"{path} is locked by another program; try again.")
    return LedgerError(
        f"the ledger {path} cannot be used: {error}. Staged features are off until it can. "
        "Move it away to begin with an empty one, or restore it from a backup."
    )
