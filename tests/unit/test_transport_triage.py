"""Pins what is done with each kind of frame by where its stream stands, and what it is charged to."""

from __future__ import annotations

import pytest

from transport.budgets import BudgetParams, Budgets
from transport.counters import CloseReason
from transport.frames import END_STREAM, Frame, Kind
from transport.triage import Standing, Step, Triage


def triage(**limits: int) -> Triage:
    return Triage(Budgets(BudgetParams(**limits), now_s=0))


def frame(kind: int, *, size: int = 100, flags: int = 0) -> Frame:
    return Frame(kind, flags, 1, size, b"")


@pytest.mark.parametrize(
    ("kind", "standing", "step"),
    [
        (Kind.DATA, Standing.OPEN, Step.TAKE),
        (Kind.DATA, Standing.NEW, Step.TAKE),
        (Kind.DATA, Standing.PAST, Step.SWALLOW),
        (Kind.HEADERS, Standing.NEW, Step.TAKE),
        (Kind.HEADERS, Standing.PAST, Step.TAKE),
        (Kind.RST_STREAM, Standing.ANSWERED, Step.TAKE),
        (Kind.RST_STREAM, Standing.PAST, Step.DROP),
        (Kind.WINDOW_UPDATE, Standing.OPEN, Step.TAKE),
        (Kind.WINDOW_UPDATE, Standing.PAST, Step.DROP),
        (Kind.SETTINGS, Standing.NEW, Step.TAKE),
        (Kind.PING, Standing.NEW, Step.TAKE),
        (Kind.GOAWAY, Standing.NEW, Step.PEER_LEAVES),
        (Kind.PRIORITY, Standing.OPEN, Step.DROP),
        (0x10, Standing.NEW, Step.DROP),
        (Kind.PUSH_PROMISE, Standing.OPEN, Step.TAKE),
    ],
)
def test_each_frame_has_its_step(kind, standing, step):
    assert triage().judge(frame(kind), standing, now_s=0) is step


def count(judge: Triage, made: Frame, standing: Standing) -> int:
    """Return how many such frames pass, at most 50; thirty tenths are a little more than three."""
    for passed in range(50):
        if isinstance(judge.judge(made, standing, now_s=0), CloseReason):
            return passed
    return 50


@pytest.mark.parametrize(
    ("made", "standing", "passed"),
    [
        (frame(Kind.PING), Standing.NEW, 3),
        (frame(Kind.SETTINGS), Standing.NEW, 3),
        (frame(Kind.PRIORITY), Standing.NEW, 3),
        (frame(Kind.WINDOW_UPDATE), Standing.OPEN, 3),
        (frame(Kind.HEADERS), Standing.PAST, 3),
        (frame(Kind.HEADERS), Standing.NEW, 50),
        (frame(Kind.DATA, size=0), Standing.OPEN, 3),
        (frame(Kind.DATA, size=0, flags=END_STREAM), Standing.OPEN, 50),
        (frame(Kind.DATA, size=63), Standing.OPEN, 29),
        (frame(Kind.DATA, size=64), Standing.OPEN, 50),
        (frame(Kind.DATA, size=9000, flags=END_STREAM), Standing.PAST, 29),
    ],
)
def test_a_frame_that_carries_nothing_is_charged(made, standing, passed):
    assert count(triage(controls=3), made, standing) == passed


def test_resets_have_a_budget_of_their_own():
    judge = triage(resets=2, controls=0)

    assert count(judge, frame(Kind.RST_STREAM), Standing.OPEN) == 2
    assert judge.judge(frame(Kind.RST_STREAM), Standing.OPEN, now_s=0) is CloseReason.RESET_FLOOD
