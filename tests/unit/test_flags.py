"""Pins the board: memory first and ledger next, latches, retries, an unreadable ledger, who is told what."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from rollout.guards import Findings
from rollout.spec import DEFAULT_SPEC, Feature, Mode, Spec
from rollout.stages import Input, apply, state_from
from rollout.verdict import Judged, Kind, Verdict
from wicketgate.errors import LedgerError, NotFoundError
from wicketgate.flags import RETRY_S, FlagBoard, FlagSnapshot, RollbackNotDurableError, describe
from wicketgate.ledger import KILL_SWITCH, NO_ROW, Ledger

SPEC = Spec(features={"ttft": Feature(name="ttft", mode=Mode.STAGED), "gov": Feature(name="gov")})


class Clock:
    """A wall clock that stands until it is set."""

    def __init__(self) -> None:
        self.unix_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.unix_s


@pytest.fixture
def desk(tmp_path):
    """A board over an empty ledger, and what it told."""
    clock, told, lowered, unsaved = Clock(), [], [], []
    ledger = Ledger(tmp_path / "ledger.db", unix_clock=clock, timeout_s=0.05)
    board = FlagBoard(
        SPEC,
        ledger,
        on_change=told.append,
        on_lowered=lowered.append,
        on_unsaved=lambda: unsaved.append(1),
        clock=clock,
        unix_clock=clock,
    )
    return SimpleNamespace(
        board=board, ledger=ledger, told=told, lowered=lowered, unsaved=unsaved, clock=clock
    )


def change(ledger: Ledger, feature: str, given: Input, **other: object) -> None:
    """Do to the ledger what the command line does."""
    state = state_from(feature, *ledger.read().rows.get(feature, NO_ROW))
    after = apply(state, given, spec=SPEC, now_unix_s=1_700_000_000.0, actor="ann@mill", **other)
    ledger.change([feature], lambda *_: after.document(), action=given, actor="ann@mill", reason="")


def spoil(ledger: Ledger) -> bytes:
    """Make the ledger unreadable; return what it was."""
    content = ledger.path.read_bytes() if ledger.path.exists() else b""
    ledger.path.write_bytes(b"spoilt" * 2000)
    return content


def on(board: FlagBoard) -> frozenset[str]:
    """Tell what a request would be on."""
    return board.assign("sess-1").on


def test_without_a_ledger_direct_features_are_on_and_staged_ones_off(desk):
    assert on(desk.board) == {"gov"}


def test_what_the_ledger_says_is_in_force_after_a_refresh(desk):
    change(desk.ledger, "ttft", Input.START, at_stage="full")

    desk.board.refresh()

    assert on(desk.board) == {"gov", "ttft"}
    assert desk.board.assign("sess-1").revision == 1


def test_a_change_of_shares_is_told_once_with_the_snapshot_in_force(desk):
    change(desk.ledger, "ttft", Input.START, at_stage="full")

    desk.board.refresh()
    desk.board.refresh()

    assert [snapshot.shares for snapshot in desk.told] == [desk.board.snapshot.shares]


def test_a_rollback_puts_a_feature_off_and_writes_it_down(desk):
    done = desk.board.rollback("gov", actor="ann@mill", reason="INC-42")

    (feature,) = done.features
    assert (feature.feature, feature.from_percentage, feature.to_percentage, feature.revision) == (
        "gov",
        100,
        0,
        1,
    )
    assert done.durable_s is not None
    assert on(desk.board) == frozenset()
    row = desk.ledger.read().rows["gov"].document
    assert (row["phase"], row["actor"], row["reason"]) == ("rolled_back", "ann@mill", "INC-42")


def test_a_rollback_is_in_force_before_it_is_written(tmp_path):
    seen = []

    class Slow(Ledger):
        def change(self, *args, **kwargs):
            seen.append(on(board))
            return super().change(*args, **kwargs)

    board = FlagBoard(SPEC, Slow(tmp_path / "ledger.db"))
    board.rollback("gov", actor="a", reason="r")

    assert seen == [frozenset()]


def test_a_second_rollback_changes_nothing(desk):
    first = desk.board.rollback("gov", actor="a", reason="r")
    second = desk.board.rollback("gov", actor="a", reason="r")

    assert second.features[0].revision == first.features[0].revision == 1
    assert second.features[0].from_percentage == 0
    assert len(desk.told) == 1


def test_all_features_are_rolled_back_in_one_go(desk):
    done = desk.board.rollback(None, actor="a", reason="r")

    assert [(each.feature, each.revision) for each in done.features] == [("ttft", 1), ("gov", 2)]
    assert on(desk.board) == frozenset()


def test_a_feature_that_is_only_in_the_ledger_can_be_rolled_back(desk):
    change(desk.ledger, "ttft", Input.START)
    desk.board.refresh()
    desk.board.replace_spec(DEFAULT_SPEC)

    done = desk.board.rollback("ttft", actor="a", reason="r")

    assert (done.features[0].from_percentage, done.features[0].revision) == (0, 2)


def test_a_misspelt_feature_is_refused_with_the_one_that_was_meant(desk):
    with pytest.raises(NotFoundError) as caught:
        desk.board.rollback("ttff", actor="a", reason="r")

    assert caught.value.message == (
        "no feature named ttff. Did you mean ttft? Nothing was rolled back. Features: gov, ttft."
    )
    assert on(desk.board) == {"gov"}


def test_a_rollback_that_cannot_be_saved_is_in_force_and_says_so(desk):
    spoil(desk.ledger)

    with pytest.raises(RollbackNotDurableError, match="gov off for new requests, and not saved") as caught:
        desk.board.rollback("gov", actor="a", reason="r")

    assert on(desk.board) == frozenset()
    assert caught.value.done.durable_s is None
    assert caught.value.done.features[0].from_percentage == 100
    assert len(desk.told) == 1


def test_a_rollback_that_was_not_saved_holds_until_the_ledger_has_it(desk):
    desk.board.rollback("ttft", actor="a", reason="so that there is a ledger")
    content = spoil(desk.ledger)
    with pytest.raises(RollbackNotDurableError):
        desk.board.rollback("gov", actor="a", reason="r")
    desk.ledger.path.write_bytes(content)

    desk.board.refresh()
    assert on(desk.board) == frozenset()

    desk.board.rollback("gov", actor="a", reason="again")
    change(desk.ledger, "gov", Input.RESET)
    desk.board.refresh()
    assert on(desk.board) == {"gov"}


class UnreadableAfterTheWrite(Ledger):
    """A ledger that takes a change, and cannot be read right after it."""

    fails = False

    def read(self):
        if self.fails:
            self.fails = False
            raise LedgerError("a hiccup")
        return super().read()

    def change(self, *args, **options):
        after = super().change(*args, **options)
        self.fails = True
        return after


@pytest.mark.parametrize("feature", ["gov", None], ids=["rollback", "kill"])
def test_what_was_saved_and_could_not_be_read_right_after_is_in_force_and_can_be_ended(tmp_path, feature):
    ledger = UnreadableAfterTheWrite(tmp_path / "ledger.db", timeout_s=0.05)
    board = FlagBoard(SPEC, ledger)
    lower = board.kill if feature is None else partial(board.lower, feature)

    board.persist(lower(actor="a", reason="r"))

    unread = on(board)
    other = Ledger(ledger.path)
    if feature is None:
        other.set_killed(False, actor="a", reason="r")
    else:
        change(other, feature, Input.RESET)
    board.refresh()
    assert (unread, on(board)) == (frozenset(), {"gov"})


@pytest.mark.parametrize("share", ["all", None, -1, 10**6, float("nan")])
def test_a_row_whose_share_is_none_counts_as_unreadable_and_can_be_rolled_back(desk, share):
    change(desk.ledger, "ttft", Input.START)
    row = desk.ledger.read().rows["ttft"].document
    damaged = {**row, "share_millipercent": share}
    desk.ledger.change(["ttft"], lambda *_: damaged, action="a", actor="a", reason="r")

    desk.board.refresh()
    unreadable = desk.board.problem
    desk.board.rollback("ttft", actor="a", reason="r")

    assert "of ttft" in unreadable
    assert desk.board.problem is None
    assert desk.board.snapshot.states["ttft"].phase == "rolled_back"


def test_while_the_ledger_cannot_be_read_staged_features_are_off_and_the_reason_is_kept(desk):
    change(desk.ledger, "ttft", Input.START, at_stage="full")
    desk.board.refresh()
    content = spoil(desk.ledger)

    desk.board.refresh()

    assert on(desk.board) == {"gov"}
    assert "file is not a database" in desk.board.problem
    desk.ledger.path.write_bytes(content)
    desk.board.refresh()
    assert on(desk.board) == {"gov", "ttft"}
    assert desk.board.problem is None


def test_the_log_tells_once_that_the_ledger_cannot_be_read_and_once_that_it_can(desk, caplog):
    caplog.set_level(logging.INFO)
    desk.board.rollback("gov", actor="a", reason="r")
    content = spoil(desk.ledger)

    desk.board.refresh()
    desk.board.refresh()
    desk.ledger.path.write_bytes(content)
    desk.board.refresh()
    desk.board.refresh()

    told = [record for record in caplog.records if record.message.startswith("ledger_")]
    assert [record.message for record in told] == ["ledger_unusable", "ledger_usable"]
    assert "file is not a database" in told[0].problem


def test_a_look_notices_that_the_ledger_was_spoilt_and_restored(desk):
    change(desk.ledger, "ttft", Input.START, at_stage="full")
    watch = desk.ledger.watch()
    desk.board.look(watch)
    content = spoil(desk.ledger)

    desk.board.look(watch)
    assert on(desk.board) == {"gov"}

    desk.ledger.path.write_bytes(content)
    desk.board.look(watch)
    assert on(desk.board) == {"gov", "ttft"}
    watch.close()


def test_a_rolled_back_feature_stays_so_while_the_ledger_cannot_be_read(desk):
    desk.board.rollback("gov", actor="a", reason="r")
    spoil(desk.ledger)

    desk.board.refresh()

    assert on(desk.board) == frozenset()


def test_a_row_of_a_newer_version_counts_as_unreadable(desk):
    desk.ledger.change(["ttft"], lambda *_: {"phase": "simmering"}, action="x", actor="a", reason="")

    desk.board.refresh()

    assert "simmering" in desk.board.problem
    assert on(desk.board) == {"gov"}


def test_the_ledgers_kill_switch_puts_everything_off(desk):
    desk.ledger.change([KILL_SWITCH], lambda *_: {"engaged": True}, action="kill", actor="a", reason="r")

    desk.board.refresh()

    assert on(desk.board) == frozenset()


def test_a_new_declaration_is_in_force_at_once_and_revives_nothing(desk):
    desk.board.rollback("gov", actor="a", reason="r")

    desk.board.replace_spec(Spec(features={"gov": Feature(name="gov"), "new": Feature(name="new")}))

    assert on(desk.board) == {"new"}


def test_a_connection_may_speak_http2_where_the_feature_lets_it(tmp_path):
    http2 = DEFAULT_SPEC.features["http2_transport"]

    def accepted(percentage: float) -> set[bool]:
        spec = Spec(features={"http2_transport": replace(http2, rollout_percentage=percentage)})
        board = FlagBoard(spec, Ledger(tmp_path / "ledger.db"))
        return {board.accepts_h2(f"127.0.0.1:{port}") for port in range(60)}

    assert [accepted(percentage) for percentage in (0, 50, 100)] == [{False}, {True, False}, {True}]


def test_http2_is_refused_where_the_feature_is_not_declared(desk):
    assert not desk.board.accepts_h2("127.0.0.1:9")


def test_a_feature_is_described_with_the_time_of_its_last_change_as_people_read_it(desk):
    change(desk.ledger, "ttft", Input.START, reason="INC-7")
    desk.board.refresh()

    row = desk.board.describe()[0]

    assert (row["feature"], row["phase"], row["reason"]) == ("ttft", "running", "INC-7")
    assert row["updated_at"] == "2023-11-14T22:13:20Z"
    assert "updated_unix_s" not in row


def test_what_the_stage_of_a_feature_has_shown_is_described_with_it(desk):
    change(desk.ledger, "ttft", Input.START)
    desk.board.refresh()
    judged = {"ttft": Judged(Findings(served_s=90.0), Verdict(kind=Kind.INCONCLUSIVE, reasons=("wait",)))}

    rows = desk.board.describe(judged=judged)

    assert (rows[0]["held_s"], rows[0]["verdict"]["reasons"]) == (90.0, ["wait"])
    assert rows[1]["findings"] is None


def test_a_feature_is_lowered_in_memory_before_anything_is_written(desk):
    lowering = desk.board.lower("gov", actor="auto:errors", reason="2 of 2 failed")

    assert on(desk.board) == frozenset()
    assert not desk.ledger.path.exists()
    assert (lowering.trigger, lowering.features) == ("errors", ("gov",))


def test_what_was_lowered_stays_so_while_the_ledger_says_otherwise(desk):
    change(desk.ledger, "ttft", Input.START, at_stage="full")
    desk.board.refresh()
    desk.board.lower("ttft", actor="auto:errors", reason="r")

    desk.board.refresh()

    assert on(desk.board) == {"gov"}


def test_that_an_older_lowering_is_saved_does_not_end_a_newer_one(desk):
    change(desk.ledger, "ttft", Input.START, at_stage="full")
    desk.board.refresh()
    older = desk.board.lower("ttft", actor="auto:errors", reason="one")
    newer = desk.board.lower("ttft", actor="ann@mill", reason="two")
    desk.board.persist(older)
    change(desk.ledger, "ttft", Input.START, at_stage="full")
    desk.board.refresh()
    between = on(desk.board)

    desk.board.persist(newer)

    assert "ttft" not in between | on(desk.board)
    assert desk.ledger.read().rows["ttft"].document["phase"] == "rolled_back"


def test_a_lowering_is_saved_with_its_evidence_and_told_to_the_other_nodes_after_that(desk):
    evidence = {"n": 2, "k": 2, "e": 9000.0}
    lowering = desk.board.lower("gov", actor="auto:errors", reason="2 of 2 failed", evidence=evidence)
    before = list(desk.lowered)

    done = desk.board.persist(lowering)

    record = desk.ledger.history()[0]
    assert (record["actor"], record["reason"], record["evidence"]) == (
        "auto:errors",
        "2 of 2 failed",
        evidence,
    )
    assert (done.revision, done.features[0].from_percentage) == (1, 100)
    assert (before, desk.lowered) == ([], [lowering])


def test_a_change_of_shares_by_a_lowering_is_told_once(desk):
    desk.board.persist(desk.board.lower("gov", actor="a", reason="r"))

    assert [snapshot.shares["gov"].millipercent for snapshot in desk.told] == [0]


def test_a_kill_puts_everything_off_in_memory_and_then_in_the_ledger(desk):
    lowering = desk.board.kill(actor="ann@mill", reason="INC-9")
    in_memory, killed_by = on(desk.board), desk.board.killed_by

    done = desk.board.persist(lowering)

    assert (in_memory, killed_by) == (frozenset(), {"ledger"})
    assert (done.revision, desk.ledger.read().killed) == (1, True)
    assert [each.feature for each in done.features] == ["ttft", "gov"]


def test_a_kill_that_is_not_saved_yet_survives_a_look_at_the_ledger(desk):
    desk.board.kill(actor="ann@mill", reason="r")

    desk.board.refresh()

    assert on(desk.board) == frozenset()


def test_what_was_killed_is_as_it_was_once_the_ledger_is_unkilled(desk):
    desk.board.persist(desk.board.kill(actor="ann@mill", reason="r"))

    desk.ledger.set_killed(False, actor="ann@mill", reason="mended")
    desk.board.refresh()

    assert on(desk.board) == {"gov"}
    assert desk.board.killed_by == frozenset()


def test_the_files_kill_switch_is_told_apart_from_the_ledgers(desk):
    desk.board.replace_spec(replace(SPEC, kill_switch=True))

    assert desk.board.killed_by == {"file"}


def test_what_could_not_be_saved_is_tried_again_once_a_second_until_it_is(desk):
    change(desk.ledger, "ttft", Input.START)
    watch = desk.ledger.watch()
    content = spoil(desk.ledger)
    with pytest.raises(RollbackNotDurableError):
        desk.board.rollback("gov", actor="a", reason="r")
    desk.board.look(watch)
    tried_at_once = len(desk.unsaved)
    desk.clock.unix_s += RETRY_S
    desk.board.look(watch)
    tried_later, waiting = len(desk.unsaved), desk.board.unsaved

    desk.ledger.path.write_bytes(content)
    desk.clock.unix_s += RETRY_S
    desk.board.look(watch)
    watch.close()

    assert (tried_at_once, tried_later, waiting) == (1, 2, 1)
    assert desk.board.unsaved == 0
    assert desk.ledger.read().rows["gov"].document["phase"] == "rolled_back"
    assert len(desk.lowered) == 1


def test_what_could_not_be_saved_is_tried_for_the_last_time_at_the_end(desk):
    change(desk.ledger, "ttft", Input.START)
    content = spoil(desk.ledger)
    with pytest.raises(RollbackNotDurableError):
        desk.board.rollback("gov", actor="a", reason="r")
    desk.ledger.path.write_bytes(content)

    desk.board.stop()

    assert desk.ledger.read().rows["gov"].document["phase"] == "rolled_back"


def test_the_log_tells_of_a_rollback_what_a_person_wants_to_know(desk, caplog):
    caplog.set_level(logging.WARNING)

    evidence = {"attribution": "canary"}
    desk.board.persist(desk.board.lower("gov", actor="auto:errors", reason="r", evidence=evidence))

    (record,) = [each for each in caplog.records if each.message == "rolled_back"]
    assert (record.features, record.actor, record.attribution) == (["gov"], "auto:errors", "canary")


def test_the_age_of_what_is_known_counts_from_the_last_good_look(desk):
    change(desk.ledger, "ttft", Input.START)
    watch = desk.ledger.watch()
    desk.board.look(watch)
    desk.clock.unix_s += 5
    grown = desk.board.age_s
    desk.board.look(watch)
    seen = desk.board.age_s
    spoil(desk.ledger)
    desk.clock.unix_s += 7

    desk.board.look(watch)
    watch.close()

    assert (grown, seen, desk.board.age_s) == (5, 0, 7)


def test_saved_evidence_is_read_with_the_states(desk):
    desk.ledger.save_evidence({"ttft": {"n": 3}})

    desk.board.refresh()

    assert desk.board.evidence == {"ttft": {"n": 3}}


def test_a_direct_feature_has_no_phase_until_it_is_rolled_back(desk):
    before = desk.board.describe()[1]
    desk.board.rollback("gov", actor="a", reason="r")

    after = desk.board.describe()[1]

    assert (before["phase"], before["percentage"], before["stage"]) == (None, 100.0, None)
    assert (after["phase"], after["percentage"], after["cause"]) == ("rolled_back", 0.0, "rolled_back")


def test_a_snapshot_describes_itself_without_a_board():
    rows = describe(FlagSnapshot(DEFAULT_SPEC, {}))

    assert [row["feature"] for row in rows] == list(DEFAULT_SPEC.features)
