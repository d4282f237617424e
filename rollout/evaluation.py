"""
One feature for one key, with the whole why: what OpenFeature's adapters answer and `rollout explain` prints.

Off the hot path. `FlagSnapshot.on` comes to the same decisions, eight times as fast and without a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rollout.assignment import key_of
from rollout.bucketing import VERSION, bucket, threshold
from rollout.shares import Cause
from rollout.spec import FULL_MILLIPERCENT, Key
from rollout.stages import current_stage

if TYPE_CHECKING:
    from rollout.assignment import FlagSnapshot


class Reason(StrEnum):
    """Why a decision is what it is, in OpenFeature's words."""

    STATIC = "STATIC"
    """The same for every key."""
    SPLIT = "SPLIT"
    """By the bucket of the key."""
    DISABLED = "DISABLED"
    """Somebody, or a guard, has put the feature off."""
    UNKNOWN = "UNKNOWN"
    """The ledger cannot be read, and so the feature is off."""


_REASONS = {
    Cause.DISABLED: Reason.DISABLED,
    Cause.KILLED: Reason.DISABLED,
    Cause.ROLLED_BACK: Reason.DISABLED,
    Cause.UNREADABLE: Reason.UNKNOWN,
}
"""What is not here is STATIC or SPLIT."""
_ATTRIBUTES = {Key.CONNECTION: "connection"}
"""Where an evaluation context carries what is not its targetingKey."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one feature is for one key."""

    feature: str
    on: bool
    reason: Reason
    cause: Cause
    """Of the share; `prerequisite` where a feature that it requires is off for this key."""
    revision: int
    """Of the ledger, when it was decided."""
    stage: str | None
    """The stage that the feature is at."""
    share_millipercent: int
    bucket: int | None
    """Of the key under this feature; None without a key."""
    threshold: int
    """Buckets below it are in."""
    unmet: tuple[str, ...]
    """Features that it requires and that are off for this key."""
    missing: Key | None
    """What had to be known to decide and is not: the feature is off; None where nothing is missing."""

    @property
    def variant(self) -> str:
        """The name of the value, as flagd's export has it."""
        return "on" if self.on else "off"

    @property
    def complaint(self) -> str:
        """What a client that left out a key should hear."""
        attribute = "targetingKey" if self.missing is None else _ATTRIBUTES.get(self.missing, "targetingKey")
        return (
            f"{self.feature} is at {self.share_millipercent / 1000:g} % and decided by {self.missing}: "
            f"the context needs a {attribute}"
        )

    def metadata(self) -> dict[str, str | int]:
        """Return what OpenFeature carries beside a value; what is not known is left out."""
        known: dict[str, str | int | None] = {
            "revision": self.revision,
            "stage": self.stage,
            "bucket": self.bucket,
            "bucketing": VERSION,
            "cause": str(self.cause),
        }
        return {name: value for name, value in known.items() if value is not None}


def evaluate(
    snapshot: FlagSnapshot,
    feature: str,
    key: str | None,
    *,
    client: str | None = None,
    connection: str | None = None,
) -> Evaluation:
    """
    Decide one feature for one key.

    Args:
        snapshot: All flags.
        feature: Its name.
        key: The request's own key; None where there is none: at 0 and 100 % none is needed.
        client: Id of the API key; `connection` is address and port: as `FlagSnapshot.assign` takes them.

    Raises:
        KeyError: no such feature.
    """
    declared = snapshot.spec.features[feature]
    share = snapshot.shares[feature]
    limit = threshold(share.millipercent)
    own = key_of(declared, key, client=client, connection=connection)
    place = None if own is None else bucket(feature, own)
    is_split = 0 < share.millipercent < FULL_MILLIPERCENT
    inside = limit > 0 and not is_split if place is None else place < limit
    required = [
        evaluate(snapshot, name, key, client=client, connection=connection)
        for name in (declared.requires if share.millipercent else ())
    ]
    unmet = tuple(each.feature for each in required if not each.on)
    if is_split and place is None:
        missing: Key | None = declared.key
    else:
        missing = next((each.missing for each in required if inside and each.missing is not None), None)
    depends = is_split or any(each.reason is Reason.SPLIT for each in required)
    return Evaluation(
        feature=feature,
        on=inside and not unmet,
        reason=_REASONS.get(share.cause, Reason.SPLIT if depends else Reason.STATIC),
        cause=Cause.PREREQUISITE if unmet else share.cause,
        revision=snapshot.revision,
        stage=_stage_name(snapshot, feature),
        share_millipercent=share.millipercent,
        bucket=place,
        threshold=limit,
        unmet=unmet,
        missing=missing,
    )


def _stage_name(snapshot: FlagSnapshot, feature: str) -> str | None:
    state = snapshot.states.get(feature)
    stage = None if state is None else current_stage(state, snapshot.spec)
    return None if stage is None else stage.name
