"""
The share of every feature that is in force: the smallest of what state, declaration and prerequisites allow.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from rollout.spec import MILLIPERCENT, Mode
from rollout.stages import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.spec import Feature, Spec
    from rollout.stages import State


class Cause(StrEnum):
    """Why a share is what it is."""

    DIRECT = "direct"
    """A direct feature: its `rollout_percentage`."""
    STAGE = "stage"
    """A staged feature: the share of its stage."""
    CEILING = "ceiling"
    """A staged feature: `rollout_percentage`, which is below the stage's share."""
    NOT_STARTED = "not_started"
    """A staged feature that was never started, or was stopped."""
    ROLLED_BACK = "rolled_back"
    PREREQUISITE = "prerequisite"
    """A feature that it requires is at 0 %."""
    DISABLED = "disabled"
    """`enabled: false`."""
    KILLED = "killed"
    """The kill switch is on."""
    UNREADABLE = "unreadable"
    """A staged feature, and the ledger cannot be read."""


class Share(NamedTuple):
    """The share that is in force, and why."""

    millipercent: int
    cause: Cause

    @property
    def percentage(self) -> float:
        """The share in percent, 0 to 100."""
        return self.millipercent / MILLIPERCENT


def effective_shares(
    spec: Spec, states: Mapping[str, State], *, killed: bool = False, readable: bool = True
) -> dict[str, Share]:
    """
    Work out the share of every declared feature.

    Args:
        spec: What is declared.
        states: What the ledger says; a feature without a row may be missing.
        killed: The ledger's kill switch is on.
        readable: False when the ledger cannot be read: staged features are off then, and `states` is
            what was last known, so that a rolled back feature stays so.
    """
    shares: dict[str, Share] = {}
    for feature in spec.in_order():
        if killed or spec.kill_switch:
            share = Share(0, Cause.KILLED)
        else:
            share = _own_share(feature, states.get(feature.name), readable=readable)
            if share.millipercent and any(not shares[name].millipercent for name in feature.requires):
                share = Share(0, Cause.PREREQUISITE)
        shares[feature.name] = share
    return {name: shares[name] for name in spec.features}


def _own_share(feature: Feature, state: State | None, *, readable: bool) -> Share:
    """The share of one feature, prerequisites and kill switch left out."""
    if not feature.enabled:
        return Share(0, Cause.DISABLED)
    if state is not None and state.phase is Phase.ROLLED_BACK:
        return Share(0, Cause.ROLLED_BACK)
    if feature.mode is Mode.DIRECT:
        return Share(feature.ceiling_millipercent, Cause.DIRECT)
    if not readable:
        return Share(0, Cause.UNREADABLE)
    if state is None or state.phase is Phase.OFF:
        return Share(0, Cause.NOT_STARTED)
    if feature.ceiling_millipercent < state.share_millipercent:
        return Share(feature.ceiling_millipercent, Cause.CEILING)
    return Share(state.share_millipercent, Cause.STAGE)
