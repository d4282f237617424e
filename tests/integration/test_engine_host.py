"""
One real engine host on the model that ships: who shares a batch is not to be seen in anybody's tokens.

Every comparison is with the same request run alone on the same host.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import msgspec
import pytest
from tokenizers import Tokenizer

from wicketgate.engine.client import EngineClient, EngineParams, EngineState
from wicketgate.engine.options import HostOptions
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import Finished, FinishReason, Sampling, TokenChunk, TokenLogprob
from wicketgate.platform import process_memory_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from wicketgate.engine.stream import TokenStream
    from wicketgate.engine.wire import Step

pytestmark = pytest.mark.anyio

START_S = 60.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def texts(demo_model: Path) -> list[list[int]]:
    """Return the token ids of 75 different English texts of 16 to 90 tokens."""
    tokenizer = Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    found = [tokenizer.encode(text).ids for _, text in sorted(topics.items())]
    return [ids[: 16 + index] for index, ids in enumerate(found[:75])]


@asynccontextmanager
async def running(options: HostOptions) -> AsyncIterator[tuple[EngineClient, list[Step]]]:
    steps: list[Step] = []
    client = EngineClient(
        EngineParams(options=options), on_step=steps.append, on_state=lambda _state, _reason: None
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        try:
            await client.wait_ready(START_S)
            yield client, steps
        finally:
            await client.stop()


@pytest.fixture(scope="module")
async def rig(demo_model: Path) -> AsyncIterator[tuple[EngineClient, list[Step]]]:
    async with running(HostOptions(model=str(demo_model))) as rig:
        yield rig


@pytest.fixture
async def engine(rig: tuple[EngineClient, list[Step]]) -> EngineClient:
    return rig[0]


async def drain(stream: TokenStream) -> tuple[list[int], Finished]:
    tokens: list[int] = []
    while isinstance(part := await stream.next(), TokenChunk):
        tokens += part.tokens
    return tokens, part


async def alone(engine: EngineClient, ids: Sequence[int], sampling: Sampling) -> list[int]:
    return (await drain(engine.submit(ids, sampling)))[0]


async def until_empty(engine: EngineClient) -> None:
    async with asyncio.timeout(10.0):
        while engine.load is None or engine.load.rows or engine.load.waiting:
            await asyncio.sleep(0.02)


def mixed(index: int, max_tokens: int) -> Sampling:
    """Return one of five ways to sample, with a seed of its own."""
    ways: list[dict[str, float]] = [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
        {"temperature": 0.0, "repetition_penalty": 1.3},
        {"temperature": 1.2, "min_p": 0.05},
    ]
    fields: dict[str, object] = {"max_tokens": max_tokens, "seed": 1000 + index, **ways[index % 5]}
    return msgspec.convert(fields, Sampling)


async def test_the_host_says_what_it_runs(engine: EngineClient) -> None:
    facts = await engine.wait_ready(START_S)

    assert (facts.engine, facts.model_type, facts.pid) == ("mlx", "qwen3", engine.pid)
    # 3 layers x 2 heads x 64 x (keys and values) x float32.
    assert facts.kv_bytes_per_token == 3 * 2 * 64 * 2 * 4
    assert facts.vocabulary_size == 1536


async def test_a_stream_that_joins_a_running_batch_changes_nobodys_tokens(
    engine: EngineClient, texts: list[list[int]]
) -> None:
    greedy = Sampling(max_tokens=40, seed=0, temperature=0.0)
    solo = [await alone(engine, texts[index], greedy) for index in (0, 60)]
    first = engine.submit(texts[0], greedy)
    begun = await first.next()
    assert isinstance(begun, TokenChunk)

    second = engine.submit(texts[60], greedy)
    rest, joined = await asyncio.gather(drain(first), drain(second))

    assert [[*begun.tokens, *rest[0]], joined[0]] == solo
    await until_empty(engine)


async def test_75_streams_at_once_get_exactly_the_tokens_that_each_gets_alone(
    engine: EngineClient, texts: list[list[int]]
) -> None:
    solo = [await alone(engine, ids, mixed(index, 8)) for index, ids in enumerate(texts)]

    together = await asyncio.gather(
        *(drain(engine.submit(ids, mixed(index, 8))) for index, ids in enumerate(texts))
    )

    assert [tokens for tokens, _ in together] == solo
    # The solo runs left their KV, so that this compares reused prefixes with computed ones as well.
    assert sum(end.cached_tokens for _, end in together) > 1000
    await until_empty(engine)


async def test_a_seed_decides_the_text(engine: EngineClient, texts: list[list[int]]) -> None:
    def sampling(seed: int) -> Sampling:
        return Sampling(max_tokens=12, seed=seed, temperature=1.0, ignore_eos=True)

    same = [await alone(engine, texts[30], sampling(5)) for _ in range(2)]
    other = await alone(engine, texts[30], sampling(2**64 - 1))

    assert same[0] == same[1] != other


async def test_a_stream_can_be_cancelled_in_any_state_and_leaves_no_row(
    engine: EngineClient, texts: list[list[int]]
) -> None:
    sampling = Sampling(max_tokens=2000, seed=0, temperature=0.0, ignore_eos=True)
    decoding = engine.submit(texts[0], sampling)
    await decoding.next()
    # Nine prompts of seconds: eight are computed side by side, one waits.
    others = [engine.submit(texts[1 + index] * 60, sampling) for index in range(9)]
    async with asyncio.timeout(10.0):
        while engine.load is None or engine.load.waiting < 9:
            await asyncio.sleep(0.005)

    for stream in (decoding, *others):
        stream.cancel()

    ends = [await stream.next() for stream in (decoding, *others)]
    assert {end.reason for end in ends if isinstance(end, Finished)} == {FinishReason.CANCELLED}
    assert engine.streams == 0
    await until_empty(engine)


async def test_poisoned_requests_are_refused_and_a_neighbours_tokens_stay_the_same(
    engine: EngineClient, texts: list[list[int]]
) -> None:
    greedy = Sampling(max_tokens=30, seed=0, temperature=0.0)
    solo = await alone(engine, texts[10], greedy)
    neighbour = asyncio.ensure_future(drain(engine.submit(texts[10], greedy)))
    poison: list[tuple[list[int], Sampling]] = [
        ([], greedy),
        ([1536], greedy),
        ([-1], greedy),
        ([2**31], greedy),
        (texts[0], Sampling(max_tokens=8192, seed=0)),
        (texts[0], Sampling(max_tokens=0, seed=0)),
        (texts[0], Sampling(max_tokens=3, seed=0, temperature=float("nan"))),
        (texts[0], Sampling(max_tokens=3, seed=0, logprobs=21)),
    ]

    ends = [(await drain(engine.submit(ids, sampling)))[1] for ids, sampling in poison]

    assert [type(end.error) for end in ends] == [InvalidRequestError] * len(poison)
    assert (await neighbour)[0] == solo


async def test_odd_but_allowed_sampling_is_served(engine: EngineClient, texts: list[list[int]]) -> None:
    greedy = await alone(engine, texts[20], Sampling(max_tokens=6, seed=0, temperature=0.0))
    only_the_best: list[dict[str, float]] = [
        {"top_k": 1},
        {"top_p": 0.0},
        {"min_p": 1.0},
        {"temperature": 1e-30},
        {"temperature": 1e-3},
    ]

    found = [
        await alone(
            engine, texts[20], msgspec.convert({"max_tokens": 6, "seed": 1} | way, Sampling, strict=False)
        )
        for way in only_the_best
    ]
    huge = await alone(engine, texts[20], Sampling(max_tokens=6, seed=1, top_k=10**9, ignore_eos=True))

    assert found == [greedy] * len(only_the_best)
    assert len(huge) == 6


async def test_the_prefix_of_an_earlier_request_is_reused_without_a_change(
    engine: EngineClient, texts: list[list[int]]
) -> None:
    greedy = Sampling(max_tokens=16, seed=0, temperature=0.0, ignore_eos=True)
    prompt = texts[70] + texts[71]
    cold = await drain(engine.submit(prompt, greedy))

    same = await drain(engine.submit(prompt, greedy))
    turn = await drain(engine.submit(prompt + cold[0] + [11, 12], greedy))

    assert same[0] == cold[0]
    assert same[1].cached_tokens == len(prompt) - 1
    # The last token of an answer was never computed.
    assert turn[1].cached_tokens == len(prompt) + 15


async def test_a_warm_job_makes_the_request_that_follows_start_warm(
    rig: tuple[EngineClient, list[Step]], texts: list[list[int]]
) -> None:
    engine, steps = rig
    prompt = [ids[0] for ids in texts] * 9
    job = engine.warm(prompt)
    async with asyncio.timeout(10.0):
        while not any(job in step.warmed and job in step.kept for step in steps):
            await asyncio.sleep(0.01)

    _, end = await drain(engine.submit([*prompt, 5], Sampling(max_tokens=1, seed=0)))

    assert end.cached_tokens == len(prompt)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
async def test_logprobs_are_those_of_the_raw_logits(
    engine: EngineClient, texts: list[list[int]], penalty: float
) -> None:
    sampling = Sampling(max_tokens=5, seed=0, temperature=0.0, logprobs=3, repetition_penalty=penalty)
    # Ends on a token that the raw logits like to repeat, so that the penalty has something to do.
    stream = engine.submit([*texts[15], 7, 8, 7, 8, 7, 8, 7], sampling)
    parts: list[TokenLogprob] = []
    while isinstance(part := await stream.next(), TokenChunk):
        assert part.logprobs is not None
        assert [each.token for each in part.logprobs] == list(part.tokens)
        parts += part.logprobs

    assert len(parts) == 5
    for each in parts:
        best = [logprob for _, logprob in each.top]
        assert best == sorted(best, reverse=True)
        assert each.logprob <= best[0] <= 0.0
        if penalty == 1.0:
            assert each.top[0] == (each.token, each.logprob)


async def test_a_stop_token_and_the_models_end_end_a_stream(
    engine: EngineClient, texts: list[list[int]]
) -> None:
    free = await alone(engine, texts[5], Sampling(max_tokens=10, seed=3, ignore_eos=True))

    tokens, end = await drain(
        engine.submit(texts[5], Sampling(max_tokens=10, seed=3, ignore_eos=True, stop_token_ids=(free[4],)))
    )

    cut = free.index(free[4]) + 1
    assert (tokens, end.reason, end.completion_tokens) == (free[:cut], FinishReason.STOP, cut)


async def test_streams_that_give_way_to_more_urgent_ones_lose_no_token(
    demo_model: Path, texts: list[list[int]]
) -> None:
    options = HostOptions(model=str(demo_model), max_batch_size=3, prefix_cache_bytes=0)
    async with running(options) as (engine, steps):
        requests = [(texts[index * 5] * (1 + index % 4), mixed(index, 24)) for index in range(12)]
        solo = [await alone(engine, *request) for request in requests]
        streams: list[TokenStream] = []
        begun: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            stream = engine.submit(*request, priority=2 - index // 4)
            streams.append(stream)
            if index % 4 == 3:
                first = await stream.next()
                assert isinstance(first, TokenChunk)
                begun[index] = list(first.tokens)

        rest = await asyncio.gather(*map(drain, streams))

        assert max(step.load.preempted for step in steps) > 0
        assert [begun.get(index, []) + tokens for index, (tokens, _) in enumerate(rest)] == solo


async def test_after_hundreds_of_requests_memory_and_rows_are_as_before(
    engine: EngineClient, texts: list[list[int]]
) -> None:
    async def serve(count: int) -> None:
        for _ in range(0, count, 50):
            streams = [
                engine.submit(ids[:20], Sampling(max_tokens=2, seed=0, temperature=0.0)) for ids in texts[:50]
            ]
            await asyncio.gather(*map(drain, streams))

    assert engine.pid is not None
    await serve(200)
    before = process_memory_bytes(engine.pid)
    await serve(500)
    after = process_memory_bytes(engine.pid)

    await until_empty(engine)
    assert engine.streams == 0
    if before is not None and after is not None:
        assert after - before < 64 * 2**20


async def test_streams_go_on_with_the_very_next_token_after_their_host_was_killed(
    demo_model: Path, texts: list[list[int]]
) -> None:
    async with running(HostOptions(model=str(demo_model), prefix_cache_bytes=0)) as (engine, _):
        requests = [(texts[index * 3], mixed(index, 24)) for index in range(20)]
        solo = await asyncio.gather(*(drain(engine.submit(*request)) for request in requests))
        streams = [engine.submit(*request) for request in requests]
        begun = [await stream.next() for stream in streams]
        killed = engine.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)

        rest = await asyncio.gather(*map(drain, streams))

        assert engine.state is EngineState.READY
        assert engine.pid != killed
        assert engine.restarts == 1
        assert "SIGKILL" in engine.last_exit
        whole = [
            [*part.tokens, *more] if isinstance(part, TokenChunk) else []
            for part, (more, _) in zip(begun, rest, strict=True)
        ]
        assert whole == [tokens for tokens, _ in solo]
        assert [(end.reason, end.prompt_tokens, end.completion_tokens) for _, end in rest] == [
            (end.reason, end.prompt_tokens, end.completion_tokens) for _, end in solo
        ]
