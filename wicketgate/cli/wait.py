"""Waits for what becomes of a stage: left upward, complete, or rolled back, holding, paused, stopped."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from wicketgate.cli.features import missing_requests, phase, served, stage
from wicketgate.cli.options import FOREVER_S
from wicketgate.cli.output import duration
from wicketgate.cli.standing import NONE, chosen, look
from wicketgate.errors import ExitCode, RefusedError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wicketgate.cli.output import Screen
    from wicketgate.cli.place import Place

POLL_S = 0.25
"""How often a command that waits or watches looks."""


class Outcome(NamedTuple):
    """What became of a stage."""

    code: ExitCode
    word: str
    """promoted, complete, rolled_back, holding, paused, stopped or timed_out."""
    why: str

    def document(self, row: Mapping[str, Any], *, waited_s: float) -> dict[str, object]:
        """Return what `--json` says of it."""
        return {
            "outcome": self.word,
            "why": self.why,
            "phase": row["phase"],
            "stage": row["stage"],
            "percentage": row["percentage"],
            "revision": row["revision"],
            "waited_s": round(waited_s, 3),
        }


def outcome(row: Mapping[str, Any], *, from_index: int | None) -> Outcome | None:
    """
    Tell what became of a stage: pure.

    Args:
        row: Where the feature stands now.
        from_index: Index of the stage that is waited for; None where it was at none.

    Returns:
        None while it is still being watched.
    """
    index = row.get("stage_index")
    match phase(row):
        case "complete":
            return Outcome(ExitCode.DONE, "complete", "every stage was passed")
        case "rolled_back":
            return Outcome(ExitCode.CHECK_FAILED, "rolled_back", _said(row))
        case "paused":
            return Outcome(ExitCode.CHECK_FAILED, "paused", _said(row))
        case "off":
            return Outcome(ExitCode.CHECK_FAILED, "stopped", _said(row))
        case _ if index is not None and from_index is not None and index > from_index:
            return Outcome(ExitCode.DONE, "promoted", f"it went on to {row['stage']}")
        case "holding":
            return Outcome(ExitCode.CHECK_FAILED, "holding", _held_by(row))
        case _:
            return None


def check_can_wait(gateway: str, feature: str) -> None:
    """Refuse to wait where nobody watches a stage."""
    if gateway == NONE:
        raise UnreachableError(
            f"no gateway is running, so nobody watches {feature}, and --wait would wait for nothing. "
            "Nothing was done.",
            fix="Start one: wicketgate serve",
        )


def wait_for(
    place: Place, feature: str, screen: Screen, *, from_index: int | None, revision: int, within_s: float
) -> tuple[Outcome, Mapping[str, Any], float]:
    """
    Wait until a stage comes to its end.

    Args:
        place: Whose feature.
        feature: Which.
        screen: Told on the way, where a person looks.
        from_index: Index of the stage.
        revision: Of the change that is waited for; what is older is not looked at.
        within_s: Longest wait.

    Returns:
        What became of it, where the feature stands, and how long it took.
    """
    began_s = time.monotonic()
    progress = Progress(screen)
    silent = _Once(screen)
    try:
        while True:
            (row,) = chosen(look(place, note=silent.note)[0], feature)
            waited_s = time.monotonic() - began_s
            done = outcome(row, from_index=from_index) if row["revision"] >= revision else None
            if done is not None:
                return done, row, waited_s
            if waited_s >= within_s:
                why = f"{feature} is still at {stage(row)} after {duration(within_s)}"
                return Outcome(ExitCode.TIMED_OUT, "timed_out", why), row, waited_s
            progress.show(f"waiting at {stage(row)}: {_so_far(row)}")
            time.sleep(max(0.0, min(POLL_S, within_s - waited_s)))
    finally:
        progress.clear()


class Progress:
    """One line on stderr that is written over; nothing where stderr is no terminal."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._shown = ""

    def show(self, text: str) -> None:
        """Write the line anew, where it changed."""
        if sys.stderr.isatty() and text != self._shown:
            self._shown = text
            self._write(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{self._screen.paint(text, 'dim', to_stderr=True) if text else ''}")
        sys.stderr.flush()


class _Once:
    """Says a thing once, not at every look."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._said = False

    def note(self, text: str) -> None:
        if not self._said:
            self._screen.note(text)
        self._said = True


def limit_s(wanted_s: float | None) -> float:
    """Return the longest wait that `--wait` asks for."""
    return FOREVER_S if wanted_s is None else wanted_s


def check_staged(row: Mapping[str, Any]) -> None:
    """Refuse to wait for a feature that has no stages."""
    if row["mode"] == "direct":
        raise RefusedError(
            f"{row['feature']} is a direct feature; it has no stage to wait for.",
            fix=f"Look with: wicketgate rollout status {row['feature']}",
        )


def _said(row: Mapping[str, Any]) -> str:
    who = f"by {row['actor']}" if row.get("actor") else "by nobody known"
    return f"{who}: {row['reason']}" if row.get("reason") else who


def _held_by(row: Mapping[str, Any]) -> str:
    verdict = row.get("verdict") or {}
    if verdict.get("kind") == "pass":
        return f"it may go on: wicketgate rollout promote {row['feature']}"
    reasons = "; ".join(map(str, verdict.get("reasons") or ()))
    return reasons or missing_requests(row) or str(row.get("reason") or "evidence is missing")


def _so_far(row: Mapping[str, Any]) -> str:
    if not row.get("hold_s"):
        return "no hold"
    return served(row)
