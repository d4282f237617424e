"""
Pins that sessions which share prefixes and interleave get what each of their requests gets alone.

The real engine on the demo model, without HTTP. WICKETGATE_SESSION_REQUESTS makes it longer: 50 is the bar.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

import pytest

from bench.prompts import MODEL, Prompts, training_prompts
from tests.engines import running_engine, served
from wicketgate.engine.options import HostOptions
from wicketgate.inference import Sampling

pytestmark = pytest.mark.anyio

SESSIONS = 10
REQUESTS = int(os.environ.get("WICKETGATE_SESSION_REQUESTS", "8"))
SYSTEM_TOKENS = 120
TURN_TOKENS = 6
ANSWER_TOKENS = 8

Asked = tuple[list[int], Sampling, list[int]]
"""Prompt, sampling and answer."""


class Session:
    """A conversation that mostly goes on, and sometimes goes back to an earlier turn and on from there."""

    def __init__(self, number: int, system: list[int], prompts: Prompts) -> None:
        self.number = number
        self._prompts = prompts
        self._chance = random.Random(number)
        self._turns = [system]

    def prompt(self) -> list[int]:
        if self._chance.random() < 0.3:
            del self._turns[self._chance.randint(1, len(self._turns)) :]
        self._turns.append(self._prompts.take(TURN_TOKENS))
        return [token for turn in self._turns for token in turn]

    def answered(self, answer: list[int]) -> None:
        self._turns.append(answer)

    def sampling(self) -> Sampling:
        return Sampling(
            max_tokens=ANSWER_TOKENS,
            seed=self.number,
            temperature=float(self.number % 2),
            ignore_eos=True,
        )


async def test_every_request_of_ten_sessions_at_once_is_answered_as_it_is_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = training_prompts()
    systems = [prompts.take(SYSTEM_TOKENS) for _ in range(3)]
    asked: list[Asked] = []
    cached_tokens = 0

    async with running_engine(HostOptions(model=str(MODEL))) as client:

        async def talk(session: Session) -> None:
            nonlocal cached_tokens
            for _ in range(REQUESTS):
                prompt = session.prompt()
                answer, end = await served(client, prompt, session.sampling(), session=str(session.number))
                session.answered(answer)
                asked.append((prompt, session.sampling(), answer))
                cached_tokens += end.cached_tokens

        async with asyncio.TaskGroup() as group:
            for number in range(SESSIONS):
                group.create_task(talk(Session(number, systems[number % len(systems)], prompts)))

    plain = HostOptions(model=str(MODEL), prefix_cache_bytes=0, speculation="off")
    async with running_engine(plain) as client:
        alone = [(await served(client, prompt, sampling))[0] for prompt, sampling, _ in asked]

    kept_ratio = cached_tokens / sum(len(prompt) for prompt, _, _ in asked)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(asked)} requests, {100 * kept_ratio:.1f} % of their prompt tokens from the cache"
        )
    assert [answer for _, _, answer in asked] == alone
    assert kept_ratio > 0.5
