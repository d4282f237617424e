"""
Durable state of the flags and its audit, in one SQLite file.

Theory of operation: every change takes the next revision, a number that the whole ledger shares. In one
transaction it replaces the feature's row in `state` and adds a row to `audit`, so that the two cannot
disagree. An audit row holds the new state in full, and the SHA-256 of the row before it and of itself, so
that a row that was edited, removed or put in later is found. Whoever raises a share names the revision
that he saw; where it is no longer the feature's, nothing is written. Whoever lowers names none and waits
for the lock. Write-ahead log with synchronous=FULL: what was answered survives a power cut.

`rollback` runs through this file: it imports what a bare interpreter has at hand and nothing of ours but
the errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from wicketgate.errors import LedgerError, RevisionConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

FILE_NAME = "ledger.db"
"""Its name in the state folder."""
KILL_SWITCH = "kill_switch"
"""The row of `state` that is no feature: `{"engaged": true}` puts every feature off."""

_LAYOUT = 1
_SCHEMA = (
    "CREATE TABLE state (feature TEXT PRIMARY KEY, revision INTEGER NOT NULL, document TEXT NOT NULL)",
    "CREATE TABLE audit (revision INTEGER PRIMARY KEY, document TEXT NOT NULL, hash TEXT NOT NULL)",
    f"PRAGMA user_version = {_LAYOUT}",
)
_HASH_BEFORE_THE_FIRST = "0" * 64
_WAL_RETRY_S = 0.002


class Row(NamedTuple):
    """What the ledger says of one feature."""

    revision: int
    """Number of the change that wrote it; 0 where there is none yet."""
    document: Mapping[str, Any]
    """The state, as `rollout.stages.State.document` makes it."""


NO_ROW = Row(0, {})


class Contents(NamedTuple):
    """Everything that is in force by the ledger, at one moment."""

    rows: dict[str, Row]
    """By feature."""
    killed: bool
    """The kill switch is on."""
    revision: int
    """Number of the last change; 0 for an empty ledger."""


class Ledger:
    """
    The ledger of one state folder. Keeps no connection, so every thread may use it at any time.

    Args:
        path: The file; made with mode 0600, and its folder with 0700, by the first change.
        fullfsync: Flush the drive's own cache too (macOS, where fsync alone does not).
        timeout_s: How long a change waits for another one before it gives up.
        unix_clock: Wall time in seconds, for the audit.
    """

    def __init__(
        self,
        path: Path,
        *,
        fullfsync: bool = False,
        timeout_s: float = 5.0,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._fullfsync = fullfsync
        self._timeout_s = timeout_s
        self._unix_clock = unix_clock

    def read(self) -> Contents:
        """
        Read what is in force. A ledger that does not exist yet is empty.

        Raises:
            LedgerError: the file is no ledger, damaged, of a newer version, or not ours to read.
        """
        if not self.path.exists():
            return Contents({}, killed=False, revision=0)
        with self._opened() as db, _transaction(db, "DEFERRED"):
            rows = {row[0]: _row(row[1:]) for row in db.execute("SELECT * FROM state ORDER BY feature")}
            revision = _last_revision(db)
        switch = rows.pop(KILL_SWITCH, NO_ROW)
        return Contents(rows, killed=bool(switch.document.get("engaged")), revision=revision)

    def change(
        self,
        features: Iterable[str],
        decide: Callable[[str, Row], Mapping[str, Any] | None],
        *,
        action: str,
        actor: str,
        reason: str,
        expect_revision: int | None = None,
    ) -> dict[str, Row]:
        """
        Change features in one transaction: all of them, or none.

        Args:
            features: Whose rows.
            decide: Makes the new document of a feature from its row (`NO_ROW` where there is none); None
                leaves it as it is. Called with the write lock held; what it raises undoes everything.
            action: What is done, for the audit.
            actor: Who does it.
            reason: Why.
            expect_revision: Refuse unless every feature still is at this revision; None changes it
                whatever it is.

        Returns:
            The rows as they are now, the untouched ones too.

        Raises:
            RevisionConflictError: a feature is at another revision; nothing was written.
            LedgerError: the file cannot be used, or was locked for longer than `timeout_s`.
        """
        self._make()
        after: dict[str, Row] = {}
        with self._opened() as db, _transaction(db, "IMMEDIATE"):
            for feature in features:
                row = _read_row(db, feature)
                if expect_revision is not None and row.revision != expect_revision:
                    raise RevisionConflictError(
                        f"{feature} changed meanwhile: you saw revision {expect_revision}, it is "
                        f"{row.revision}. Nothing was done."
                    )
                document = decide(feature, row)
                if document is not None:
                    record = {"feature": feature, "action": action, "actor": actor, "reason": reason}
                    row = _write(db, record, before=row, document=document, at=self._now())
                after[feature] = row
        return after

    def verify(self) -> int:
        """
        Check the audit from its first row to its last, and the state against it.

        Returns:
            How many changes it holds.

        Raises:
            LedgerError: a row was edited, removed or put in, or the state is not what the audit says.
        """
        if not self.path.exists():
            return 0
        with self._opened() as db, _transaction(db, "DEFERRED"):
            audited: dict[str, Row] = {}
            before, count = _HASH_BEFORE_THE_FIRST, 0
            for revision, text, digest in db.execute("SELECT * FROM audit ORDER BY revision"):
                count += 1
                if revision != count or digest != _hash(before, text):
                    raise LedgerError(
                        f"{self.path}: the audit does not hold at revision {count}; it was edited."
                    )
                document = json.loads(text)
                audited[document["feature"]] = Row(revision, document["to"])
                before = digest
            for feature, revision, text in db.execute("SELECT * FROM state"):
                if audited.pop(feature, NO_ROW) != Row(revision, json.loads(text)):
                    raise LedgerError(f"{self.path}: the state of {feature} is not what the audit says.")
            if audited:
                raise LedgerError(f"{self.path}: the state of {', '.join(sorted(audited))} is missing.")
        return count

    def watch(self) -> Watch:
        """Return something that notices changes; for one thread, which closes it."""
        return Watch(self.path)

    def _now(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._unix_clock()))

    def _make(self) -> None:
        """Make folder and file for our user only; the write-ahead log takes the file's mode over."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Only a new file is opened: closing any descriptor of a database drops all POSIX locks that this
            # process holds on it, SQLite's own among them, and its watch would miss what others write.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise _unusable(self.path, error) from error

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one use; what SQLite raises becomes a `LedgerError`."""
        db: sqlite3.Connection | None = None
        try:
            db = sqlite3.connect(self.path, isolation_level=None, timeout=self._timeout_s)
            _use_wal(db, timeout_s=self._timeout_s)
            db.execute("PRAGMA synchronous = FULL")
            if self._fullfsync:
                db.execute("PRAGMA fullfsync = 1")
            _prepare(db, self.path)
            yield db
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise _unusable(self.path, error) from error
        finally:
            if db is not None:
                db.close()


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
            raise _unusable(self._path, error) from error
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
        with _transaction(db, "IMMEDIATE"):
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA:
                    db.execute(statement)
    elif layout != _LAYOUT:
        raise LedgerError(
            f"{path} has layout {layout}; this version of wicketgate knows layout {_LAYOUT}. "
            "Use the version that wrote it, or another --state-dir."
        )


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _write(
    db: sqlite3.Connection,
    record: dict[str, Any],
    *,
    before: Row,
    document: Mapping[str, Any],
    at: str,
) -> Row:
    """Write one feature's new state and its audit row."""
    row = Row(_last_revision(db) + 1, dict(document))
    feature = record["feature"]
    previous = db.execute("SELECT hash FROM audit WHERE revision = ?", (row.revision - 1,)).fetchone()
    text = _canonical(
        record
        | {
            "at": at,
            "revision": row.revision,
            "from": dict(before.document) or None,
            "to": row.document,
        }
    )
    digest = _hash(previous[0] if previous else _HASH_BEFORE_THE_FIRST, text)
    db.execute("INSERT INTO audit VALUES (?, ?, ?)", (row.revision, text, digest))
    db.execute(
        "INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (feature, row.revision, _canonical(row.document))
    )
    return row


def _read_row(db: sqlite3.Connection, feature: str) -> Row:
    found = db.execute("SELECT revision, document FROM state WHERE feature = ?", (feature,)).fetchone()
    return NO_ROW if found is None else _row(found)


def _row(columns: tuple[int, str]) -> Row:
    revision, text = columns
    return Row(revision, json.loads(text))


def _last_revision(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(revision), 0) FROM audit").fetchone()[0])


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _hash(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()


def _unusable(path: Path, error: Exception) -> LedgerError:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
        return LedgerError(f"{path} is locked by another program; try again.")
    return LedgerError(
        f"the ledger {path} cannot be used: {error}. Staged features are off until it can. "
        "Move it away to begin with an empty one, or restore it from a backup."
    )
