"""
`wicketgate rollout start|promote|pause|resume|stop|reset`: what moves a feature through its stages.

What raises a share is written to the ledger by this process, at the revision that it saw, and by no
endpoint; a running gateway takes it up, and is waited for. What raises it against the evidence asks first.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rollout.spec import Mode
from rollout.stages import Input, Phase, State, TransitionError, UnknownStageError, apply
from wicketgate.cli import telling, verdicts
from wicketgate.cli.features import stage
from wicketgate.cli.output import Screen, print_json
from wicketgate.cli.place import find
from wicketgate.cli.question import confirm_with_user
from wicketgate.cli.rollback import actor, confirm
from wicketgate.cli.standing import NONE, check_known, standing
from wicketgate.cli.wait import check_can_wait, wait_for
from wicketgate.errors import ExitCode, RefusedError, RevisionConflictError, UsageError
from wicketgate.flags import describe

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping


def start(args: Namespace) -> int:
    """Begin a staged rollout."""
    return _Change(args, Input.START).run()


def promote(args: Namespace) -> int:
    """Go on to the next stage."""
    return _Change(args, Input.PROMOTE).run()


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
    """One change of one feature: looked at, refused or asked about, written, confirmed, told, waited for."""

    def __init__(self, args: Namespace, given: Input) -> None:
        self.args = args
        self.given = given
        self.feature: str = args.feature
        self.forced: bool = getattr(args, "force", False)
        self.within_s: float | None = getattr(args, "wait", None)
        self.screen = Screen.of(args)
        self.place = find(args, note=self.screen.note)
        self.standing = standing(self.place)
        check_known(self.feature, self.standing.spec.features)
        self.state = self.standing.states.get(self.feature, State(feature=self.feature))

    def run(self) -> int:
        """Do it."""
        self._check_revision()
        after = self._after()
        evidence = self._check_evidence() if self.given is Input.PROMOTE else None
        if after is self.state or self.args.dry_run:
            return self._tell(after, revision=self.state.revision, took_s=None)
        if self.within_s is not None:
            check_can_wait(self.standing.gateway, self.feature)
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
            evidence=evidence,
        )
        revision = rows[self.feature].revision
        if self.standing.gateway != NONE:
            confirm(self.place, {self.feature: revision})
        return self._tell(after, revision=revision, took_s=time.perf_counter() - began_s)

    def _after(self) -> State:
        try:
            return apply(
                self.state,
                self.given,
                spec=self.standing.spec,
                now_unix_s=time.time(),
                actor=actor(),
                reason=self.args.reason,
                at_stage=getattr(self.args, "at", None),
                compress=getattr(self.args, "compress", None) or 1.0,
            )
        except TransitionError as error:
            raise self._refusal(error) from error
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
            row = self._row(state)
            by = f", {stage(row)} by {state.actor} at {row['updated_at']}" if state.actor else ""
            raise RevisionConflictError(
                f"{self.feature} changed meanwhile: you saw revision {expected}, it is {state.revision}{by}. "
                "Nothing was done.",
                fix=f"wicketgate rollout status {self.feature}",
            )

    def _check_evidence(self) -> Mapping[str, Any] | None:
        """Refuse to promote what the evidence does not let go on; return what there is of it."""
        row = self.standing.row(self.feature)
        if not self.forced:
            verdicts.check(row, is_watched=self.standing.gateway != NONE)
        evidence: Mapping[str, Any] | None = row.get("findings")
        return evidence

    def _check_reason(self) -> None:
        """Refuse to go against the evidence, or to end a rollback, without a word why."""
        restart, force = self.state.phase is Phase.ROLLED_BACK, " --force" * self.forced
        if (restart or self.forced) and not self.args.reason:
            why = f"{self.feature} is rolled back" if restart else "--force goes against the evidence"
            raise UsageError(
                f"{why}, so {self.given} needs --reason. Nothing was done.",
                fix=f'wicketgate rollout {self.given} {self.feature}{force} --reason "..."',
                param="--reason",
            )

    def _confirm_with_user(self, after: State) -> None:
        """Ask where the share is raised against the evidence."""
        restart = self.state.phase is Phase.ROLLED_BACK
        jump = self.given is Input.START and after.stage != self.standing.spec.stages[0].name
        if restart or jump or self.forced:
            was, now = self._row(self.state), self._row(after)
            word = {Input.START: " at ", Input.PROMOTE: " to "}.get(self.given, "")
            where = f"{word}{now['stage']} {now['stage_index'] + 1}/{len(now['stages'])}" if word else ""
            change = telling.shares(was, now)
            confirm_with_user(self.args, f"{str(self.given).capitalize()} {self.feature}{where}: {change}?")

    def _row(self, state: State) -> dict[str, Any]:
        """Describe the feature as it would stand with a state."""
        rows = describe(self.standing.snapshot(**{self.feature: state}))
        return next(row for row in rows if row["feature"] == self.feature)

    def _tell(self, after: State, *, revision: int, took_s: float | None) -> int:
        """Tell what is true now, and wait if that was asked for; `took_s` is None if nothing was written."""
        was, now = self._row(self.state), self._row(after)
        told = telling.Told(
            given=self.given,
            was=was,
            now=now,
            revision=revision,
            took_s=took_s,
            gateway=self.standing.gateway,
        )
        if not self.args.json:
            told.say(self.screen, dry_run=self.args.dry_run)
        document = told.document(dry_run=self.args.dry_run)
        code = ExitCode.DONE
        if self.within_s is not None and took_s is not None:
            code = self._wait(now, document, revision=revision)
        if self.args.json:
            print_json(document)
        return code

    def _wait(self, now: Mapping[str, Any], document: dict[str, object], *, revision: int) -> ExitCode:
        done, row, waited_s = wait_for(
            self.place,
            self.feature,
            self.screen,
            from_index=now["stage_index"],
            revision=revision,
            within_s=self.within_s or 0.0,
        )
        document |= {"ok": done.code is ExitCode.DONE, "outcome": done.document(row, waited_s=waited_s)}
        if not self.args.json:
            telling.say_outcome(self.screen, done, self.feature, waited_s=waited_s)
        return done.code


_NOT_OF_ROLLOUT = (Input.ROLLBACK, Input.HOLD)
