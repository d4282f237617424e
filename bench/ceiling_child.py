"""
The ceiling, as a process of its own: mlx-lm's BatchGenerator by itself, with the engine host's settings.

It reads one JSON object a line from stdin ({"prompts": [[...]], "max_tokens": 64}), computes all prompts at
once, and writes one to stdout. There is no text, no HTTP and no prefix store in it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model

from wicketgate.engine.options import HostOptions


def burst(generator: Any, prompts: list[list[int]], *, max_tokens: int) -> dict[str, object]:
    """Compute prompts side by side to their end; times are seconds since all were there."""
    began_s = time.monotonic()
    uids = generator.insert(prompts, max_tokens=[max_tokens] * len(prompts))
    first_s: dict[int, float] = {}
    last_s: dict[int, float] = {}
    tokens = 0
    running = set(uids)
    while running:
        _, responses = generator.next()
        now_s = time.monotonic() - began_s
        tokens += len(responses)
        for response in responses:
            first_s.setdefault(response.uid, now_s)
            last_s[response.uid] = now_s
            if response.finish_reason is not None:
                running.discard(response.uid)
    return {
        "duration_s": max(last_s.values()),
        "tokens": tokens,
        "ttft_s": [first_s[uid] for uid in uids],
        "decode_s": [last_s[uid] - first_s[uid] for uid in uids],
    }


def greedy(logprobs: mx.array) -> mx.array:
    """Take the likeliest token of each row."""
    return mx.argmax(logprobs, axis=-1)


def main() -> None:
    """Answer until stdin ends."""
    options = HostOptions()
    model, _ = load_model(Path(sys.argv[1]))
    # mlx-lm is only partly typed.
    generator: Any = BatchGenerator(
        model,
        sampler=greedy,
        completion_batch_size=options.max_batch_size,
        prefill_batch_size=options.prefill_batch_size,
        prefill_step_size=options.prefill_step_tokens,
    )
    print(json.dumps({"device": mx.default_device().type.name}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        done = burst(generator, order["prompts"], max_tokens=order["max_tokens"])
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
