"""
All flags at one moment, and the flags of one request.

Theory of operation: what can be decided beforehand is: a feature at 0 % is left out, one at 100 % whose
prerequisites are too is always on. For the rest the hash input's head and the threshold stand ready, so that
a decision is one hash per feature, and none where every feature is at 0 or 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from rollout.bucketing import bucket_of_encoded, cbor_text, flag_head, threshold
from rollout.shares import Share, effective_shares
from rollout.spec import FULL_MILLIPERCENT, Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.spec import Spec
    from rollout.stages import State


_KEPT_ASSIGNMENTS = 1024


@dataclass(frozen=True, slots=True)
class Assignment:
    """The flags of one request, fixed at admission."""

    revision: int
    """Of the ledger, when it was decided."""
    on: frozenset[str]
    """Names of the features that are on."""


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
        "_bits",
        "_seen",
        "_sometimes",
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
        bits: dict[str, int] = {}
        sometimes: list[tuple[int, Key | None, bytes, int, int]] = []
        for feature in spec.in_order():
            share = self.shares[feature.name].millipercent
            if share == FULL_MILLIPERCENT and set(feature.requires) <= set(always):
                always.append(feature.name)
            elif share:
                needs = sum(bits.get(name, 0) for name in set(feature.requires))
                bits[feature.name] = 1 << len(bits)
                key = feature.key if feature.key in (Key.CONNECTION, Key.CLIENT) else None
                limit = threshold(share)
                sometimes.append((bits[feature.name], key, flag_head(feature.name), limit, needs))
        self._bits = bits
        self._sometimes = tuple(sometimes)
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
        if not self._sometimes:
            return self._always
        tail = cbor_text(key)
        on = 0
        for bit, kind, head, limit, needs in self._sometimes:
            if kind is None:
                encoded = head + tail
            elif kind is Key.CLIENT:
                encoded = head + (tail if client is None else cbor_text(client))
            elif connection is None:
                continue
            else:
                encoded = head + cbor_text(connection)
            if bucket_of_encoded(encoded) < limit and on & needs == needs:
                on |= bit
        return self._seen.get(on) or self._remember(on)

    def _remember(self, on: int) -> Assignment:
        """Make the assignment of a set of bits; kept, because few sets occur and each costs 1 microsecond."""
        names = [name for name, bit in self._bits.items() if on & bit]
        made = Assignment(self.revision, self._always.on.union(names))
        if len(self._seen) < _KEPT_ASSIGNMENTS:
            self._seen[on] = made
        return made
