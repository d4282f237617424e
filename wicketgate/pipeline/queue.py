"""
The order in which waiting requests get their tickets.

Every arrival takes a place at the end. Requests off the `ttft_pipeline` flag keep their places: first come,
first served. Requests on it trade places only with each other, and for good: the one with the least left to
prefill goes first, the one it displaced takes over its later place. So the others never wait longer than
without the pipeline. Nobody is overtaken past `overtake_ratio` times its predicted first-come-first-served
time plus `overtake_floor_s`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueParams:
    """How far the order may depart from first come, first served."""

    order: Literal["shortest_uncached", "fcfs"] = "shortest_uncached"
    """Order among requests on the flag."""
    overtake_ratio: float = 1.5
    """At most this times the predicted first-come-first-served wait ..."""
    overtake_floor_s: float = 0.25
    """... plus this."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    request_id: str
    flagged: bool
    arrived_s: float
    fcfs_s: float
    uncached_tokens: int


class WaitQueue:
    """Places of waiting requests. It holds no tickets and knows no limit: it only says who is next."""

    def __init__(self, params: QueueParams) -> None:
        self._params = params
        self._places: list[_Waiting] = []

    def __len__(self) -> int:
        return len(self._places)

    def replace_params(self, params: QueueParams) -> None:
        """Use other bounds from now on; places stay as they are."""
        self._params = params

    def arrive(
        self, request_id: str, *, flagged: bool, uncached_tokens: int, fcfs_s: float, now_s: float
    ) -> None:
        """
        Take the last place.

        Args:
            request_id: The request.
            flagged: Whether it is on `ttft_pipeline`.
            uncached_tokens: Prompt tokens still to compute, an estimate until `sized` tells better.
            fcfs_s: Predicted wait if everybody were served in order of arrival, in seconds.
            now_s: Monotonic time.
        """
        self._places.append(
            _Waiting(
                request_id=request_id,
                flagged=flagged,
                arrived_s=now_s,
                fcfs_s=fcfs_s,
                uncached_tokens=uncached_tokens,
            )
        )

    def sized(self, request_id: str, uncached_tokens: int) -> None:
        """Its prompt was tokenised and matched to cached prefixes; an unknown id is ignored."""
        for waiting in self._places:
            if waiting.request_id == request_id:
                waiting.uncached_tokens = uncached_tokens

    def remove(self, request_id: str) -> bool:
        """Give the place up; False when the request has none."""
        for index, waiting in enumerate(self._places):
            if waiting.request_id == request_id:
                del self._places[index]
                return True
        return False

    def take(self, *, eligible: Callable[[str], bool], now_s: float) -> str | None:
        """
        Remove and return the request that is next.

        Args:
            eligible: Whether a request could get a ticket now; those that could not keep their places.
            now_s: Monotonic time.

        Returns:
            The request's id, or None when nobody eligible waits.
        """
        candidates = [i for i, waiting in enumerate(self._places) if eligible(waiting.request_id)]
        if not candidates:
            return None
        first = candidates[0]
        if self._places[first].flagged and self._params.order == "shortest_uncached":
            flagged = [i for i in candidates if self._places[i].flagged]
            best = min(flagged, key=lambda i: self._rank(self._places[i], now_s))
            self._places[first], self._places[best] = self._places[best], self._places[first]
        return self._places.pop(first).request_id

    def _rank(self, waiting: _Waiting, now_s: float) -> tuple[int, float, float]:
        due_s = (
            waiting.arrived_s + self._params.overtake_ratio * waiting.fcfs_s + self._params.overtake_floor_s
        )
        if due_s < now_s:
            return (0, due_s, 0.0)
        return (1, float(waiting.uncached_tokens), waiting.arrived_s)
