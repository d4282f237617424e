"""Pins the answers of /v1/responses, whole and streamed: shapes, order of events, and OpenAI's own client."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx2
import jsonschema
import openai
import pydantic
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.api_fakes import CARD, Client, FakeAnswers, finished, make_app, text
from wicketgate.api.responses.routes import response_routes
from wicketgate.errors import EngineFailedError, InvalidRequestError, OverloadedError
from wicketgate.inference import FinishReason, TokenLogprob
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk, TextChunk

pytestmark = pytest.mark.anyio
MODEL = replace(CARD, context_tokens=4096, tool_format="json_tools")
BODY = {"model": "demo", "input": "hi"}
SUFFIX = "0" * 31 + "1"
RS, MSG, CALL = f"rs_{SUFFIX}0", f"msg_{SUFFIX}1", f"fc_{SUFFIX}2"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
LOGPROBS = (TokenLogprob(72, -0.1, ((72, -0.1), (228, float("-inf")))),)
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
USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 5,
}


def schema(name):
    """Return what checks a value against OpenAI's published description."""
    path = Path(__file__).parent.parent / "vectors" / "openai_schemas.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    registry = Registry().with_resource("urn:openai", DRAFT202012.create_resource(document))
    return jsonschema.Draft202012Validator(
        {"$ref": f"urn:openai#/components/schemas/{name}"}, registry=registry
    )


@pytest.fixture(scope="module")
def event_schema():
    return schema("ResponseStreamEvent")


@pytest.fixture(scope="module")
def response_schema():
    return schema("Response")


def app(items=None, **more):
    answers = FakeAnswers() if items is None else FakeAnswers(items)
    return make_app(answers, routes=response_routes, models=[MODEL], **more)


async def respond(items=None, **fields):
    reply = await Client(app(items)).ask("/v1/responses", BODY | fields)
    assert reply.status == 200, reply.parts
    return reply


async def events(items=None, **fields):
    reply = await respond(items, stream=True, **fields)
    assert all(name == data["type"] for name, data in reply.named_events)
    assert [data["sequence_number"] for data in reply.events] == list(range(len(reply.events)))
    return reply.events


def sdk(items=None, **more):
    transport = httpx2.ASGITransport(app=app(items, **more))
    return openai.AsyncOpenAI(
        api_key="x",
        base_url="http://here/v1",
        http_client=httpx2.AsyncClient(transport=transport),
        max_retries=0,
    )


async def test_an_answer_has_every_key_and_one_message():
    reply = await respond()

    assert reply.json == {
        "id": f"resp_{SUFFIX}",
        "object": "response",
        "created_at": 1_700_000_123,
        "completed_at": 1_700_000_123,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": "demo",
        "output": [
            {
                "id": f"msg_{SUFFIX}0",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": USAGE,
    }


async def test_what_was_asked_is_echoed():
    asked = {
        "instructions": "be short",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "store": True,
        "temperature": 0.5,
        "top_p": 0.25,
        "user": "u",
    }

    reply = await respond(**asked)

    assert {name: reply.json[name] for name in asked} == asked


async def test_a_stream_has_its_events_in_order():
    got = await events(EVERYTHING)

    assert [event["type"].removeprefix("response.") for event in got] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert [event["output_index"] for event in got if event["type"] == "response.output_item.added"] == [
        *(0, 1, 2, 3)
    ]


async def test_the_events_of_a_message_say_where_they_belong():
    got = await events()

    place = {"item_id": f"msg_{SUFFIX}0", "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = {"id": f"msg_{SUFFIX}0", "type": "message", "role": "assistant"}
    bare = [
        {name: field for name, field in event.items() if name not in {"type", "sequence_number"}}
        for event in got[2:-1]
    ]
    assert bare == [
        {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}},
        {**place, "part": empty},
        {**place, "delta": "Hel", "logprobs": []},
        {**place, "delta": "lo", "logprobs": []},
        {**place, "text": "Hello", "logprobs": []},
        {**place, "part": {**empty, "text": "Hello"}},
        {
            "output_index": 0,
            "item": {**item, "status": "completed", "content": [{**empty, "text": "Hello"}]},
        },
    ]


async def test_a_call_has_an_id_of_its_own_beside_that_of_its_item():
    got = await events(EVERYTHING)

    added = next(event for event in got if event.get("item", {}).get("type") == "function_call")
    done = next(event for event in got if event["type"] == "response.function_call_arguments.done")
    assert added["item"] == {
        "id": CALL,
        "type": "function_call",
        "status": "in_progress",
        "call_id": f"call_{SUFFIX}2",
        "name": "f",
        "arguments": "",
    }
    assert (done["item_id"], done["name"], done["arguments"]) == (CALL, "f", '{"a":1}')


async def test_the_last_event_holds_the_whole_answer():
    streamed = await events(EVERYTHING)
    whole = await respond(EVERYTHING)

    first, last = streamed[0]["response"], streamed[-1]["response"]
    assert last == whole.json
    assert (first["status"], first["output"]) == ("in_progress", [])
    assert last["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert last["usage"]["input_tokens_details"]["cached_tokens"] == 1


@pytest.mark.parametrize("ends", [finished(), finished(FinishReason.LENGTH)])
async def test_every_event_is_as_openai_describes_it(ends, event_schema, response_schema):
    logged = TextChunk(text="H", tokens=1, logprobs=LOGPROBS)
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "tools": [TOOL]}

    got = await events([*EVERYTHING[:-1], logged, ends], **asked)

    for event in got:
        event_schema.validate(event)
    response_schema.validate(got[-1]["response"])


async def test_an_answer_cut_short_is_incomplete_and_so_is_its_last_item():
    got = await events([*text("Hel"), finished(FinishReason.LENGTH)])

    last = got[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["completed_at"] is None
    assert [item["status"] for item in last["response"]["output"]] == ["incomplete"]


async def test_an_empty_answer_has_an_empty_message():
    got = await events([finished()])

    assert [event["type"] for event in got if "delta" in event["type"]] == []
    assert got[-1]["response"]["output"][0]["content"][0]["text"] == ""


async def test_thought_without_words_is_no_empty_message():
    reply = await respond([ReasoningChunk(text="hm", tokens=1), finished(FinishReason.LENGTH)])

    assert [item["type"] for item in reply.json["output"]] == ["reasoning"]


async def test_a_stream_that_fails_says_so_with_what_there_is(event_schema):
    failed = finished(FinishReason.ERROR, error=EngineFailedError("the engine died"))

    got = await events([*text("Hel"), failed])

    last = got[-1]["response"]
    assert (got[-1]["type"], last["status"]) == ("response.failed", "failed")
    assert last["error"] == {"code": "server_error", "message": "the engine died"}
    assert last["output"][0]["content"][0]["text"] == "Hel"
    event_schema.validate(got[-1])


@pytest.mark.parametrize(
    ("error", "code"),
    [(InvalidRequestError("no"), "invalid_prompt"), (OverloadedError("no"), "rate_limit_exceeded")],
)
async def test_why_a_stream_failed_is_one_of_openais_codes(error, code):
    got = await events([*text("Hel"), finished(FinishReason.ERROR, error=error)])

    assert got[-1]["response"]["error"]["code"] == code


async def test_a_failure_before_the_first_token_has_a_status():
    reply = await Client(app([finished(FinishReason.ERROR, error=EngineFailedError("x"))])).ask(
        "/v1/responses", BODY | {"stream": True}
    )

    assert (reply.status, reply.error["code"]) == (500, "engine_failed")


async def test_log_probabilities_are_told_when_they_are_asked_for():
    logged = [TextChunk(text="H", tokens=1, logprobs=LOGPROBS), *text("i"), finished()]

    got = await events(logged, include=["message.output_text.logprobs"], top_logprobs=2)

    deltas = [event["logprobs"] for event in got if event["type"] == "response.output_text.delta"]
    top = [{"token": "H", "logprob": -0.1}, {"token": "\\xe4", "logprob": -9999.0}]
    assert deltas == [[{"token": "H", "logprob": -0.1, "top_logprobs": top}], []]
    part = got[-1]["response"]["output"][0]["content"][0]
    assert part["logprobs"][0]["bytes"] == [72]
    assert part["logprobs"][0]["top_logprobs"][1] == {
        "token": "\\xe4",
        "bytes": [228],
        "logprob": -9999.0,
    }


# OpenAI's own client


async def test_openais_client_reads_an_answer():
    answer = await sdk(EVERYTHING).responses.create(**BODY)

    assert answer.output_text == "Hello"
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]


async def test_openais_client_adds_up_a_stream():
    async with sdk(EVERYTHING).responses.stream(**BODY) as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        answer = await stream.get_final_response()

    assert deltas == ["Hel", "lo"]
    assert answer.output_text == "Hello"
    assert [call.arguments for call in answer.output[2:]] == ['{"a":1}', "{}"]


async def test_openais_client_parses_a_structured_answer():
    class Day(pydantic.BaseModel):
        name: str

    items = [*text('{"name":', '"Mon"}'), finished()]
    client = sdk(items)

    answer = await client.responses.parse(**BODY, text_format=Day)
    async with client.responses.stream(**BODY, text_format=Day) as stream:
        streamed = await stream.get_final_response()

    assert answer.output_parsed == streamed.output_parsed == Day(name="Mon")


async def test_openais_client_hears_of_a_failure_in_a_stream():
    failed = finished(FinishReason.ERROR, error=EngineFailedError("the engine died"))
    stream = await sdk([*text("Hel"), failed]).responses.create(**BODY, stream=True)

    got = [event async for event in stream]

    assert got[-1].type == "response.failed"
    assert got[-1].response.error.message == "the engine died"
