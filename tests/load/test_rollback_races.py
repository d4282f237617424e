"""
Pins races of eight processes over one ledger: each revision has one successor, and a rollback is final.

WICKETGATE_RACES makes them more; 1000 is the bar.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rollout.stages import Input, Phase, State, TransitionError, apply
from tests.load.ledger_writer import SPEC
from wicketgate.errors import RevisionConflictError
from wicketgate.flags import FlagBoard, states_of
from wicketgate.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext
    from multiprocessing.synchronize import Barrier

RACES = int(os.environ.get("WICKETGATE_RACES", "10"))
RACERS = 8
FEATURE = "first"
WAIT_S = 120.0
TRIES = 5


def state_of(ledger: Ledger) -> State:
    return states_of(ledger.read()).get(FEATURE, State(feature=FEATURE))


def change(ledger: Ledger, state: State, given: Input, *, actor: str) -> bool:
    """Change the feature at the revision that was seen; returns whether that was in time."""
    after = apply(state, given, spec=SPEC, now_unix_s=0.0, actor=actor)
    try:
        ledger.change(
            [FEATURE],
            lambda *_: after.document(),
            action=given,
            actor=actor,
            reason="",
            expect_revision=state.revision,
        )
    except RevisionConflictError:
        return False
    return True


def race_for_a_revision(path: str, number: int, line: Barrier, result: Connection) -> None:
    """Change what all have seen, race after race, and send how many of them were won."""
    ledger = Ledger(Path(path))
    won = []
    for race in range(RACES):
        state = state_of(ledger)
        line.wait(WAIT_S)
        given = Input.STOP if state.phase is Phase.RUNNING else Input.START
        if change(ledger, state, given, actor=f"{number}"):
            won.append(race)
        line.wait(WAIT_S)
    result.send(won)


def race_with_a_rollback(path: str, number: int, line: Barrier, result: Connection) -> None:
    """Number 0 rolls back, the others move the feature while they can; send what was there at the end."""
    ledger = Ledger(Path(path))
    board = FlagBoard(SPEC, ledger)
    ended = []
    for _ in range(RACES):
        if number == 0:
            change(ledger, state_of(ledger), Input.START, actor="starter")
        line.wait(WAIT_S)
        if number == 0:
            board.rollback(FEATURE, actor="operator", reason="")
        else:
            move(ledger, actor=f"{number}")
        line.wait(WAIT_S)
        board.refresh()
        ended.append((str(state_of(ledger).phase), board.snapshot.shares[FEATURE].percentage))
        line.wait(WAIT_S)
    result.send(ended)


def move(ledger: Ledger, *, actor: str) -> None:
    """Promote, pause and resume, each time at the revision that is seen."""
    for attempt in range(TRIES):
        state = state_of(ledger)
        wanted = Input.RESUME if state.phase is Phase.PAUSED else (Input.PROMOTE, Input.PAUSE)[attempt % 2]
        try:
            change(ledger, state, wanted, actor=actor)
        except TransitionError:
            return


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Return what makes processes from one that has everything imported."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([__name__])
    return made


def run(
    context: ForkServerContext, path: Path, race: Callable[[str, int, Barrier, Connection], None]
) -> list[list]:
    """Let eight processes race; returns what each sent."""
    line = context.Barrier(RACERS)
    pipes = [context.Pipe(duplex=False) for _ in range(RACERS)]
    racers = [
        context.Process(target=race, args=(str(path), number, line, ends[1]))
        for number, ends in enumerate(pipes)
    ]
    for racer in racers:
        racer.start()
    for _, end in pipes:
        end.close()
    sent = [end.recv() for end, _ in pipes]
    for racer in racers:
        racer.join()
    return sent


def test_of_eight_processes_that_saw_one_revision_one_changes_it(tmp_path, context, capsys):
    path = tmp_path / "ledger.db"

    won = run(context, path, race_for_a_revision)

    winners = sorted(race for each in won for race in each)
    with capsys.disabled():
        sys.stdout.write(f"\n{RACES} races of {RACERS}: {[len(each) for each in won]} won\n")
    assert winners == list(range(RACES))
    assert Ledger(path).verify() == RACES


def test_a_rollback_among_seven_processes_that_move_the_feature_is_final(tmp_path, context, capsys):
    path = tmp_path / "ledger.db"

    ended = run(context, path, race_with_a_rollback)

    changes = Ledger(path).verify()
    with capsys.disabled():
        sys.stdout.write(f"\n{RACES} rollbacks among {changes - 2 * RACES} other changes\n")
    assert ended == [[("rolled_back", 0.0)] * RACES] * RACERS
    assert changes > 2 * RACES, "nobody moved the feature beside the rollback; it proves nothing"
