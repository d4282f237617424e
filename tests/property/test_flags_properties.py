"""Invariants of the board: what was lowered holds in any order of events, until somebody raises it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.spec import Feature, Mode, Spec
from rollout.stages import Input, TransitionError, apply, state_from
from wicketgate.flags import FlagBoard, Lowering, RollbackNotDurableError
from wicketgate.ledger import NO_ROW, Ledger

FEATURES = ("direct", "staged")
SPEC = Spec(
    features={"direct": Feature(name="direct"), "staged": Feature(name="staged", mode=Mode.STAGED)},
)
OTHER_SPEC = Spec(
    features={"staged": Feature(name="staged"), "direct": Feature(name="direct", rollout_percentage=50)},
)
STEPS = (
    *("refresh", "look", "spec", "other spec", "rollback", "lower", "persist", "spoil", "restore", "raise"),
    *("kill", "unkill"),
)
CHANGES = ("refresh", "look", "spec", "other spec", "rollback", "lower", "persist", "raise", "kill")

steps = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(FEATURES)), max_size=14)


class Desk:
    """A board over a ledger that can be spoilt and restored, and what must be off."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger.db", timeout_s=0.05)
        self.board = FlagBoard(SPEC, self.ledger)
        self.watch = self.ledger.watch()
        self.good: bytes | None = None
        self.off: set[str] = set()
        self.lowered: list[Lowering] = []
        """In force and not handed to a thread that saves it yet."""
        self.killed = False

    def do(self, step: str, feature: str) -> None:
        """Take one step."""
        match step:
            case "refresh":
                self.board.refresh()
            case "spec":
                self.board.replace_spec(SPEC)
            case "other spec":
                self.board.replace_spec(OTHER_SPEC)
            case "look":
                self.board.look(self.watch)
            case "rollback":
                self._roll_back(feature)
            case "lower":
                self.lowered.append(self.board.lower(feature, actor="auto:errors", reason="r"))
                self.off.add(feature)
            case "kill":
                self.lowered.append(self.board.kill(actor="a", reason="r"))
                self.killed = True
            case "persist" if self.lowered:
                self._persist(self.lowered.pop(0))
            case "unkill" if self.good is None and self.ledger.read().killed:
                self.ledger.set_killed(False, actor="a", reason="r")
                # What only memory holds is not lifted by that, so `killed` may say too little.
                self.killed = False
            case "spoil" if self.good is None and self.ledger.path.exists():
                self.good = self.ledger.path.read_bytes()
                self.ledger.path.write_bytes(b"spoilt" * 1000)
            case "restore" if self.good is not None:
                self.ledger.path.write_bytes(self.good)
                self.good = None
            case "raise" if self.good is None:
                self._raise(feature)

    def _roll_back(self, feature: str) -> None:
        try:
            self.board.rollback(feature, actor="a", reason="r")
        except RollbackNotDurableError:
            assert self.good is not None
        self.off.add(feature)

    def _persist(self, lowering: Lowering) -> None:
        try:
            self.board.persist(lowering)
        except RollbackNotDurableError:
            assert self.good is not None

    def close(self) -> None:
        """Let the ledger go."""
        self.watch.close()

    def _raise(self, feature: str) -> None:
        """Start or reset a feature, as the command line does."""
        state = state_from(feature, *self.ledger.read().rows.get(feature, NO_ROW))
        given_input = Input.START if feature == "staged" else Input.RESET
        try:
            after = apply(state, given_input, spec=SPEC, now_unix_s=0.0, actor="a", at_stage="full")
        except TransitionError:
            return
        self.ledger.change([feature], lambda *_: after.document(), action="x", actor="a", reason="")
        if state.phase == "rolled_back":
            # What the ledger held is lifted; what only memory holds is not, so `off` may say too little.
            self.off.discard(feature)


@given(steps=steps)
@settings(max_examples=60, deadline=None)
def test_what_was_rolled_back_is_off_until_it_is_started_or_reset(steps):
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        for step, feature in steps:
            desk.do(step, feature)
            on = desk.board.assign("any").on
            assert on.isdisjoint(desk.off)
            assert not (on and desk.killed)
        desk.close()


@given(steps=steps)
@settings(max_examples=30, deadline=None)
def test_the_audit_of_any_history_verifies_and_a_new_board_agrees_with_the_old_one(steps):
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        for step, feature in steps:
            if step in CHANGES:
                desk.do(step, feature)
        for lowering in desk.lowered:
            desk.board.persist(lowering)
        desk.board.replace_spec(SPEC)
        desk.board.refresh()
        desk.close()

        changes = desk.ledger.verify()

        again = FlagBoard(SPEC, desk.ledger)
        assert again.describe() == desk.board.describe()
        assert again.snapshot.revision == changes
