"""
Deaths of the engine host and of its gateway, with real processes over the simulated engine.

The simulated engine draws each token from seed and position, so every text is known beforehand.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from wicketgate.engine.client import EngineClient, EngineParams, EngineState
from wicketgate.engine.options import HostOptions
from wicketgate.engine.plant import drawn_token
from wicketgate.engine.supervision import RestartParams
from wicketgate.errors import UnavailableError
from wicketgate.inference import Finished, FinishReason, Sampling, TokenChunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from wicketgate.engine.stream import TokenStream
    from wicketgate.engine.wire import Step

pytestmark = pytest.mark.anyio

START_S = 30.0
OPTIONS = HostOptions(engine="simulated", vocabulary_size=1000, plant={"decode_ms": 2.0})
BROKEN = HostOptions(engine="simulated", plant={"decode_ms": -1.0})
QUICK = RestartParams(backoff_initial_s=0.01, backoff_max_s=0.05)


class Gateway:
    """A client, and what it was told."""

    def __init__(self, params: EngineParams) -> None:
        self.states: list[EngineState] = []
        self.warmed: list[int] = []
        self.client = EngineClient(
            params,
            on_step=lambda step: self.warmed.extend(step.warmed),
            on_state=lambda state, _reason: self.states.append(state),
        )

    def host(self) -> int:
        assert self.client.pid is not None
        return self.client.pid


@asynccontextmanager
async def gateway(**params: object) -> AsyncIterator[Gateway]:
    made = Gateway(EngineParams(**({"options": OPTIONS, "restart": QUICK, "blas": "off"} | params)))
    async with asyncio.TaskGroup() as group:
        group.create_task(made.client.run())
        try:
            yield made
        finally:
            await made.client.stop()


async def drain(stream: TokenStream) -> tuple[list[int], Finished]:
    tokens: list[int] = []
    while isinstance(part := await stream.next(), TokenChunk):
        tokens += part.tokens
    return tokens, part


def expected(seed: int, count: int) -> list[int]:
    return [
        drawn_token(seed=0, stream_seed=seed, position=index, vocabulary_size=1000) for index in range(count)
    ]


def gone(pid: int) -> bool:
    """Say whether a process has ended; one that nobody has waited for yet has ended too."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() in ("", "Z", "Z+", "Zs")


async def until_gone(pid: int, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(gone, pid):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]
)
async def test_20_streams_survive_two_hosts_without_a_gap_or_a_repetition(anyio_backend: object) -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)
        streams = [made.client.submit([1, 2, 3], Sampling(max_tokens=200, seed=seed)) for seed in range(20)]
        drained = [asyncio.ensure_future(drain(stream)) for stream in streams]
        for _ in range(2):
            await made.client.wait_ready(START_S)
            await asyncio.sleep(0.15)
            os.kill(made.host(), signal.SIGKILL)
            async with asyncio.timeout(START_S):
                while made.client.state is EngineState.READY:
                    await asyncio.sleep(0.005)

        ends = await asyncio.gather(*drained)

        assert [tokens for tokens, _ in ends] == [expected(seed, 200) for seed in range(20)]
        assert {end.reason for _, end in ends} == {FinishReason.LENGTH}
        assert made.client.restarts == 2
        assert made.client.streams == 0


async def test_a_frozen_host_is_replaced_and_its_streams_go_on() -> None:
    async with gateway(freeze_floor_s=1.2) as made:
        await made.client.wait_ready(START_S)
        stream = made.client.submit([1], Sampling(max_tokens=300, seed=4))
        begun = await stream.next()
        assert isinstance(begun, TokenChunk)
        frozen = made.host()
        os.kill(frozen, signal.SIGSTOP)

        tokens, _ = await drain(stream)

        assert [*begun.tokens, *tokens] == expected(4, 300)
        assert made.client.last_exit.startswith("stopped by a signal from outside for 1.")
        assert made.host() != frozen
        await until_gone(frozen, 2.0)


async def test_a_stream_submitted_while_no_host_runs_waits_for_one() -> None:
    async with gateway() as made:
        stream = made.client.submit([1], Sampling(max_tokens=3, seed=8))

        tokens, _ = await drain(stream)

        assert tokens == expected(8, 3)


async def test_a_stream_cancelled_while_no_host_runs_never_reaches_one() -> None:
    async with gateway() as made:
        stream = made.client.submit([1], Sampling(max_tokens=3, seed=8))
        stream.cancel()
        await made.client.wait_ready(START_S)
        _, other = await drain(made.client.submit([1], Sampling(max_tokens=3, seed=9)))

        assert other.reason is FinishReason.LENGTH
        assert made.client.load is not None
        assert made.client.load.rows + made.client.load.waiting == 0


async def test_hosts_that_cannot_start_end_in_failure_with_their_own_words() -> None:
    async with gateway(options=BROKEN) as made:
        stream = made.client.submit([1], Sampling(max_tokens=3, seed=8))
        with pytest.raises(UnavailableError, match="decode_ms must be at least 0"):
            await made.client.wait_ready(START_S)

        late = made.client.submit([1], Sampling(max_tokens=3, seed=8))

        assert made.client.state is EngineState.FAILED
        assert made.states == [EngineState.RESTARTING, EngineState.RESTARTING, EngineState.FAILED]
        for _, end in (await drain(stream), await drain(late)):
            assert isinstance(end.error, UnavailableError)
            assert end.error.code == "engine_down"


async def test_pinned_prompts_may_be_longer_than_an_argument_of_a_program_can_be() -> None:
    pins = [[123] * 50_000]

    async with gateway(options=msgspec.structs.replace(OPTIONS, pins=pins)) as made:
        ready = await made.client.wait_ready(START_S)

    assert ready.engine == "simulated"


async def test_a_host_that_is_not_ready_in_time_is_replaced() -> None:
    # Importing mlx takes longer than the first look at the host is away.
    async with gateway(options=HostOptions(model="nowhere"), start_timeout_s=0.0) as made:
        async with asyncio.timeout(START_S):
            while made.client.state is not EngineState.FAILED:
                await asyncio.sleep(0.05)

        assert made.client.last_exit == "not ready within 0 s"
        assert made.client.pid is None


async def test_waiting_for_a_host_has_an_end() -> None:
    async with gateway() as made:
        with pytest.raises(UnavailableError, match=r"not ready within 0\.01 s"):
            await made.client.wait_ready(0.01)


async def test_a_warm_job_can_be_given_up_and_one_without_a_host_is_lost() -> None:
    async with gateway() as made:
        lost = made.client.warm(list(range(100)))
        await made.client.wait_ready(START_S)
        given_up = made.client.warm(list(range(900)) * 30)
        made.client.cancel_warm(given_up)
        done = made.client.warm(list(range(100)))
        async with asyncio.timeout(START_S):
            while done not in made.warmed:
                await asyncio.sleep(0.01)

    assert made.warmed == [given_up, done]
    assert lost not in made.warmed


async def test_a_listener_that_fails_costs_neither_the_host_nor_a_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_step: Step) -> None:
        raise ValueError("listener")

    client = EngineClient(
        EngineParams(options=OPTIONS, blas="off"), on_step=fail, on_state=lambda _state, _reason: None
    )
    task = asyncio.ensure_future(client.run())
    await client.wait_ready(START_S)
    tokens, _ = await drain(client.submit([1], Sampling(max_tokens=3, seed=8)))
    await client.stop()
    await task

    assert tokens == expected(8, 3)
    assert client.restarts == 0
    assert {record.message for record in caplog.records} == {"engine_message_failed"}


async def test_stop_ends_the_host_and_its_streams() -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)
        host = made.host()
        stream = made.client.submit([1], Sampling(max_tokens=20_000, seed=1))
        await stream.next()

        await made.client.stop()

        _, end = await drain(stream)
        assert isinstance(end.error, UnavailableError)
        assert made.client.last_exit == "it ended with exit code 0"
        assert made.client.state is EngineState.STOPPED
        assert gone(host)


async def test_a_cancelled_gateway_takes_its_host_with_it() -> None:
    made = Gateway(EngineParams(options=OPTIONS, blas="off"))
    task = asyncio.ensure_future(made.client.run())
    await made.client.wait_ready(START_S)
    host = made.host()

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert gone(host)
    assert made.client.state is EngineState.STOPPED


async def test_a_host_ignores_the_signals_that_are_meant_for_its_gateway() -> None:
    async with gateway() as made:
        await made.client.wait_ready(START_S)
        os.kill(made.host(), signal.SIGINT)
        os.kill(made.host(), signal.SIGTERM)

        tokens, _ = await drain(made.client.submit([1], Sampling(max_tokens=3, seed=8)))

        assert tokens == expected(8, 3)
        assert made.client.restarts == 0


PARENT = """
import asyncio, sys
from wicketgate.engine.client import EngineClient, EngineParams
from wicketgate.engine.options import HostOptions
from wicketgate.inference import Sampling

async def main():
    options = HostOptions(engine="simulated", plant={"decode_ms": float(sys.argv[1])})
    client = EngineClient(
        EngineParams(options=options, blas="off"), on_step=lambda step: None, on_state=lambda state, why: None
    )
    running = asyncio.ensure_future(client.run())
    await client.wait_ready(30)
    streams = [client.submit([1, 2], Sampling(max_tokens=30000, seed=i)) for i in range(5)]
    await asyncio.gather(*(stream.next() for stream in streams))
    print(client.pid, flush=True)
    await running

asyncio.run(main())
"""


@pytest.mark.parametrize("step_ms", ["1", "1000"])
async def test_no_host_outlives_a_killed_gateway(step_ms: str, root: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, step_ms, cwd=root, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(START_S):
        host = int(await parent.stdout.readline())
    assert not gone(host)

    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()

    await until_gone(host, 2.0)
