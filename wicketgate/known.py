"""What is known of the flags: the declaration, the ledger's states, and what is latched in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rollout.assignment import FlagSnapshot
from rollout.stages import State, state_from
from wicketgate.ledger import KILL_SWITCH

if TYPE_CHECKING:
    from rollout.spec import Spec
    from wicketgate.ledger import Contents
    from wicketgate.lowering import Lowering


def states_of(contents: Contents) -> dict[str, State]:
    """
    Read the ledger's rows.

    Raises:
        ValueError: a row that this version does not understand.
    """
    return {name: state_from(name, row.revision, row.document) for name, row in contents.rows.items()}


@dataclass(slots=True)
class Known:
    """What the board was told; the snapshot is compiled from it."""

    spec: Spec
    states: dict[str, State] = field(default_factory=dict)
    revision: int = 0
    killed: bool = False
    readable: bool = True
    latched: dict[str, State] = field(default_factory=dict)
    """What was lowered in memory and is not saved yet: features, and KILL_SWITCH."""

    @property
    def is_killed(self) -> bool:
        """The kill switch is on, in the ledger or in memory."""
        return self.killed or KILL_SWITCH in self.latched

    def compile(self) -> FlagSnapshot:
        """Make the snapshot of it."""
        lowered = {name: state for name, state in self.latched.items() if name != KILL_SWITCH}
        return FlagSnapshot(
            self.spec,
            self.states | lowered,
            revision=self.revision,
            killed=self.is_killed,
            readable=self.readable,
        )

    def unlatch(self, saved: Lowering) -> None:
        """
        Forget what the ledger has taken up by now.

        A later lowering of the same feature stays: that the ledger holds an older one, or shows the feature
        rolled back by somebody else, does not outlast a start in between. Where the ledger cannot be read,
        what it has taken up is the last that is known of it.
        """
        for name, state in saved.latches.items():
            if self.latched.get(name) is not state:
                continue
            del self.latched[name]
            if self.readable:
                continue
            if name == KILL_SWITCH:
                self.killed = True
            else:
                self.states = self.states | {name: state}
