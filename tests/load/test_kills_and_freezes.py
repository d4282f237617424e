"""
Pins that neither kills nor freezes of the engine host cost a stream a token, and that a poison fails alone.

The real engine on the demo model, without HTTP. WICKETGATE_KILLS and WICKETGATE_FREEZES make it longer: 50
and 20 are the bar.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from bench.prompts import MODEL, training_prompts
from tests.engines import START_S, running_engine, served
from wicketgate.engine.client import EngineState
from wicketgate.engine.options import HostOptions
from wicketgate.errors import EngineFailedError
from wicketgate.inference import FinishReason, Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from wicketgate.engine.client import EngineClient

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("WICKETGATE_KILLS", "3"))
FREEZES = int(os.environ.get("WICKETGATE_FREEZES", "1"))
STREAMS = 32
SERVICE_S = 3.0
"""Least time from Ready to the next harm."""
SEED = 20261121


@dataclass(frozen=True)
class Case:
    """A request and the answer that it gets alone."""

    prompt: list[int]
    sampling: Sampling
    answer: list[int]


@dataclass
class Seen:
    """What clients saw."""

    wrong: list[str] = field(default_factory=list)
    finished: int = 0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    """From one token to the next of a stream, where that took long."""

    def gaps(self, moments_s: list[float]) -> list[float]:
        """Return how long streams waited over any of these moments for their next token."""
        return [
            to_s - from_s
            for from_s, to_s in self.pauses
            if any(from_s <= moment_s < to_s for moment_s in moments_s)
        ]


async def cases(client: EngineClient, count: int, *, max_tokens: int) -> list[Case]:
    """Run requests alone, half of them greedy, half drawn with a seed."""
    prompts = training_prompts()
    made = []
    for number in range(count):
        sampling = Sampling(
            max_tokens=max_tokens, seed=number, temperature=float(number % 2), ignore_eos=True
        )
        prompt = prompts.take(24 + 8 * (number % 8))
        answer, _ = await served(client, prompt, sampling)
        made.append(Case(prompt, sampling, answer))
    return made


async def worker(client: EngineClient, work: list[Case], seen: Seen, done: asyncio.Event) -> None:
    """Ask one request after the other until it is enough."""
    for number in range(1_000_000):
        case = work[number % len(work)]
        answer, end = await served(client, case.prompt, case.sampling, pauses=seen.pauses)
        if end.reason is not FinishReason.LENGTH or answer != case.answer:
            pairs = zip(answer, case.answer, strict=False)
            same = next((at for at, (got, due) in enumerate(pairs) if got != due), len(answer))
            seen.wrong.append(f"{end.reason} {end.error}: {same} of {len(answer)} tokens are right")
        seen.finished += 1
        if done.is_set():
            return


async def harm(client: EngineClient, number: int) -> float:
    """Send a signal to the host and wait for its successor; returns when it was sent."""
    restarts = client.restarts
    assert client.pid is not None
    at_s = time.monotonic()
    os.kill(client.pid, number)
    async with asyncio.timeout(START_S):
        while client.restarts == restarts or client.state is not EngineState.READY:
            await asyncio.sleep(0.01)
    return at_s


@pytest.mark.parametrize("asked", [(KILLS, FREEZES)], ids=[f"{KILLS}_kills_and_{FREEZES}_freezes"])
async def test_32_streams_get_every_token_over_kills_and_freezes(
    asked: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    kills, freezes = asked
    chance = random.Random(SEED)
    harms = [signal.SIGKILL] * kills + [signal.SIGSTOP] * freezes
    chance.shuffle(harms)
    seen, done = Seen(), asyncio.Event()
    moments_s: dict[signal.Signals, list[float]] = {signal.SIGKILL: [], signal.SIGSTOP: []}
    async with running_engine(HostOptions(model=str(MODEL))) as client:
        work = await cases(client, 16, max_tokens=300)
        async with asyncio.TaskGroup() as group:
            for start in range(STREAMS):
                rotated = [work[(start + step) % len(work)] for step in range(len(work))]
                group.create_task(worker(client, rotated, seen, done))
            for number in harms:
                await asyncio.sleep(SERVICE_S + chance.random())
                moments_s[number].append(await harm(client, number))
            done.set()
        restarts = client.restarts

    for number, those_s in moments_s.items():
        gaps = seen.gaps(those_s) or [0.0]
        with capsys.disabled():
            sys.stdout.write(
                f"\n{len(those_s)} x {number.name}: {len(gaps)} streams paused, median"
                f" {statistics.median(gaps):.2f} s, longest {max(gaps):.2f} s"
            )
    assert seen.wrong == []
    assert restarts == len(harms)
    assert seen.finished >= STREAMS


KILLING = """
import os
import mlx.core as mx
from dataclasses import dataclass
from mlx_lm.models import qwen3


@dataclass
class ModelArgs(qwen3.ModelArgs):
    killing_token: int = -1


class Body(qwen3.Qwen3Model):
    def __call__(self, inputs, *args, **kwargs):
        if mx.any(inputs == self.args.killing_token).item():
            os.kill(os.getpid(), 9)
        return super().__call__(inputs, *args, **kwargs)


class Model(qwen3.Model):
    def __init__(self, args):
        super().__init__(args)
        self.model = Body(args)
"""


def killing_model(folder: Path, token: int) -> Path:
    """Make a copy of the demo model that kills its process when it is to compute a token."""
    shutil.copytree(MODEL, folder)
    (folder / "killing.py").write_text(KILLING)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_file": "killing.py", "killing_token": token}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def test_a_request_that_kills_the_host_fails_alone_among_16_innocent_ones(tmp_path: Path) -> None:
    async with running_engine(HostOptions(model=str(MODEL))) as client:
        work = await cases(client, 16, max_tokens=100)
    used = {token for case in work for token in (*case.prompt, *case.answer)}
    token = next(token for token in range(3, 1536) if token not in used)
    options = HostOptions(model=str(killing_model(tmp_path / "model", token)), trust_model_code=True)
    async with running_engine(options) as client:
        innocents = [asyncio.ensure_future(served(client, case.prompt, case.sampling)) for case in work]
        while client.load is None or client.load.rows < len(work):
            await asyncio.sleep(0.01)
        _, end = await served(client, [5, token, 6], Sampling(max_tokens=100, seed=1))
        answers = await asyncio.gather(*innocents)

    assert isinstance(end.error, EngineFailedError)
    assert [tokens for tokens, _ in answers] == [case.answer for case in work]
    assert {finished.reason for _, finished in answers} == {FinishReason.LENGTH}
