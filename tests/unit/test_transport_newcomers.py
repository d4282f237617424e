"""Pins who is looked after of those that have asked for nothing yet: who waits, who is let in, who goes."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.newcomers import Admitted, NewcomerParams, Newcomers, PutOut

HOME, AWAY, OTHER = b"192.0.2.1", b"192.0.2.2", b"192.0.2.3"


class Door:
    """Newcomers and the time; notes who is inside and who was put out."""

    def __init__(self, **params):
        self.newcomers = Newcomers(NewcomerParams(**params))
        self.now_s = 0.0
        self.inside, self.put_out = [], []

    def come(self, *guests, of=HOME):
        for guest in guests:
            self.newcomers.arrive(guest, address=of)
            self._note(self.newcomers.admit(now_s=self.now_s))

    def go(self, guest):
        self.newcomers.leave(guest)
        self.inside.remove(guest)
        self._note(self.newcomers.admit(now_s=self.now_s))

    def wait_until(self, now_s):
        self.now_s = now_s
        self._note(self.newcomers.advance(now_s=now_s))

    def _note(self, events):
        for event in events:
            match event:
                case Admitted(guest=guest):
                    self.inside.append(guest)
                case PutOut(guest=guest):
                    self.inside.remove(guest)
                    self.put_out.append(guest)


def test_while_there_are_places_everybody_is_let_in_at_once():
    door = Door(most=3, most_per_address=2)

    door.come(1, 2)
    door.come(3, of=AWAY)

    assert door.inside == [1, 2, 3]
    assert door.newcomers.deadline_s == inf


def test_who_comes_later_waits_until_one_of_its_address_has_asked_or_gone():
    door = Door(most_per_address=2)
    door.come(1, 2, 3, 4)
    assert door.inside == [1, 2]

    door.go(1)

    assert door.inside == [2, 3]
    assert door.put_out == []


def test_a_silent_one_loses_its_place_only_when_it_had_it_long_enough_and_somebody_waits():
    door = Door(most_per_address=1, stay_s=2.0)
    door.come(1)
    door.wait_until(100.0)
    assert door.inside == [1]
    door.come(2)
    assert (door.inside, door.newcomers.deadline_s) == ([1], 2.0)

    door.wait_until(100.1)

    assert (door.inside, door.put_out) == ([2], [1])


def test_as_many_are_put_out_as_wait_the_oldest_first():
    door = Door(most_per_address=3, stay_s=2.0)
    door.come(1, 2)
    door.wait_until(1.0)
    door.come(3, 4, 5)

    door.wait_until(1.9)
    assert door.put_out == []
    door.wait_until(2.0)
    assert (door.inside, door.put_out) == ([3, 4, 5], [1, 2])
    assert door.newcomers.deadline_s == inf


def test_one_address_that_is_full_holds_up_no_other():
    door = Door(most=10, most_per_address=1)
    door.come(1, 2, 3)

    door.come(4, of=AWAY)

    assert door.inside == [1, 4]


def test_where_all_places_are_taken_the_oldest_of_all_gives_way():
    door = Door(most=2, most_per_address=0, stay_s=2.0)
    door.come(1)
    door.wait_until(1.0)
    door.come(2, of=AWAY)
    door.come(3, of=OTHER)
    assert door.newcomers.deadline_s == 2.0

    door.wait_until(2.0)

    assert (door.inside, door.put_out) == ([2, 3], [1])


def test_nobody_is_put_out_for_one_whose_own_address_is_full():
    door = Door(most=2, most_per_address=1, stay_s=2.0)
    door.come(1, of=AWAY)
    door.wait_until(1.0)
    door.come(2, 3)

    door.wait_until(2.5)

    assert (door.inside, door.put_out) == ([1, 2], [])
    assert door.newcomers.deadline_s == 3.0


def test_addresses_take_turns():
    door = Door(most=1, most_per_address=0)
    door.come(1)
    door.come("a", "b", "c", of=AWAY)
    door.come("d", of=OTHER)

    served = []
    for _ in range(4):
        door.go(door.inside[0])
        served += door.inside

    assert served == ["a", "d", "b", "c"]


def test_one_that_goes_while_it_waits_is_forgotten():
    door = Door(most_per_address=1)
    door.come(1, 2, 3)

    door.newcomers.leave(2)
    door.go(1)

    assert door.inside == [3]


def test_one_that_is_not_here_can_leave():
    door = Door()
    door.come(1)
    door.go(1)

    door.newcomers.leave(1)

    assert door.inside == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("most", 0), ("most_per_address", -1), ("stay_s", -0.1), ("connections_per_address", -1)],
)
def test_bounds_that_bound_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        NewcomerParams(**{name: value})


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("come"), st.sampled_from([HOME, AWAY, OTHER])),
            st.tuples(st.just("go"), st.integers(0, 50)),
            st.tuples(st.just("wait"), st.floats(0, 3)),
        ),
        max_size=60,
    )
)
def test_no_bound_is_broken_nobody_is_put_out_early_and_nobody_waits_for_a_free_place(steps):
    params = NewcomerParams(most=4, most_per_address=2, stay_s=2.0)
    newcomers = Newcomers(params)
    now_s, number = 0.0, 0
    waiting, inside = {}, {}

    def note(events):
        for event in events:
            if isinstance(event, Admitted):
                inside[event.guest] = (waiting.pop(event.guest), now_s)
            else:
                assert now_s - inside.pop(event.guest)[1] >= params.stay_s

    for verb, value in steps:
        if verb == "come":
            number += 1
            waiting[number] = value
            newcomers.arrive(number, address=value)
            note(newcomers.admit(now_s=now_s))
        elif verb == "go":
            newcomers.leave(value)
            waiting.pop(value, None)
            inside.pop(value, None)
            note(newcomers.admit(now_s=now_s))
        else:
            now_s += value
            note(newcomers.advance(now_s=now_s))
        of_each = [address for address, _ in inside.values()]
        assert len(inside) <= params.most
        assert all(of_each.count(address) <= params.most_per_address for address in (HOME, AWAY, OTHER))
        for address in waiting.values():
            assert len(inside) == params.most or of_each.count(address) == params.most_per_address
        assert not waiting or newcomers.deadline_s < inf
