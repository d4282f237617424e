"""Pins what bad requests to /v1/responses get: a status of 4xx and an envelope that names the field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.api_fakes import CARD, Client, FakeAnswers, make_app
from tests.invalid_requests import BODIES, PATHS, ROWS
from wicketgate.api.endpoint import ApiSettings
from wicketgate.api.responses.routes import response_routes

pytestmark = pytest.mark.anyio
MODEL = replace(CARD, tool_format="json_tools", thinks=True)
BODY = BODIES["responses"]
MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
UNSUPPORTED, SCHEMA, LONG = "unsupported_parameter", "invalid_json_schema", "array_above_max_length"
F = {"type": "function", "name": "f"}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


def user(content):
    return {"input": [{"role": "user", "content": content}]}


def form(**fields):
    return {"text": {"format": fields}}


CASES = [
    ({"model": 7}, "model", TYPE),
    ({"input": 5}, "input", TYPE),
    ({"input": []}, "input", "empty_array"),
    ({"input": ["hi"]}, "input[0]", TYPE),
    ({"input": [{"type": 5}]}, "input[0].type", TYPE),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", VALUE),
    ({"input": [{"role": "user"}]}, "input[0].content", MISSING),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"type": "function_call"}]}, "input[0].call_id", MISSING),
    ({"input": [CALL | {"arguments": "[1]"}]}, "input[0].arguments", VALUE),
    ({"input": [CALL | {"arguments": "{"}]}, "input[0].arguments", VALUE),
    ({"input": [CALL, {"type": "function_call_output", "call_id": "c"}]}, "input[1].output", MISSING),
    ({"input": [{"type": "item_reference"}]}, "input[0].id", MISSING),
    (user(5), "input[0].content", TYPE),
    ({"input": user([{"type": "input_text", "text": ""}] * 5001)["input"] * 2}, "input[1].content", LONG),
    ({"input": user("x")["input"] * 10_001}, "input", LONG),
    (user([5]), "input[0].content[0]", TYPE),
    (user([{"type": "zap"}]), "input[0].content[0].type", VALUE),
    (user([{"type": "input_text"}]), "input[0].content[0].text", MISSING),
    (user([{"type": "input_image", "image_url": "x"}]), "input[0].content[0].type", "unsupported_value"),
    ({"max_output_tokens": 65}, "max_output_tokens", "integer_above_max_value"),
    ({"max_output_tokens": "5"}, "max_output_tokens", TYPE),
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    ({"top_p": -0.1}, "top_p", "decimal_below_min_value"),
    ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"stream": "yes"}, "stream", TYPE),
    ({"store": "yes"}, "store", TYPE),
    ({"metadata": {"a": 1}}, "metadata.a", TYPE),
    ({"metadata": {str(n): "" for n in range(65)}}, "metadata", LONG),
    ({"chat_template_kwargs": {"a": "x" * 9000}}, "chat_template_kwargs", "string_above_max_length"),
    ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools", VALUE),
    ({"truncation": "auto"}, "truncation", UNSUPPORTED),
    ({"service_tier": "flex"}, "service_tier", UNSUPPORTED),
    ({"conversation": "conv_x"}, "conversation", UNSUPPORTED),
    ({"prompt": {"id": "pmpt_x"}}, "prompt", UNSUPPORTED),
    ({"instructons": "x"}, "instructons", "unknown_parameter"),
    ({"reasoning": {"effort": "much"}}, "reasoning.effort", VALUE),
    ({"reasoning": {"effort": "none"}}, "reasoning.effort", "unsupported_value"),
    (form(type="xml"), "text.format.type", VALUE),
    (form(type="json_schema", name="n"), "text.format.schema", MISSING),
    (form(type="json_schema", name="n", schema={"type": "strin"}), "text.format.schema", SCHEMA),
    (form(type="json_schema", name="n", schema=OPEN, strict=True), "text.format.schema", SCHEMA),
    (
        form(type="json_schema", name="n", schema=OPEN) | {"tools": [F]},
        "text.format.schema",
        "invalid_parameter_combination",
    ),
    ({"tools": ["f"]}, "tools[0]", TYPE),
    ({"tools": [{"type": "function"}]}, "tools[0].name", MISSING),
    ({"tools": [F | {"name": "a b"}]}, "tools[0].name", VALUE),
    ({"tools": [{"type": "web_search"}, F, F]}, "tools[2].name", VALUE),
    ({"tools": [F | {"name": f"f{n}"} for n in range(129)]}, "tools", "array_above_max_length"),
    (
        {"tools": [{"type": "web_search"}, F | {"parameters": OPEN, "strict": True}]},
        "tools[1].parameters",
        SCHEMA,
    ),
    ({"tool_choice": "must"}, "tool_choice", VALUE),
    ({"tool_choice": "required"}, "tool_choice", VALUE),
    ({"tool_choice": {"type": "web_search"}, "tools": [F]}, "tool_choice", VALUE),
    ({"tool_choice": {"type": "function", "name": "g"}, "tools": [F]}, "tool_choice", VALUE),
    (
        {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp"}]}, "tools": [F]},
        "tool_choice",
        VALUE,
    ),
]


@pytest.mark.parametrize("row", [row for row in ROWS if row.api == "responses"], ids=lambda row: row.id)
async def test_a_numbered_invalid_request_is_refused_by_its_field(row):
    answers = FakeAnswers()
    app = make_app(answers, routes=response_routes, models=[MODEL, replace(MODEL, id="other")])

    reply = await Client(app).ask(PATHS[row.api], row.body)

    assert (reply.status, reply.error["type"]) == (row.status, "invalid_request_error")
    assert (reply.error["param"], reply.error["code"]) == (row.param, row.code)
    assert not answers.requests


def case_id(case):
    return ",".join(f"{name}:{value}"[:60] for name, value in case[0].items())


@pytest.mark.parametrize("case", CASES, ids=case_id)
async def test_a_request_that_is_wrong_is_refused_by_its_field(case):
    fields, param, code = case
    answers = FakeAnswers()
    app = make_app(answers, routes=response_routes, models=[MODEL])

    reply = await Client(app).ask("/v1/responses", BODY | fields)

    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert (reply.error["param"], reply.error["code"]) == (param, code)
    assert param.split(".")[0].split("[")[0] in reply.error["message"]
    assert not answers.requests


async def test_effort_is_refused_where_nothing_thinks():
    app = make_app(routes=response_routes, models=[CARD])

    reply = await Client(app).ask("/v1/responses", BODY | {"reasoning": {"effort": "low"}})

    assert (reply.status, reply.error["param"]) == (400, "reasoning.effort")


async def test_a_model_must_be_named_where_there_are_two():
    app = make_app(routes=response_routes, models=[CARD, replace(CARD, id="other")])

    reply = await Client(app).ask("/v1/responses", {"input": "hi"})

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "model", MISSING)


async def test_unknown_fields_are_refused_where_the_operator_wants_it():
    app = make_app(routes=response_routes, settings=ApiSettings(refuses_unknown_fields=True))

    reply = await Client(app).ask("/v1/responses", BODY | {"zap": 1})

    assert (reply.status, reply.error["param"]) == (400, "zap")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_response_that_is_not_there_is_not_found(method):
    reply = await Client(make_app(routes=response_routes)).ask("/v1/responses/resp_x", method=method)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (404, "response_id", "not_found")
