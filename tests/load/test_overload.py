"""Pins what happens beyond the limit: exactly the excess is refused, at once and in words; nothing hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.load import burst
from bench.operations import CROWD, LIMIT, QUEUE, refusal_times_s
from bench.prompts import Prompts, completion
from bench.statistics import quantile
from tests.load.facts import ON, not_ok, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.server import Server

ANSWER_TOKENS = 32
GOVERNOR = {
    "limit": {"fixed": LIMIT, "min": LIMIT, "max": LIMIT, "initial": LIMIT},
    "queue": {"max_requests": QUEUE},
}
MAX_GROWTH_BYTES = 64 * 1024 * 1024
REFUSED = 'wicketgate_requests_total{class="interactive",model="demo",outcome="shed"}'


@pytest.mark.parametrize("adaptive", [True, False], ids=["governed", "fixed"])
def test_of_300_at_once_exactly_the_excess_is_refused_and_the_rest_finish(
    server: Server,
    prompts: Prompts,
    reconfigured: Callable[[Mapping[str, object]], None],
    adaptive: bool,
):
    features = {"adaptive_governor": {"enabled": adaptive}, "http2_transport": ON, "qos_monitoring": ON}
    reconfigured({"governor": GOVERNOR, "phase4_rollout": features})
    refused_before, times_before = server.metrics()[REFUSED], len(refusal_times_s(server))
    size_before = resident_bytes(server.pid)

    bodies = [completion(prompts.take(16), max_tokens=ANSWER_TOKENS) for _ in range(CROWD)]
    with server.connect() as one, server.connect() as other:
        served = burst([one, other], bodies, tokens_each=ANSWER_TOKENS)

    refused = [each for each in served.answers if each.status != 200]
    assert served.ok == LIMIT + QUEUE
    assert len(refused) == CROWD - LIMIT - QUEUE
    for each in refused:
        assert (each.status, each.error["type"], each.error["code"]) == (429, "server_error", "overloaded")
        assert set(each.error) == {"message", "type", "param", "code"}
        assert int(each.headers["retry-after"]) >= 1
    assert server.metrics()[REFUSED] - refused_before == len(refused)
    assert resident_bytes(server.pid) - size_before < MAX_GROWTH_BYTES
    assert quantile(refusal_times_s(server)[times_before:], 0.99) <= 0.05


def test_after_a_crowd_the_server_answers_as_before(server: Server, prompts: Prompts):
    with server.connect() as connection:
        served = burst([connection], [completion(prompts.take(16), max_tokens=4)], tokens_each=4)

    assert not_ok(served.answers) == []
    assert server.snapshot()["flow"]["in_flight"] == 0
