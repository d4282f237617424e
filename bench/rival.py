"""
The same model behind wicketgate and behind mlx_lm.server, in turns: who joins, and who is kept waiting.

Run as `python -m bench.rival [joining | gap]`. Four streams run; then a short request joins them (its time to
first token), and then a prompt of 3,000 tokens is computed (the worst gap that the four see meanwhile).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import string
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.prompts import RandomPrompts
from bench.server import HOST, Server, free_port
from bench.statistics import quantile
from wicketgate.platform import engine_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

RUNS: Final = 9
STREAMS: Final = 4
LONG_TOKENS: Final = 3000
BUSY_TOKENS: Final = 1000
"""Of those that run: they outlast the long prompt; mlx_lm.server goes on when nobody listens any more."""
LETTERS: Final = string.ascii_letters + string.digits
JOINS: Final = 12
"""Short requests of one run."""
START_S: Final = 60.0
CONFIG: Final[dict[str, object]] = {"engine": {"prefix_cache_bytes": 0, "speculation": {"mode": "off"}}}


class Stream:
    """One streamed completion: when its events came."""

    def __init__(self, port: int, model: str, prompt: list[int], max_tokens: int) -> None:
        body = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
        }
        # mlx_lm.server takes text only; in the made vocabulary each of these letters is one token.
        text = "".join(LETTERS[token % len(LETTERS)] for token in prompt)
        self._body = json.dumps({**body, "prompt": text}).encode()
        self._port = port
        self.at_s: list[float] = []
        self.began_s = 0.0

    async def run(self) -> None:
        """Send it and read to its end."""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(self._body)}\r\n\r\n"
        )
        self.began_s = time.monotonic()
        writer.write(head.encode() + self._body)
        try:
            while line := await reader.readline():
                if line.startswith(b"data: {") and b'"text"' in line and b'"text": ""' not in line:
                    self.at_s.append(time.monotonic())
        finally:
            writer.close()


async def busy(port: int, model: str, prompts: RandomPrompts) -> list[tuple[Stream, asyncio.Task[None]]]:
    """Start the streams that run, and wait until each has its first tokens."""
    streams = [Stream(port, model, prompts.take(64), BUSY_TOKENS) for _ in range(STREAMS)]
    tasks = [asyncio.create_task(stream.run()) for stream in streams]
    while any(len(stream.at_s) < 5 for stream in streams):
        await asyncio.sleep(0.01)
    return list(zip(streams, tasks, strict=True))


async def joining(port: int, model: str, prompts: RandomPrompts) -> float:
    """Return the 95th percentile of the time to first token of short requests that join."""
    running = await busy(port, model, prompts)
    ttft_s = []
    for _ in range(JOINS):
        short = Stream(port, model, prompts.take(16), 8)
        await short.run()
        ttft_s.append(short.at_s[0] - short.began_s)
        await asyncio.sleep(0.05)
    await stop(running)
    return quantile(ttft_s, 0.95)


async def gap(port: int, model: str, prompts: RandomPrompts) -> float:
    """Return the worst gap of the streams that run while a long prompt is computed."""
    running = await busy(port, model, prompts)
    long = Stream(port, model, prompts.take(LONG_TOKENS), 2)
    await long.run()
    until_s = long.at_s[0] + 0.2
    await asyncio.sleep(0.3)
    await stop(running)
    gaps = [
        after - before
        for stream, _ in running
        for before, after in zip(stream.at_s, stream.at_s[1:], strict=False)
        if after > long.began_s and before < until_s
    ]
    return max(gaps)


async def stop(running: list[tuple[Stream, asyncio.Task[None]]]) -> None:
    """Drop the streams that run, and give the server a moment to notice."""
    for _, task in running:
        task.cancel()
    await asyncio.gather(*(task for _, task in running), return_exceptions=True)
    await asyncio.sleep(2.5)


@contextmanager
def rival(model: Path, log: Path) -> Iterator[int]:
    """Run mlx_lm.server with the engine host's environment; yields its port."""
    port = free_port()
    with log.open("wb") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)],
            stdout=complaints,
            stderr=complaints,
            env={**os.environ, **engine_environment()},
        )
    try:
        deadline_s = time.monotonic() + START_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"mlx_lm.server did not start: {log.read_text()[-500:]}")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    """Say whether a server is well."""
    try:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False


def main() -> None:
    """Measure, and print one line for each figure."""
    prompts = RandomPrompts(lowest=256, highest=4094)
    with tempfile.TemporaryDirectory(prefix="wicketgate-bench-") as temporary:
        folder = Path(temporary)
        model = folder / "small"
        subprocess.run([sys.executable, "-m", "bench.made_models", "small", str(model)], check=True)
        (folder / "server").mkdir()
        with Server(folder / "server", CONFIG, model=model) as ours, rival(model, folder / "log") as theirs:
            arms = ((ours.port, "demo"), (theirs, str(model)))
            for name in sys.argv[1:] or FIGURES:
                print(compare(name, arms, prompts), flush=True)


def compare(name: str, arms: tuple[tuple[int, str], tuple[int, str]], prompts: RandomPrompts) -> str:
    """Measure both servers in alternating order; returns the line to print."""
    pairs = []
    for turn in range(RUNS):
        measured = {
            arm: asyncio.run(FIGURES[name](*arm, prompts)) for arm in (arms if turn % 2 else arms[::-1])
        }
        pairs.append((measured[arms[0]], measured[arms[1]]))
        # A pair takes minutes under load: what was measured before somebody loses patience is not lost.
        print(f"{name} {turn + 1}: {pairs[-1][0]:.3f} s, {pairs[-1][1]:.3f} s", file=sys.stderr, flush=True)
    own_ms, other_ms = (1000 * quantile([pair[side] for pair in pairs], 0.5) for side in (0, 1))
    ratios = [own / other for own, other in pairs]
    return (
        f"{name}: {own_ms:.0f} ms, mlx_lm.server {other_ms:.0f} ms, ratio {quantile(ratios, 0.5):.3f}"
        f" ({min(ratios):.3f} to {max(ratios):.3f}, {RUNS} pairs)"
    )


FIGURES: Final[dict[str, Callable[[int, str, RandomPrompts], Coroutine[object, object, float]]]] = {
    "joining": joining,
    "gap": gap,
}


if __name__ == "__main__":
    main()
