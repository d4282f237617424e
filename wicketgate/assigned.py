"""The flags of one request, and the features that it is a canary or a control of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rollout.controller import Controller
    from rollout.guards import Arm
    from rollout.spec import Feature


class Side(NamedTuple):
    """That a request is canary or control of a feature."""

    controller: Controller
    arm: Arm
    feature: Feature | None
    """Itself, where something else than the request's own key may decide it."""
    begun: int
    """The controller's, when the request was assigned; of another one it says nothing."""


@dataclass(slots=True, eq=False)
class Assigned:
    """The flags of one request, fixed at admission, and what it is a sample of."""

    on: frozenset[str]
    """Features that it is on."""
    revision: int
    """Of the ledger, when that was decided."""
    sides: tuple[Side, ...] = ()
    compared: tuple[Side, ...] = ()
    """Those of them that have another side."""
    finished: int = 0
    """Requests that ended well and were not told to the others yet: these count them, and nothing else."""
