"""Fixtures that every kind of test may use."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent

# A slow machine is no failed property, and a failure must come back with the same examples.
hypothesis.settings.register_profile("wicketgate", deadline=None, derandomize=True)
hypothesis.settings.load_profile("wicketgate")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the OpenBLAS that `make test` preloads from programs that tests start: users have none there."""
    distributes = config.pluginmanager.hasplugin("dsession")
    if not distributes:
        for name in ("LD_PRELOAD", "OPENBLAS_NUM_THREADS"):
            os.environ.pop(name, None)


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


DEMO: dict[str, object] = {
    "phase4_rollout": {
        "adaptive_governor": {"enabled": True},
        "http2_transport": {"enabled": True},
        "ttft_pipeline": {"enabled": True, "mode": "staged"},
        "qos_monitoring": {"enabled": True},
    }
}
"""A configuration with every feature on and one staged; the model that ships is added by the server."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway on the demo model for all tests that leave it as they found it."""
    with Gateway(tmp_path_factory.mktemp("server"), DEMO) as running:
        yield running


@pytest.fixture
def eventually() -> Callable[[str, Callable[[], bool], float], None]:
    """Return what asks again and again, as fast as answers come, and fails when it takes too long."""

    def wait(what: str, is_so: Callable[[], bool], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"

    return wait
