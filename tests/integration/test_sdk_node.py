"""
Official JavaScript clients against a really started gateway: openai-node, @anthropic-ai/sdk, Vercel AI SDK.

Each script in tests/node is run once and tells what it saw; what that must be stands here.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.api_edge import ApiEdge
from tests.api_fakes import FakeAnswers
from tests.conftest import DEMO
from tests.server import Gateway
from wicketgate.api.endpoint import ApiSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.needs("node"), pytest.mark.needs("npm")]
INSTALL_S = 120
SCRIPT_S = 60


@pytest.fixture(scope="module")
def node_folder(root: Path) -> Path:
    """Return the folder of the scripts, once the packages that they use are installed in it."""
    folder = root / "tests" / "node"
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # another worker may be about it
        # npm writes this file last.
        if not (folder / "node_modules" / ".package-lock.json").exists():
            _install(folder)
    finally:
        os.close(descriptor)
    return folder


def _install(folder: Path) -> None:
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S)
        reason = done.stderr.strip()[-500:] if done.returncode else None
    except subprocess.TimeoutExpired:
        reason = f"took more than {INSTALL_S} s"
    if reason is not None:
        reason = f"npm ci failed: {reason}"
        if os.environ.get("WICKETGATE_REQUIRE_TOOLS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, node_folder: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("sdk"), DEMO) as running:
        yield running


def _run(folder: Path, script: str, gateway: Gateway) -> dict[str, Any]:
    done = subprocess.run(
        ["node", script, gateway.url], cwd=folder, capture_output=True, text=True, timeout=SCRIPT_S
    )
    assert done.returncode == 0, done.stderr
    saw: dict[str, Any] = json.loads(done.stdout)
    return saw


@pytest.fixture(scope="module")
def openai(node_folder: Path, gateway: Gateway) -> dict[str, Any]:
    return _run(node_folder, "openai.mjs", gateway)


@pytest.fixture(scope="module")
def anthropic(node_folder: Path, gateway: Gateway) -> dict[str, Any]:
    return _run(node_folder, "anthropic.mjs", gateway)


@pytest.fixture(scope="module")
def ai(node_folder: Path, gateway: Gateway) -> dict[str, Any]:
    return _run(node_folder, "ai.mjs", gateway)


def outcome(gateway: Gateway, request_id: str) -> object:
    lines = [line for line in gateway.events("request") if line["request_id"] == request_id]
    return lines[0]["outcome"] if lines else None


# openai-node


def test_openai_node_lists_models(openai: dict[str, Any]) -> None:
    assert (openai["models"], openai["model"]) == (["demo"], "demo")


def test_openai_node_streams_the_text_of_the_whole_answer(openai: dict[str, Any]) -> None:
    assert openai["whole"]
    assert openai["streamed"] == openai["helped"] == openai["whole"]
    assert openai["helpedRole"] == "assistant"


def test_openai_node_reads_usage_and_the_id(openai: dict[str, Any]) -> None:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")

    assert {name: openai["usage"][name] for name in names} == openai["helpedUsage"]
    assert openai["requestId"].startswith("req_")


def test_a_stream_of_openai_node_ends_with_its_last_event(openai: dict[str, Any]) -> None:
    """It waits for the end of the body: one that comes later than [DONE] looks as if it hung."""
    assert openai["endAfterFinishMs"] < 1000


def test_openai_node_parses_answers_with_zod(openai: dict[str, Any]) -> None:
    assert openai["parsed"] is True
    assert openai["responseParsed"] is True


@pytest.mark.parametrize("kind", ["required", "named"])
def test_openai_node_gets_valid_calls_whole_and_streamed(openai: dict[str, Any], kind: str) -> None:
    valid = {"reason": "tool_calls", "name": "forecast", "valid": True}

    assert openai["calls"][kind] == [valid, valid]


def test_openai_node_runs_tools(openai: dict[str, Any]) -> None:
    assert openai["ran"] >= 1


def test_openai_node_reads_vectors_in_base64(openai: dict[str, Any]) -> None:
    """Of numbers, which it has not asked for, it would make an empty list without a word."""
    assert openai["lengths"] == pytest.approx([1, 1], abs=1e-5)
    assert openai["difference"] < 1e-6


def test_openai_node_adds_up_the_events_of_a_response(openai: dict[str, Any]) -> None:
    assert openai["responseStreamed"] == openai["response"] != ""
    assert openai["responseEvents"][:3] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]


def test_openai_node_raises_what_was_refused(openai: dict[str, Any]) -> None:
    assert openai["errors"] == {
        "model": {"class": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"},
        "field": {
            "class": "BadRequestError",
            "status": 400,
            "code": "decimal_above_max_value",
            "param": "temperature",
        },
    }


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_leaving_a_stream_cancels_its_request(
    gateway: Gateway, request: pytest.FixtureRequest, eventually: Callable[..., None], client: str
) -> None:
    saw = request.getfixturevalue(client)

    eventually("it ends", lambda: outcome(gateway, saw["cancelled"]) is not None, 5)
    assert outcome(gateway, saw["cancelled"]) == "cancelled"


# @anthropic-ai/sdk


def test_anthropic_node_lists_models_and_counts_tokens(anthropic: dict[str, Any]) -> None:
    usage = anthropic["whole"]["usage"]

    assert anthropic["models"] == ["demo"]
    assert anthropic["counted"] == usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_anthropic_node_gets_a_message_with_its_cost(anthropic: dict[str, Any]) -> None:
    whole = anthropic["whole"]

    assert whole["text"]
    assert whole["reason"] in ("end_turn", "max_tokens")
    assert 1 <= whole["usage"]["output_tokens"] <= 30
    assert whole["id"].startswith("req_")


def test_anthropic_node_adds_up_a_stream(anthropic: dict[str, Any]) -> None:
    streamed = anthropic["streamed"]

    assert streamed["text"] == streamed["final"] != ""
    assert streamed["reason"] in ("end_turn", "max_tokens")
    assert streamed["usage"]["output_tokens"] >= 1


def test_anthropic_node_sees_every_event_in_order(anthropic: dict[str, Any]) -> None:
    events = anthropic["events"]

    assert events[:2] == ["message_start", "content_block_start"]
    assert set(events[2:-3]) == {"content_block_delta"}
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_anthropic_node_gets_the_calls_that_it_demands(anthropic: dict[str, Any]) -> None:
    """Any, whole and streamed; then a named one."""
    call = {"type": "tool_use", "name": "forecast", "reason": "tool_use", "keys": ["city", "days"]}

    assert anthropic["calls"] == [call] * 4


def test_anthropic_node_raises_what_was_refused(anthropic: dict[str, Any]) -> None:
    error = anthropic["error"]

    assert (error["class"], error["status"], error["type"]) == (
        "BadRequestError",
        400,
        "invalid_request_error",
    )
    assert error["body"]["error"]["message"].startswith("messages.0.role: ")


# Vercel AI SDK


def test_the_ai_sdk_streams_the_text_of_the_whole_answer(ai: dict[str, Any]) -> None:
    streamed = ai["streamed"]

    assert streamed["text"] == ai["whole"]["text"] != ""
    assert streamed["reason"] == ai["whole"]["reason"]
    assert "error" not in streamed["parts"]
    assert streamed["parts"][-1] == "finish"


def test_the_ai_sdk_reads_usage_of_both(ai: dict[str, Any]) -> None:
    for usage in (ai["whole"]["usage"], ai["streamed"]["usage"]):
        assert usage["inputTokens"] > 10
        assert 1 <= usage["outputTokens"] <= 30


def test_the_ai_sdk_gets_objects_whole_and_streamed(ai: dict[str, Any]) -> None:
    assert ai["object"] is True
    assert ai["streamedObject"]["valid"] is True
    assert ai["streamedObject"]["partials"] > 1


def test_the_ai_sdk_runs_tools_with_valid_inputs(ai: dict[str, Any]) -> None:
    assert ai["required"]["reason"] == ai["named"]["reason"] == "tool-calls"
    assert set(ai["required"]["names"]) == {"forecast"}
    assert ai["named"]["names"] == ["forecast"]
    assert ai["ran"]
    assert all(ai["ran"])


def test_the_ai_sdk_goes_on_after_a_call(ai: dict[str, Any]) -> None:
    assert len(ai["steps"]) == 2
    assert ai["steps"][0] == "tool-calls"


def test_the_ai_sdk_reads_vectors(ai: dict[str, Any]) -> None:
    assert ai["lengths"] == pytest.approx([1, 1], abs=1e-5)


def test_the_ai_sdk_raises_what_was_refused(ai: dict[str, Any]) -> None:
    error = ai["error"]

    assert (error["name"], error["status"]) == ("AI_APICallError", 404)
    assert "nope" in error["message"]


# All of them


@pytest.mark.anyio
async def test_heartbeats_of_a_slow_stream_disturb_nobody(node_folder: Path) -> None:
    settings = ApiSettings(heartbeat_s=0.02, hold_headers_s=0.02)
    async with ApiEdge(FakeAnswers(pause_s=0.1), settings=settings) as edge:
        process = await asyncio.create_subprocess_exec(
            "node", "slow.mjs", edge.url, cwd=node_folder, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(SCRIPT_S):
            output, _ = await process.communicate()

    assert process.returncode == 0
    assert set(json.loads(output).values()) == {"Hello"}
