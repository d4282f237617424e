"""Pins what clients see when the engine host is killed under them: a pause, and nothing else."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from bench.h2_client import finish, wait
from bench.load import PATH
from bench.prompts import completion
from tests.load.facts import TOKENS, Solo, not_ok

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.server import Server

STREAMS = 20


def test_streams_go_on_token_by_token_after_the_host_was_killed(
    server: Server, solos: list[Solo], eventually: Callable[[str, Callable[[], bool], float], None]
):
    gateway, host = server.pid, server.host_pid
    restarts = server.snapshot()["engine"]["restarts"]
    with server.connect() as connection:
        streams = [
            connection.post(PATH, completion(solo.prompt, max_tokens=TOKENS, ignore_eos=False))
            for solo in solos[:STREAMS]
        ]
        wait([connection], until=lambda: all(stream.chunks for stream in streams), timeout_s=30)
        running_when_killed = connection.live
        os.kill(host, signal.SIGKILL)
        eventually("not ready", lambda: server.readiness() == 503, 10)
        eventually("ready again", lambda: server.readiness() == 200, 30)
        in_time = finish([connection], timeout_s=60)

    answers = tuple(stream.answer() for stream in streams)
    assert (running_when_killed, in_time) == (STREAMS, True)
    assert not_ok(answers) == []
    assert [answer.text for answer in answers] == [solo.text for solo in solos[:STREAMS]]
    assert [answer.completion_tokens for answer in answers] == [TOKENS] * STREAMS
    after = server.snapshot()
    assert (after["pid"], after["engine"]["restarts"]) == (gateway, restarts + 1)
    assert after["engine"]["pid"] not in (None, host)
