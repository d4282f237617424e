"""
The engine beside mlx-lm's BatchGenerator, in one process and in turns: joining, mixed lengths, batching.

Run as `python -m bench.engine_arms MODEL [SCENARIO ...]` with the engine host's environment; it prints a JSON
object per scenario. Both arms get the same prompts and answer greedily; answers that differ are counted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model

from bench.prompts import RandomPrompts
from bench.statistics import quantile
from wicketgate.engine import host
from wicketgate.engine.assembly import build
from wicketgate.engine.kv.cache import KvCache
from wicketgate.engine.options import HostOptions
from wicketgate.engine.wire import Step, Submit

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS: Final = 9
JOIN_TOKENS: Final = 128
SHORT_TOKENS: Final = 64
LONG_TOKENS: Final = 4000
SETTLED: Final = 24
"""Tokens of every row before another one joins: what was owed for their prompts is paid by then."""
LONG_ANSWER: Final = 4096
"""Of rows that must not end while something else is measured."""
Seen = dict[int, list[tuple[float, int]]]
"""Per stream: when each token came, and which."""


class Arm(Protocol):
    """Something that streams can be given to."""

    def begin(self, prompt: list[int], max_tokens: int) -> int:
        """Take a stream; returns its number."""

    def step(self, seen: Seen) -> None:
        """Do one step, and note the tokens that came."""

    def drop(self, streams: list[int]) -> None:
        """End streams."""


class Raw:
    """mlx-lm's BatchGenerator; its settings are mlx-lm's defaults where none are given."""

    def __init__(self, model: Any, **settings: Any) -> None:
        self._generator: Any = BatchGenerator(model, **settings)

    def begin(self, prompt: list[int], max_tokens: int) -> int:
        """Take a stream; returns its number."""
        (uid,) = self._generator.insert([prompt], max_tokens=[max_tokens])
        return int(uid)

    def step(self, seen: Seen) -> None:
        """Do one step, and note the tokens that came."""
        _, responses = self._generator.next()
        now_s = time.perf_counter()
        for response in responses:
            seen.setdefault(response.uid, []).append((now_s, response.token))

    def drop(self, streams: list[int]) -> None:
        """End streams."""
        with mx.stream(self._generator.stream):
            self._generator.remove(streams)


class Own:
    """The engine host's step loop, without its socket."""

    def __init__(self, options: HostOptions) -> None:
        cache = KvCache(max_bytes=0, clock=time.monotonic)
        self._stepper = build(host.open_engine(options), cache, options, clock=time.monotonic)
        self._stepper.tell = self._note
        self._seen: Seen = {}
        self._next = 1

    def begin(self, prompt: list[int], max_tokens: int) -> int:
        """Take a stream; returns its number."""
        key, self._next = self._next, self._next + 1
        self._stepper.submit(
            Submit(id=key, prompt=prompt, max_tokens=max_tokens, seed=0, temperature=0.0, ignore_eos=True)
        )
        return key

    def step(self, seen: Seen) -> None:
        """Do one step, and note the tokens that came."""
        self._seen = seen
        self._note(self._stepper.step())

    def _note(self, step: Step) -> None:
        now_s = time.perf_counter()
        for token in step.tokens:
            self._seen.setdefault(token.id, []).append((now_s, token.token))
        if bad := [done for done in step.done if done.reason not in ("length", "stop", "cancelled")]:
            raise RuntimeError(f"the engine ended streams: {bad}")

    def drop(self, streams: list[int]) -> None:
        """End streams."""
        for key in streams:
            self._stepper.cancel(key)
        self._stepper.step()


def until(arm: Arm, seen: Seen, done: Callable[[], bool]) -> None:
    """Step until it is so."""
    while not done():
        arm.step(seen)


def join(arm: Arm, prompts: list[list[int]]) -> tuple[float, list[int]]:
    """Time the first token of the last prompt, which joins the others while they decode; and its tokens."""
    seen: Seen = {}
    rows = [arm.begin(prompt, LONG_ANSWER) for prompt in prompts[:-1]]
    until(arm, seen, lambda: all(len(seen.get(row, ())) > SETTLED for row in rows))
    began_s = time.perf_counter()
    key = arm.begin(prompts[-1], 16)
    until(arm, seen, lambda: len(seen.get(key, ())) == 16)
    arm.drop(rows)
    return seen[key][0][0] - began_s, [token for _, token in seen[key]]


def mixed(arm: Arm, prompts: list[list[int]]) -> tuple[float, list[int]]:
    """Return decode tokens a second of the short rows beside the first, long one; and their tokens."""
    seen: Seen = {}
    long = arm.begin(prompts[0], LONG_ANSWER)
    until(arm, seen, lambda: len(seen.get(long, ())) > 1)
    rows = [arm.begin(prompt, 64) for prompt in prompts[1:]]
    until(arm, seen, lambda: all(len(seen.get(row, ())) == 64 for row in rows))
    arm.drop([long])
    began_s = max(seen[row][0][0] for row in rows)
    late = [at_s for row in rows for at_s, _ in seen[row] if at_s > began_s]
    return len(late) / (max(late) - began_s), [token for row in rows for _, token in seen[row]]


def run_all(arm: Arm, prompts: list[list[int]]) -> float:
    """Return how long 64 tokens of each prompt take at once."""
    seen: Seen = {}
    began_s = time.perf_counter()
    rows = [arm.begin(prompt, 64) for prompt in prompts]
    until(arm, seen, lambda: all(len(seen.get(row, ())) == 64 for row in rows))
    return time.perf_counter() - began_s


def pairs(
    measure: Callable[[Arm, list[list[int]]], tuple[float, list[int]]],
    arms: tuple[Arm, Arm],
    take: Callable[[], list[list[int]]],
) -> dict[str, object]:
    """Measure both arms on the same prompts, in alternating order; ratios are own over raw."""
    ratios, figures, differences = [], [], 0
    for turn in range(PAIRS + 1):
        prompts = take()
        both = {arm: measure(arm, prompts) for arm in (arms if turn % 2 else arms[::-1])}
        (own, said), (raw, expected) = both[arms[0]], both[arms[1]]
        differences += said != expected
        if turn:  # the first is for warming up
            ratios.append(own / raw)
            figures.append((own, raw))
    return {
        "median_ratio": quantile(ratios, 0.5),
        "low": min(ratios),
        "high": max(ratios),
        "own": quantile([own for own, _ in figures], 0.5),
        "raw": quantile([raw for _, raw in figures], 0.5),
        "differing_answers": differences,
    }


def joined(supply: RandomPrompts, rows: int) -> list[list[int]]:
    """Return short prompts and the one that joins them."""
    return [*(supply.take(SHORT_TOKENS) for _ in range(rows)), supply.take(JOIN_TOKENS)]


def uneven(supply: RandomPrompts) -> list[list[int]]:
    """Return a long prompt and short ones."""
    return [supply.take(LONG_TOKENS), *(supply.take(SHORT_TOKENS) for _ in range(31))]


def batching(own: Own, supply: RandomPrompts, rows: int) -> dict[str, float]:
    """Return how many times as fast streams are at once as one after the other."""
    gains = []
    for _ in range(PAIRS):
        prompts = [supply.take(SHORT_TOKENS) for _ in range(rows)]
        apart_s = sum(run_all(own, [prompt]) for prompt in prompts)
        gains.append(apart_s / run_all(own, prompts))
    return {"median": quantile(gains, 0.5), "low": min(gains), "high": max(gains)}


def main() -> None:
    """Measure, and print one JSON object."""
    folder = sys.argv[1]
    model, config = load_model(Path(folder))
    supply = RandomPrompts(lowest=256, highest=int(config["vocab_size"]) - 2)
    options = HostOptions(model=folder, prefix_cache_bytes=0, speculation="off")
    own = Own(options)
    raw = Raw(
        model, completion_batch_size=options.max_batch_size, prefill_step_size=options.prefill_step_tokens
    )
    scenarios: dict[str, Callable[[], object]] = {
        "join_4": lambda: pairs(join, (own, raw), lambda: joined(supply, 4)),
        "join_16": lambda: pairs(join, (own, raw), lambda: joined(supply, 16)),
        "mixed": lambda: pairs(mixed, (own, Raw(model)), lambda: uneven(supply)),
        "batching_3": lambda: batching(own, supply, 3),
        "batching_5": lambda: batching(own, supply, 5),
    }
    for name in sys.argv[2:] or scenarios:
        print(json.dumps({name: scenarios[name]()}), flush=True)


if __name__ == "__main__":
    main()
