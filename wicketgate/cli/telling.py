"""Tells a change of one feature: what is true now, how long it took, what is unharmed, what undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rollout.stages import Input
from wicketgate.cli.features import UNITS, WHY, stage
from wicketgate.cli.output import duration, share
from wicketgate.cli.rollback import undo
from wicketgate.cli.standing import NONE
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wicketgate.cli.output import Screen
    from wicketgate.cli.wait import Outcome


class Told(NamedTuple):
    """A change, made or not."""

    given: Input
    was: Mapping[str, Any]
    now: Mapping[str, Any]
    """Rows, as `wicketgate.flags.describe` makes them."""
    revision: int
    took_s: float | None
    """None where nothing was written."""
    gateway: str

    def document(self, *, dry_run: bool) -> dict[str, object]:
        """Return the object of `--json`."""
        return {
            "schema": "wicketgate.change/1",
            "ok": True,
            "action": str(self.given),
            "feature": self.now["feature"],
            "changed": self.took_s is not None,
            "dry_run": dry_run,
            "from_percentage": self.was["percentage"],
            "to_percentage": self.now["percentage"],
            **{key: self.now[key] for key in ("phase", "stage", "cause", "compress")},
            "revision": self.revision,
            "took_s": self.took_s,
            "gateway": self.gateway,
        }

    def say(self, screen: Screen, *, dry_run: bool) -> None:
        """Say it to a person."""
        feature, where = self.now["feature"], stage(self.now)
        if self.took_s is not None:
            self._say_done(screen, self.took_s)
        elif dry_run and self.was != self.now:
            screen.out(
                f"Would {self.given} {feature}: {shares(self.was, self.now)}, {where}. Nothing was changed."
            )
        else:
            screen.out(f"{feature} is {where} already; nothing was changed.")

    def _say_done(self, screen: Screen, took_s: float) -> None:
        paint, now = screen.paint, self.now
        when = "saved" if self.gateway == NONE else "in force"
        screen.out(
            f"{paint('✓', 'ok')} {paint(now['feature'], 'bold')}: {shares(self.was, now)}, {stage(now)}"
            f"   revision {self.revision}   {when} after {duration(took_s)}"
        )
        if now["cause"] in WHY:
            screen.out(f"  Its share is not its stage's: {WHY[str(now['cause'])]}.")
        if now["compress"] > 1 and now["hold_s"]:
            hold = duration(now["hold_s"])
            screen.out(f"  A rehearsal: every hold is divided by {now['compress']:g}, this one is {hold}.")
        if self.gateway == NONE:
            screen.out("  No gateway is running; it holds from the next start on.")
        else:
            screen.out("  Requests in flight finish as they began.")
        screen.out(paint(f"  Undo: {self._undo()}", "dim"))

    def _undo(self) -> str:
        """Write the command that takes the change back."""
        feature = self.now["feature"]
        match self.given:
            case Input.PAUSE:
                return f"wicketgate rollout resume {feature}"
            case Input.RESUME:
                return f"wicketgate rollout pause {feature}"
            case Input.STOP:
                return undo(dict(self.was)).removesuffix(' --reason "..."')
            case _:
                return f"wicketgate rollback {feature}"


def shares(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Write `0 % → 1 % of sessions`, or the share alone where it stays."""
    unit = UNITS[str(now["key"])]
    before, after = share(float(was["percentage"])), share(float(now["percentage"]))
    return f"{after} of {unit}" if before == after else f"{before} → {after} of {unit}"


def say_outcome(screen: Screen, done: Outcome, feature: str, *, waited_s: float) -> None:
    """Say what a stage that was waited for came to."""
    good = done.code is ExitCode.DONE
    glyph, role = ("✓", "ok") if good else ("!", "warn") if done.code is ExitCode.TIMED_OUT else ("✗", "bad")
    screen.out(
        f"{screen.paint(glyph, role)} {screen.paint(feature, 'bold')} after {duration(round(waited_s))}: "
        f"{done.word.replace('_', ' ')}: {done.why}"
    )
