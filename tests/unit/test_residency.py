"""Which models make room for another: least recently used first, never those that are pinned or in use."""

from __future__ import annotations

from wicketgate.residency import NoRoom, Resident, Room, make_room


def resident(
    name: str, weights_bytes: int = 10, *, used_s: float = 0.0, pinned: bool = False, busy: bool = False
) -> Resident:
    return Resident(name=name, weights_bytes=weights_bytes, is_pinned=pinned, is_busy=busy, used_s=used_s)


def test_without_a_bound_everything_fits() -> None:
    assert make_room([resident("a", 1 << 60)], wanted_bytes=1 << 60, max_bytes=None) == Room(unload=())


def test_what_fits_as_it_is_unloads_nothing() -> None:
    assert make_room([resident("a")], wanted_bytes=10, max_bytes=20) == Room(unload=())


def test_the_least_recently_used_one_goes() -> None:
    residents = [resident("new", used_s=2.0), resident("old", used_s=1.0)]

    assert make_room(residents, wanted_bytes=10, max_bytes=20) == Room(unload=("old",))


def test_as_many_go_as_are_needed_in_the_order_of_their_use() -> None:
    residents = [resident(name, used_s=at_s) for at_s, name in enumerate("abc")]

    assert make_room(residents, wanted_bytes=15, max_bytes=30) == Room(unload=("a", "b"))


def test_a_small_one_is_spared_where_a_later_large_one_makes_room_enough() -> None:
    residents = [resident("small", 1, used_s=1.0), resident("large", 20, used_s=2.0)]

    assert make_room(residents, wanted_bytes=20, max_bytes=21) == Room(unload=("large",))


def test_pinned_and_busy_ones_stay() -> None:
    residents = [
        resident("pinned", used_s=0.0, pinned=True),
        resident("busy", used_s=1.0, busy=True),
        resident("idle", used_s=2.0),
    ]

    assert make_room(residents, wanted_bytes=10, max_bytes=30) == Room(unload=("idle",))


def test_a_model_that_fits_once_the_busy_are_idle_may_wait() -> None:
    verdict = make_room([resident("busy", busy=True)], wanted_bytes=10, max_bytes=15)

    assert isinstance(verdict, NoRoom)
    assert verdict.may_wait


def test_a_model_that_does_not_fit_beside_the_pinned_need_not_wait() -> None:
    verdict = make_room([resident("pinned", pinned=True, busy=True)], wanted_bytes=10, max_bytes=15)

    assert isinstance(verdict, NoRoom)
    assert not verdict.may_wait


def test_a_refusal_tells_the_arithmetic() -> None:
    residents = [resident("p", 2 << 30, pinned=True), resident("b", 1 << 30, busy=True)]

    verdict = make_room(residents, wanted_bytes=3 << 29, max_bytes=4 << 30)

    assert str(verdict) == (
        "its weights take 1.5 GiB; of 4.0 GiB (engine.models_max_bytes) pinned models hold 2.0 GiB and"
        " models in use 1.0 GiB"
    )
