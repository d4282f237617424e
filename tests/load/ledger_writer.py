"""
A process that changes a ledger without end, and says before and after each change what it does.

Tests kill it, or let its system calls fail, and compare what it said with what the file holds.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.spec import Feature, Mode, Spec
from rollout.stages import Input, State, TransitionError, apply
from wicketgate.errors import LedgerError, RevisionConflictError
from wicketgate.flags import FlagBoard, RollbackNotDurableError, states_of
from wicketgate.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

SPEC = Spec(
    features={
        "first": Feature(name="first", mode=Mode.STAGED),
        "second": Feature(name="second", mode=Mode.STAGED),
        "direct": Feature(name="direct"),
    }
)
STAGED = ("first", "second")
RAISING = (Input.START, Input.PROMOTE, Input.RESUME)
LOWERING = (Input.PAUSE, Input.STOP)


class Writer:
    """
    One writer.

    Args:
        path: The ledger.
        name: Goes into the reason of each change, so that each can be told from all others.
        say: Takes what it says: `try NUMBER`, then `done NUMBER REVISION ACTION`, `refused NUMBER` where
            it was not possible, or `failed NUMBER` where it could not be saved.
        seed: Chooses the changes.
    """

    def __init__(self, path: Path, *, name: str, say: Callable[[str], None], seed: int) -> None:
        self._ledger = Ledger(path)
        self._board = FlagBoard(SPEC, self._ledger)
        self._name = name
        self._say = say
        self._chance = random.Random(seed)
        self._number = 0

    def step(self) -> None:
        """Change something, or try to."""
        self._number += 1
        self._say(f"try {self._number}")
        try:
            answer = self._act(f"{self._name}:{self._number}")
        except (TransitionError, RevisionConflictError):
            self._say(f"refused {self._number}")
        except (LedgerError, RollbackNotDurableError):
            self._say(f"failed {self._number}")
        else:
            self._say(f"done {self._number} {answer}")

    def _act(self, reason: str) -> str:
        """Return the revision that stands now, and the action that made it; 0 where there is no revision."""
        feature = self._chance.choice(STAGED)
        match self._chance.choice(("raise", "raise", "raise", "lower", "rollback", "kill", "evidence")):
            case "raise":
                return self._apply(feature, self._chance.choice(RAISING), reason)
            case "lower":
                return self._apply(feature, self._chance.choice(LOWERING), reason)
            case "rollback":
                done = self._board.rollback(feature, actor="writer", reason=reason)
                return f"{done.features[0].revision} rollback"
            case "kill":
                engaged = self._chance.random() < 0.5
                row = self._ledger.set_killed(engaged, actor="writer", reason=reason)
                return f"{row.revision} {'kill' if engaged else 'unkill'}"
            case _:
                self._ledger.save_evidence({feature: {"counts": [self._number] * 50}})
                return "0 evidence"

    def _apply(self, feature: str, given: Input, reason: str) -> str:
        state = states_of(self._ledger.read()).get(feature, State(feature=feature))
        after = apply(state, given, spec=SPEC, now_unix_s=0.0, actor="writer", reason=reason)
        if after is state:
            return "0 nothing"
        rows = self._ledger.change(
            [feature],
            lambda *_: after.document(),
            action=given,
            actor="writer",
            reason=reason,
            expect_revision=state.revision,
        )
        return f"{rows[feature].revision} {given}"


def write(path: str, name: str, line_out: Connection, seed: int) -> None:
    """Change the ledger until killed."""
    writer = Writer(Path(path), name=name, say=lambda line: line_out.send_bytes(line.encode()), seed=seed)
    while True:
        writer.step()


if __name__ == "__main__":
    _, ledger, steps = sys.argv
    alone = Writer(
        Path(ledger), name="alone", say=lambda line: sys.stdout.write(f"{line}\n"), seed=len(steps)
    )
    sys.stdout.reconfigure(line_buffering=True)
    for _ in range(int(steps)):
        alone.step()
