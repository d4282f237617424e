"""
Pins that a change of shares touches nobody in flight, and that a bad configuration touches nobody at all.

WICKETGATE_STREAMS makes the streams more; 500 is the bar.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from typing import TYPE_CHECKING

import pytest

from bench.h2_client import finish, wait
from bench.load import PATH
from bench.prompts import completion
from tests.server import Gateway
from wicketgate.cli.validate import run as validate
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.answers import Answer
    from bench.h2_client import Connection
    from bench.h2_streams import Stream

STREAMS = int(os.environ.get("WICKETGATE_STREAMS", "64"))
TOKENS = 400
"""At this speed of the simulated engine they last for some seconds, on a slow machine too."""
FEATURE = "ttft_pipeline"
ON = {"enabled": True}
CONFIG: dict[str, object] = {
    "engine": {
        "kind": "simulated",
        "simulated": {"speed_ratio": 4},
        "max_batch_size": STREAMS,
        "memory": {"max_bytes": "64GiB"},
    },
    "server": {"max_streams_per_connection": 2 * STREAMS},
    "governor": {"limit": {"fixed": 2 * STREAMS, "initial": 2 * STREAMS, "max": 2 * STREAMS}},
    "phase4_rollout": {
        "stages": [{"name": "half", "percentage": 50, "hold_s": "1h"}, {"name": "full", "percentage": 100}],
        "http2_transport": ON,
        FEATURE: {**ON, "mode": "staged"},
        "qos_monitoring": {**ON, "rollout_percentage": 50},
    },
}
REFUSED = 'wicketgate_config_reloads_total{result="refused"}'
BAD = {
    "empty": "",
    "cut off": "phase4_rollout:\n  ttft_pipeline: {enabled: tr",
    "of tabs": "phase4_rollout:\n\tkill_switch: true\n",
    "misspelt": "phase4_rolout: {}\n",
    "unknown feature": "phase4_rollout: {ttft_pipelin: {enabled: true}}\n",
    "over the bound": "phase4_rollout: {ttft_pipeline: {enabled: true, rollout_percentage: 101}}\n",
    "circular": "phase4_rollout: {ttft_pipeline: {enabled: true, requires: [ttft_pipeline]}}\n",
    "binary": "\x00\x01",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with room for every stream, and one feature at half of the sessions."""
    with Gateway(tmp_path_factory.mktemp("gateway"), CONFIG) as running:
        yield running


@pytest.fixture
def halfway(gateway: Gateway) -> Iterator[Gateway]:
    """The gateway, with the staged feature at half of the sessions until the test ends."""
    done = gateway.command("rollout", "start", FEATURE, "--reason", "test", "--yes")
    assert done.code == 0, done.out + done.err
    yield gateway
    gateway.command("rollback", FEATURE)


def ask(connection: Connection, sessions: range, *, max_tokens: int) -> list[Stream]:
    """Send a request of each session; they leave with the next `wait`."""
    body = completion([5, 6, 7], max_tokens=max_tokens)
    return [connection.post(PATH, body, [("x-session-id", f"session-{each}")]) for each in sessions]


def decisions(gateway: Gateway, sessions: range) -> list[frozenset[str]]:
    """Return the features that each session is on now."""
    with gateway.connect() as connection:
        streams = ask(connection, sessions, max_tokens=1)
        assert finish([connection], timeout_s=30)
    return [stream.answer().flags for stream in streams]


def whole(answer: Answer) -> bool:
    return (answer.status, answer.error, answer.completion_tokens) == (200, None, TOKENS)


def test_streams_in_flight_keep_their_assignment_and_new_requests_are_off(halfway: Gateway) -> None:
    sessions = range(STREAMS)
    due = decisions(halfway, sessions)
    with halfway.connect() as connection:
        streams = ask(connection, sessions, max_tokens=TOKENS)
        assert wait([connection], until=lambda: all(each.chunks for each in streams), timeout_s=60)

        rollback = halfway.command("rollback", FEATURE)
        after = decisions(halfway, sessions)
        connection.receive()
        still_running = connection.live
        assert finish([connection], timeout_s=120)

    answers = [stream.answer() for stream in streams]
    logged = {line["request_id"]: set(line["on"]) for line in halfway.events("request")}
    assert rollback.code == 0
    assert still_running == STREAMS, "streams ended before the rollback; it proves nothing"
    assert sum(map(whole, answers)) == STREAMS
    assert [answer.flags for answer in answers] == due
    assert [logged[answer.headers["x-request-id"]] for answer in answers] == due
    assert STREAMS / 4 < sum(FEATURE in each for each in due) < 3 * STREAMS / 4
    assert [each for each in after if FEATURE in each] == []


def test_a_bad_file_changes_no_decision_and_is_told_as_validate_tells_it(
    halfway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions = range(64)
    good = halfway.file.read_text()
    before = decisions(halfway, sessions)
    told = []
    for text in BAD.values():
        refused = halfway.metrics()[REFUSED]
        halfway.file.write_text(text)
        deadline_s = time.monotonic() + 10
        while halfway.metrics()[REFUSED] == refused:
            assert time.monotonic() < deadline_s, f"not looked at: {text}"

        assert decisions(halfway, sessions) == before, text
        told.append(halfway.events("configuration_refused")[-1]["faults"] == validated(halfway, capsys))
    halfway.file.write_text(good)

    assert told == [True] * len(BAD)


def test_an_edited_share_is_in_force_for_the_next_request(gateway: Gateway) -> None:
    sessions = range(64)
    before = decisions(gateway, sessions)
    phase4 = {**CONFIG["phase4_rollout"], "qos_monitoring": {**ON, "rollout_percentage": 100}}

    gateway.reconfigure({**CONFIG, "phase4_rollout": phase4})

    after = decisions(gateway, sessions)
    gateway.reconfigure(CONFIG)
    assert 0 < sum("qos_monitoring" in each for each in before) < len(sessions)
    assert sum("qos_monitoring" in each for each in after) == len(sessions)
    assert decisions(gateway, sessions) == before


def test_no_edit_of_the_file_revives_what_was_rolled_back(halfway: Gateway) -> None:
    sessions = range(64)
    was_on = sum(FEATURE in each for each in decisions(halfway, sessions))
    halfway.command("rollback", FEATURE)
    phase4 = CONFIG["phase4_rollout"]
    rest = {name: value for name, value in phase4.items() if name != FEATURE}
    edits = [
        {**phase4, FEATURE: {**ON, "mode": "direct"}},
        rest,
        {**phase4, FEATURE: {"enabled": False}},
        {**phase4, FEATURE: {**ON, "mode": "staged", "rollout_percentage": 50}},
        phase4,
    ]

    on = []
    for edit in edits:
        halfway.reconfigure({**CONFIG, "phase4_rollout": edit})
        on.append(sum(FEATURE in each for each in decisions(halfway, sessions)))

    assert was_on > 0
    assert on == [0] * len(edits)


def validated(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `wicketgate validate` prints of the file."""
    assert validate(Namespace(file=str(gateway.file), json=False)) == ExitCode.USAGE
    return capsys.readouterr().out.removesuffix("\n")
