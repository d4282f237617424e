"""Pins how much memory stays resident for the GPU, when none does, and what a device's refusal leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wicketgate.engine.wiring import Wiring, set_wired, wired_bytes_for

if TYPE_CHECKING:
    from collections.abc import Callable

GB = 1 << 30
SEQUOIA = (15, 5)


class FakeDevice:
    """Wires as mlx does: a limit above what the device recommends is refused; returns the old one."""

    def __init__(self, recommended: int, *, error: type[Exception] = ValueError) -> None:
        self.recommended = recommended
        self.wired = 0
        self.error = error

    def set_wired_limit(self, limit: int) -> int:
        if limit > self.recommended:
            raise self.error("the wired limit is above the recommended working set")
        old, self.wired = self.wired, limit
        return old


class FakeGenerator:
    """Wires all that is recommended when made, and what it found when closed, as mlx-lm's does."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.found = device.set_wired_limit(device.recommended)

    def close(self) -> None:
        self.device.set_wired_limit(self.found)


@pytest.mark.parametrize(
    ("weights", "recommended", "wired"),
    [(12 * GB, 21 * GB, 0), (13 * GB, 21 * GB, 13 * GB), (22 * GB, 21 * GB, 21 * GB)],
)
def test_weights_that_fill_most_of_what_is_recommended_are_wired(
    weights: int, recommended: int, wired: int
) -> None:
    assert wired_bytes_for(None, weights_bytes=weights, recommended=recommended, macos=SEQUOIA) == wired


@pytest.mark.parametrize(("asked", "wired"), [(0, 0), (5 * GB, 5 * GB), (90 * GB, 21 * GB)])
def test_what_was_asked_for_is_wired_up_to_what_is_recommended(asked: int, wired: int) -> None:
    assert wired_bytes_for(asked, weights_bytes=20 * GB, recommended=21 * GB, macos=SEQUOIA) == wired


@pytest.mark.parametrize("macos", [None, (14, 7, 1)])
def test_nothing_is_wired_where_the_system_cannot(macos: tuple[int, ...] | None) -> None:
    assert wired_bytes_for(5 * GB, weights_bytes=20 * GB, recommended=21 * GB, macos=macos) == 0


def test_nothing_is_wired_where_the_device_recommends_nothing() -> None:
    assert wired_bytes_for(5 * GB, weights_bytes=20 * GB, recommended=None, macos=SEQUOIA) == 0


def test_nothing_is_wired_in_safe_mode() -> None:
    wired = wired_bytes_for(5 * GB, weights_bytes=20 * GB, recommended=21 * GB, macos=SEQUOIA, safe_mode=True)

    assert wired == 0


def test_a_wired_limit_that_the_device_takes_is_in_force() -> None:
    device = FakeDevice(21 * GB)

    assert set_wired(device.set_wired_limit, 13 * GB) == 13 * GB
    assert device.wired == 13 * GB


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_wired_limit_that_the_device_refuses_leaves_nothing_wired(error: type[Exception]) -> None:
    device = FakeDevice(10 * GB, error=error)
    device.wired = 3 * GB

    assert set_wired(device.set_wired_limit, 13 * GB) == 0
    assert device.wired == 0


def test_ours_is_in_force_again_after_two_generators_were_closed_in_the_wrong_order() -> None:
    device = FakeDevice(21 * GB)
    first, second = FakeGenerator(device), FakeGenerator(device)
    first.close()
    second.close()
    left = device.wired

    set_wired(device.set_wired_limit, 13 * GB)

    assert left == 21 * GB
    assert device.wired == 13 * GB


def test_after_a_sleep_nothing_is_wired_until_a_probe_went_well() -> None:
    device = FakeDevice(21 * GB)
    wiring = Wiring(device.set_wired_limit, 13 * GB)
    during: list[int] = []

    def probe() -> bool:
        during.append(device.wired)
        return True

    wiring.woke(probe)

    assert during == [0]
    assert device.wired == wiring.bytes == 13 * GB


def _broken() -> bool:
    raise RuntimeError("the device was lost")


@pytest.mark.parametrize("probe", [lambda: False, _broken])
def test_after_a_probe_that_failed_nothing_is_ever_wired_again(probe: Callable[[], bool]) -> None:
    device = FakeDevice(21 * GB)
    wiring = Wiring(device.set_wired_limit, 13 * GB)

    wiring.woke(probe)
    wiring.woke(lambda: True)

    assert device.wired == wiring.bytes == 0


def test_where_nothing_was_wired_a_sleep_asks_nothing_of_the_device() -> None:
    asked: list[int] = []
    wiring = Wiring(asked.append, 0)

    wiring.woke(lambda: True)

    assert asked == []
