"""
Our features as flag definitions of flagd, so that its clients in any language decide as we do.

Theory of operation: `fractional` without a bucket value hashes CBOR `[flag key, targetingKey]`, as
bucketing.py does, and takes the variant in which `hash * total weight >> 32` falls. With a total of 100,000
that is the same comparison as ours: hash < ceil(share * 2^32 / 100,000).

What flagd cannot say: its rules hash under the flag's own name only, so a feature whose prerequisite is on
for some keys has no rule. It is left out, and the client falls back to its own default. For a lone surrogate
and for an empty targetingKey flagd answers the default, which is off.

Source:
    flagd's specification of custom operations, `fractional`, since core 2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.bucketing import VERSION
from rollout.spec import FULL_MILLIPERCENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.shares import Share
    from rollout.spec import Feature, Spec

SCHEMA = "https://flagd.dev/schema/v0/flags.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagdExport:
    """Flag definitions, and what they could not carry."""

    document: dict[str, object]
    """To be written as JSON."""
    left_out: Mapping[str, str]
    """Why, by feature."""


def flagd_export(spec: Spec, shares: Mapping[str, Share], *, revision: int = 0) -> FlagdExport:
    """
    Write features as flag definitions, at the shares that are in force now.

    Args:
        spec: What is declared.
        shares: By feature, as `FlagSnapshot.shares` has them.
        revision: Of the ledger, for the metadata.
    """
    flags: dict[str, object] = {}
    left_out: dict[str, str] = {}
    always: set[str] = set()
    for feature in spec.in_order():
        share = shares[feature.name]
        unsaid = [name for name in feature.requires if name not in always] if share.millipercent else []
        if unsaid:
            left_out[feature.name] = (
                f"it requires {', '.join(unsaid)}, which {'is' if len(unsaid) == 1 else 'are'} on for some "
                "keys only; a rule of flagd cannot ask for another flag's bucket"
            )
            continue
        if share.millipercent == FULL_MILLIPERCENT:
            always.add(feature.name)
        flags[feature.name] = _flag(feature, share)
    metadata: dict[str, object] = {"revision": revision, "bucketing": VERSION}
    if left_out:
        metadata["left_out"] = ", ".join(left_out)
    return FlagdExport(document={"$schema": SCHEMA, "flags": flags, "metadata": metadata}, left_out=left_out)


def _flag(feature: Feature, share: Share) -> dict[str, object]:
    on = share.millipercent
    flag: dict[str, object] = {
        # Never DISABLED: flagd then answers with the default of the calling code, which may be on.
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "on" if on == FULL_MILLIPERCENT else "off",
        "metadata": {"key": str(feature.key), "cause": str(share.cause)},
    }
    if 0 < on < FULL_MILLIPERCENT:
        flag["targeting"] = {"fractional": [["on", on], ["off", FULL_MILLIPERCENT - on]]}
    return flag
