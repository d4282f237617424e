"""Room for a model: what remains fits, what must stay stays, and nothing goes that need not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wicketgate.residency import NoRoom, Resident, Room, make_room, total

RESIDENTS = st.lists(
    st.builds(
        Resident,
        name=st.uuids().map(str),
        weights_bytes=st.integers(0, 100),
        is_pinned=st.booleans(),
        is_busy=st.booleans(),
        used_s=st.floats(0, 1000),
    ),
    max_size=8,
    unique_by=lambda each: each.name,
)


@given(RESIDENTS, st.integers(0, 200), st.integers(0, 400))
def test_what_stays_fits_and_nobody_goes_who_is_needed_or_need_not(
    residents: list[Resident], wanted_bytes: int, max_bytes: int
) -> None:
    verdict = make_room(residents, wanted_bytes=wanted_bytes, max_bytes=max_bytes)

    going = [each for each in residents if isinstance(verdict, Room) and each.name in verdict.unload]
    staying = total(residents) - total(going)
    assert not any(each.is_pinned or each.is_busy for each in going)
    if isinstance(verdict, Room):
        assert staying + wanted_bytes <= max_bytes
        assert all(staying + each.weights_bytes + wanted_bytes > max_bytes for each in going)


@given(RESIDENTS, st.integers(0, 200), st.integers(0, 400))
def test_a_refusal_is_true_even_if_all_that_are_idle_went(
    residents: list[Resident], wanted_bytes: int, max_bytes: int
) -> None:
    verdict = make_room(residents, wanted_bytes=wanted_bytes, max_bytes=max_bytes)

    held = [each for each in residents if each.is_pinned or each.is_busy]
    assert isinstance(verdict, NoRoom) == (total(held) + wanted_bytes > max_bytes)
    if isinstance(verdict, NoRoom):
        assert verdict.pinned_bytes + verdict.busy_bytes == total(held)
