"""
Fixtures: a server under attack, a well-behaved client beside it, both processes, and what is due afterwards.

The server's deadlines are short, so that those who never finish are seen to be closed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.attacks.scene import Beside, Target
from bench.attacks.seen import Scale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.attacks.seen import Attack

HERE = Path(__file__).parent
SCALE = Scale(frames=6000, limit_s=8.0, connections=50)
MOST_GROWTH_BYTES = 5 * 2**20
LONGEST_TURN_S = 0.25
"""Of CPU time; on an idle machine it is some 5 ms, and one of hypercorn's took a second."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.security)


class Scene:
    """A server and its well-behaved client, for attacks one after the other."""

    def __init__(self, target: Target, beside: Beside) -> None:
        self.target = target
        self._beside = beside
        self._begin()

    def endure(self, attack: Attack) -> None:
        """Run an attack: it ends as it should, and nobody else notices."""
        self._begin()

        seen = attack(self.target, SCALE)

        assert seen.is_fine, seen.text
        self.check()

    def check(self) -> None:
        """Nobody else has noticed anything, and nothing is left behind."""
        peak_bytes = self.target.peak_bytes()
        longest_turn_s = self.target.state()["longest_turn_s"]
        # The well-behaved client, and this question.
        left = self.target.settle(lambda state: state["connections"] <= 2 and state["streams"] <= 2)
        taken = self._served()
        log = self.target.log()

        assert taken["failures"] == []
        assert peak_bytes - self._before_bytes <= MOST_GROWTH_BYTES
        assert longest_turn_s <= LONGEST_TURN_S
        assert (left["connections"], left["streams"]) <= (2, 2)
        assert log[self._log_chars :] == ""

    def _begin(self) -> None:
        self._served()
        self.target.forget()
        self._before_bytes = self.target.peak_bytes()
        self._log_chars = len(self.target.log())

    def _served(self) -> dict[str, list[object]]:
        """Wait until the well-behaved client has been answered; returns all that it has seen."""
        deadline_s = time.monotonic() + 10
        taken = self._beside.take()
        while not taken["delays_ms"] and not taken["failures"]:
            assert time.monotonic() < deadline_s, "the well-behaved client was not answered"
            taken = self._beside.take()
        return taken


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Return a server with its well-behaved client."""
    folder = tmp_path_factory.mktemp("target")
    options = {"header_timeout_s": 1, "stall_s": 1, "body_timeout_s": 1, "max_body_bytes": 2**20}
    with Target("ours", folder, **options) as target, Beside(target.port) as beside:
        yield Scene(target, beside)
