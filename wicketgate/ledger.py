"""
Durable state of the flags, their audit and the evidence of their guards, in one SQLite file.

Theory of operation: every change takes the next revision, a number that the whole ledger shares. In one
transaction it replaces the feature's row in `state` and adds a row to the audit (audit.py). Whoever raises a
share names the revision that he saw; where it is no longer the feature's, nothing is written. Whoever lowers
names none and waits for the lock.

Evidence is what a guard goes on from after a restart. It changes nothing by itself and may be lost, which
only makes a guard slower: it has a table of its own, without revision and audit, made when first needed.

`rollback` runs through this file: it imports what a bare interpreter has at hand and nothing of ours but
the errors.
"""

from __future__ import annotations

import itertools
import json
import time
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from wicketgate import audit
from wicketgate.audit import KILL_SWITCH, NO_ROW, Row
from wicketgate.errors import RevisionConflictError
from wicketgate.ledger_file import Watch, make, opened, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = ["FILE_NAME", "KILL_SWITCH", "NO_ROW", "Contents", "Ledger", "Row", "Watch"]

FILE_NAME = "ledger.db"
"""Its name in the state folder."""

_EVIDENCE = (
    "CREATE TABLE IF NOT EXISTS evidence (feature TEXT PRIMARY KEY, revision INTEGER NOT NULL,"
    " document TEXT NOT NULL, saved_unix_s REAL NOT NULL)"
)


class Contents(NamedTuple):
    """Everything that is in force by the ledger, at one moment."""

    rows: dict[str, Row]
    """By feature."""
    killed: bool
    """The kill switch is on."""
    revision: int
    """Number of the last change; 0 for an empty ledger."""
    kill_switch: Row = NO_ROW
    """The kill switch's own row: who moved it last, why, and at which revision."""
    evidence: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """By feature, what its guards had seen when it was saved last."""


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
        with self._opened() as db, transaction(db, "DEFERRED"):
            rows = {row[0]: _row(row[1:]) for row in db.execute("SELECT * FROM state ORDER BY feature")}
            revision = audit.last_revision(db)
            evidence = _read_evidence(db)
        switch = rows.pop(KILL_SWITCH, NO_ROW)
        killed = bool(switch.document.get("engaged"))
        return Contents(rows, killed=killed, revision=revision, kill_switch=switch, evidence=evidence)

    def change(
        self,
        features: Iterable[str],
        decide: Callable[[str, Row], Mapping[str, Any] | None],
        *,
        action: str,
        actor: str,
        reason: str,
        expect_revision: int | None = None,
        evidence: Mapping[str, Any] | None = None,
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
            evidence: What was seen that led to it, for the audit.

        Returns:
            The rows as they are now, the untouched ones too.

        Raises:
            RevisionConflictError: a feature is at another revision; nothing was written.
            LedgerError: the file cannot be used, or was locked for longer than `timeout_s`.
        """
        make(self.path)
        shown = {} if evidence is None else {"evidence": dict(evidence)}
        after: dict[str, Row] = {}
        with self._opened() as db, transaction(db, "IMMEDIATE"):
            record = {"action": action, "actor": actor, "reason": reason, "at": self._now(), **shown}
            for feature in features:
                row = _read_row(db, feature)
                if expect_revision is not None and row.revision != expect_revision:
                    raise RevisionConflictError(
                        f"{feature} changed meanwhile: you saw revision {expect_revision}, it is "
                        f"{row.revision}. Nothing was done."
                    )
                document = decide(feature, row)
                if document is not None:
                    row = audit.write(db, {"feature": feature, **record}, before=row, document=document)
                after[feature] = row
        return after

    def set_killed(
        self, engaged: bool, *, actor: str, reason: str, expect_revision: int | None = None
    ) -> Row:
        """
        Move the kill switch: engaged, every feature is off. Where it stands so already nothing is written.

        Args:
            engaged: Where to.
            actor: Who does it.
            reason: Why.
            expect_revision: Refuse unless the switch's row still is at this revision; None moves it whatever
                it is.

        Returns:
            The switch's row as it is now.

        Raises:
            RevisionConflictError: somebody moved it meanwhile; nothing was written.
            LedgerError: the file cannot be used, or was locked for longer than `timeout_s`.
        """

        def decide(_: str, row: Row) -> Mapping[str, Any] | None:
            if bool(row.document.get("engaged")) == engaged:
                return None
            return {
                "engaged": engaged,
                "actor": actor,
                "reason": reason,
                "updated_unix_s": self._unix_clock(),
            }

        rows = self.change(
            [KILL_SWITCH],
            decide,
            action="kill" if engaged else "unkill",
            actor=actor,
            reason=reason,
            expect_revision=expect_revision,
        )
        return rows[KILL_SWITCH]

    def save_evidence(self, documents: Mapping[str, Mapping[str, Any]]) -> None:
        """
        Keep what the guards of features have seen, for after a restart; not audited.

        Args:
            documents: By feature; the others' evidence stays as it is.

        Raises:
            LedgerError: the file cannot be used, or was locked for longer than `timeout_s`.
        """
        make(self.path)
        now_unix_s = self._unix_clock()
        with self._opened() as db, transaction(db, "IMMEDIATE"):
            db.execute(_EVIDENCE)
            for feature, document in documents.items():
                row = (feature, _read_row(db, feature).revision, audit.canonical(document), now_unix_s)
                db.execute("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?)", row)

    def history(self, feature: str | None = None, *, limit: int = 100) -> list[dict[str, Any]]:
        """
        Read what was done, newest first.

        Args:
            feature: To whom; the kill switch's changes are among it, because they concern every feature.
                None is everything.
            limit: Most rows.

        Returns:
            The rows of the audit: feature, action, actor, reason, at, revision, from, to, and evidence where
            there is some.

        Raises:
            LedgerError: the file cannot be used.
        """
        if not self.path.exists():
            return []
        with self._opened() as db, transaction(db, "DEFERRED"):
            return list(itertools.islice(audit.newest(db, feature), limit))

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
        with self._opened() as db, transaction(db, "DEFERRED"):
            return audit.verify(db, self.path)

    def watch(self) -> Watch:
        """Return something that notices changes; for one thread, which closes it."""
        return Watch(self.path)

    def _now(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._unix_clock()))

    def _opened(self) -> AbstractContextManager[sqlite3.Connection]:
        return opened(self.path, timeout_s=self._timeout_s, fullfsync=self._fullfsync)


def _read_row(db: sqlite3.Connection, feature: str) -> Row:
    found = db.execute("SELECT revision, document FROM state WHERE feature = ?", (feature,)).fetchone()
    return NO_ROW if found is None else _row(found)


def _row(columns: tuple[int, str]) -> Row:
    revision, text = columns
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(f"a state that is damaged ({error})", text, 0) from error
    if not isinstance(document, dict):
        raise json.JSONDecodeError("a state that is no object", text, 0)
    return Row(revision, document)


def _read_evidence(db: sqlite3.Connection) -> dict[str, Mapping[str, Any]]:
    """Read what was saved of the guards; what is damaged counts as lost."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'evidence'").fetchone() is None:
        return {}
    found: dict[str, Mapping[str, Any]] = {}
    # As bytes: SQLite itself would refuse text that is no UTF-8, and with it the whole ledger.
    for feature, text in db.execute("SELECT feature, CAST(document AS BLOB) FROM evidence"):
        with suppress(ValueError, RecursionError):
            document = json.loads(text)
            if isinstance(document, dict):
                found[feature] = document
    return found
