"""Properties of admission: nobody is lost or counted twice, and no bound is passed, for any verbs."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from governor.admission import Admission, AdmissionParams, Admitted, Outcome, Queued, Shed, Ticket

PARAMS = st.builds(
    AdmissionParams,
    fixed_limit=st.integers(1, 6),
    max_queued=st.integers(0, 6),
    max_wait_s=st.floats(0.5, 20.0),
    retry_after_max_s=st.floats(1.0, 60.0),
)


class AdmissionModel(RuleBasedStateMachine):
    """Random verbs against a model that keeps lists."""

    @initialize(params=PARAMS, limit=st.integers(1, 6))
    def begin(self, params: AdmissionParams, limit: int) -> None:
        """Start empty."""
        self.params = params
        self.admission = Admission(params, now_s=0.0)
        self.admission.set_limit(limit)
        self.now_s = 0.0
        self.arrived = 0
        self.waiting: dict[str, tuple[float, bool]] = {}
        self.held: list[Ticket] = []
        self.released: list[Ticket] = []
        self.ended = 0

    def _limit_of(self, adaptive: bool) -> int:
        return self.admission.limit if adaptive else self.admission.fixed_limit

    @rule(adaptive=st.booleans())
    def arrive(self, adaptive: bool) -> None:
        """One more request."""
        request_id = f"r{self.arrived}"
        self.arrived += 1
        had_room = len(self.held) < self._limit_of(adaptive)
        outcome = self.admission.arrive(request_id=request_id, adaptive=adaptive, now_s=self.now_s)
        match outcome:
            case Admitted(ticket=ticket):
                assert had_room
                assert not self.waiting
                assert ticket not in self.held + self.released
                self.held.append(ticket)
            case Queued(position=position):
                assert self.waiting or not had_room
                self.waiting[request_id] = (self.now_s, adaptive)
                assert position == len(self.waiting) <= self.params.max_queued
            case Shed(retry_after_s=retry_after_s):
                assert 1.0 <= retry_after_s <= self.params.retry_after_max_s
                self.ended += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def grant(self, data: st.DataObject) -> None:
        """Somebody who waits asks for a ticket."""
        request_id = data.draw(st.sampled_from(list(self.waiting)))
        room = len(self.held) < self._limit_of(self.waiting[request_id][1])
        ticket = self.admission.grant(request_id=request_id, now_s=self.now_s)
        assert (ticket is not None) == room
        if ticket is not None:
            del self.waiting[request_id]
            self.held.append(ticket)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def release(self, data: st.DataObject, outcome: Outcome) -> None:
        """Somebody ends."""
        ticket = data.draw(st.sampled_from(self.held))
        assert self.admission.release(ticket, outcome=outcome, now_s=self.now_s) is True
        self.held.remove(ticket)
        self.released.append(ticket)

    @precondition(lambda self: self.released)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def release_again(self, data: st.DataObject, outcome: Outcome) -> None:
        """Somebody ends twice."""
        ticket = data.draw(st.sampled_from(self.released))
        assert self.admission.release(ticket, outcome=outcome, now_s=self.now_s) is False

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Somebody who waits goes away."""
        request_id = data.draw(st.sampled_from(list(self.waiting)))
        assert self.admission.leave(request_id, now_s=self.now_s) is True
        del self.waiting[request_id]
        self.ended += 1

    @rule(passed_s=st.floats(0.0, 10.0))
    def wait(self, passed_s: float) -> None:
        """Time passes, and exactly those expire whose time is up."""
        self.now_s += passed_s
        due = [
            name for name, (at_s, _) in self.waiting.items() if at_s + self.params.max_wait_s <= self.now_s
        ]
        expired = self.admission.advance(now_s=self.now_s)
        assert [event.request_id for event in expired] == due
        assert all(1.0 <= event.retry_after_s <= self.params.retry_after_max_s for event in expired)
        for name in due:
            del self.waiting[name]
        self.ended += len(due)

    @rule(limit=st.integers(1, 6))
    def set_limit(self, limit: int) -> None:
        """The governor moves the limit."""
        self.admission.set_limit(limit)

    @invariant()
    def everybody_is_counted_once(self) -> None:
        """Arrived = waiting + in flight + ended."""
        assert self.admission.in_flight == len(self.held) <= 6
        assert self.admission.queued == len(self.waiting) <= self.params.max_queued
        assert len(self.held) + len(self.waiting) + len(self.released) + self.ended == self.arrived

    def teardown(self) -> None:
        """Everybody ends, and the counts return to zero."""
        for ticket in self.held:
            assert self.admission.release(ticket, outcome=Outcome.FINISHED, now_s=self.now_s)
        self.admission.advance(now_s=self.now_s + self.params.max_wait_s)
        assert (self.admission.in_flight, self.admission.queued) == (0, 0)
        assert self.admission.deadline_s is None


TestAdmission = AdmissionModel.TestCase
TestAdmission.settings = settings(max_examples=40, deadline=None, derandomize=True)
