"""Pins the answers of /v1/messages, whole and streamed: shapes, order of events, Anthropic's own client."""

from __future__ import annotations

from dataclasses import replace

import anthropic
import httpx2
import pydantic
import pytest

from tests.api_fakes import CARD, Client, FakeAnswers, finished, make_app, text
from wicketgate.api.anthropic.routes import message_routes
from wicketgate.errors import EngineFailedError, OverloadedError, UnavailableError
from wicketgate.inference import FinishReason
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk

pytestmark = pytest.mark.anyio
MODEL = replace(CARD, context_tokens=4096, tool_format="json_tools", thinks=True, can_stop_thinking=True)
BODY = {"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
SUFFIX = "0" * 31 + "1"
EVERYTHING = [
    ReasoningChunk(text="hm", tokens=1),
    ReasoningChunk(text="m", tokens=1),
    *text("Hel", "lo"),
    CallOpened(index=0, name="f"),
    CallArguments(index=0, text='{"a":'),
    CallArguments(index=0, text="1}"),
    CallOpened(index=1, name="g"),
    CallArguments(index=1, text="{}"),
    finished(calls=2, reasoning_tokens=2, cached_tokens=1),
]
CONTENT = [
    {"type": "thinking", "thinking": "hmm", "signature": "wicketgate"},
    {"type": "text", "text": "Hello"},
    {"type": "tool_use", "id": f"toolu_{SUFFIX}2", "name": "f", "input": {"a": 1}},
    {"type": "tool_use", "id": f"toolu_{SUFFIX}3", "name": "g", "input": {}},
]


def app(items=None, **more):
    answers = FakeAnswers() if items is None else FakeAnswers(items)
    return make_app(answers, routes=message_routes, models=[MODEL], **more)


async def message(items=None, **fields):
    reply = await Client(app(items)).ask("/v1/messages", BODY | fields)
    assert reply.status == 200, reply.parts
    return reply


def check_order(events):
    """
    Hold events to what Anthropic's clients take.

    One start, blocks one after the other with indices that count up, deltas of their own kind, one delta of
    the message with usage, one stop.
    """
    kinds = {"text_delta": "text", "input_json_delta": "tool_use"}
    kinds |= {"thinking_delta": "thinking", "signature_delta": "thinking"}
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    opened, kind = -1, None
    for event in events[1:-2]:
        match event["type"]:
            case "content_block_start":
                assert (kind, event["index"]) == (None, opened + 1)
                opened, kind = event["index"], event["content_block"]["type"]
            case "content_block_delta":
                assert (event["index"], kinds[event["delta"]["type"]]) == (opened, kind)
            case "content_block_stop":
                assert event["index"] == opened
                kind = None
            case other:
                assert other == "ping"
    assert kind is None


async def events(items=None, **fields):
    pairs = (await message(items, stream=True, **fields)).named_events
    got = [data for _, data in pairs]
    assert [name for name, _ in pairs] == [data["type"] for data in got]
    check_order(got)
    return got


def sdk(items=None, **more):
    transport = httpx2.ASGITransport(app=app(items, **more))
    return anthropic.AsyncAnthropic(
        api_key="x",
        base_url="http://here",
        http_client=httpx2.AsyncClient(transport=transport),
        max_retries=0,
    )


async def test_a_message_has_every_key():
    reply = await message()

    assert reply.json == {
        "id": f"msg_{SUFFIX}",
        "type": "message",
        "role": "assistant",
        "model": "demo",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }
    assert reply.headers["request-id"] == f"req_{SUFFIX}"


async def test_what_was_thought_said_and_called_are_blocks():
    reply = await message(EVERYTHING)

    assert reply.json["content"] == CONTENT
    assert reply.json["stop_reason"] == "tool_use"


async def test_input_is_counted_without_what_was_cached():
    reply = await message(EVERYTHING)

    usage = reply.json["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (2, 1)
    assert usage["output_tokens_details"] == {"thinking_tokens": 2}


async def test_a_stream_has_its_events_in_order():
    got = await events()

    start = {
        "id": f"msg_{SUFFIX}",
        "type": "message",
        "role": "assistant",
        "model": "demo",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }
    assert got == [
        {"type": "message_start", "message": start},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 3,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 2,
                "output_tokens_details": {"thinking_tokens": 0},
            },
        },
        {"type": "message_stop"},
    ]


async def test_thinking_begins_empty_and_ends_with_a_signature():
    got = await events(EVERYTHING)

    block = [event for event in got if event.get("index") == 0]
    assert block[0]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert [event["delta"] for event in block[1:-1]] == [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "thinking_delta", "thinking": "m"},
        {"type": "signature_delta", "signature": "wicketgate"},
    ]


async def test_a_call_begins_with_no_input_and_gets_pieces_of_json():
    got = await events(EVERYTHING)

    block = [event for event in got if event.get("index") == 2]
    assert block[0]["content_block"] == CONTENT[2] | {"input": {}}
    assert [event["delta"] for event in block[1:-1]] == [
        {"type": "input_json_delta", "partial_json": '{"a":'},
        {"type": "input_json_delta", "partial_json": "1}"},
    ]


async def test_thinking_that_is_not_to_be_shown_is_an_empty_block():
    asked = {"thinking": {"type": "adaptive", "display": "omitted"}}

    whole = await message(EVERYTHING, **asked)
    streamed = await events(EVERYTHING, **asked)

    assert whole.json["content"][0] == {"type": "thinking", "thinking": "", "signature": "wicketgate"}
    deltas = [event["delta"]["type"] for event in streamed if "delta" in event and event.get("index") == 0]
    assert deltas == ["signature_delta"]


@pytest.mark.parametrize(
    ("ends", "reason", "sequence"),
    [
        (finished(), "end_turn", None),
        (finished(stop="END"), "stop_sequence", "END"),
        (finished(calls=1), "tool_use", None),
        (finished(FinishReason.LENGTH, completion_tokens=9), "max_tokens", None),
        (finished(FinishReason.LENGTH, completion_tokens=9, calls=1), "max_tokens", None),
        (finished(FinishReason.LENGTH, completion_tokens=8), "model_context_window_exceeded", None),
    ],
)
async def test_why_a_message_ended(ends, reason, sequence):
    whole = await message([*text("a"), ends])
    streamed = await events([*text("a"), ends])

    told = {"stop_reason": reason, "stop_sequence": sequence}
    assert {name: whole.json[name] for name in told} == told
    assert streamed[-2]["delta"] == told


@pytest.mark.parametrize(("cut", "whole"), [('{"a":1,"b":"x', {"a": 1}), ("{]", {}), ("", {})])
async def test_a_call_that_was_cut_short_keeps_what_is_whole_of_its_input(cut, whole):
    pieces = [CallOpened(index=0, name="f"), CallArguments(index=0, text=cut)]

    reply = await message([*pieces, finished(FinishReason.LENGTH, completion_tokens=9)])

    assert reply.json["content"][0]["input"] == whole


async def test_an_answer_without_anything_is_no_block():
    assert (await message([finished()])).json["content"] == []
    assert len(await events([finished()])) == 4


async def test_no_tokens_fill_the_cache_and_say_nothing():
    whole = await message(EVERYTHING, max_tokens=0)
    streamed = await events(EVERYTHING, max_tokens=0)

    assert (whole.json["content"], whole.json["stop_reason"]) == ([], "max_tokens")
    assert whole.json["usage"]["output_tokens"] == 0
    assert [event["type"] for event in streamed] == ["message_start", "ping", "message_delta", "message_stop"]


async def test_a_stream_that_fails_says_so_and_does_not_stop():
    failed = finished(FinishReason.ERROR, error=EngineFailedError("the engine died"))

    reply = await message([*text("Hel"), failed], stream=True)

    assert reply.named_events[-1] == (
        "error",
        {
            "type": "error",
            "error": {"type": "api_error", "message": "the engine died"},
            "request_id": f"req_{SUFFIX}",
        },
    )


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (OverloadedError("full", retry_after_s=2.0), 529, "overloaded_error"),
        (UnavailableError("starting"), 529, "overloaded_error"),
        (EngineFailedError("dead"), 500, "api_error"),
    ],
)
async def test_refusals_have_anthropics_status_and_type(error, status, kind):
    answers = FakeAnswers(error=error)

    reply = await Client(make_app(answers, routes=message_routes)).ask("/v1/messages", BODY)

    assert (reply.status, reply.json["type"], reply.json["error"]["type"]) == (status, "error", kind)
    assert set(reply.json) == {"type", "error", "request_id"}


@pytest.mark.parametrize(
    "headers",
    [
        {"anthropic-version": "2023-06-01"},
        {"anthropic-version": "2026-10-21", "anthropic-beta": "zap-2026-01-01"},
        {},
    ],
)
async def test_any_version_will_do(headers):
    reply = await Client(app()).ask(
        "/v1/messages?beta=true", BODY, headers={"content-type": "application/json", **headers}
    )

    assert reply.status == 200


# Anthropic's own client


async def test_anthropics_client_reads_a_message():
    got = await sdk(EVERYTHING).messages.create(**BODY)

    assert [block.type for block in got.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (got.content[2].input, got.stop_reason) == ({"a": 1}, "tool_use")


async def test_anthropics_client_adds_up_a_stream():
    async with sdk(EVERYTHING).messages.stream(**BODY) as stream:
        texts = [piece async for piece in stream.text_stream]
        got = await stream.get_final_message()

    assert texts == ["Hel", "lo"]
    assert [block.type for block in got.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (got.content[0].thinking, got.content[0].signature) == ("hmm", "wicketgate")
    assert [block.input for block in got.content[2:]] == [{"a": 1}, {}]
    assert (got.usage.input_tokens, got.usage.cache_read_input_tokens, got.usage.output_tokens) == (2, 1, 2)


async def test_anthropics_client_parses_a_structured_message():
    class Day(pydantic.BaseModel):
        name: str

    got = await sdk([*text('{"name":"Mon"}'), finished()]).messages.parse(**BODY, output_format=Day)

    assert got.parsed_output == Day(name="Mon")


async def test_anthropics_client_raises_what_a_stream_failed_of():
    failed = finished(FinishReason.ERROR, error=EngineFailedError("the engine died"))
    stream = await sdk([*text("Hel"), failed]).messages.create(**BODY, stream=True)

    with pytest.raises(anthropic.APIStatusError, match="the engine died") as raised:
        _ = [event async for event in stream]

    assert raised.value.type == "api_error"


async def test_anthropics_client_knows_the_error_of_a_bad_request():
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.role: must be"):
        await sdk().messages.create(**BODY | {"messages": [{"role": "robot", "content": "x"}]})
