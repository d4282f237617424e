"""Pins the ledger and the board under threads: one winner of each race, a rollback last, a blocked loop."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from rollout.spec import Feature, Mode, Spec
from rollout.stages import Input, State, apply, state_from
from wicketgate.errors import RevisionConflictError
from wicketgate.flags import FlagBoard
from wicketgate.ledger import NO_ROW, Ledger

SPEC = Spec(features={"f": Feature(name="f", mode=Mode.STAGED), "d": Feature(name="d")})
WRITERS = 8


def start(ledger: Ledger, feature: str = "f") -> None:
    """Start a feature at its last stage."""
    state = state_from(feature, *ledger.read().rows.get(feature, NO_ROW))
    after = apply(state, Input.START, spec=SPEC, now_unix_s=0.0, actor="a", at_stage="full")
    ledger.change([feature], lambda *_: after.document(), action="start", actor="a", reason="")


def test_of_eight_writers_who_saw_one_revision_one_wins(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")

    def write(seen: int) -> bool:
        document = State(feature="f").document()
        try:
            ledger.change(["f"], lambda *_: document, action="x", actor="a", reason="", expect_revision=seen)
        except RevisionConflictError:
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        winners = [sum(pool.map(write, [seen] * WRITERS)) for seen in range(20)]

    assert winners == [1] * 20
    assert ledger.verify() == 20


def test_a_rollback_is_last_whatever_is_written_beside_it(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    board = FlagBoard(SPEC, ledger)

    def promote(number: int) -> None:
        row = ledger.read().rows.get("f", NO_ROW)
        state = state_from("f", *row)
        given = Input.START if state.phase == "off" else Input.PROMOTE
        try:
            after = apply(state, given, spec=SPEC, now_unix_s=0.0, actor=f"a{number}")
            ledger.change(
                ["f"], lambda *_: after.document(), action=given, actor="a", reason="",
                expect_revision=row.revision,
            )  # fmt: skip
        except (ValueError, RevisionConflictError):
            return

    with ThreadPoolExecutor(WRITERS) as pool:
        beside = [pool.submit(promote, number) for number in range(12)]
        rolled_back = pool.submit(board.rollback, "f", actor="ann", reason="INC")
        beside += [pool.submit(promote, number) for number in range(12)]
        for each in (*beside, rolled_back):
            each.result()

    board.refresh()
    assert ledger.read().rows["f"].document["phase"] == "rolled_back"
    assert "f" not in board.assign("k").on
    ledger.verify()


def test_a_running_board_takes_up_what_another_process_wrote(tmp_path):
    told = threading.Event()
    board = FlagBoard(SPEC, Ledger(tmp_path / "ledger.db"), on_change=lambda _: told.set(), poll_s=0.01)
    board.start()

    start(Ledger(tmp_path / "ledger.db"))

    assert told.wait(5.0)
    assert "f" in board.assign("k").on
    board.stop()


def test_a_board_survives_what_its_listener_raises(tmp_path, caplog):
    told = [threading.Event(), threading.Event()]

    def tell(_: object) -> None:
        first = not told[0].is_set()
        told[0 if first else 1].set()
        if first:
            raise RuntimeError("the listener's own fault")

    ledger = Ledger(tmp_path / "ledger.db")
    board = FlagBoard(SPEC, ledger, on_change=tell, poll_s=0.01)
    board.start()
    start(ledger)
    assert told[0].wait(5.0)

    ledger.change(["f"], lambda *_: State(feature="f").document(), action="stop", actor="a", reason="")

    assert told[1].wait(5.0)
    assert "flags_watch_failed" in caplog.text
    board.stop()


def test_a_stopped_board_stays_as_it_is_and_can_be_started_again(tmp_path):
    told = threading.Event()
    ledger = Ledger(tmp_path / "ledger.db")
    board = FlagBoard(SPEC, ledger, on_change=lambda _: told.set(), poll_s=0.01)
    board.start()
    board.stop()
    board.stop()

    start(ledger)
    assert "f" not in board.assign("k").on
    board.start()
    assert told.wait(5.0)
    board.stop()


def test_a_rollback_while_the_watcher_reads_is_never_undone(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    board = FlagBoard(SPEC, ledger, poll_s=0.0005)
    board.start()
    seen_on = 0
    for round_ in range(25):
        board.rollback("d", actor="a", reason=f"round {round_}")
        seen_on += "d" in board.assign("k").on
        state = state_from("d", *ledger.read().rows["d"])
        reset = apply(state, Input.RESET, spec=SPEC, now_unix_s=0.0, actor="a")
        board.refresh()
        seen_on += "d" in board.assign("k").on
        ledger.change(["d"], lambda *_, after=reset: after.document(), action="reset", actor="a", reason="")
        board.refresh()

    board.stop()
    assert seen_on == 0


def test_eight_who_make_the_file_together_all_write(tmp_path):
    for number in range(20):
        ledger = Ledger(tmp_path / str(number) / "ledger.db")

        def write(writer: int, ledger: Ledger = ledger) -> None:
            ledger.change([f"f{writer}"], lambda *_: {}, action="x", actor="a", reason="")

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, range(WRITERS)))

        assert ledger.verify() == WRITERS


WRITE = """
import sys
from pathlib import Path
from wicketgate.ledger import Ledger
Ledger(Path(sys.argv[1])).change(["f"], lambda *_: {}, action="x", actor="other", reason="")
"""


def test_a_watch_sees_another_process_write_after_this_one_wrote(tmp_path):
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    ledger.change(["f"], lambda *_: {}, action="x", actor="a", reason="")
    watch = ledger.watch()
    watch.changed()
    for _ in range(2):
        ledger.change(["f"], lambda *_: {}, action="x", actor="a", reason="")
    watch.changed()

    for _ in range(3):
        subprocess.run([sys.executable, "-c", WRITE, str(path)], check=True, timeout=30)

        assert watch.changed()
    watch.close()
