"""Bursts of completions over HTTP/2, and what came of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.h2_client import Connection, finish
from bench.prompts import completion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.answers import Answer

PATH: Final = "/v1/completions"
BURST_S: Final = 60.0
"""Longest that a burst may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A burst that was served; times are seconds since it was due."""

    duration_s: float
    """To the end of its last stream."""
    tokens: int
    ok: int
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    lateness_s: tuple[float, ...]
    client_cpu_s: float
    answers: tuple[Answer, ...]


def burst(connections: Sequence[Connection], bodies: Sequence[bytes], *, tokens_each: int) -> Served:
    """
    Send requests at once, over the connections in turn, and wait until all have ended.

    Args:
        connections: To the server.
        bodies: Of requests to /v1/completions, streamed with usage.
        tokens_each: How many tokens make an answer a good one.
    """
    streams = [connections[number % len(connections)].post(PATH, body) for number, body in enumerate(bodies)]
    cpu_s, due_s = time.process_time(), time.monotonic()
    finish(connections, timeout_s=BURST_S)
    cpu_s = time.process_time() - cpu_s
    end_s = max((stream.ended_s or time.monotonic()) for stream in streams)
    answers = tuple(stream.answer() for stream in streams)
    timed = [(each.first_s, each.last_s) for each in answers if each.first_s and each.last_s]
    return Served(
        duration_s=end_s - due_s,
        tokens=sum(each.completion_tokens or 0 for each in answers),
        ok=sum(each.status == 200 and each.completion_tokens == tokens_each for each in answers),
        ttft_s=tuple(first_s - due_s for first_s, _ in timed),
        tpot_s=tuple((last_s - first_s) / max(1, tokens_each - 1) for first_s, last_s in timed),
        lateness_s=tuple((stream.sent_s or end_s) - due_s for stream in streams),
        client_cpu_s=cpu_s,
        answers=answers,
    )


def one(
    connection: Connection, prompt: list[int], *, max_tokens: int, ignore_eos: bool = True
) -> tuple[float, Answer]:
    """Send one request and wait for its whole answer; returns how long that took, and the answer."""
    body = completion(prompt, max_tokens=max_tokens, ignore_eos=ignore_eos)
    served = burst([connection], [body], tokens_each=max_tokens)
    return served.duration_s, served.answers[0]
