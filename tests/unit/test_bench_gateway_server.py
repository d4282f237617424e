"""What windows of several numbers of streams say about a step and a token of it."""

from __future__ import annotations

import pytest

from bench.gateway_server import Window, split


def made(*, steps: int, streams: int, idle_ratio: float) -> Window:
    """Return a window of 4 s in which a step costs 300 us, and a token 20 us."""
    tokens = steps * streams
    return Window(
        wall_s=4.0, cpu_s=4.0 * idle_ratio + 300e-6 * steps + 20e-6 * tokens, tokens=tokens, steps=steps
    )


def test_the_cost_of_a_step_and_of_a_token_are_told_apart() -> None:
    windows = [made(steps=360 - 3 * streams, streams=streams, idle_ratio=0.01) for streams in (8, 32, 64)]

    parts = split(windows, idle_ratio=0.01)

    assert parts.step_s == pytest.approx(300e-6)
    assert parts.token_s == pytest.approx(20e-6)


def test_windows_add_up() -> None:
    one, other = (
        Window(wall_s=4.0, cpu_s=0.2, tokens=80, steps=10),
        Window(wall_s=2.0, cpu_s=0.1, tokens=40, steps=5),
    )

    assert one + other == Window(wall_s=6.0, cpu_s=pytest.approx(0.3), tokens=120, steps=15)
