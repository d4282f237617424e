"""
What an engine does in one step, and which requests it refuses. Pure.

The order of service: streams that decode get their token in every step; beside them at most
`prefill_step_tokens` prompt tokens are computed, shared evenly by the prompts in progress, so that a short
prompt does not stand behind a long one; warm jobs get the steps that nobody needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wicketgate.engine.wire import HostOptions, Submit

MIN_CHUNK_TOKENS: Final = 32
"""A smaller chunk costs a forward pass for little progress."""
MAX_LOGPROBS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """Who is where when a step begins."""

    decoding: int
    prefilling: int
    waiting: int
    on_trial: bool = False
    """A stream that was running when the engine failed is being tried; nobody may join it."""
    suspects: int = 0
    """How many at the head of `waiting` were running when the engine failed."""
    warm_jobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do in this step."""

    start: int
    """Waiting streams to take, oldest first."""
    chunk_tokens: int
    """Prompt tokens to compute of each prompt in progress, those just started included."""
    warm: bool
    """Compute a chunk of a warm job; only when nothing else is to be done."""


def plan(occupancy: Occupancy, options: HostOptions) -> Plan:
    """Decide what this step does."""
    start = _start(occupancy, options)
    prefilling = occupancy.prefilling + start
    chunk_tokens = max(MIN_CHUNK_TOKENS, options.prefill_step_tokens // max(1, prefilling))
    idle = not (occupancy.decoding or prefilling or occupancy.waiting)
    return Plan(start=start, chunk_tokens=chunk_tokens, warm=idle and occupancy.warm_jobs > 0)


def _start(occupancy: Occupancy, options: HostOptions) -> int:
    if occupancy.on_trial:
        return 0
    free = options.max_batch_size - occupancy.decoding - occupancy.prefilling
    room = max(0, min(free, options.prefill_batch_size - occupancy.prefilling, occupancy.waiting))
    # After a failure those who were there come back one by one, so that the next failure names its cause.
    return min(room, 1) if occupancy.suspects else room


def refusal(message: Submit, *, vocabulary_size: int, context_tokens: int) -> str | None:
    """Say why a request cannot be run, or None when it can; mlx would fail, or crash, in mid-batch."""
    if not message.prompt:
        return "the prompt must have at least 1 token, got 0"
    lowest, highest = min(message.prompt), max(message.prompt)
    if lowest < 0 or highest >= vocabulary_size:
        worst = lowest if lowest < 0 else highest
        return f"token ids must be between 0 and {vocabulary_size - 1}, got {worst}"
    if message.max_tokens < 1:
        return f"max_tokens must be at least 1, got {message.max_tokens}"
    total = len(message.prompt) + message.max_tokens
    if total > context_tokens:
        return f"prompt and max_tokens together must be at most {context_tokens} tokens, got {total}"
    return _sampling_refusal(message)


def _sampling_refusal(message: Submit) -> str | None:
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("temperature", message.temperature, 0.0, math.inf),
        ("top_p", message.top_p, 0.0, 1.0),
        ("min_p", message.min_p, 0.0, 1.0),
        ("top_k", message.top_k, 0, math.inf),
        ("logprobs", message.logprobs or 0, 0, MAX_LOGPROBS),
    )
    for name, value, low, high in bounds:
        # Written so that a NaN is refused.
        if not (low <= value <= high and math.isfinite(value)):
            return f"{name} must be between {low:g} and {high:g}, got {value:g}"
    if not (message.repetition_penalty > 0 and math.isfinite(message.repetition_penalty)):
        return f"repetition_penalty must be above 0, got {message.repetition_penalty:g}"
    return None
