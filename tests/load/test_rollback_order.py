"""Pins the order of a rollout and its rollback: the next admission, no later admission, streams in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.h2_client import finish, wait
from bench.load import PATH, burst, one
from bench.prompts import Prompts, completion

if TYPE_CHECKING:
    from bench.server import Server

FEATURE = "ttft_pipeline"
LONG_TOKENS = 400


def test_a_rollback_is_in_force_when_it_returns_and_leaves_streams_in_flight_alone(
    server: Server, prompts: Prompts
):
    long_prompts = [prompts.take(32), prompts.take(32)]
    with server.connect() as connection, server.connect() as later:
        alone = [one(connection, prompt, max_tokens=LONG_TOKENS)[1].text for prompt in long_prompts]
        before = one(connection, prompts.take(16), max_tokens=1)[1]

        start = server.command("rollout", "start", FEATURE, "--at", "full", "--yes")
        streams = [
            connection.post(PATH, completion(prompt, max_tokens=LONG_TOKENS)) for prompt in long_prompts
        ]
        first_tokens = wait([connection], until=lambda: all(s.chunks for s in streams), timeout_s=20)
        rollback = server.command("rollback", FEATURE)
        bodies = [completion(prompts.take(16), max_tokens=1) for _ in range(20)]
        after = burst([later], bodies, tokens_each=1)
        connection.receive()
        still_running = connection.live
        finished = finish([connection], timeout_s=60)

    answers = [stream.answer() for stream in streams]
    assert (start.code, rollback.code, first_tokens, finished) == (0, 0, True, True), start.out + rollback.out
    assert still_running == len(streams), "the streams ended before the rollback; it proves nothing"
    assert FEATURE not in before.flags
    assert [FEATURE in answer.flags for answer in answers] == [True, True]
    assert [answer.text for answer in answers] == alone
    assert (after.ok, [FEATURE in answer.flags for answer in after.answers]) == (20, [False] * 20)
