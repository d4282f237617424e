"""Pins what bad requests to /v1/messages get: Anthropic's envelope, a message that begins with the path."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.api_fakes import CARD, Client, FakeAnswers, make_app
from tests.invalid_requests import BODIES, PATHS, ROWS
from wicketgate.api.anthropic.routes import message_routes

pytestmark = pytest.mark.anyio
MODEL = replace(CARD, tool_format="json_tools", thinks=True)
BODY = BODIES["messages"]
F = {"name": "f", "input_schema": {"type": "object", "properties": {}}}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
FORM = {"type": "json_schema", "schema": {"type": "object", "properties": {}}}


def says(content, role="user"):
    return {"messages": [{"role": role, "content": content}]}


def tool_results(content):
    result = {"type": "tool_result", "tool_use_id": "t1", "content": content}
    return {"messages": [*says([USE], role="assistant")["messages"], *says([result])["messages"]]}


def begun(**fields):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "{"}]
    return {"messages": messages, **fields}


CASES = [
    ({"model": 7}, "model"),
    ({"messages": ["hi"]}, "messages.0"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    (says(5), "messages.0.content"),
    (says([]), "messages.0.content"),
    (says("", role="assistant"), "messages.0.content"),
    ({"messages": [{"role": "user", "content": "x"}] * 10_001}, "messages"),
    ({"messages": says([{"type": "text", "text": ""}] * 5001)["messages"] * 2}, "messages.1.content"),
    (says([5]), "messages.0.content.0"),
    (says([{"text": "x"}]), "messages.0.content.0.type"),
    (says([{"type": "text"}]), "messages.0.content.0.text"),
    (tool_results([{"type": "image"}]), "messages.1.content.0.content.0.type"),
    (says([{"type": "image", "source": {}}]), "messages.0.content.0.type"),
    (says([{"type": "document", "source": {}}]), "messages.0.content.0.type"),
    (says([{"type": "web_search_tool_result"}]), "messages.0.content.0.type"),
    (says([USE]), "messages.0.content.0.type"),
    (says([USE | {"input": "{}"}], role="assistant"), "messages.0.content.0.input"),
    (says([USE], role="assistant"), "messages.0"),
    ({"system": 5}, "system"),
    ({"system": [{"type": "image"}]}, "system.0.type"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"stream": "yes"}, "stream"),
    ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
    ({"tools": [F | {"name": "a b"}]}, "tools.0.name"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}, F, F]}, "tools.2.name"),
    ({"tools": [F | {"name": f"f{n}"} for n in range(129)]}, "tools"),
    (
        {"tools": [F | {"input_schema": {"type": "array"}}], "tool_choice": {"type": "any"}},
        "tools.0.input_schema",
    ),
    ({"tools": [F], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [F], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice"),
    ({"tools": [F], "tool_choice": {"type": "must"}}, "tool_choice.type"),
    ({"tools": [F], "output_config": {"format": FORM}}, "output_config.format.schema"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ({"output_config": {"format": FORM | {"schema": {"type": "strin"}}}}, "output_config.format.schema"),
    (begun(output_config={"format": FORM}), "messages.1"),
    (begun(tools=[F], tool_choice={"type": "any"}), "messages.1"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2000}, "thinking.budget_tokens"),
    ({"thinking": {"type": "often"}}, "thinking.type"),
    ({"chat_template_kwargs": {"a": "x" * 9000}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {str(n): n for n in range(33)}}, "chat_template_kwargs"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"container": "c"}, "container"),
    ({"temprature": 1}, "temprature"),
]


@pytest.mark.parametrize("row", [row for row in ROWS if row.api == "messages"], ids=lambda row: row.id)
async def test_a_numbered_invalid_request_is_refused_by_its_path(row):
    answers = FakeAnswers()
    app = make_app(answers, routes=message_routes, models=[MODEL, replace(MODEL, id="other")])

    reply = await Client(app).ask(PATHS[row.api], row.body)

    assert (reply.status, reply.json["error"]["type"]) == (row.status, row.code)
    assert reply.json["error"]["message"].startswith(f"{row.param}: ")
    assert not answers.requests


def case_id(case):
    return ",".join(f"{name}:{value}"[:60] for name, value in case[0].items())


@pytest.mark.parametrize("case", CASES, ids=case_id)
async def test_a_request_that_is_wrong_is_refused_by_its_path(case):
    fields, path = case
    answers = FakeAnswers()

    reply = await Client(make_app(answers, routes=message_routes, models=[MODEL])).ask(
        "/v1/messages", BODY | fields
    )

    assert (reply.status, reply.json["type"]) == (400, "error")
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert reply.json["error"]["message"].startswith(f"{path}: ")
    assert reply.json["request_id"] == reply.headers["request-id"]
    assert not answers.requests


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'{"temperature":NaN}', b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_no_json_is_refused(body):
    reply = await Client(make_app(routes=message_routes)).ask("/v1/messages", body)

    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
