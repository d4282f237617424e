"""
The audit of the ledger: a chain of rows that cannot be edited unnoticed.

Theory of operation: a row holds what was done in full, and the SHA-256 of the row before it and of itself,
so that a row that was edited, removed or put in later is found. It is written in the transaction that
changes the state, so that the two cannot disagree.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from wicketgate.errors import LedgerError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from pathlib import Path

KILL_SWITCH = "kill_switch"
"""The row of `state` that is no feature: `{"engaged": true}` puts every feature off."""

_HASH_BEFORE_THE_FIRST = "0" * 64


class Row(NamedTuple):
    """What the ledger says of one feature."""

    revision: int
    """Number of the change that wrote it; 0 where there is none yet."""
    document: Mapping[str, Any]
    """The state, as `rollout.stages.State.document` makes it."""


NO_ROW = Row(0, {})


def write(
    db: sqlite3.Connection,
    record: Mapping[str, Any],
    *,
    before: Row,
    document: Mapping[str, Any],
) -> Row:
    """
    Write a new state and its row of the audit, in the transaction that is open.

    Args:
        db: The ledger, with its write lock held.
        record: Feature, action, actor, reason, at, and evidence where there is some.
        before: The feature's row so far.
        document: Its new state.
    """
    row = Row(last_revision(db) + 1, dict(document))
    feature = record["feature"]
    previous = db.execute("SELECT hash FROM audit WHERE revision = ?", (row.revision - 1,)).fetchone()
    text = canonical(
        {**record, "revision": row.revision, "from": dict(before.document) or None, "to": row.document}
    )
    digest = _hash(previous[0] if previous else _HASH_BEFORE_THE_FIRST, text)
    db.execute("INSERT INTO audit VALUES (?, ?, ?)", (row.revision, text, digest))
    db.execute(
        "INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (feature, row.revision, canonical(row.document))
    )
    return row


def verify(db: sqlite3.Connection, path: Path) -> int:
    """
    Check the audit from its first row to its last, and the state against it.

    Returns:
        How many changes it holds.

    Raises:
        LedgerError: a row was edited, removed or put in, or the state is not what the audit says.
    """
    audited: dict[str, Row] = {}
    before, count = _HASH_BEFORE_THE_FIRST, 0
    for revision, text, digest in db.execute("SELECT * FROM audit ORDER BY revision"):
        count += 1
        if revision != count or digest != _hash(before, text):
            raise LedgerError(f"{path}: the audit does not hold at revision {count}; it was edited.")
        document = json.loads(text)
        audited[document["feature"]] = Row(revision, document["to"])
        before = digest
    for feature, revision, text in db.execute("SELECT * FROM state"):
        if audited.pop(feature, NO_ROW) != Row(revision, json.loads(text)):
            raise LedgerError(f"{path}: the state of {feature} is not what the audit says.")
    if audited:
        raise LedgerError(f"{path}: the state of {', '.join(sorted(audited))} is missing.")
    return count


def newest(db: sqlite3.Connection, feature: str | None) -> Iterator[dict[str, Any]]:
    """Yield what was done to a feature or to all, the kill switch's changes among them, newest first."""
    for (text,) in db.execute("SELECT document FROM audit ORDER BY revision DESC"):
        record: dict[str, Any] = json.loads(text)
        if feature is None or record["feature"] in (feature, KILL_SWITCH):
            yield record


def last_revision(db: sqlite3.Connection) -> int:
    """Return the number of the last change, 0 where there is none."""
    return int(db.execute("SELECT coalesce(max(revision), 0) FROM audit").fetchone()[0])


def canonical(document: Mapping[str, Any]) -> str:
    """Write a document in the one form that is hashed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _hash(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()
