"""
Admit, queue or shed, with tickets that are released exactly once.

Admission counts; it does not order. Who waits next is the pipeline's choice: it asks `grant` for the
request that it wants to start. There is one count in flight for everybody, and two limits on it: the
governed one for requests on the adaptive flag, the fixed one for the others. A request that is on is
also refused at the door when its predicted wait is too long: a refusal now is worth more than an
expiry later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from governor.bounds import OutOfBoundsError, require_bounds

_MIN_COMPLETIONS = 3
"""Fewer completions than this say nothing about the rate."""
_SMALLEST_WEIGHT = 1e-9
"""Floor of the decayed completions: after a long hang the predicted wait is huge, and still finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionParams:
    """Bounds of the waiting queue, and the limit of requests that are not governed."""

    fixed_limit: int = 96
    """In flight, for requests off the adaptive flag."""
    max_queued: int = 256
    """Requests that may wait; the next one is shed."""
    max_wait_s: float = 30.0
    """Longest wait, predicted at the door (adaptive requests) and enforced in the queue (all)."""
    retry_after_max_s: float = 30.0
    """Longest advice in Retry-After; the shortest is 1 s."""
    completion_half_life_s: float = 10.0
    """How fast the completion rate forgets."""

    def __post_init__(self) -> None:
        require_bounds(
            self,
            fixed_limit=(1, 65_536),
            max_queued=(0, 1_000_000),
            max_wait_s=(0.1, 3600),
            retry_after_max_s=(1, 3600),
            completion_half_life_s=(0.1, 3600),
        )


class ShedReason(StrEnum):
    """Why a request was refused."""

    QUEUE_FULL = "queue_full"
    WAIT_TOO_LONG = "wait_too_long"
    DRAINING = "draining"


class Outcome(StrEnum):
    """How a request that held a ticket ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """The right to be in flight."""

    request_id: str
    """Whose it is."""
    serial: int
    """Never given twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The request may start now."""

    ticket: Ticket
    """To be released when it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The request waits."""

    position: int
    """Requests that wait, this one included."""
    predicted_wait_s: float | None
    """Position over the completion rate; None while no rate is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shed:
    """The request is refused."""

    reason: ShedReason
    """Why."""
    retry_after_s: float
    """When a place is likely, 1 to retry_after_max_s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """A request waited too long and waits no more."""

    request_id: str
    """Which."""
    retry_after_s: float
    """When a place is likely, 1 to retry_after_max_s."""


class DuplicateRequestError(ValueError):
    """The request waits already."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id!r} waits already")
        self.request_id = request_id


class NotWaitingError(ValueError):
    """The request does not wait: it never did, was granted, left or expired."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id!r} does not wait")
        self.request_id = request_id


class CompletionRate:
    """
    Completions per second while somebody waits, with exponential forgetting.

    Time with an empty queue does not pass here: it measures the demand, not what can be served.
    """

    def __init__(self, *, half_life_s: float, now_s: float) -> None:
        self.set_half_life(half_life_s)
        self._at_s = now_s
        self._seen = 0
        self._completions = 0.0
        self._busy_s = 0.0

    def set_half_life(self, half_life_s: float) -> None:
        """Forget faster or slower from now on."""
        self._decay_per_s = math.log(2.0) / half_life_s

    def pass_time(self, *, busy: bool, now_s: float) -> None:
        """Note that somebody waited, or nobody, since the last call."""
        elapsed_s = now_s - self._at_s
        if elapsed_s <= 0.0:
            return
        self._at_s = now_s
        if busy:
            kept = math.exp(-self._decay_per_s * elapsed_s)
            self._completions *= kept
            self._busy_s = self._busy_s * kept + (1.0 - kept) / self._decay_per_s

    def complete(self) -> None:
        """Note one completion, at the time of the last `pass_time`."""
        self._seen += 1
        self._completions += 1.0

    def wait_s(self, backlog: int) -> float | None:
        """Predict how long this many completions take; None before enough were seen."""
        if self._seen < _MIN_COMPLETIONS:
            return None
        return backlog * self._busy_s / max(self._completions, _SMALLEST_WEIGHT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    arrived_s: float
    adaptive: bool


class Admission:
    """Who holds a ticket, who waits, and who is refused."""

    def __init__(self, params: AdmissionParams, *, now_s: float) -> None:
        self._params = params
        self._limit = params.fixed_limit
        self._rate = CompletionRate(half_life_s=params.completion_half_life_s, now_s=now_s)
        self._waiting: dict[str, _Waiting] = {}
        self._live: set[int] = set()
        self._serial = 0
        self._draining = False
        self._held = False

    @property
    def in_flight(self) -> int:
        """Tickets given and not yet released."""
        return len(self._live)

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def limit(self) -> int:
        """The governed limit, for requests on the adaptive flag."""
        return self._limit

    @property
    def fixed_limit(self) -> int:
        """The limit for the others."""
        return self._params.fixed_limit

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._draining

    @property
    def is_held(self) -> bool:
        """Whether arrivals wait until those in flight have ended."""
        return self._held

    @property
    def oldest_arrived_s(self) -> float | None:
        """When the request that waits longest arrived."""
        return next((waiting.arrived_s for waiting in self._waiting.values()), None)

    @property
    def deadline_s(self) -> float | None:
        """When the request that waits longest expires."""
        oldest_s = self.oldest_arrived_s
        return None if oldest_s is None else oldest_s + self._params.max_wait_s

    def reconfigure(self, params: AdmissionParams) -> None:
        """Go on with other parameters; nobody who waits or runs is put out by a lower bound."""
        self._params = params
        self._rate.set_half_life(params.completion_half_life_s)

    def set_limit(self, limit: int) -> None:
        """Change the governed limit; a lower one takes effect as requests end."""
        if limit < 1:
            raise OutOfBoundsError(field="limit", value=limit, bound="at least 1")
        self._limit = limit

    def has_room(self, *, adaptive: bool) -> bool:
        """Say whether one more request of this kind may be in flight."""
        if self._held and self._live:
            return False
        return len(self._live) < (self._limit if adaptive else self._params.fixed_limit)

    def arrive(self, *, request_id: str, adaptive: bool, now_s: float) -> Admitted | Queued | Shed:
        """
        Decide about a new request.

        It is admitted at once only if nobody waits whom it would overtake; after `Queued` the
        pipeline asks `grant` for whom it wants to start, this one or another.

        Args:
            request_id: Unique among those that wait.
            adaptive: Whether the request is on the adaptive flag.
            now_s: The time.

        Raises:
            DuplicateRequestError: a request of this id waits.
        """
        if self._draining:
            return self._shed(ShedReason.DRAINING)
        if request_id in self._waiting:
            raise DuplicateRequestError(request_id)
        self._pass_time(now_s)
        if not self._waiting and self.has_room(adaptive=adaptive):
            return Admitted(ticket=self._issue(request_id))
        position = len(self._waiting) + 1
        if position > self._params.max_queued:
            return self._shed(ShedReason.QUEUE_FULL)
        predicted_s = self._rate.wait_s(position)
        if adaptive and predicted_s is not None and predicted_s > self._params.max_wait_s:
            return self._shed(ShedReason.WAIT_TOO_LONG)
        self._waiting[request_id] = _Waiting(arrived_s=now_s, adaptive=adaptive)
        return Queued(position=position, predicted_wait_s=predicted_s)

    def grant(self, *, request_id: str, now_s: float) -> Ticket | None:
        """
        Give a waiting request its ticket, or None while the limit of its kind is reached.

        Raises:
            NotWaitingError: no request of this id waits.
        """
        waiting = self._waiting.get(request_id)
        if waiting is None:
            raise NotWaitingError(request_id)
        if not self.has_room(adaptive=waiting.adaptive):
            return None
        self._pass_time(now_s)
        del self._waiting[request_id]
        return self._issue(request_id)

    def leave(self, request_id: str, *, now_s: float) -> bool:
        """Take a request that went away out of the queue; False if it does not wait."""
        self._pass_time(now_s)
        return self._waiting.pop(request_id, None) is not None

    def release(self, ticket: Ticket, *, outcome: Outcome, now_s: float) -> bool:
        """
        Take a ticket back.

        Returns:
            True the first time; False, and nothing happens, ever after.
        """
        if ticket.serial not in self._live:
            return False
        self._live.remove(ticket.serial)
        self._pass_time(now_s)
        # A cancelled stream teaches nothing: its length was the client's choice. A completion with
        # an empty queue is left out with the time around it.
        if self._waiting and outcome is not Outcome.CANCELLED:
            self._rate.complete()
        return True

    def hold(self, held: bool) -> None:
        """
        Let arrivals wait while somebody is in flight, because more at once would not fit; or end that.

        With nobody in flight one is let in: what is short may be freed by nothing else than serving.
        """
        self._held = held

    def drain(self) -> None:
        """Refuse every new request; those that wait or run go on."""
        self._draining = True

    def advance(self, *, now_s: float) -> list[Expired]:
        """Put out those that waited for max_wait_s or longer."""
        self._pass_time(now_s)
        expired = []
        while (deadline_s := self.deadline_s) is not None and deadline_s <= now_s:
            request_id = next(iter(self._waiting))
            del self._waiting[request_id]
            expired.append(Expired(request_id=request_id, retry_after_s=self._retry_after_s()))
        return expired

    def _pass_time(self, now_s: float) -> None:
        self._rate.pass_time(busy=bool(self._waiting), now_s=now_s)

    def _issue(self, request_id: str) -> Ticket:
        self._serial += 1
        self._live.add(self._serial)
        return Ticket(request_id=request_id, serial=self._serial)

    def _shed(self, reason: ShedReason) -> Shed:
        return Shed(reason=reason, retry_after_s=self._retry_after_s())

    def _retry_after_s(self) -> float:
        # Without a known rate the advice is the shortest: most such refusals end a short burst.
        wait_s = self._rate.wait_s(len(self._waiting)) or 0.0
        return min(max(1.0, wait_s), self._params.retry_after_max_s)
