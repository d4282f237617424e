"""
Fixtures: one really started gateway on the demo model for all load tests, and answers of requests alone.

A test that needs other hot keys asks for `reconfigured`; afterwards the server is as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.load import one
from bench.operations import Begin, begin
from bench.prompts import Prompts, tokenizer, training_prompts
from bench.server import Server
from tests.load.facts import CONFIG, MIN_DIFFERENT, PROMPT_TOKENS, STREAMS, TOKENS, Solo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.load)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures that tests have recorded, whether or not they are within their bars."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name} = {value:.4g}")


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    """Return prompts of the training text; no two tests get the same."""
    return training_prompts()


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory, prompts: Prompts) -> Iterator[tuple[Server, Begin]]:
    """Start the gateway, and time its start and its first requests."""
    with Server(tmp_path_factory.mktemp("gateway"), CONFIG) as server:
        yield server, begin(server, prompts)


@pytest.fixture(scope="session")
def server(started: tuple[Server, Begin]) -> Server:
    """Return the running gateway."""
    return started[0]


@pytest.fixture(scope="session")
def solos(server: Server, prompts: Prompts) -> list[Solo]:
    """Run prompts one by one until STREAMS of them gave TOKENS tokens, enough of them different."""
    vocabulary = tokenizer()
    found: list[Solo] = []
    tried = 0
    with server.connect() as connection:
        while len(found) < STREAMS:
            assert tried < 2 * STREAMS, f"{tried} prompts gave only {len(found)} long and varied answers"
            prompt = prompts.take(PROMPT_TOKENS[tried % len(PROMPT_TOKENS)])
            tried += 1
            answer = one(connection, prompt, max_tokens=TOKENS, ignore_eos=False)[1]
            assert answer.status == 200, answer.error
            different = set(vocabulary.encode(answer.text, add_special_tokens=False).ids)
            if answer.completion_tokens == TOKENS and len(different) >= MIN_DIFFERENT:
                found.append(Solo(prompt=prompt, text=answer.text))
    return found


@pytest.fixture
def reconfigured(server: Server) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Return what puts other hot keys in force until the test ends."""

    def put(changes: Mapping[str, object]) -> None:
        server.reconfigure({**CONFIG, **changes})

    yield put
    server.reconfigure(CONFIG)
