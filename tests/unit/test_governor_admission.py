"""Pins admission: who is let in, who waits, who is refused and why, and tickets released exactly once."""

from __future__ import annotations

import pytest

from governor.admission import (
    Admission,
    AdmissionParams,
    Admitted,
    DuplicateRequestError,
    Expired,
    NotWaitingError,
    Outcome,
    Queued,
    Shed,
    ShedReason,
    Ticket,
)
from governor.bounds import OutOfBoundsError


def filled(*, params: AdmissionParams, adaptive: bool = False) -> tuple[Admission, list[Ticket]]:
    """Build an admission whose limit for the kind is reached."""
    admission = Admission(params, now_s=0.0)
    tickets = []
    while admission.has_room(adaptive=adaptive):
        outcome = admission.arrive(request_id=f"r{len(tickets)}", adaptive=adaptive, now_s=0.0)
        assert isinstance(outcome, Admitted)
        tickets.append(outcome.ticket)
    return admission, tickets


def busy_at_two_per_second() -> Admission:
    """Build an admission with 20 waiting, whose completions came at 2 per second for 100 s."""
    admission, tickets = filled(params=AdmissionParams(fixed_limit=2, max_queued=100, max_wait_s=1000.0))
    for each in range(20):
        admission.arrive(request_id=f"w{each}", adaptive=False, now_s=0.0)
    now_s = 0.0
    for each in range(200):
        now_s += 0.5
        admission.release(tickets.pop(0), outcome=Outcome.FINISHED, now_s=now_s)
        ticket = admission.grant(request_id=f"w{each}", now_s=now_s)
        assert ticket is not None
        tickets.append(ticket)
        admission.arrive(request_id=f"w{20 + each}", adaptive=False, now_s=now_s)
    return admission


def test_a_request_is_admitted_while_there_is_room():
    admission = Admission(AdmissionParams(), now_s=0.0)

    outcome = admission.arrive(request_id="a", adaptive=False, now_s=0.0)

    assert isinstance(outcome, Admitted)
    assert outcome.ticket.request_id == "a"
    assert (admission.in_flight, admission.queued) == (1, 0)


def test_a_request_waits_when_the_limit_is_reached():
    admission, _ = filled(params=AdmissionParams(fixed_limit=3))

    outcome = admission.arrive(request_id="a", adaptive=False, now_s=1.0)

    assert outcome == Queued(position=1, predicted_wait_s=None)
    assert (admission.in_flight, admission.queued, admission.oldest_arrived_s) == (3, 1, 1.0)


def test_an_adaptive_request_is_judged_by_the_governed_limit_and_another_by_the_fixed_one():
    admission = Admission(AdmissionParams(fixed_limit=5), now_s=0.0)
    admission.set_limit(1)
    admission.arrive(request_id="a", adaptive=True, now_s=0.0)

    assert not admission.has_room(adaptive=True)
    assert admission.has_room(adaptive=False)
    assert (admission.limit, admission.fixed_limit) == (1, 5)
    assert isinstance(admission.arrive(request_id="b", adaptive=False, now_s=0.0), Admitted)
    assert isinstance(admission.arrive(request_id="c", adaptive=True, now_s=0.0), Queued)


def test_nobody_is_overtaken_at_the_door():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=2))
    admission.arrive(request_id="first", adaptive=False, now_s=0.0)
    admission.release(tickets[0], outcome=Outcome.FINISHED, now_s=1.0)

    assert isinstance(admission.arrive(request_id="second", adaptive=False, now_s=1.0), Queued)


def test_a_full_queue_sheds():
    admission, _ = filled(params=AdmissionParams(fixed_limit=1, max_queued=2))
    admission.arrive(request_id="a", adaptive=False, now_s=0.0)
    admission.arrive(request_id="b", adaptive=False, now_s=0.0)

    outcome = admission.arrive(request_id="c", adaptive=False, now_s=0.0)

    assert outcome == Shed(reason=ShedReason.QUEUE_FULL, retry_after_s=1.0)
    assert admission.queued == 2


def test_the_predicted_wait_is_the_position_over_the_completion_rate():
    admission = busy_at_two_per_second()

    outcome = admission.arrive(request_id="a", adaptive=True, now_s=100.0)

    assert isinstance(outcome, Queued)
    assert outcome.position == 21
    assert outcome.predicted_wait_s == pytest.approx(21 / 2, rel=0.05)


def test_an_adaptive_request_with_a_long_predicted_wait_is_shed_and_another_waits():
    params = AdmissionParams(fixed_limit=1, max_wait_s=5.0)
    admission, tickets = filled(params=params)
    for each in range(4):
        admission.arrive(request_id=f"w{each}", adaptive=False, now_s=0.0)
    for each in range(3):
        now_s = 1.5 * (each + 1)
        admission.release(tickets[-1], outcome=Outcome.FAILED, now_s=now_s)
        ticket = admission.grant(request_id=f"w{each}", now_s=now_s)
        assert ticket is not None
        tickets.append(ticket)
        admission.arrive(request_id=f"w{4 + each}", adaptive=False, now_s=now_s)

    refused = admission.arrive(request_id="on", adaptive=True, now_s=4.5)

    assert isinstance(refused, Shed)
    assert refused.reason is ShedReason.WAIT_TOO_LONG
    assert isinstance(admission.arrive(request_id="off", adaptive=False, now_s=4.5), Queued)


def test_retry_after_is_backlog_over_completion_rate_and_has_a_ceiling():
    admission = busy_at_two_per_second()
    admission.drain()

    soon = admission.arrive(request_id="a", adaptive=False, now_s=100.0)
    admission.advance(now_s=1000.0)
    late = admission.arrive(request_id="b", adaptive=False, now_s=1000.0)

    assert isinstance(soon, Shed)
    assert soon.retry_after_s == pytest.approx(20 / 2, rel=0.05)
    assert isinstance(late, Shed)
    assert late.retry_after_s == 30.0


def test_time_with_an_empty_queue_does_not_lower_the_completion_rate():
    admission = busy_at_two_per_second()
    before = admission.arrive(request_id="a", adaptive=False, now_s=100.0)
    for each in range(200, 220):
        admission.leave(f"w{each}", now_s=100.0)
    admission.leave("a", now_s=100.0)
    assert admission.queued == 0

    after = admission.arrive(request_id="b", adaptive=False, now_s=5000.0)

    assert isinstance(before, Queued)
    assert isinstance(after, Queued)
    assert after.predicted_wait_s == pytest.approx(before.predicted_wait_s / 21)


def test_a_completion_with_an_empty_queue_teaches_nothing():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=8))
    for ticket in tickets:
        admission.release(ticket, outcome=Outcome.FINISHED, now_s=1.0)
    for each in range(8):
        admission.arrive(request_id=f"again{each}", adaptive=False, now_s=2.0)

    outcome = admission.arrive(request_id="a", adaptive=False, now_s=2.0)

    assert outcome == Queued(position=1, predicted_wait_s=None)


def test_a_cancelled_stream_teaches_nothing():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=8))
    admission.arrive(request_id="w", adaptive=False, now_s=0.0)
    for ticket in tickets[:4]:
        admission.release(ticket, outcome=Outcome.CANCELLED, now_s=1.0)

    outcome = admission.arrive(request_id="a", adaptive=False, now_s=1.0)

    assert outcome == Queued(position=2, predicted_wait_s=None)


def test_a_waiting_request_is_granted_a_ticket_only_when_its_kind_has_room():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=2))
    admission.arrive(request_id="a", adaptive=False, now_s=0.0)

    assert admission.grant(request_id="a", now_s=1.0) is None
    admission.release(tickets[0], outcome=Outcome.FINISHED, now_s=1.0)
    ticket = admission.grant(request_id="a", now_s=1.0)

    assert ticket is not None
    assert ticket.request_id == "a"
    assert (admission.in_flight, admission.queued) == (2, 0)


def test_the_pipeline_may_grant_in_any_order():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=1))
    for request_id in ("a", "b", "c"):
        admission.arrive(request_id=request_id, adaptive=False, now_s=0.0)
    admission.release(tickets[0], outcome=Outcome.FINISHED, now_s=1.0)

    ticket = admission.grant(request_id="b", now_s=1.0)

    assert ticket is not None
    assert ticket.request_id == "b"


def test_a_request_that_does_not_wait_is_not_granted():
    admission = Admission(AdmissionParams(), now_s=0.0)

    with pytest.raises(NotWaitingError) as caught:
        admission.grant(request_id="ghost", now_s=0.0)

    assert caught.value.request_id == "ghost"


def test_an_id_that_waits_already_is_refused():
    admission, _ = filled(params=AdmissionParams(fixed_limit=1))
    admission.arrive(request_id="a", adaptive=False, now_s=0.0)

    with pytest.raises(DuplicateRequestError) as caught:
        admission.arrive(request_id="a", adaptive=False, now_s=0.0)

    assert caught.value.request_id == "a"
    assert admission.queued == 1


def test_a_request_that_leaves_waits_no_more():
    admission, _ = filled(params=AdmissionParams(fixed_limit=1))
    admission.arrive(request_id="a", adaptive=False, now_s=0.0)

    assert admission.leave("a", now_s=1.0) is True
    assert admission.leave("a", now_s=1.0) is False
    assert admission.queued == 0


def test_a_ticket_is_released_exactly_once():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=2))

    assert admission.release(tickets[0], outcome=Outcome.FINISHED, now_s=1.0) is True
    assert admission.release(tickets[0], outcome=Outcome.CANCELLED, now_s=2.0) is False
    assert admission.in_flight == 1


def test_a_request_that_waited_too_long_expires_and_the_next_one_has_its_own_deadline():
    admission, _ = filled(params=AdmissionParams(fixed_limit=1, max_wait_s=10.0))
    assert admission.deadline_s is None
    admission.arrive(request_id="a", adaptive=False, now_s=1.0)
    admission.arrive(request_id="b", adaptive=True, now_s=4.0)

    assert admission.deadline_s == 11.0
    assert admission.advance(now_s=10.9) == []
    assert admission.advance(now_s=11.0) == [Expired(request_id="a", retry_after_s=1.0)]
    assert admission.deadline_s == 14.0
    assert admission.queued == 1


def test_draining_refuses_the_new_and_keeps_the_old():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=1))
    admission.arrive(request_id="a", adaptive=False, now_s=0.0)

    admission.drain()
    outcome = admission.arrive(request_id="b", adaptive=False, now_s=0.0)
    admission.release(tickets[0], outcome=Outcome.FINISHED, now_s=1.0)

    assert admission.draining
    assert outcome == Shed(reason=ShedReason.DRAINING, retry_after_s=1.0)
    assert admission.grant(request_id="a", now_s=1.0) is not None


def test_a_lowered_limit_takes_effect_as_requests_end():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=4), adaptive=True)

    admission.set_limit(2)

    assert admission.in_flight == 4
    for ticket in tickets[:2]:
        admission.release(ticket, outcome=Outcome.FINISHED, now_s=1.0)
        assert not admission.has_room(adaptive=True)
    admission.release(tickets[2], outcome=Outcome.FINISHED, now_s=1.0)
    assert admission.has_room(adaptive=True)


def test_other_parameters_count_from_the_next_request_on_and_put_nobody_out():
    admission, _ = filled(params=AdmissionParams(fixed_limit=2, max_queued=2, max_wait_s=10.0))
    admission.arrive(request_id="a", adaptive=False, now_s=0.0)

    admission.reconfigure(AdmissionParams(fixed_limit=1, max_queued=1, max_wait_s=20.0))

    assert (admission.in_flight, admission.queued, admission.fixed_limit) == (2, 1, 1)
    assert admission.deadline_s == 20.0
    assert isinstance(admission.arrive(request_id="b", adaptive=False, now_s=0.0), Shed)


def test_a_shorter_half_life_forgets_sooner():
    slow, fast = busy_at_two_per_second(), busy_at_two_per_second()
    fast.reconfigure(
        AdmissionParams(fixed_limit=2, max_queued=100, max_wait_s=1000.0, completion_half_life_s=1.0)
    )

    waits_s = []
    for admission in (slow, fast):
        outcome = admission.arrive(request_id="a", adaptive=False, now_s=110.0)
        assert isinstance(outcome, Queued)
        assert outcome.predicted_wait_s is not None
        waits_s.append(outcome.predicted_wait_s)

    assert waits_s[1] > 10 * waits_s[0]


def test_a_limit_below_one_is_refused():
    admission = Admission(AdmissionParams(), now_s=0.0)

    with pytest.raises(OutOfBoundsError, match="limit must be at least 1, got 0"):
        admission.set_limit(0)


def test_a_clock_that_steps_back_harms_nothing():
    admission, tickets = filled(params=AdmissionParams(fixed_limit=1))
    admission.arrive(request_id="a", adaptive=False, now_s=10.0)

    assert admission.release(tickets[0], outcome=Outcome.FINISHED, now_s=9.0) is True
    assert admission.grant(request_id="a", now_s=8.0) is not None


@pytest.mark.parametrize(
    "params", [{"fixed_limit": 0}, {"max_queued": -1}, {"max_wait_s": 0.0}, {"retry_after_max_s": 0.5}]
)
def test_a_parameter_out_of_bounds_is_refused_by_name(params):
    with pytest.raises(OutOfBoundsError) as caught:
        AdmissionParams(**params)

    assert caught.value.field == next(iter(params))


def test_while_held_arrivals_wait_for_those_in_flight() -> None:
    admission = Admission(AdmissionParams(fixed_limit=8), now_s=0.0)
    first = admission.arrive(request_id="a", adaptive=False, now_s=0.0)
    admission.hold(held=True)

    second = admission.arrive(request_id="b", adaptive=False, now_s=0.0)

    assert isinstance(first, Admitted)
    assert isinstance(second, Queued)
    assert admission.grant(request_id="b", now_s=0.0) is None


def test_while_held_one_is_let_in_once_nothing_is_in_flight() -> None:
    admission = Admission(AdmissionParams(fixed_limit=8), now_s=0.0)
    admission.hold(held=True)

    first = admission.arrive(request_id="a", adaptive=True, now_s=0.0)
    second = admission.arrive(request_id="b", adaptive=True, now_s=0.0)

    assert isinstance(first, Admitted)
    assert isinstance(second, Queued)


def test_the_end_of_a_hold_lets_everybody_in_again() -> None:
    admission = Admission(AdmissionParams(fixed_limit=8), now_s=0.0)
    admission.arrive(request_id="a", adaptive=False, now_s=0.0)
    admission.hold(held=True)
    admission.arrive(request_id="b", adaptive=False, now_s=0.0)

    admission.hold(held=False)

    assert not admission.is_held
    assert admission.grant(request_id="b", now_s=0.0) is not None
