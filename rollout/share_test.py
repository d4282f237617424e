"""
Is the canary's part of the keys the share that was declared?

Theory of operation: every distinct key is the canary's with a probability of exactly the share, so any
lasting difference, up or down, says that requests are routed, counted or lost by arm, and every comparison of
the arms is in doubt. Instead of single alternatives the true share is drawn from Beta distributions around
the declared one; the likelihood of the counts under that mixture, over their likelihood under the declared
share, is the evidence. Under the null hypothesis it is a martingale that begins at 1, and it depends on the
two counts alone: no order of arrival, no merging and no restart can change it.

One distribution is about as wide as the share itself and finds a missing or doubled arm within some tens of
canary keys; the other is a tenth as wide and finds differences of some percent.

Source:
    Robbins, "Statistical methods related to the law of the iterated logarithm"; Lindon, Malek, "Anytime-valid
    inference for multinomial count data".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rollout.label_guard import bounded_exp
from rollout.saved import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

_PRIOR_KEYS = (1.0, 100.0)
"""How many keys of the rarer arm each distribution is worth, about; more is narrower."""


class ShareTest:
    """
    Evidence that distinct keys do not fall to the arms as declared; two-sided.

    Args:
        share_ratio: Part of the keys that should be the canary's, above 0 and below 1.
        document: What `document()` gave before a restart; None begins anew.

    Raises:
        ValueError: a share without two arms, or a document of another shape.
    """

    __slots__ = ("_canary", "_control", "_priors", "_share_ratio")

    def __init__(self, share_ratio: float, document: Mapping[str, object] | None = None) -> None:
        if not 0 < share_ratio < 1:
            raise ValueError(
                f"share_ratio must be above 0 and below 1 to compare two arms, got {share_ratio}"
            )
        self._share_ratio = share_ratio
        rarer = min(share_ratio, 1 - share_ratio)
        self._priors = tuple(
            (keys * share_ratio / rarer, keys * (1 - share_ratio) / rarer) for keys in _PRIOR_KEYS
        )
        self._canary = 0 if document is None else whole(document, "canary")
        self._control = 0 if document is None else whole(document, "control")

    def observe(self, canary: int, control: int) -> None:
        """
        Take in keys that were never seen before.

        Args:
            canary: New distinct keys of the canary, 0 or more.
            control: New distinct keys of control, 0 or more.
        """
        self._canary += canary
        self._control += control

    @property
    def evidence(self) -> float:
        """Against the declared share; 1 says nothing, 1/alpha decides."""
        declared = self._canary * math.log(self._share_ratio) + self._control * math.log1p(-self._share_ratio)
        grown = (
            bounded_exp(_log_beta(a + self._canary, b + self._control) - _log_beta(a, b) - declared)
            for a, b in self._priors
        )
        return sum(grown) / len(self._priors)

    def document(self) -> dict[str, object]:
        """Return what `ShareTest` can go on from."""
        return {"canary": self._canary, "control": self._control}


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
