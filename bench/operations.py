"""What an operator waits for: start, first request, rollback, refusals under overload."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from bench.load import burst, one
from bench.prompts import completion
from bench.server import ServerError
from bench.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.h2_client import Connection
    from bench.prompts import Prompts
    from bench.server import Server

FEATURE: Final = "ttft_pipeline"
SEQUENTIAL: Final = 5
ANSWER_TOKENS: Final = 64
ROLLBACKS: Final = 20
MIN_ROLLBACKS: Final = 10
"""Fewer say nothing."""
CROWD: Final = 300
LIMIT: Final = 32
QUEUE: Final = 64
CROWD_CONNECTIONS: Final = 2
"""One connection may have 256 streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """How soon a fresh server is of use."""

    start_to_ready_s: float
    first_request_s: float
    """Of 64 tokens, to their last."""
    sequential_request_s: tuple[float, ...]
    """Of those after it, one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """One `wicketgate rollback`."""

    effect_s: float
    """From before the command's process was made until the gateway logged the change; wall clock, to 1 ms."""
    wall_s: float
    """Until the command had ended."""
    flip_s: float
    """In the gateway, as it says itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """More requests at once than may wait."""

    offered: int
    finished: int
    refused: int
    """With 429 and Retry-After."""
    other: int
    refusal_p50_s: float | None
    """By the gateway's own clock, from having read the request; None where none was refused."""
    refusal_p99_s: float | None


def begin(server: Server, prompts: Prompts) -> Begin:
    """Time the first requests of a server that has just become ready."""
    with server.connect() as connection:
        times_s = [_timed(connection, prompts) for _ in range(1 + SEQUENTIAL)]
    return Begin(
        start_to_ready_s=server.start_to_ready_s,
        first_request_s=times_s[0],
        sequential_request_s=tuple(times_s[1:]),
    )


def _timed(connection: Connection, prompts: Prompts) -> float:
    took_s, answer = one(connection, prompts.take(ANSWER_TOKENS), max_tokens=ANSWER_TOKENS)
    if answer.completion_tokens != ANSWER_TOKENS:
        raise ServerError(f"a request was answered with status {answer.status}: {answer.error}")
    return took_s


def rollbacks(server: Server, prompts: Prompts, *, until_s: float) -> list[Rollback]:
    """
    Start and roll back a feature again and again, and see with a request that each took effect.

    Args:
        server: With FEATURE staged.
        prompts: For the requests.
        until_s: No round begins after this, monotonic.

    Raises:
        ServerError: a command failed, or what it said was not so.
    """
    done: list[Rollback] = []
    with server.connect() as connection:
        _round(server, connection, prompts)  # the first one compiles the commands
        while len(done) < ROLLBACKS and time.monotonic() < until_s:
            done.append(_round(server, connection, prompts))
    return done


def _round(server: Server, connection: Connection, prompts: Prompts) -> Rollback:
    _command(server, "rollout", "start", FEATURE, "--at", "full", "--yes", "--reason", "bench")
    _require(connection, prompts, on=True)
    began_unix_s = time.time()
    wall_s, said = _command(server, "rollback", FEATURE)
    _require(connection, prompts, on=False)
    changed_unix_s = _changed_unix_s(server, after_unix_s=began_unix_s)
    return Rollback(effect_s=changed_unix_s - began_unix_s, wall_s=wall_s, flip_s=_flip_s(said))


def _changed_unix_s(server: Server, *, after_unix_s: float) -> float:
    """Return when the gateway first logged a change of its flags after some time, to 1 ms."""
    for line in server.events("flags_changed"):
        at_unix_s = datetime.fromisoformat(str(line["at"])).timestamp()
        if at_unix_s >= after_unix_s:
            return at_unix_s
    raise ServerError("the gateway did not log the rollback")


def _flip_s(said: dict[str, object]) -> float:
    flip_s = said["flip_s"]
    if not isinstance(flip_s, float):
        raise ServerError(f"the gateway did not answer the rollback itself: {said}")
    return flip_s


def _command(server: Server, *words: str) -> tuple[float, dict[str, object]]:
    ran = server.command(*words)
    if ran.code != 0:
        raise ServerError(f"wicketgate {' '.join(words)} ended with {ran.code}: {ran.out}{ran.err}")
    return ran.wall_s, json.loads(ran.out)


def _require(connection: Connection, prompts: Prompts, *, on: bool) -> None:
    _, answer = one(connection, prompts.take(8), max_tokens=1)
    if (FEATURE in answer.flags) is not on:
        raise ServerError(f"{FEATURE} must be {'on' if on else 'off'} now; the request was on {answer.flags}")


def overload(server: Server, prompts: Prompts) -> Overload:
    """Send CROWD requests at once to a server whose limit is LIMIT and whose queue is QUEUE."""
    connections = [server.connect() for _ in range(CROWD_CONNECTIONS)]
    try:
        bodies = [completion(prompts.take(16), max_tokens=32) for _ in range(CROWD)]
        served = burst(connections, bodies, tokens_each=32)
    finally:
        for connection in connections:
            connection.close()
    refused = [each for each in served.answers if each.status == 429 and "retry-after" in each.headers]
    times_s = refusal_times_s(server)
    return Overload(
        offered=CROWD,
        finished=served.ok,
        refused=len(refused),
        other=CROWD - served.ok - len(refused),
        refusal_p50_s=quantile(times_s, 0.5) if times_s else None,
        refusal_p99_s=quantile(times_s, 0.99) if times_s else None,
    )


def refusal_times_s(server: Server) -> Sequence[float]:
    """Return how long the gateway took over each refusal, from having read the request, by its own clock."""
    return [float(line["duration_s"]) for line in server.events("request") if line["status"] == 429]


def faults(undone: Sequence[Rollback], crowd: Overload) -> list[str]:
    """Say why these must not be believed; empty when they may."""
    found = []
    if len(undone) < MIN_ROLLBACKS:
        found.append(f"{len(undone)} rollbacks are too few; at least {MIN_ROLLBACKS} are needed")
    if crowd.other:
        found.append(f"{crowd.other} of {crowd.offered} requests at once were neither finished nor refused")
    if not crowd.refused:
        found.append(f"none of {crowd.offered} requests at once was refused")
    return found
