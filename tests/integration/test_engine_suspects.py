"""
Pins what requests that kill, hang or break the engine host do to everybody else, with real processes.

The host is tests/scripted_host.py: its answers are known beforehand, and it dies as told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests import scripted_host
from tests.scripted_host import ABORT, HANG, KILL, METAL, NO_MEMORY, SEGFAULT, VOCABULARY, Script
from wicketgate.engine.client import EngineClient, EngineParams, EngineState
from wicketgate.engine.options import HostOptions
from wicketgate.engine.plant import drawn_token
from wicketgate.engine.supervision import RestartParams
from wicketgate.errors import EngineFailedError, UnavailableError
from wicketgate.inference import Finished, FinishReason, Sampling, TokenChunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wicketgate.engine.stream import TokenStream

pytestmark = pytest.mark.anyio

START_S = 30.0
QUICK = RestartParams(backoff_initial_s=0.01, backoff_max_s=0.05)
COMMAND = (sys.executable, scripted_host.__file__)
LEAKED = "RuntimeError: [METAL] Command buffer execution failed: Insufficient Memory (00000008:kIO...)"


@dataclass
class Clock:
    """Monotonic time that a test can push forward."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


@dataclass
class Gateway:
    """A client, the clock it goes by, and what it was told."""

    client: EngineClient
    clock: Clock
    states: list[EngineState] = field(default_factory=list)

    async def until(self, state: EngineState) -> None:
        async with asyncio.timeout(START_S):
            while self.client.state is not state:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def gateway(script: Script = Script(), **params: object) -> AsyncIterator[Gateway]:  # noqa: B008  frozen
    options = HostOptions(engine="simulated", model=msgspec.json.encode(script).decode())
    usual = {"options": options, "restart": QUICK, "blas": "off", "command": COMMAND}
    states: list[EngineState] = []
    clock = Clock()
    client = EngineClient(
        EngineParams(**(usual | params)),
        on_step=lambda _step: None,
        on_state=lambda state, _reason: states.append(state),
        clock=clock,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        try:
            yield Gateway(client, clock, states)
        finally:
            await client.stop()


async def drain(stream: TokenStream) -> tuple[list[int], Finished]:
    tokens: list[int] = []
    while isinstance(part := await stream.next(), TokenChunk):
        tokens += part.tokens
    return tokens, part


def expected(seed: int, count: int) -> list[int]:
    return [
        drawn_token(seed=0, stream_seed=seed, position=index, vocabulary_size=VOCABULARY)
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("harm", "kills_after"),
    [(KILL, 0), (KILL, 40), (SEGFAULT, 3), (ABORT, 0), (METAL, 3)],
    ids=["kill_at_once", "kill_late", "segfault", "abort", "metal"],
)
async def test_a_request_that_kills_the_host_fails_alone_among_16_innocent_ones(
    harm: int, kills_after: int
) -> None:
    async with gateway(Script(kills_after=kills_after)) as made:
        await made.client.wait_ready(START_S)
        innocents = [made.client.submit([1, 2, 3], Sampling(max_tokens=60, seed=seed)) for seed in range(16)]
        culprit = made.client.submit([1, harm], Sampling(max_tokens=60, seed=99))

        async with asyncio.timeout(START_S):
            ends = await asyncio.gather(*(drain(stream) for stream in innocents))
            tokens, end = await drain(culprit)

        assert [tokens for tokens, _ in ends] == [expected(seed, 60) for seed in range(16)]
        assert {end.reason for _, end in ends} == {FinishReason.LENGTH}
        assert isinstance(end.error, EngineFailedError)
        assert tokens == expected(99, kills_after)
        assert made.client.restarts <= 6
        assert made.client.streams == 0


async def test_two_such_requests_both_fail_and_nobody_else() -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)
        prompts = [[1], [KILL], [2], [SEGFAULT], [3]]
        streams = [made.client.submit(prompt, Sampling(max_tokens=20, seed=5)) for prompt in prompts]

        async with asyncio.timeout(START_S):
            ends = [end for _, end in await asyncio.gather(*(drain(stream) for stream in streams))]

        assert [end.error is None for end in ends] == [True, False, True, False, True]


async def test_a_request_that_hangs_the_host_fails_alone() -> None:
    async with gateway(freeze_floor_s=0.7) as made:
        await made.client.wait_ready(START_S)
        innocent = made.client.submit([1], Sampling(max_tokens=2000, seed=4))
        culprit = made.client.submit([HANG], Sampling(max_tokens=5, seed=4))

        async with asyncio.timeout(START_S):
            (tokens, _), (_, end) = await asyncio.gather(drain(innocent), drain(culprit))

        assert tokens == expected(4, 2000)
        assert isinstance(end.error, EngineFailedError)


async def test_a_score_that_kills_the_host_fails_alone() -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)
        stream = made.client.submit([1], Sampling(max_tokens=500, seed=4))
        good = asyncio.create_task(made.client.score([1], [[2], [3]], [[4], [5, 6]]))
        bad = asyncio.create_task(made.client.score([KILL], [[2]], [[4]]))

        async with asyncio.timeout(START_S):
            tokens, _ = await drain(stream)
            with pytest.raises(EngineFailedError):
                await bad

            assert (await good).logprobs == [[-1.0, -2.0], [-1.0, -2.0]]
        assert tokens == expected(4, 500)


async def test_want_of_memory_ends_one_request_as_unavailable() -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)

        _, end = await drain(made.client.submit([NO_MEMORY], Sampling(max_tokens=20, seed=4)))

        assert isinstance(end.error, UnavailableError)
        assert (end.error.code, made.client.restarts) == ("memory", 0)


async def test_each_end_is_told_in_words() -> None:
    async with gateway() as made:
        said = []
        for harm in (METAL, ABORT, SEGFAULT, KILL):
            await made.client.wait_ready(START_S)
            stream = made.client.submit([harm], Sampling(max_tokens=20, seed=4))
            while made.client.restarts == len(said):
                await asyncio.sleep(0.01)
            said.append(made.client.last_exit)
            stream.cancel()

        assert said == [
            "Metal timeout in prefill",
            "it aborted (SIGABRT) in prefill",
            "it crashed (SIGSEGV) in prefill",
            "it was killed from outside (SIGKILL, perhaps by the system for want of memory) in prefill",
        ]


async def killed_by(made: Gateway, harm: int) -> None:
    """Have a host killed by a request that is then cancelled, and wait for the next."""
    await made.client.wait_ready(START_S)
    restarts = made.client.restarts
    stream = made.client.submit([harm], Sampling(max_tokens=20, seed=4))
    async with asyncio.timeout(START_S):
        while made.client.restarts == restarts:
            await asyncio.sleep(0.01)
    stream.cancel()
    await made.client.wait_ready(START_S)


def runtime(made: Gateway) -> str:
    assert made.client.facts is not None
    return made.client.facts.runtime


async def test_after_two_deaths_by_the_gpu_the_next_host_is_careful_until_an_hour_has_passed() -> None:
    async with gateway() as made:
        await killed_by(made, METAL)
        once = runtime(made)
        await killed_by(made, ABORT)
        twice, because = runtime(made), made.client.safe_mode
        made.clock.ahead_s += 3601.0
        async with asyncio.timeout(START_S):
            while made.client.safe_mode or made.client.state is not EngineState.READY:
                await asyncio.sleep(0.01)

        assert (once, twice) == ("as usual", "safe mode")
        assert because == "the GPU failed 2 times, last: it aborted (SIGABRT) in prefill"
        assert runtime(made) == "as usual"
        assert made.client.restarts == 2
        assert made.states == [EngineState.READY, EngineState.RESTARTING] * 3 + [EngineState.READY]


async def test_reviving_leaves_safe_mode() -> None:
    async with gateway() as made:
        await killed_by(made, METAL)
        await killed_by(made, METAL)
        careful = runtime(made)

        made.client.revive()
        async with asyncio.timeout(START_S):
            while made.client.safe_mode or made.client.state is not EngineState.READY:
                await asyncio.sleep(0.01)

        assert (careful, runtime(made)) == ("safe mode", "as usual")


async def test_neither_a_signal_from_outside_nor_a_processor_calls_for_safe_mode() -> None:
    async with gateway() as made:
        await killed_by(made, KILL)
        await killed_by(made, KILL)
        outside = runtime(made)
    async with gateway(Script(device="cpu")) as made:
        await killed_by(made, ABORT)
        await killed_by(made, ABORT)

        assert (outside, runtime(made)) == ("as usual", "as usual")


async def test_a_host_that_was_stopped_from_outside_is_replaced_but_no_gpu_is_blamed() -> None:
    async with gateway(freeze_floor_s=0.7) as made:
        for _ in range(2):
            await made.client.wait_ready(START_S)
            assert made.client.pid is not None
            restarts = made.client.restarts
            os.kill(made.client.pid, signal.SIGSTOP)
            async with asyncio.timeout(START_S):
                while made.client.restarts == restarts:
                    await asyncio.sleep(0.01)
        await made.client.wait_ready(START_S)

        assert made.client.last_exit.startswith("stopped by a signal from outside for")
        assert runtime(made) == "as usual"


async def test_memory_that_a_hung_gpu_keeps_ends_the_restarts_and_says_what_to_do() -> None:
    async with gateway(Script(load_fails=LEAKED), used_ratio=lambda _pid: 0.2) as made:
        stream = made.client.submit([1], Sampling(max_tokens=3, seed=8))
        with pytest.raises(UnavailableError, match="reboot the Mac"):
            await made.client.wait_ready(START_S)

        _, end = await drain(stream)

        assert made.states == [EngineState.FAILED]
        assert isinstance(end.error, UnavailableError)
        assert end.error.status == 503
        assert "reboot the Mac" in end.error.message


async def test_a_model_that_is_too_large_for_memory_in_use_is_tried_again() -> None:
    async with gateway(Script(load_fails=LEAKED), used_ratio=lambda _pid: 0.9) as made:
        await made.until(EngineState.FAILED)

        assert made.states == [EngineState.RESTARTING, EngineState.RESTARTING, EngineState.FAILED]
        assert made.client.last_exit == "Metal ran out of memory while it loaded the model"


async def test_a_host_that_holds_next_to_nothing_has_not_filled_the_memory() -> None:
    async with gateway(Script(load_fails=LEAKED)) as made:
        await made.until(EngineState.FAILED)

        assert made.client.last_exit == "the GPU's memory is not free after a hang: reboot the Mac"


async def test_when_the_budget_of_deaths_is_spent_streams_end_as_unavailable_until_somebody_revives() -> None:
    restart = RestartParams(backoff_initial_s=0.0, max_deaths_per_minute=1)
    async with gateway(Script(kills_after=3), restart=restart) as made:
        await made.client.wait_ready(START_S)
        innocent = made.client.submit([1], Sampling(max_tokens=50_000, seed=4))
        culprit = made.client.submit([KILL], Sampling(max_tokens=20, seed=4))
        await made.until(EngineState.FAILED)
        ends = [end for _, end in (await drain(innocent), await drain(culprit))]
        late, _ = made.client.submit([1], Sampling(max_tokens=3, seed=8)), made.client.revive()
        await made.client.wait_ready(START_S)

        tokens, _ = await drain(made.client.submit([1], Sampling(max_tokens=3, seed=8)))

        assert [end.error.code for end in ends if end.error] == ["engine_down", "engine_down"]
        assert (await drain(late))[1].error is not None
        assert tokens == expected(8, 3)


async def test_what_the_governor_moved_is_told_to_the_next_host_too() -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)
        made.client.tune(chunk_target_s=0.05)
        made.client.tune(warm_allowed=False)
        told = (await made.client.cache()).hits
        await killed_by(made, KILL)

        assert (told, (await made.client.cache()).hits) == (0, 50)


async def test_a_question_about_the_prefix_store_has_an_end() -> None:
    async with gateway(Script(mute=True)) as made:
        with pytest.raises(UnavailableError, match="restarted"):
            await made.client.cache()
        await made.client.wait_ready(START_S)
        with pytest.raises(UnavailableError, match=r"within 0\.05 s"):
            await made.client.cache(timeout_s=0.05)
        asking = asyncio.ensure_future(made.client.cache())
        await asyncio.sleep(0)
        assert made.client.pid is not None
        os.kill(made.client.pid, signal.SIGKILL)

        with pytest.raises(UnavailableError, match="died"):
            await asking


async def test_a_host_of_another_version_is_not_used() -> None:
    async with gateway(Script(version=1)) as made:
        with pytest.raises(UnavailableError, match="speaks version 1"):
            await made.client.wait_ready(START_S)


async def test_a_drain_lets_what_is_in_flight_end_and_takes_nothing_new() -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)
        running = asyncio.ensure_future(drain(made.client.submit([1], Sampling(max_tokens=50, seed=4))))
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(made.client.drain(timeout_s=START_S))
        await asyncio.sleep(0)
        _, refused = await drain(made.client.submit([1], Sampling(max_tokens=3, seed=8)))

        in_time = await draining

        assert isinstance(refused.error, UnavailableError)
        assert refused.error.code == "draining"
        assert in_time
        assert (await running)[0] == expected(4, 50)


async def test_a_drain_has_an_end() -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)
        made.client.submit([1], Sampling(max_tokens=50_000, seed=4))

        assert not await made.client.drain(timeout_s=0.05)


async def test_a_command_that_does_not_exist_is_a_failed_start() -> None:
    async with gateway(command=("/nowhere/python",)) as made:
        with pytest.raises(UnavailableError, match="could not be started"):
            await made.client.wait_ready(START_S)
