"""Pins the ledger: state and audit in one transaction, compare-and-swap, the chain, evidence, the kill."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from wicketgate.errors import LedgerError, RevisionConflictError
from wicketgate.ledger import KILL_SWITCH, NO_ROW, Contents, Ledger, Row


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "state" / "ledger.db", unix_clock=lambda: 1_700_000_000.0)


def write(ledger: Ledger, feature: str = "f", share: int = 1, **other) -> Row:
    """Write one document."""
    rows = ledger.change(
        [feature], lambda _name, _row: {"share": share}, action="start", actor="ann@mill", reason="r", **other
    )
    return rows[feature]


def audit(ledger: Ledger) -> list[dict]:
    """Read the audit as it stands in the file."""
    with sqlite3.connect(ledger.path) as db:
        rows = [json.loads(row[0]) for row in db.execute("SELECT document FROM audit ORDER BY revision")]
    db.close()
    return rows


def damage(ledger: Ledger, statement: str, *values: object) -> None:
    """Change the file behind the ledger's back."""
    with sqlite3.connect(ledger.path) as db:
        db.execute(statement, values)
    db.close()


def test_a_ledger_that_does_not_exist_is_empty_and_reading_makes_no_file(ledger):
    assert ledger.read() == Contents({}, killed=False, revision=0)
    assert ledger.verify() == 0
    assert not ledger.path.exists()


def test_what_was_written_is_read_by_another_ledger_of_the_same_file(ledger):
    write(ledger, share=5)

    assert Ledger(ledger.path).read() == Contents({"f": Row(1, {"share": 5})}, killed=False, revision=1)


def test_file_and_folder_are_for_their_user_only(ledger):
    write(ledger)

    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert ledger.path.parent.stat().st_mode & 0o777 == 0o700


def test_revisions_rise_over_all_features(ledger):
    revisions = [write(ledger, feature).revision for feature in ("a", "b", "a")]

    assert revisions == [1, 2, 3]
    assert ledger.read().revision == 3


def test_a_change_at_the_expected_revision_is_written(ledger):
    write(ledger)

    assert write(ledger, share=2, expect_revision=1) == Row(2, {"share": 2})


def test_a_change_at_another_revision_is_refused_and_nothing_is_written(ledger):
    write(ledger)
    write(ledger)

    with pytest.raises(RevisionConflictError, match=r"you saw revision 1, it is 2\. Nothing was done"):
        write(ledger, share=9, expect_revision=1)

    assert ledger.read().rows["f"] == Row(2, {"share": 1})


def test_revision_0_is_expected_of_a_feature_without_a_row(ledger):
    assert write(ledger, expect_revision=0).revision == 1


def test_several_features_change_together_or_not_at_all(ledger):
    def refuse_b(name: str, _row: Row) -> dict:
        if name == "b":
            raise ValueError("not b")
        return {"share": 3}

    with pytest.raises(ValueError, match="not b"):
        ledger.change(["a", "b"], refuse_b, action="x", actor="a", reason="")

    assert ledger.read().rows == {}


def test_what_is_left_as_it_is_leaves_no_audit(ledger):
    write(ledger)

    rows = ledger.change(["f", "g"], lambda _name, _row: None, action="x", actor="a", reason="")

    assert rows == {"f": Row(1, {"share": 1}), "g": NO_ROW}
    assert ledger.verify() == 1


def test_the_audit_says_who_did_what_when_why_and_from_what_to_what(ledger):
    write(ledger, share=1)
    write(ledger, share=2)

    assert audit(ledger)[1] == {
        "action": "start",
        "actor": "ann@mill",
        "at": "2023-11-14T22:13:20Z",
        "feature": "f",
        "from": {"share": 1},
        "reason": "r",
        "revision": 2,
        "to": {"share": 2},
    }
    assert audit(ledger)[0]["from"] is None


def test_a_reason_of_strange_letters_is_kept(ledger):
    ledger.change(["f"], lambda *_: {"reason": "\udcff ü"}, action="x", actor="a", reason="\udcff ü")

    assert ledger.read().rows["f"].document == {"reason": "\udcff ü"}
    assert ledger.verify() == 1


def test_the_kill_switch_is_a_row_that_is_no_feature(ledger):
    ledger.change([KILL_SWITCH], lambda *_: {"engaged": True}, action="kill", actor="a", reason="r")

    assert ledger.read() == Contents({}, killed=True, revision=1, kill_switch=Row(1, {"engaged": True}))


def test_the_kill_switch_says_who_moved_it_and_can_be_moved_back(ledger):
    ledger.set_killed(True, actor="ann@mill", reason="INC-9")

    row = ledger.set_killed(False, actor="bob@mill", reason="mended", expect_revision=1)

    assert (row.revision, row.document["engaged"], row.document["actor"]) == (2, False, "bob@mill")
    assert not ledger.read().killed
    assert [each["action"] for each in audit(ledger)] == ["kill", "unkill"]


def test_moving_the_kill_switch_where_it_stands_writes_nothing(ledger):
    first = ledger.set_killed(True, actor="ann@mill", reason="r")

    second = ledger.set_killed(True, actor="bob@mill", reason="r")

    assert second == first
    assert ledger.verify() == 1


def test_unkilling_at_another_revision_is_refused(ledger):
    ledger.set_killed(True, actor="ann@mill", reason="r")

    with pytest.raises(RevisionConflictError, match="kill_switch changed meanwhile"):
        ledger.set_killed(False, actor="bob@mill", reason="r", expect_revision=0)

    assert ledger.read().killed


def test_the_evidence_that_led_to_a_change_is_in_the_audit(ledger):
    write(ledger, evidence={"n": 40, "k": 2, "e": 2100.5})

    assert audit(ledger)[0]["evidence"] == {"n": 40, "k": 2, "e": 2100.5}
    assert ledger.verify() == 1


def test_saved_evidence_is_read_back_and_is_no_change(ledger):
    write(ledger)
    ledger.save_evidence({"f": {"n": 1}, "g": {"n": 2}})
    ledger.save_evidence({"f": {"n": 3}})

    contents = ledger.read()

    assert contents.evidence == {"f": {"n": 3}, "g": {"n": 2}}
    assert contents.revision == ledger.verify() == 1


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, '{"n": ' + "9" * 5000 + "}", b"\xff", "[]"], ids=range(5)
)
def test_damaged_evidence_is_lost_and_nothing_else(ledger, text):
    write(ledger)
    ledger.save_evidence({"f": {"n": 1}, "g": {"n": 2}})
    with closing(sqlite3.connect(ledger.path)) as db, db:
        value = "CAST(? AS TEXT)" if isinstance(text, bytes) else "?"
        db.execute(f"UPDATE evidence SET document = {value} WHERE feature = 'f'", (text,))

    contents = ledger.read()

    assert contents.evidence == {"g": {"n": 2}}
    assert contents.revision == 1


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000, "9" * 5000], ids=range(5))
@pytest.mark.parametrize("feature", ["f", KILL_SWITCH])
def test_a_ledger_with_a_damaged_row_is_refused(ledger, feature, text):
    write(ledger, feature)
    with closing(sqlite3.connect(ledger.path)) as db, db:
        db.execute("UPDATE state SET document = ? WHERE feature = ?", (text, feature))

    with pytest.raises(LedgerError, match="cannot be used"):
        ledger.read()


def test_a_ledger_of_before_there_was_evidence_has_none(ledger):
    write(ledger)

    assert ledger.read().evidence == {}


def test_evidence_can_be_saved_before_anything_was_changed(ledger):
    ledger.save_evidence({"f": {"n": 1}})

    assert ledger.read() == Contents({}, killed=False, revision=0, evidence={"f": {"n": 1}})


@pytest.mark.parametrize("document", ["{", "[]", "7"])
def test_damaged_evidence_counts_as_lost_and_harms_nothing_else(ledger, document):
    write(ledger)
    ledger.save_evidence({"f": {"n": 1}, "g": {"n": 2}})
    damage(ledger, "UPDATE evidence SET document = ? WHERE feature = 'f'", document)

    contents = ledger.read()

    assert contents.evidence == {"g": {"n": 2}}
    assert contents.rows["f"] == Row(1, {"share": 1})


def test_saved_evidence_is_noticed_as_any_change_of_the_file(ledger):
    write(ledger)
    watch = ledger.watch()
    watch.changed()

    ledger.save_evidence({"f": {"n": 1}})

    assert watch.changed()
    watch.close()


def test_history_is_newest_first_and_of_one_feature_with_the_kill_switch(ledger):
    for feature in ("a", "b", "a"):
        write(ledger, feature)
    ledger.set_killed(True, actor="ann@mill", reason="r")

    def told(**asked) -> list[tuple[str, int]]:
        return [(each["feature"], each["revision"]) for each in ledger.history(**asked)]

    assert told() == [(KILL_SWITCH, 4), ("a", 3), ("b", 2), ("a", 1)]
    assert told(feature="b") == [(KILL_SWITCH, 4), ("b", 2)]
    assert told(feature="a", limit=2) == [(KILL_SWITCH, 4), ("a", 3)]


def test_a_ledger_that_does_not_exist_has_no_history(ledger):
    assert ledger.history() == []


def test_an_untouched_ledger_verifies(ledger):
    for feature in ("a", "b", "a"):
        write(ledger, feature)

    assert ledger.verify() == 3


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE audit SET document = replace(document, 'ann', 'bob') WHERE revision = 2", "revision 2"),
        ("DELETE FROM audit WHERE revision = 2", "revision 2"),
        ("UPDATE audit SET hash = 'x' WHERE revision = 1", "revision 1"),
        ("DELETE FROM audit WHERE revision = 3", "the state of a is not what"),
        ("UPDATE state SET document = '{\"share\":100}' WHERE feature = 'a'", "the state of a is not what"),
        ("INSERT INTO state VALUES ('z', 1, '{}')", "the state of z is not what"),
        ("DELETE FROM state WHERE feature = 'b'", "the state of b is missing"),
    ],
)
def test_tampering_is_found(ledger, statement, message):
    for feature in ("a", "b", "a"):
        write(ledger, feature)
    damage(ledger, statement)

    with pytest.raises(LedgerError, match=message):
        ledger.verify()


def test_a_file_that_is_no_database_is_a_clear_error(ledger):
    ledger.path.parent.mkdir()
    ledger.path.write_bytes(b"this is not a database, and long enough to be looked at as one" * 100)

    for use in (ledger.read, lambda: write(ledger), ledger.verify):
        with pytest.raises(LedgerError, match=r"ledger\.db cannot be used: file is not a database.*Move it"):
            use()


def test_a_damaged_document_is_a_clear_error(ledger):
    write(ledger)
    damage(ledger, "UPDATE state SET document = '{'")

    with pytest.raises(LedgerError, match="cannot be used"):
        ledger.read()


def test_a_ledger_of_a_newer_version_is_left_alone(ledger):
    write(ledger)
    damage(ledger, "PRAGMA user_version = 9")

    with pytest.raises(LedgerError, match="has layout 9; this version of wicketgate knows layout 1"):
        ledger.read()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(LedgerError, match="cannot be used"):
        write(Ledger(tmp_path / "file" / "ledger.db"))


def test_a_ledger_locked_for_too_long_says_so(ledger):
    write(ledger)
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(LedgerError, match="locked by another program"):
        write(Ledger(ledger.path, timeout_s=0.01))
    other.close()


def test_the_first_look_says_changed_and_the_next_one_not(ledger):
    write(ledger)
    watch = ledger.watch()

    assert [watch.changed(), watch.changed()] == [True, False]
    watch.close()


def test_a_change_is_noticed_once(ledger):
    write(ledger)
    watch = ledger.watch()
    watch.changed()

    write(ledger)

    assert [watch.changed(), watch.changed()] == [True, False]
    watch.close()


def test_a_ledger_that_comes_into_being_is_noticed(ledger):
    watch = ledger.watch()
    watch.changed()

    assert not watch.changed()
    write(ledger)
    assert watch.changed()
    watch.close()


def test_a_ledger_that_is_removed_or_replaced_is_noticed(ledger):
    write(ledger)
    watch = ledger.watch()
    watch.changed()

    ledger.path.rename(ledger.path.with_suffix(".old"))
    assert [watch.changed(), watch.changed()] == [True, False]
    write(ledger)
    assert [watch.changed(), watch.changed()] == [True, False]
    watch.close()


def test_looking_at_a_file_that_is_no_database_is_a_clear_error(ledger):
    write(ledger)
    ledger.path.write_bytes(b"no database" * 1000)

    with pytest.raises(LedgerError):
        ledger.watch().changed()
