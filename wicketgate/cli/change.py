"""
`wicketgate rollout start|promote|pause|resume|stop|reset`: what moves a feature through its stages.

What raises a share is written to the ledger by this process, at the revision that it saw, and by no
endpoint; a running gateway takes it up, and is waited for. What raises it against the evidence asks first.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rollout.assignment import FlagSnapshot
from rollout.spec import Mode
from rollout.stages import HoldNotServedError, Input, Phase, State, TransitionError, UnknownStageError, apply
from wicketgate.cli.features import UNITS, WHY, stage
from wicketgate.cli.output import Screen, duration, print_json, share
from wicketgate.cli.place import find
from wicketgate.cli.rollback import actor, confirm, undo
from wicketgate.cli.rollout import ask, check_known, declaration, read_states, spec_from
from wicketgate.errors import ExitCode, RefusedError, RevisionConflictError, UsageError
from wicketgate.flags import describe

if TYPE_CHECKING:
    from argparse import Namespace


def start(args: Namespace) -> int:
    """Begin a staged rollout."""
    return _Change(args, Input.START, at_stage=args.at).run()


def promote(args: Namespace) -> int:
    """Go on to the next stage."""
    return _Change(args, Input.PROMOTE, force=args.force).run()


def pause(args: Namespace) -> int:
    """Stop the hold clock."""
    return _Change(args, Input.PAUSE).run()


def resume(args: Namespace) -> int:
    """Let the hold clock run again."""
    return _Change(args, Input.RESUME).run()


def stop(args: Namespace) -> int:
    """End a staged rollout."""
    return _Change(args, Input.STOP).run()


def reset(args: Namespace) -> int:
    """End the rollback of a direct feature."""
    return _Change(args, Input.RESET).run()


class _Change:
    """One change of one feature: looked at, refused or asked about, written, confirmed, told."""

    def __init__(
        self, args: Namespace, given: Input, *, at_stage: str | None = None, force: bool = False
    ) -> None:
        self.args = args
        self.given = given
        self.at_stage = at_stage
        self.force = force
        self.feature: str = args.feature
        self.screen = Screen.of(args)
        self.place = find(args, note=self.screen.note)
        rows, self.gateway = ask(self.place)
        self.spec = declaration(self.place) if rows is None else spec_from(rows)
        check_known(self.feature, list(self.spec.features))
        self.states, self.killed = read_states(self.place)
        self.state = self.states.get(self.feature, State(feature=self.feature))

    def run(self) -> int:
        """Do it."""
        self._check_revision()
        after = self._after()
        if after is self.state or self.args.dry_run:
            self._tell(after, revision=self.state.revision, took_s=None)
            return ExitCode.DONE
        self._check_reason()
        self._confirm_with_user(after)
        began_s = time.perf_counter()
        rows = self.place.ledger().change(
            [self.feature],
            lambda *_: after.document(),
            action=self.given,
            actor=after.actor,
            reason=after.reason,
            expect_revision=self.state.revision,
        )
        revision = rows[self.feature].revision
        if self.gateway != "none":
            confirm(self.place, {self.feature: revision})
        self._tell(after, revision=revision, took_s=time.perf_counter() - began_s)
        return ExitCode.DONE

    def _after(self) -> State:
        try:
            return apply(
                self.state,
                self.given,
                spec=self.spec,
                now_unix_s=time.time(),
                actor=actor(),
                reason=self.args.reason,
                at_stage=self.at_stage,
                force=self.force,
            )
        except TransitionError as error:
            raise self._refusal(error) from error
        except HoldNotServedError as error:
            raise RefusedError(
                f"{self.feature} has served {duration(round(error.held_s))} of {duration(error.hold_s)} at "
                f"{error.stage}. Nothing was done.",
                fix=f'Promote anyway: wicketgate rollout promote {self.feature} --force --reason "..."',
            ) from error
        except UnknownStageError as error:
            raise UsageError(f"{error}.", fix="Nothing was done.", param="--at") from error

    def _refusal(self, error: TransitionError) -> RefusedError:
        """Say why an input is not possible, and what is."""
        if error.mode is Mode.DIRECT:
            if self.given is Input.RESET:
                return RefusedError(f"{self.feature} is not rolled back; there is nothing to reset.")
            return RefusedError(
                f"{self.feature} is a direct feature: its share is its rollout_percentage, and it has no "
                f"stages to {self.given}. Nothing was done.",
                fix=f"To roll it out in stages, write mode: staged under {self.feature} in runtime.yaml.",
            )
        where = stage(self._row(self.state))
        possible = [f"rollout {each}" for each in error.allowed if each not in _NOT_OF_ROLLOUT]
        return RefusedError(
            f"{self.feature} is {where if error.phase is not Phase.RUNNING else f'running at {where}'}; "
            f"{self.given} is not possible then. Nothing was done.",
            fix=f"Possible: {', '.join([*possible, 'rollback'])}.",
        )

    def _check_revision(self) -> None:
        expected, state = self.args.expect_revision, self.state
        if expected is not None and expected != state.revision:
            by = f", {stage(self._row(state))} by {state.actor}" if state.actor else ""
            raise RevisionConflictError(
                f"{self.feature} changed meanwhile: you saw revision {expected}, it is {state.revision}{by}. "
                "Nothing was done.",
                fix=f"wicketgate rollout status {self.feature}",
            )

    def _check_reason(self) -> None:
        """Refuse to go against the evidence, or to end a rollback, without a word why."""
        restart = self.state.phase is Phase.ROLLED_BACK
        if (restart or self.force) and not self.args.reason:
            why = f"{self.feature} is rolled back" if restart else "--force goes past the hold"
            raise UsageError(
                f"{why}, so {self.given} needs --reason. Nothing was done.",
                fix=f'wicketgate rollout {self.given} {self.feature}{" --force" * self.force} --reason "..."',
                param="--reason",
            )

    def _confirm_with_user(self, after: State) -> None:
        """Ask where the share is raised against the evidence."""
        restart = self.given is Input.START and self.state.phase is Phase.ROLLED_BACK
        jump = self.given is Input.START and after.stage != self.spec.stages[0].name
        if not (restart or jump or self.force) or self.args.yes:
            return
        was, now = self._row(self.state), self._row(after)
        question = (
            f"{str(self.given).capitalize()} {self.feature} at {stage(now)}: {_shares(was, now)}? [y/N] "
        )
        if self.args.json or not sys.stdin.isatty():
            raise UsageError(
                f"this asks first, and there is nobody to ask: {question.removesuffix(' [y/N] ')}",
                fix="Pass --yes to answer yes. Nothing was done.",
                param="--yes",
            )
        sys.stderr.write(question)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RefusedError("answered no. Nothing was done.")

    def _row(self, state: State) -> dict[str, object]:
        """Describe the feature as it would stand with a state."""
        states = self.states | {self.feature: state}
        snapshot = FlagSnapshot(self.spec, states, killed=self.killed)
        rows = describe(snapshot, now_unix_s=time.time())
        return next(row for row in rows if row["feature"] == self.feature)

    def _tell(self, after: State, *, revision: int, took_s: float | None) -> None:
        """Tell what is true now; `took_s` is None where nothing was written."""
        was, now = self._row(self.state), self._row(after)
        if self.args.json:
            print_json(
                {
                    "schema": "wicketgate.change/1",
                    "ok": True,
                    "action": str(self.given),
                    "feature": self.feature,
                    "changed": took_s is not None,
                    "dry_run": self.args.dry_run,
                    "from_percentage": was["percentage"],
                    "to_percentage": now["percentage"],
                    **{key: now[key] for key in ("phase", "stage", "cause")},
                    "revision": revision,
                    "took_s": took_s,
                    "gateway": self.gateway,
                }
            )
        elif took_s is not None:
            self._say(was, now, revision=revision, took_s=took_s)
        elif after is self.state:
            self.screen.out(f"{self.feature} is {stage(now)} already; nothing was changed.")
        else:
            would = f"Would {self.given} {self.feature}: {_shares(was, now)}, {stage(now)}."
            self.screen.out(f"{would} Nothing was changed.")

    def _say(self, was: dict[str, object], now: dict[str, object], *, revision: int, took_s: float) -> None:
        """Say what is true now, how long it took, what is unharmed, and what undoes it."""
        say, paint = self.screen.out, self.screen.paint
        when = "saved" if self.gateway == "none" else "in force"
        say(
            f"{paint('✓', 'ok')} {paint(self.feature, 'bold')}: {_shares(was, now)}, {stage(now)}"
            f"   revision {revision}   {when} after {duration(took_s)}"
        )
        if now["cause"] in WHY:
            say(f"  Its share is not its stage's: {WHY[str(now['cause'])]}.")
        if self.gateway == "none":
            say("  No gateway is running; it holds from the next start on.")
        else:
            say("  Requests in flight finish as they began.")
        say(paint(f"  Undo: {self._undo()}", "dim"))

    def _undo(self) -> str:
        """Write the command that takes the change back."""
        match self.given:
            case Input.PAUSE:
                return f"wicketgate rollout resume {self.feature}"
            case Input.RESUME:
                return f"wicketgate rollout pause {self.feature}"
            case Input.STOP:
                return undo(self._row(self.state)).removesuffix(' --reason "..."')
            case _:
                return f"wicketgate rollback {self.feature}"


_NOT_OF_ROLLOUT = (Input.ROLLBACK, Input.HOLD_SERVED)


def _shares(was: dict[str, object], now: dict[str, object]) -> str:
    """Write `0 % → 1 % of sessions`, or the share alone where it stays."""
    unit = UNITS[str(now["key"])]
    before, after = share(float(str(was["percentage"]))), share(float(str(now["percentage"])))
    return f"{after} of {unit}" if before == after else f"{before} → {after} of {unit}"
