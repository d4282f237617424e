"""
Pins what bad requests get: a status of 4xx and the API's envelope, which names the field and the bound.

The numbered rows stand in tests/invalid_requests.py; here are they, and more of the same kind.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from tests.api_fakes import CARD, Client, FakeAnswers, make_app
from tests.invalid_requests import BODIES, LARGE, MISSING, PATHS, ROWS, SMALL, TYPE, UNSUPPORTED, VALUE, says
from wicketgate.api.endpoint import ApiSettings
from wicketgate.api.openai.routes import chat_routes
from wicketgate.api.value_count import MORE_VALUES

pytestmark = pytest.mark.anyio
CHAT, COMPLETION = BODIES["chat"], BODIES["completions"]
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MANY_ARGUMENTS = CALL | {"function": {"name": "f", "arguments": f"[{'1,' * (MORE_VALUES + 1)}1]"}}
TWO_MODELS = [CARD, replace(CARD, id="other")]


def client(answers=None, **more):
    return Client(make_app(answers, routes=chat_routes, **more))


def sent(body):
    """The body as bytes, with what no JSON can hold written as an attacker would."""
    return json.dumps(body).replace("Infinity", "1e999").encode()


NUMBERED = [row for row in ROWS if row.api in {"chat", "completions"} and not row.of_engine]


@pytest.mark.parametrize("row", NUMBERED, ids=lambda row: row.id)
async def test_a_numbered_invalid_request_is_refused_by_its_field(row):
    answers = FakeAnswers()

    reply = await client(answers, models=TWO_MODELS).ask(PATHS[row.api], sent(row.body))

    assert (reply.status, reply.error["type"]) == (row.status, "invalid_request_error")
    assert (reply.error["param"], reply.error["code"]) == (row.param, row.code)
    assert row.param is None or row.param.split(".")[0].split("[")[0] in reply.error["message"]
    assert not answers.requests


def test_every_row_has_its_number_once_and_in_order():
    assert [row.number for row in ROWS] == sorted({row.number for row in ROWS})


def called(**function):
    return {
        "messages": [
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", **function}}]},
        ]
    }


MORE_CHAT = [
    ({"messages": "hi"}, "messages", TYPE),
    ({"messages": ["hi"]}, "messages[0]", TYPE),
    ({"messages": [{"content": "x"}]}, "messages[0].role", MISSING),
    (says(5), "messages[0].content", TYPE),
    (says([]), "messages[0].content", "empty_array"),
    (says([{"type": "text"}]), "messages[0].content[0].text", MISSING),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", MISSING),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id", MISSING),
    (called(arguments={}), "messages[0].tool_calls[0].function.arguments", TYPE),
    (called(arguments="{"), "messages[0].tool_calls[0].function.arguments", VALUE),
    (called(arguments="[1]"), "messages[0].tool_calls[0].function.arguments", VALUE),
    (called(arguments='{"a": NaN}'), "messages[0].tool_calls[0].function.arguments", VALUE),
    (
        {
            "messages": [
                {"role": "user", "content": "x", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
            ]
        },
        "messages[0].tool_calls",
        VALUE,
    ),
    ({"temperature": "1"}, "temperature", TYPE),
    ({"max_tokens": -1}, "max_tokens", SMALL),
    ({"max_tokens": 65}, "max_tokens", LARGE),
    ({"stop": ["x" * 1025]}, "stop[0]", "string_above_max_length"),
    ({"stop_token_ids": [300]}, "stop_token_ids[0]", VALUE),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "decimal_below_min_value"),
    ({"logit_bias": [1]}, "logit_bias", TYPE),
    ({"logit_bias": {"5": "x"}}, "logit_bias.5", TYPE),
    ({"logit_bias": {"300": 1}}, "logit_bias.300", VALUE),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1", VALUE),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias." + "9" * 20, VALUE),
    ({"logit_bias": {str(each): 1 for each in range(1025)}}, "logit_bias", "array_above_max_length"),
    ({"priority": 10}, "priority", LARGE),
    ({"priority": -1}, "priority", SMALL),
    ({"cache_salt": 5}, "cache_salt", TYPE),
    ({"cache_salt": "x" * 257}, "cache_salt", "string_above_max_length"),
    ({"tool_choice": {"type": "zap"}}, "tool_choice.type", VALUE),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function", MISSING),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", MISSING),
    (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema.name",
        MISSING,
    ),
    ({"reasoning_effort": "low"}, "reasoning_effort", UNSUPPORTED),
    ({"reasoning_effort": "some"}, "reasoning_effort", VALUE),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", TYPE),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", VALUE),
    ({"chat_template_kwargs": {"a": "x" * 9000}}, "chat_template_kwargs", "string_above_max_length"),
    (
        {"chat_template_kwargs": {str(n): n for n in range(33)}},
        "chat_template_kwargs",
        "array_above_max_length",
    ),
    # Too many are refused before the first is read, wrong ones too.
    ({"metadata": {str(n): n for n in range(65)}}, "metadata", "array_above_max_length"),
    ({"logit_bias": {str(n): "a" for n in range(1025)}}, "logit_bias", "array_above_max_length"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [MANY_ARGUMENTS]}]},
        "messages[0].tool_calls[0].function.arguments",
        "array_above_max_length",
    ),
    ({"store": True}, "store", UNSUPPORTED),
    ({"service_tier": "flex"}, "service_tier", UNSUPPORTED),
    ({"audio": {}}, "audio", UNSUPPORTED),
    ({"repetition_penalty": 0}, "repetition_penalty", "decimal_below_min_value"),
    ({"repetition_penalty": 0.001}, "repetition_penalty", "decimal_below_min_value"),
    ({"repetition_penalty": 101}, "repetition_penalty", "decimal_above_max_value"),
    ({"min_tokens": -1}, "min_tokens", SMALL),
]
MORE_COMPLETIONS = [
    ({"prompt": 5}, "prompt", TYPE),
    ({"prompt": [None]}, "prompt[0]", TYPE),
    ({"prompt": [1, True]}, "prompt[1]", TYPE),
    ({"prompt": [[]]}, "prompt[0]", "empty_array"),
    ({"prompt": [[1, "a"]]}, "prompt[0][1]", TYPE),
    ({"prompt": ["a"] * 65, "n": 2}, "prompt", "array_above_max_length"),
    ({"best_of": 21}, "best_of", LARGE),
    ({"max_tokens": 0, "stream": True}, "max_tokens", VALUE),
    ({"max_tokens": -1}, "max_tokens", SMALL),
]
NEUTRAL = {
    "n": 1,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
    "priority": 0,
    "logit_bias": {},
    "store": False,
    "service_tier": "auto",
    "metadata": {"a": "b"},
    "user": "u",
    "verbosity": "low",
    "modalities": ["text"],
    "function_call": "none",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {},
    "top_logprobs": 0,
    "reasoning_effort": "none",
    "chat_template_kwargs": {},
    "stop": [],
}


def case_id(case):
    return ",".join(f"{name}:{value}"[:40] for name, value in case[0].items())


@pytest.mark.parametrize("case", MORE_CHAT, ids=case_id)
async def test_a_chat_that_is_wrong_is_refused_by_its_field(case):
    fields, param, code = case

    reply = await client().ask("/v1/chat/completions", CHAT | fields)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


@pytest.mark.parametrize("case", MORE_COMPLETIONS, ids=case_id)
async def test_a_completion_that_is_wrong_is_refused_by_its_field(case):
    fields, param, code = case

    reply = await client().ask("/v1/completions", COMPLETION | fields)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


async def test_fields_that_ask_for_nothing_are_accepted():
    reply = await client().ask("/v1/chat/completions", CHAT | NEUTRAL)

    assert reply.status == 200
    assert "x-wicketgate-ignored" not in reply.headers


@pytest.mark.parametrize("name", [*NEUTRAL, "seed", "stream_options", "tools"])
async def test_an_optional_field_that_is_null_counts_as_absent(name):
    reply = await client().ask("/v1/chat/completions", CHAT | {name: None})

    assert reply.status == 200


async def test_a_field_inside_another_that_is_null_counts_as_absent():
    message = {"role": "user", "content": "hi", "name": None, "tool_calls": None}
    tool = {"type": "function", "function": {"name": "f", "description": None, "strict": None}}

    reply = await client().ask("/v1/chat/completions", CHAT | {"messages": [message], "tools": [tool]})

    assert reply.status == 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 2.1}, "temperature must be at most 2.0, got 2.1"),
        ({"max_tokens": -1}, "max_tokens must be at least 1, got -1"),
        ({"max_tokens": 65}, "max_tokens must be at most 64, the model's context, got 65"),
        ({"store": True}, "this value of store is not supported; leave it out or send false"),
        ({"messages": []}, "messages must not be empty"),
        ({"temprature": 1}, "unknown field temprature. Did you mean temperature?"),
    ],
)
async def test_the_message_says_what_is_and_what_must_be(fields, message):
    reply = await client().ask("/v1/chat/completions", CHAT | fields)

    assert reply.error["message"] == message


async def test_what_the_user_wrote_is_never_repeated():
    reply = await client().ask("/v1/chat/completions", CHAT | {"messages": "my long secret " * 9})

    assert "secret" not in reply.error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("POST", "/v1/nope", 404, "unknown_url"), ("GET", "/v1/completions", 405, "method_not_allowed")],
)
async def test_a_wrong_address_is_refused(method, path, status, code):
    reply = await client().ask(path, b"", method=method)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (status, None, code)


@pytest.mark.parametrize("headers", [{}, {"origin": "https://chat.example"}])
async def test_without_a_name_the_only_model_is_meant(headers):
    answers = FakeAnswers()
    headers = {"content-type": "application/json", **headers}

    reply = await client(answers).ask("/v1/chat/completions", CHAT | {"model": None}, headers=headers)

    assert reply.status == 200
    assert answers.requests[0].model == "demo"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b'{"temperature": NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
    ids=["half", "empty", "nan", "utf-16", "deep", "surrogate", "digits"],
)
async def test_what_is_no_json_is_refused(body):
    reply = await client().ask("/v1/chat/completions", body)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, None, "invalid_json")


async def test_an_infinite_number_is_refused():
    reply = await client().ask("/v1/chat/completions", b'{"temperature": 1e999}')

    assert (reply.error["param"], reply.error["code"]) == ("temperature", VALUE)


async def test_a_body_that_is_no_object_is_refused():
    reply = await client().ask("/v1/chat/completions", [1])

    assert (reply.status, reply.error["code"]) == (400, TYPE)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "text/plain"}, 400, "unsupported_content_type"),
        (
            {"content-type": "application/json", "content-encoding": "zap"},
            415,
            "unsupported_content_encoding",
        ),
        ({"origin": "https://evil.example"}, 400, "unsupported_content_type"),
        (
            {"content-type": "application/x-www-form-urlencoded", "origin": "https://evil.example"},
            400,
            "unsupported_content_type",
        ),
    ],
)
async def test_a_body_that_is_not_said_to_be_json_is_refused(headers, status, code):
    reply = await client().ask("/v1/chat/completions", CHAT, headers=headers)

    assert (reply.status, reply.error["code"]) == (status, code)


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": ""}]
)
async def test_a_body_as_curl_sends_it_goes_to_the_only_model(headers):
    answers = FakeAnswers()

    reply = await client(answers).ask("/v1/chat/completions", CHAT | {"model": None}, headers=headers)

    assert reply.status == 200
    assert answers.requests[0].model == "demo"


async def test_a_body_over_the_cap_is_read_to_its_end_and_refused_with_the_cap():
    settings = ApiSettings(max_body_bytes=1000)

    reply = await client(settings=settings).ask("/v1/chat/completions", parts=[b"x" * 600] * 4)

    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert "at most 1000 bytes" in reply.error["message"]


async def test_a_body_that_comes_too_slowly_is_a_timeout():
    app = make_app(routes=chat_routes, settings=ApiSettings(body_timeout_s=0.01))
    messages = []

    async def never():
        await asyncio.get_running_loop().create_future()

    async def send(message):
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "client": None}
    await app(scope | {"query_string": b"", "http_version": "1.1"}, never, send)

    assert messages[0]["status"] == 408


async def test_a_client_that_leaves_within_its_body_hears_nothing():
    leaving = client()
    leaving.gone.set()

    reply = await leaving.ask("/v1/completions", parts=[])

    assert reply.status == 0


async def test_unknown_fields_are_ignored_and_named():
    reply = await client().ask("/v1/chat/completions", CHAT | {"zap": 1, "späß\r\n": 2})

    assert reply.status == 200
    assert reply.headers["x-wicketgate-ignored"] == "zap, sp%C3%A4%C3%9F%0D%0A"


async def test_unknown_fields_can_be_refused():
    settings = ApiSettings(refuses_unknown_fields=True)

    reply = await client(settings=settings).ask("/v1/chat/completions", CHAT | {"zap": 1})

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "zap", "unknown_parameter")


async def test_thousands_of_unknown_fields_are_no_trouble():
    fields = {f"field_number_{n}": n for n in range(5000)}

    reply = await client().ask("/v1/chat/completions", CHAT | fields)

    assert reply.status == 200
    assert reply.headers["x-wicketgate-ignored"].count(",") == 31
