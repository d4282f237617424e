"""`wicketgate rollout status --watch`: keeps looking, and draws what changed; else once a second."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from wicketgate.cli import drawing
from wicketgate.cli.features import print_features
from wicketgate.cli.output import duration, print_json
from wicketgate.cli.standing import chosen, look
from wicketgate.cli.wait import POLL_S, Outcome, check_staged, limit_s, outcome
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from wicketgate.cli.output import Screen
    from wicketgate.cli.place import Place

REDRAW_S = 1.0
"""A frame that nothing changed in is drawn again this often, for its clock."""
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_CLEAR_REST = "\x1b[K"
_BEGIN, _END = "\x1b[?2026h\x1b[H", "\x1b[J\x1b[?2026l"
USUAL_WIDTH = 80
"""Of what is drawn where stdout is no terminal."""


def watch(args: Namespace, place: Place, screen: Screen) -> int:
    """
    Look again and again until Ctrl-C, or with `--wait` until a stage comes to its end.

    Returns:
        With `--wait`: 0 when the stage was left upward or is complete, 7 when that took too long, 8 when it
        was rolled back, holds or is paused.
    """
    return _Watch(args, place, screen).run()


def show(screen: Screen, row: Mapping[str, Any]) -> None:
    """Print one feature as a screen, without a clock."""
    _print(screen, drawing.draw(row, clock="", width=_width(screen)))


def _print(screen: Screen, lines: Sequence[drawing.Line]) -> None:
    for line in lines:
        screen.out("".join(screen.paint(part, role) for part, role in line).rstrip())


def _width(screen: Screen) -> int:
    return max(drawing.NARROWEST, min(screen.width or USUAL_WIDTH, 2 * USUAL_WIDTH))


class _Watch:
    """What is shown now, and since when."""

    def __init__(self, args: Namespace, place: Place, screen: Screen) -> None:
        self._args = args
        self._place = place
        self._screen = screen
        self._note = ""
        self._rows: Sequence[Mapping[str, Any]] = ()
        self._from_index: int | None = None
        self._on_screen = sys.stdout.isatty() and not args.json

    def run(self) -> int:
        began_s = time.monotonic()
        within_s = limit_s(self._args.wait)
        self._rows = self._look()
        if self._args.wait is not None:
            check_staged(self._rows[0])
            self._from_index = self._rows[0]["stage_index"]
        if self._on_screen:
            self._screen.raw(_ENTER)
            self._screen.line_end = _CLEAR_REST
        try:
            done = self._loop(began_s + within_s)
        finally:
            if self._on_screen:
                self._screen.raw(_LEAVE)
                self._screen.line_end = ""
                self._on_screen = False
                self._draw()
        return self._end(done, within_s)

    def _loop(self, end_s: float) -> Outcome | None:
        """Look and draw until what is waited for has come; None: it took too long."""
        drawn: Sequence[Mapping[str, Any]] | None = None
        drawn_s = 0.0
        while True:
            now_s = time.monotonic()
            if self._rows != drawn or (self._on_screen and now_s - drawn_s >= REDRAW_S):
                self._frame()
                drawn, drawn_s = self._rows, now_s
            done = None if self._args.wait is None else outcome(self._rows[0], from_index=self._from_index)
            if done is not None or now_s >= end_s:
                return done
            time.sleep(min(POLL_S, end_s - now_s))
            self._rows = self._look()

    def _look(self) -> Sequence[Mapping[str, Any]]:
        self._note = ""
        rows, _ = look(self._place, note=self._remember)
        return chosen(rows, self._args.feature)

    def _remember(self, text: str) -> None:
        """Keep for the frame what would scroll it away."""
        if not self._on_screen and text != self._note:
            self._screen.note(text)
        self._note = text

    def _frame(self) -> None:
        """Show the rows: as an object, over the frame before, or below it."""
        if self._args.json:
            print_json({"schema": "wicketgate.rollout/1", "ok": True, "features": list(self._rows)})
        elif self._on_screen:
            self._screen.raw(_BEGIN)
            self._draw()
            self._screen.raw(_END)
        else:
            self._draw()
            self._screen.out()
        sys.stdout.flush()

    def _draw(self) -> None:
        if self._note and self._on_screen:
            self._screen.out(self._screen.paint(self._note, "warn"))
        if not self._args.feature:
            print_features(self._screen, self._rows)
            return
        clock = time.strftime("%H:%M:%S", time.gmtime())
        lines = drawing.draw(self._rows[0], clock=clock, width=_width(self._screen))
        room = self._screen.height - 1 - bool(self._note)
        _print(self._screen, drawing.fitted(lines, room) if self._on_screen else lines)

    def _end(self, done: Outcome | None, within_s: float) -> int:
        if done is None:
            self._screen.note(f"{self._args.feature} did not come to an end within {duration(within_s)}.")
            return ExitCode.TIMED_OUT
        self._screen.note(f"{done.word.replace('_', ' ')}: {done.why}")
        return done.code
