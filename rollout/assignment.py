"""
All flags at one moment, and the flags of one request.

Theory of operation: what can be decided beforehand is: a feature at 0 % is left out, one at 100 % whose
prerequisites are too is always on. For the rest all that comes before the key in what is hashed stands ready,
and so does the threshold: a decision is one hash per feature, and none where every feature is at 0 or 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from rollout.bucketing import bucket_of_encoded, cbor_text, flag_head, threshold
from rollout.shares import Share, effective_shares
from rollout.spec import FULL_MILLIPERCENT, Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.spec import Feature, Spec
    from rollout.stages import State


_KEPT_ASSIGNMENTS = 1024
_Split: TypeAlias = "tuple[bytes, int, Feature | None, int, int]"
"""
A feature that some are on and some are not, made ready: the head of what is hashed; the threshold; itself,
where something else than the request's own key may decide it; the bits of what it requires; its own bit.
"""
# A bare tuple: unpacking a named one costs a tenth of a decision more.


@dataclass(frozen=True, slots=True)
class Assignment:
    """The flags of one request, fixed at admission."""

    revision: int
    """Of the ledger, when it was decided."""
    on: frozenset[str]
    """Names of the features that are on."""


def key_of(feature: Feature, key: str | None, *, client: str | None, connection: str | None) -> str | None:
    """
    Choose what a feature is decided by; None where that is not known.

    Args:
        feature: The feature.
        key: The request's own key: session, user or its id.
        client: Id of its API key; without one the request's own key is taken.
        connection: Address and port of its connection.
    """
    match feature.key:
        case Key.CONNECTION:
            return connection
        case Key.CLIENT if client is not None:
            return client
        case _:
            return key


class FlagSnapshot:
    """
    All flags at one moment; immutable.

    Args:
        spec: What is declared.
        states: What the ledger says, by feature.
        revision: Number of the ledger's last change.
        killed: The ledger's kill switch is on.
        readable: False when the ledger cannot be read.
    """

    __slots__ = (
        "_always",
        "_in_order",
        "_seen",
        "_splits",
        "readable",
        "revision",
        "shares",
        "spec",
        "states",
    )

    def __init__(
        self,
        spec: Spec,
        states: Mapping[str, State],
        *,
        revision: int = 0,
        killed: bool = False,
        readable: bool = True,
    ) -> None:
        self.spec = spec
        self.states = MappingProxyType(dict(states))
        self.revision = revision
        self.readable = readable
        self.shares: Mapping[str, Share] = MappingProxyType(
            effective_shares(spec, states, killed=killed, readable=readable)
        )
        always: list[str] = []
        splits: dict[str, _Split] = {}
        for feature in spec.in_order():
            share = self.shares[feature.name].millipercent
            if share == FULL_MILLIPERCENT and set(feature.requires) <= set(always):
                always.append(feature.name)
            elif share:
                special = feature if feature.key in (Key.CONNECTION, Key.CLIENT) else None
                needs = sum(splits[name][-1] for name in set(feature.requires) if name in splits)
                head = flag_head(feature.name)
                splits[feature.name] = (head, threshold(share), special, needs, 1 << len(splits))
        self._splits = splits
        self._in_order = tuple(splits.values())
        self._always = Assignment(revision, frozenset(always))
        self._seen: dict[int, Assignment] = {}

    def assign(self, key: str, *, client: str | None = None, connection: str | None = None) -> Assignment:
        """
        Decide all flags of one request. At 0 and 100 % no key is looked at.

        Args:
            key: The request's own key: session, user or its id.
            client: Id of its API key, for features decided by client; None uses the request's key.
            connection: Address and port of its connection; None leaves features decided by connection
                off, unless they are at 100 %.
        """
        if not self._splits:
            return self._always
        own = cbor_text(key)
        on = 0
        for head, limit, special, needs, bit in self._in_order:
            encoded = own
            if special is not None:
                other = key_of(special, key, client=client, connection=connection)
                if other is None:
                    continue
                encoded = cbor_text(other)
            if bucket_of_encoded(head + encoded) < limit and on & needs == needs:
                on |= bit
        return self._seen.get(on) or self._remember(on)

    def on(self, feature: str, key: str, *, client: str | None = None, connection: str | None = None) -> bool:
        """Tell whether one feature is on, as `assign` decides it; alone where it requires no other."""
        split = self._splits.get(feature)
        if split is None:
            return feature in self._always.on
        head, limit, special, needs, _ = split
        if needs:
            return feature in self.assign(key, client=client, connection=connection).on
        if special is not None:
            other = key_of(special, key, client=client, connection=connection)
            if other is None:
                return False
            key = other
        return bucket_of_encoded(head + cbor_text(key)) < limit

    def _remember(self, on: int) -> Assignment:
        """Make the assignment of a set of bits; kept, because few sets occur and each costs 1 microsecond."""
        names = [name for name, (*_, bit) in self._splits.items() if on & bit]
        made = Assignment(self.revision, self._always.on.union(names))
        if len(self._seen) < _KEPT_ASSIGNMENTS:
            self._seen[on] = made
        return made
