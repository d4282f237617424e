"""
What kept prefixes save at the engine host: in memory, on disk after a restart, pinned, in conversations.

Run as `python -m bench.prefixes [LENGTH ...]`; the model has 5.8 million parameters.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from bench.prompts import RandomPrompts
from bench.statistics import quantile
from wicketgate.engine.client import EngineClient, EngineParams
from wicketgate.engine.options import HostOptions
from wicketgate.inference import Sampling, TokenChunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RUNS: Final = 9
MANY: Final = 12
"""Prefixes of each length: more than a host loads by itself at its start."""
SESSIONS: Final = 10
TURNS: Final = 5
TURN_TOKENS: Final = 60
SHORTEST_TOKENS: Final = 200
"""Of the sessions whose memory is compared; each next one is longer."""
ANSWER_TOKENS: Final = 40
PINNED_TOKENS: Final = 1060
GREEDY: Final = Sampling(max_tokens=2, seed=0, temperature=0.0, ignore_eos=True)


@asynccontextmanager
async def engine(options: HostOptions) -> AsyncIterator[EngineClient]:
    """Run one engine host."""
    client = EngineClient(
        EngineParams(options=options), on_step=lambda _step: None, on_state=lambda _state, _why: None
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        try:
            await client.wait_ready(60.0)
            yield client
        finally:
            await client.stop()


async def ask(
    client: EngineClient, prompt: list[int], sampling: Sampling = GREEDY
) -> tuple[float, int, list[int]]:
    """Return the time to the first token, how much of the prompt was cached, and the answer."""
    began_s = time.monotonic()
    stream = client.submit(prompt, sampling)
    ttft_s = None
    tokens: list[int] = []
    while isinstance(part := await stream.next(), TokenChunk):
        ttft_s = time.monotonic() - began_s if ttft_s is None else ttft_s
        tokens += part.tokens
    if ttft_s is None:
        raise RuntimeError(f"no token came: {part}")
    return ttft_s, stream.cached_tokens, tokens


async def tiers(options: HostOptions, prompts: list[list[int]], length: int) -> str:
    """Compare the time to the first token: cold, kept in memory, and loaded from disk after a restart."""
    async with engine(options) as client:
        cold, warm = [], []
        for prompt in prompts:
            cold.append(await ask(client, prompt))
            warm.append(await ask(client, [*prompt, 300]))
    async with engine(options) as client:
        # Those used least lately are not loaded by the host itself.
        disk = [await ask(client, [*prompt, 301]) for prompt in prompts[:RUNS]]
    cold_s = quantile([ttft_s for ttft_s, _, _ in cold], 0.5)
    shares = []
    for found in (warm, disk):
        ratios = [a[0] / b[0] for a, b in zip(found, cold, strict=False)]
        shares.append(f"{100 * quantile(ratios, 0.5):.1f} % ({100 * max(ratios):.1f} at most)")
        if any(cached_tokens < length - 2 for _, cached_tokens, _ in found):
            shares[-1] += " NOT ALL CACHED"
    return f"{length} tokens: cold {cold_s:.2f} s, from memory {shares[0]} of it, from disk {shares[1]}"


async def conversations(options: HostOptions, prompts: RandomPrompts) -> str:
    """Return how much of the prompts after the first turn of interleaved sessions was kept."""
    sampling = Sampling(max_tokens=ANSWER_TOKENS, seed=0, temperature=0.0, ignore_eos=True)
    histories = [prompts.take(200) for _ in range(SESSIONS)]
    cached = asked = 0
    async with engine(options) as client:
        for turn in range(TURNS):
            for number, history in enumerate(histories):
                _, cached_tokens, answer = await ask(client, history, sampling)
                if turn:
                    cached += cached_tokens
                    asked += len(history)
                histories[number] = [*history, *answer, *prompts.take(TURN_TOKENS)]
    return f"{SESSIONS} sessions of {TURNS} turns: {100 * cached / asked:.1f} % of later prompts' tokens kept"


async def memory_by_session(options: HostOptions, prompts: RandomPrompts, sessions: int) -> str:
    """Return what so many sessions hold after a turn each, beside the formula, while they run and kept."""
    sampling = Sampling(max_tokens=10 * ANSWER_TOKENS, seed=0, temperature=0.0, ignore_eos=True)
    lengths = [SHORTEST_TOKENS + 150 * number for number in range(sessions)]
    async with engine(options) as client:
        streams = [client.submit(prompts.take(length), sampling) for length in lengths]
        for stream in streams:
            await stream.next()
        running = await client.cache()
        for stream in streams:
            while isinstance(await stream.next(), TokenChunk):
                pass
        kept = await client.cache()
    rows_formula = running.rows_tokens * running.kv_bytes_per_token
    tokens = sum(entry.tokens for entry in kept.entries)
    kept_formula = tokens * kept.kv_bytes_per_token
    return (
        f"{sessions} sessions: running {running.rows} rows, {running.rows_bytes / 2**20:.1f} MiB"
        f" ({running.rows_bytes / max(1, rows_formula) - 1:+.1%} over the formula),"
        f" kept {kept.memory_bytes / 2**20:.1f} MiB of {tokens} tokens"
        f" ({kept.memory_bytes / kept_formula - 1:+.1%})"
    )


async def first_request(options: HostOptions, prompt: list[int]) -> float:
    """Return the first token's time of the first request after the start."""
    async with engine(options) as client:
        return (await ask(client, [*prompt, 302]))[0]


async def measure(model: Path, kv: Path, lengths: list[int]) -> None:
    """Measure all, and print a line for each."""
    prompts = RandomPrompts(lowest=256, highest=4094)
    options = HostOptions(
        model=str(model), speculation="off", prefix_cache_bytes=2 << 30, kv_disk_bytes=8 << 30
    )
    print(await conversations(options, prompts), flush=True)
    for sessions in (1, 5, 10):
        print(await memory_by_session(options, prompts, sessions), flush=True)
    pinned = prompts.take(PINNED_TOKENS)
    saved = []
    for _ in range(RUNS):
        off_s = await first_request(msgspec.structs.replace(options, prewarm=False), pinned)
        on_s = await first_request(msgspec.structs.replace(options, pins=[pinned]), pinned)
        saved.append(1 - on_s / off_s)
    print(f"pre-warm: first request {100 * quantile(saved, 0.5):.1f} % sooner", flush=True)
    for length in lengths:
        kept = msgspec.structs.replace(options, kv_dir=str(kv / str(length)))
        print(await tiers(kept, [prompts.take(length) for _ in range(MANY)], length), flush=True)


def main() -> None:
    """Make the model, and measure."""
    with tempfile.TemporaryDirectory(prefix="wicketgate-bench-") as temporary:
        model, kv = Path(temporary) / "small", Path(temporary) / "kv"
        kv.mkdir(mode=0o700)
        subprocess.run([sys.executable, "-m", "bench.made_models", "small", str(model)], check=True)
        asyncio.run(measure(model, kv, [int(each) for each in sys.argv[1:]] or [2000, 4000, 8000]))


if __name__ == "__main__":
    main()
