"""What lowers exposure: a rollback or a kill, in force in memory first and written to the ledger next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.latch import ROLLBACK, rolled_back
from rollout.spec import Mode
from rollout.stages import State
from wicketgate.errors import NotDurableError
from wicketgate.ledger import KILL_SWITCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.assignment import FlagSnapshot
    from wicketgate.ledger import Ledger, Row

AUTOMATIC = "auto:"
"""What the actor of a change begins with that no person made; the guard, or the core, follows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lowering:
    """One rollback of features, or a kill; in force in memory."""

    features: tuple[str, ...]
    """Whose admissions it puts off; for a kill, all that are known."""
    kills: bool
    """It engages the kill switch instead of latching the features."""
    actor: str
    reason: str
    evidence: Mapping[str, Any] | None
    """What was seen that led to it, for the audit."""
    at_unix_s: float
    began_s: float
    """When it was asked for, by the board's clock."""
    flip_s: float
    """From then until no admission could be on."""
    before: FlagSnapshot
    """What was in force until then."""
    latches: Mapping[str, State]
    """What keeps it in force until it is saved."""

    @property
    def trigger(self) -> str:
        """What led to it: manual, or the guard."""
        return self.actor.removeprefix(AUTOMATIC) if self.actor.startswith(AUTOMATIC) else "manual"

    def write(self, ledger: Ledger) -> Mapping[str, Row]:
        """
        Write it down; what the ledger says already is left alone.

        Raises:
            LedgerError: it cannot be written now.
        """
        if self.kills:
            return {KILL_SWITCH: ledger.set_killed(True, actor=self.actor, reason=self.reason)}
        return ledger.change(
            self.features,
            lambda _name, row: rolled_back(
                row.document, now_unix_s=self.at_unix_s, actor=self.actor, reason=self.reason
            ),
            action=ROLLBACK,
            actor=self.actor,
            reason=self.reason,
            evidence=self.evidence,
        )

    def record(self, *, durable_s: float | None = None) -> dict[str, object]:
        """Return what the log says of it; `durable_s` is None while it is not saved."""
        return {
            "features": list(self.features),
            "actor": self.actor,
            "reason": self.reason,
            "attribution": None if self.evidence is None else self.evidence.get("attribution"),
            "flip_s": round(self.flip_s, 6),
            "durable_s": None if durable_s is None else round(durable_s, 6),
        }

    def done(self, rows: Mapping[str, Row], *, durable_s: float | None) -> RollbackDone:
        """Tell what it did; no row of a feature: its own could not be written, or was not touched."""
        features = tuple(_rolled_back(name, self.before, rows.get(name)) for name in self.features)
        revision = max((row.revision for row in rows.values()), default=0)
        return RollbackDone(features=features, flip_s=self.flip_s, durable_s=durable_s, revision=revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """One feature after a rollback."""

    feature: str
    from_percentage: float
    to_percentage: float
    mode: str
    """direct or staged."""
    stage: str | None
    """The stage of a staged feature that it was at."""
    revision: int
    """Of the ledger's row; 0 where it could not be written and there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackDone:
    """What a rollback did, and how long it took."""

    features: tuple[RolledBack, ...]
    flip_s: float
    """From the call until no admission could be on."""
    durable_s: float | None
    """From the call until it was saved; None: it is not."""
    revision: int
    """Of the ledger's last row that says so; 0 where it is not saved."""


class RollbackNotDurableError(NotDurableError):
    """In force in memory and not saved: a restart would undo it."""

    def __init__(self, message: str, *, done: RollbackDone) -> None:
        super().__init__(message)
        self.done = done


def _rolled_back(name: str, before: FlagSnapshot, row: Row | None) -> RolledBack:
    declared = before.spec.features.get(name)
    state = before.states.get(name, State(feature=name))
    staged = declared is not None and declared.mode is Mode.STAGED
    return RolledBack(
        feature=name,
        from_percentage=before.shares[name].percentage if declared else 0.0,
        to_percentage=0.0,
        mode=str(Mode.STAGED if staged else Mode.DIRECT),
        stage=state.stage if staged else None,
        revision=state.revision if row is None else row.revision,
    )
