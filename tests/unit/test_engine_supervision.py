"""Pins when a host counts as frozen, and how soon and with what care a dead one is replaced."""

from __future__ import annotations

from wicketgate.engine.supervision import FreezeWatch, RestartParams, Restarts, SafeMode

LONG_S = 30.0
"""A host that served for so long has settled."""


def watch(*, floor_s: float = 2.0, full_chunk_s: float = 0.01) -> FreezeWatch:
    return FreezeWatch(floor_s=floor_s, full_chunk_s=full_chunk_s, tick_s=0.25)


def ticks_until_frozen(watched: FreezeWatch, *, most: int = 10_000) -> int:
    return next(count for count in range(1, most) if watched.tick(0.25))


def test_a_host_that_had_settled_is_replaced_at_once() -> None:
    restarts = Restarts(RestartParams(backoff_initial_s=0.2))

    pauses = [restarts.died(served_s=3.0, now_s=4.0 * number) for number in range(10)]

    assert pauses == [0.0] * 10


def test_the_pause_doubles_with_each_death_in_a_row_soon_after_the_start_up_to_its_bound() -> None:
    restarts = Restarts(RestartParams(backoff_initial_s=0.2, backoff_max_s=1.0))

    pauses = [restarts.died(served_s=0.1, now_s=float(second)) for second in range(5)]

    assert pauses == [0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_host_that_settled_ends_the_row() -> None:
    restarts = Restarts(RestartParams(backoff_initial_s=0.2))
    restarts.died(served_s=0.1, now_s=0.0)
    restarts.died(served_s=0.1, now_s=1.0)
    restarts.died(served_s=LONG_S, now_s=31.0)

    assert restarts.died(served_s=0.1, now_s=32.0) == 0.2


def test_the_pause_has_a_bound_after_any_number_of_deaths() -> None:
    restarts = Restarts(RestartParams(backoff_max_s=10.0, max_deaths_per_minute=1000))

    pauses = [restarts.died(served_s=0.1, now_s=100.0 * number) for number in range(2000)]

    assert pauses[-1] == 10.0


def test_too_many_deaths_in_a_minute_are_enough() -> None:
    restarts = Restarts(RestartParams(max_deaths_per_minute=3))

    outcomes = [restarts.died(served_s=LONG_S, now_s=0.0) for _ in range(4)]

    assert [outcome is None for outcome in outcomes] == [False, False, False, True]


def test_deaths_of_more_than_a_minute_ago_do_not_count() -> None:
    restarts = Restarts(RestartParams(max_deaths_per_minute=1))
    restarts.died(served_s=LONG_S, now_s=0.0)

    assert restarts.died(served_s=LONG_S, now_s=60.0) is not None


def test_hosts_that_never_become_ready_are_given_up_soon() -> None:
    restarts = Restarts(RestartParams(max_failed_starts=3))

    outcomes = [restarts.died(served_s=None, now_s=second * 100.0) for second in range(3)]

    assert [outcome is None for outcome in outcomes] == [False, False, True]


def test_a_host_that_became_ready_clears_the_failed_starts() -> None:
    restarts = Restarts(RestartParams(max_failed_starts=2))
    restarts.died(served_s=None, now_s=0.0)
    restarts.died(served_s=0.1, now_s=100.0)

    assert restarts.died(served_s=None, now_s=200.0) is not None


def test_two_deaths_by_the_gpu_within_10_minutes_call_for_safe_mode() -> None:
    careful = SafeMode()
    careful.died(by_gpu=True, now_s=0.0)
    after_one = careful.is_on(now_s=0.0)
    careful.died(by_gpu=True, now_s=599.0)

    assert not after_one
    assert careful.is_on(now_s=599.0)
    assert careful.gpu_deaths == 2


def test_two_deaths_by_the_gpu_further_apart_do_not() -> None:
    careful = SafeMode()
    careful.died(by_gpu=True, now_s=0.0)
    careful.died(by_gpu=True, now_s=600.0)

    assert not careful.is_on(now_s=600.0)


def test_deaths_by_others_never_do() -> None:
    careful = SafeMode()
    for second in range(50):
        careful.died(by_gpu=False, now_s=float(second))

    assert not careful.is_on(now_s=50.0)


def test_safe_mode_is_left_after_an_hour_without_any_death() -> None:
    careful = SafeMode()
    careful.died(by_gpu=True, now_s=0.0)
    careful.died(by_gpu=True, now_s=1.0)
    careful.died(by_gpu=False, now_s=3000.0)

    assert careful.is_on(now_s=6599.0)
    assert not careful.is_on(now_s=6600.0)


def test_a_single_death_by_the_gpu_after_that_hour_is_a_first_one() -> None:
    careful = SafeMode()
    careful.died(by_gpu=True, now_s=0.0)
    careful.died(by_gpu=True, now_s=1.0)
    careful.died(by_gpu=True, now_s=4000.0)

    assert not careful.is_on(now_s=4000.0)


def test_a_silent_host_is_frozen_after_the_floor() -> None:
    watched = watch(floor_s=2.0)
    watched.tick(0.25)

    assert ticks_until_frozen(watched) == 9
    assert watched.silence_s == 2.25


def test_a_host_that_speaks_is_never_frozen() -> None:
    watched = watch()

    for _ in range(1000):
        watched.heard()
        assert not watched.tick(0.25)


def test_a_host_of_long_steps_may_be_silent_for_ten_of_them() -> None:
    watched = watch(floor_s=2.0)
    watched.stepped(1.0)

    assert watched.limit_s == 10.0


def test_long_steps_are_forgotten_but_never_the_warm_up() -> None:
    watched = watch(floor_s=0.5, full_chunk_s=0.2)
    watched.stepped(1.0)
    for _ in range(1000):
        watched.stepped(0.001)

    assert watched.limit_s == 2.0


def test_a_watcher_that_was_held_up_does_not_take_its_own_absence_for_the_hosts() -> None:
    watched = watch(floor_s=2.0)
    watched.tick(0.25)

    assert not watched.tick(3600.0)
    assert watched.silence_s == 0.5
