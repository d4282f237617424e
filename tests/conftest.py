"""Fixtures that every kind of test may use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the runtime does."""
    return "asyncio"


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Return the folder of the model that ships."""
    return ROOT / "wicketgate" / "demo" / "model"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or under WICKETGATE_REQUIRE_TOOLS=1 fail, a test whose program is missing."""
    for mark in item.iter_markers("needs"):
        program = mark.args[0]
        if shutil.which(program) is None:
            reason = f"needs the program {program}, which is not on PATH"
            if os.environ.get("WICKETGATE_REQUIRE_TOOLS") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
