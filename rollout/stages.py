"""
The stage machine of one feature.

Theory of operation: `TRANSITIONS` says which input is possible in which phase; what is not in it is refused
and nothing changes. The ledger keeps a `State` per feature; `apply` makes the next one. What share follows
from it is said in shares.py, and whether a stage may be left upward in verdict.py: `apply` promotes whoever
asks, so whoever asks looks at the verdict first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from rollout.latch import rolled_back
from rollout.spec import FULL_MILLIPERCENT, Mode, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.spec import Spec, Stage


class Phase(StrEnum):
    """Where a rollout stands."""

    OFF = "off"
    """Nobody is on; `start` begins."""
    RUNNING = "running"
    """At a stage, and its hold is being served."""
    HOLDING = "holding"
    """At a stage that may not be left upward yet; the reason says what is missing."""
    PAUSED = "paused"
    """At a stage, the share stays, the hold clock stands."""
    COMPLETE = "complete"
    """At the last stage."""
    ROLLED_BACK = "rolled_back"
    """At 0 %, latched."""


class Input(StrEnum):
    """What can happen to a rollout."""

    START = "start"
    PROMOTE = "promote"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    RESET = "reset"
    ROLLBACK = "rollback"
    HOLD = "hold"


TRANSITIONS: dict[tuple[Phase, Input], Phase] = {
    (Phase.OFF, Input.START): Phase.RUNNING,
    (Phase.OFF, Input.STOP): Phase.OFF,
    (Phase.OFF, Input.ROLLBACK): Phase.ROLLED_BACK,
    (Phase.RUNNING, Input.PROMOTE): Phase.RUNNING,
    (Phase.RUNNING, Input.PAUSE): Phase.PAUSED,
    (Phase.RUNNING, Input.STOP): Phase.OFF,
    (Phase.RUNNING, Input.ROLLBACK): Phase.ROLLED_BACK,
    (Phase.RUNNING, Input.HOLD): Phase.HOLDING,
    (Phase.HOLDING, Input.PROMOTE): Phase.RUNNING,
    (Phase.HOLDING, Input.PAUSE): Phase.PAUSED,
    (Phase.HOLDING, Input.STOP): Phase.OFF,
    (Phase.HOLDING, Input.ROLLBACK): Phase.ROLLED_BACK,
    (Phase.PAUSED, Input.PAUSE): Phase.PAUSED,
    (Phase.PAUSED, Input.RESUME): Phase.RUNNING,
    (Phase.PAUSED, Input.STOP): Phase.OFF,
    (Phase.PAUSED, Input.ROLLBACK): Phase.ROLLED_BACK,
    (Phase.COMPLETE, Input.STOP): Phase.OFF,
    (Phase.COMPLETE, Input.ROLLBACK): Phase.ROLLED_BACK,
    (Phase.ROLLED_BACK, Input.START): Phase.RUNNING,
    (Phase.ROLLED_BACK, Input.RESET): Phase.OFF,
    (Phase.ROLLED_BACK, Input.ROLLBACK): Phase.ROLLED_BACK,
}
"""What is possible. Running at the last stage is `complete`."""

_INPUTS = {
    Mode.DIRECT: frozenset({Input.RESET, Input.ROLLBACK}),
    Mode.STAGED: frozenset(Input) - {Input.RESET},
}
_AT_A_STAGE = frozenset({Phase.RUNNING, Phase.HOLDING, Phase.PAUSED, Phase.COMPLETE})


class TransitionError(ValueError):
    """
    An input that is not possible in this phase and mode; nothing changes.

    Args:
        feature: Whose rollout it is.
        phase: Where it stands.
        given: The input that was refused.
        mode: The feature's mode.
    """

    def __init__(self, *, feature: str, phase: Phase, given: Input, mode: Mode) -> None:
        super().__init__(f"{given} is not possible for {feature}: it is {mode} and {phase}")
        self.feature = feature
        self.phase = phase
        self.given = given
        self.mode = mode
        self.allowed = allowed_inputs(phase, mode)
        """The inputs that are possible."""


class UnknownStageError(ValueError):
    """No stage has that name."""

    def __init__(self, *, stage: str, known: tuple[str, ...]) -> None:
        super().__init__(f"no stage named {stage}.{did_you_mean(stage, known)} Stages: {', '.join(known)}")
        self.stage = stage
        self.known = known


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where one feature stands, as the ledger keeps it."""

    feature: str
    revision: int = 0
    """Number of the change that made this state; 0 where the ledger has no row."""
    phase: Phase = Phase.OFF
    stage: str | None = None
    """The stage that it is at; of a rolled back feature, the one that it was at."""
    share_millipercent: int = 0
    """The stage's share in thousandths of a percent, before ceiling and kill switch."""
    compress: float = 1.0
    """By how much holds are shortened, to rehearse a schedule of days in minutes; at least 1."""
    entered_unix_s: float | None = None
    """When it came to its stage, or a direct feature was reset; the evidence of that time belongs to it."""
    cause: Input | None = None
    """The input that made this state."""
    actor: str = ""
    reason: str = ""
    updated_unix_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse a share that is none, and to make holds longer, or none at all."""
        if not 0 <= self.share_millipercent <= FULL_MILLIPERCENT:
            raise ValueError(
                f"share of {self.feature} must be 0 to {FULL_MILLIPERCENT} thousandths of a "
                f"percent, got {self.share_millipercent}"
            )
        if not 1 <= self.compress < float("inf"):
            raise ValueError(f"compress of {self.feature} must be at least 1, got {self.compress}")

    def document(self) -> dict[str, object]:
        """Return what the ledger writes down; feature and revision are the ledger's own."""
        return {
            "phase": str(self.phase),
            "stage": self.stage,
            "share_millipercent": self.share_millipercent,
            "compress": self.compress,
            "entered_unix_s": self.entered_unix_s,
            "cause": None if self.cause is None else str(self.cause),
            "actor": self.actor,
            "reason": self.reason,
            "updated_unix_s": self.updated_unix_s,
        }


_OF_OLD = frozenset({"held_s", "running_since_unix_s"})
"""Fields of rows that were written while the ledger kept the hold clock."""
_INPUTS_OF_OLD = {"hold_served": Input.HOLD}


def state_from(feature: str, revision: int, document: Mapping[str, object]) -> State:
    """
    Read what `State.document` wrote; an empty document is a feature that the ledger has no row of.

    Raises:
        ValueError: a phase, an input or a field that this version does not know.
    """
    if not document:
        return State(feature=feature, revision=revision)
    fields = {name: value for name, value in document.items() if name not in _OF_OLD}
    try:
        phase = Phase(str(fields.pop("phase")))
        cause = fields.pop("cause")
        known_cause = None if cause is None else _INPUTS_OF_OLD.get(str(cause)) or Input(str(cause))
        return State(feature=feature, revision=revision, phase=phase, cause=known_cause, **fields)  # type: ignore[arg-type]  # written by document()
    except (KeyError, TypeError) as error:
        raise ValueError(f"state of {feature} at revision {revision} is not readable: {error}") from error


def allowed_inputs(phase: Phase, mode: Mode) -> tuple[Input, ...]:
    """List the inputs that are possible in a phase, in the order of `Input`."""
    return tuple(each for each in Input if each in _INPUTS[mode] and (phase, each) in TRANSITIONS)


def apply(
    state: State,
    given: Input,
    *,
    spec: Spec,
    now_unix_s: float,
    actor: str,
    reason: str = "",
    at_stage: str | None = None,
    compress: float = 1.0,
) -> State:
    """Make the next state of a feature that the spec declares.

    Args:
        state: Where it stands, `given` what happens, `spec` its mode and the stages.
        now_unix_s: Wall time, for the record.
        actor: Who does it; `reason` is why, in his words.
        at_stage: Where `start` begins; None is the first stage.
        compress: By how much a rollout that is started shortens its holds; at least 1.

    Returns:
        The next state, with the old revision; the same object where nothing changes.

    Raises:
        TransitionError: not possible in this phase or mode.
        UnknownStageError: `at_stage` is no stage.
    """
    mode = spec.features[state.feature].mode
    if given not in allowed_inputs(state.phase, mode):
        raise TransitionError(feature=state.feature, phase=state.phase, given=given, mode=mode)
    if given is Input.ROLLBACK:
        return roll_back(state, now_unix_s=now_unix_s, actor=actor, reason=reason)
    phase = TRANSITIONS[state.phase, given]
    if phase is state.phase and given is not Input.PROMOTE:
        return state
    record = replace(state, phase=phase, cause=given, actor=actor, reason=reason, updated_unix_s=now_unix_s)
    match given:
        case Input.START:
            return _enter(replace(record, compress=compress), _stage_named(at_stage, spec), spec=spec)
        case Input.PROMOTE:
            return _enter(record, next_stage(state, spec), spec=spec)
        case Input.RESUME | Input.PAUSE | Input.HOLD:
            return record
        case _:  # stop, reset
            entered = now_unix_s if given is Input.RESET else None
            return replace(record, stage=None, share_millipercent=0, compress=1.0, entered_unix_s=entered)


def roll_back(state: State, *, now_unix_s: float, actor: str, reason: str) -> State:
    """
    Latch a feature at 0 %. Possible in every phase and without a spec; twice is the same as once.

    Returns:
        The next state, with the old revision; the same object where it is rolled back already.
    """
    document = rolled_back(state.document(), now_unix_s=now_unix_s, actor=actor, reason=reason)
    return state if document is None else state_from(state.feature, state.revision, document)


def next_stage(state: State, spec: Spec) -> Stage | None:
    """Find the first stage above the state's share; None at the top. Edited stages never skip one."""
    return next((each for each in spec.stages if each.share_millipercent > state.share_millipercent), None)


def current_stage(state: State, spec: Spec) -> Stage | None:
    """Find the stage that the state is at; None where it is at none, or where it was edited away."""
    if state.phase not in _AT_A_STAGE:
        return None
    return next((each for each in spec.stages if each.name == state.stage), None)


def stage_in_force(state: State, spec: Spec) -> Stage | None:
    """Return `current_stage` with its times as this rollout serves them: divided by `compress`."""
    stage = current_stage(state, spec)
    if stage is None or state.compress == 1:
        return stage
    hold_s = None if stage.hold_s is None else stage.hold_s / state.compress
    return replace(stage, hold_s=hold_s, quiet_s=stage.quiet_s / state.compress)


def _stage_named(name: str | None, spec: Spec) -> Stage:
    if name is None:
        return spec.stages[0]
    for stage in spec.stages:
        if stage.name == name:
            return stage
    raise UnknownStageError(stage=name, known=tuple(stage.name for stage in spec.stages))


def _enter(record: State, stage: Stage | None, *, spec: Spec) -> State:
    """Put a feature at a stage, its hold unserved; None is the top of stages that were edited away."""
    entered = replace(record, entered_unix_s=record.updated_unix_s)
    if stage is None:
        return replace(entered, phase=Phase.COMPLETE)
    phase = Phase.COMPLETE if stage is spec.stages[-1] else Phase.RUNNING
    return replace(entered, phase=phase, stage=stage.name, share_millipercent=stage.share_millipercent)
