"""Pins what a body of /v1/responses means to the pipeline: messages, tools, grammars, sampling."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.api_fakes import CARD, Client, FakeAnswers, make_app
from wicketgate.api.responses.routes import response_routes
from wicketgate.inference import CallSyntax

pytestmark = pytest.mark.anyio
MODEL = replace(CARD, context_tokens=4096, tool_format="json_tools", thinks=True, can_stop_thinking=True)
BODY = {"model": "demo", "input": "hi"}
CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "one"}


def tool(name="f", **fields):
    return {"type": "function", "name": name, "parameters": CLOSED, **fields}


def user(content):
    return {"role": "user", "content": content}


async def ask(card=MODEL, **fields):
    answers = FakeAnswers()
    app = make_app(answers, routes=response_routes, models=[card])
    reply = await Client(app).ask("/v1/responses", BODY | fields)
    return reply, answers


async def asked(card=MODEL, **fields):
    reply, answers = await ask(card, **fields)
    assert reply.status == 200, reply.parts
    return answers.requests[0]


async def messages(*items, **fields):
    request = await asked(input=list(items), **fields)
    return list(request.prompt.messages)


async def test_a_text_is_what_a_user_says():
    request = await asked()

    assert request.prompt.messages == ({"role": "user", "content": "hi"},)
    assert (request.api, request.stream) == ("responses", False)


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "ab"},
        {"type": "message", "role": "user", "content": "ab"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "refusal", "refusal": "ab"}]},
        {"id": "msg_1", "status": "completed", "role": "user", "content": "ab"},
    ],
)
async def test_a_message_comes_with_or_without_its_type_and_in_parts(item):
    assert await messages(item) == [user("ab")]


async def test_instructions_and_system_messages_at_the_beginning_are_one():
    system, developer = {"role": "system", "content": "b"}, {"role": "developer", "content": "c"}

    got = await messages(system, developer, user("hi"), system, instructions="a")

    assert got == [
        {"role": "system", "content": "a\n\nb\n\nc"},
        user("hi"),
        {"role": "system", "content": "b"},
    ]


async def test_items_of_one_answer_are_one_message():
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "ok", "annotations": []}]}
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    second = {**CALL, "call_id": "c2", "arguments": ""}

    got = await messages(user("hi"), thought, said, CALL, second, OUTPUT, {**OUTPUT, "call_id": "c2"})

    function = {"name": "f", "arguments": {"a": 1}}
    calls = [
        {"id": "c1", "type": "function", "function": function},
        {"id": "c2", "type": "function", "function": {"name": "f", "arguments": {}}},
    ]
    assert got[1] == {"role": "assistant", "content": "ok", "reasoning_content": "hm", "tool_calls": calls}
    tool = {"role": "tool", "name": "f", "content": "one"}
    assert got[2:] == [{**tool, "tool_call_id": "c1"}, {**tool, "tool_call_id": "c2"}]


async def test_two_answers_in_a_row_stay_two():
    said = {"role": "assistant", "content": "ok"}

    got = await messages(user("hi"), said, said, CALL, said)

    assert [message["content"] for message in got] == ["hi", "ok", "ok", "ok"]


async def test_reasoning_that_nobody_here_can_read_is_left_out():
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "zzz"}

    assert await messages(user("hi"), sealed) == [user("hi")]


async def test_the_output_of_a_function_may_come_in_parts():
    parts = [{"type": "input_text", "text": "o"}, {"type": "input_text", "text": "ne"}]

    got = await messages(CALL, {**OUTPUT, "output": parts})

    assert got[-1]["content"] == "one"


# Tools


async def test_functions_reach_the_template_in_the_form_of_chat():
    request = await asked(tools=[tool(description="does")])

    function = {"name": "f", "description": "does", "parameters": CLOSED}
    assert request.prompt.tools == ({"type": "function", "function": function},)
    assert request.output.calls is CallSyntax.NATIVE
    assert request.sampling.grammar is None


async def test_hosted_tools_are_dropped_and_named():
    hosted = [{"type": "web_search"}, {"type": "custom", "name": "apply_patch"}, tool(), {"type": "mcp"}]

    reply, answers = await ask(tools=hosted)

    assert reply.headers["x-wicketgate-dropped-tools"] == "web_search, custom:apply_patch, mcp"
    assert [each["name"] for each in reply.json["tools"]] == ["f"]
    assert answers.requests[0].output.tools == ("f",)


async def test_without_hosted_tools_no_header_speaks_of_them():
    reply, _ = await ask(tools=[tool()])

    assert "x-wicketgate-dropped-tools" not in reply.headers


@pytest.mark.parametrize(
    ("fields", "strict"),
    [
        ({"parameters": CLOSED}, True),
        ({"parameters": OPEN}, False),
        ({"parameters": None}, False),
        ({"parameters": CLOSED, "strict": False}, False),
        ({"parameters": CLOSED, "strict": True}, True),
    ],
)
async def test_a_function_is_strict_unless_told_where_its_schema_allows(fields, strict):
    reply, _ = await ask(tools=[tool(**fields)])

    assert reply.json["tools"][0]["strict"] is strict


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ("required", ("f", "g")),
        ({"type": "function", "name": "g"}, ("g",)),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            ("f",),
        ),
    ],
)
async def test_calls_that_are_demanded_are_forced(choice, tools):
    request = await asked(tools=[tool(), tool("g")], tool_choice=choice)

    assert (request.output.calls, request.output.tools) == (CallSyntax.FORCED, tools)
    assert request.sampling.grammar is not None


async def test_the_choice_of_tools_is_echoed_as_it_came():
    choice = {"type": "function", "name": "f"}

    reply, _ = await ask(tools=[tool()], tool_choice=choice)

    assert reply.json["tool_choice"] == choice


async def test_of_many_schemas_only_so_many_are_tried_for_strictness():
    properties = {f"p{n}": {"type": "integer"} for n in range(3000)}
    large = CLOSED | {"properties": properties, "required": list(properties)}

    reply, _ = await ask(tools=[tool(parameters=large), tool("g", parameters=large)], tool_choice="none")

    assert [each["strict"] for each in reply.json["tools"]] == [True, False]


async def test_calls_one_at_a_time():
    request = await asked(tools=[tool()], parallel_tool_calls=False)

    assert request.output.max_calls == 1


async def test_no_tools_are_shown_when_none_may_be_called():
    request = await asked(tools=[tool()], tool_choice="none")

    assert (request.prompt.tools, request.output.calls) == ((), CallSyntax.NONE)


# The form of the text


async def test_structured_text_is_held_to_its_schema():
    form = {"type": "json_schema", "name": "n", "schema": CLOSED, "strict": True}

    reply, answers = await ask(text={"format": form, "verbosity": "low"})

    grammar = answers.requests[0].sampling.grammar
    assert (grammar.kind, grammar.param) == ("json_schema", "text.format.schema")
    assert json.loads(grammar.text)["required"] == ["a"]
    assert reply.json["text"] == {"format": form, "verbosity": "low"}


async def test_any_json_object():
    request = await asked(text={"format": {"type": "json_object"}})

    assert request.sampling.grammar.kind == "json_object"


async def test_plain_text_has_no_grammar():
    request = await asked(text={"format": {"type": "text"}})

    assert request.sampling.grammar is None


# The rest


async def test_sampling_is_as_asked():
    request = await asked(temperature=0.5, top_p=0.25, max_output_tokens=7, seed=5, top_k=3, min_p=0.1)

    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed) == (0.5, 0.25, 7, 5)
    assert (sampling.top_k, sampling.min_p, sampling.logprobs) == (3, 0.1, None)


async def test_a_nucleus_of_nothing_takes_the_likeliest_token():
    request = await asked(top_p=0)

    assert (request.sampling.temperature, request.sampling.top_p) == (0.0, 1.0)


async def test_without_a_bound_an_answer_may_fill_the_context():
    request = await asked()

    assert request.sampling.max_tokens == 4096


@pytest.mark.parametrize(
    ("effort", "variables"),
    [
        (None, {}),
        ("none", {"enable_thinking": False}),
        ("low", {"reasoning_effort": "low"}),
    ],
)
async def test_effort_is_told_to_the_template(effort, variables):
    request = await asked(reasoning={"effort": effort, "summary": "auto"})

    assert request.prompt.template_kwargs == variables


async def test_a_model_that_never_thinks_may_be_told_not_to():
    request = await asked(replace(MODEL, thinks=False), reasoning={"effort": "none"})

    assert request.prompt.template_kwargs == {}


@pytest.mark.parametrize("include", [["reasoning.encrypted_content"], []])
async def test_what_is_included_and_is_not_here_is_left_out(include):
    request = await asked(include=include, top_logprobs=3)

    assert request.sampling.logprobs is None


async def test_log_probabilities_are_asked_of_the_engine():
    request = await asked(include=["message.output_text.logprobs"], top_logprobs=3)

    assert request.sampling.logprobs == 3


@pytest.mark.parametrize("name", ["session_id", "prompt_cache_key", "safety_identifier", "user"])
async def test_a_request_is_known_by_the_names_it_has(name):
    request = await asked(**{name: "me"})

    assert (request.key, request.key_source) == ("me", name)


async def test_fields_without_effect_are_accepted():
    neutral = {
        "background": False,
        "truncation": "disabled",
        "service_tier": "auto",
        "stream_options": {"include_obfuscation": False},
        "max_tool_calls": 3,
        "prompt_cache_retention": "24h",
        "metadata": None,
        "conversation": None,
        "tools": None,
        "text": {"format": None},
    }

    reply, _ = await ask(**neutral)

    assert reply.status == 200
    assert "x-wicketgate-ignored" not in reply.headers


async def test_fields_that_nobody_knows_are_named():
    reply, _ = await ask(zap=1)

    assert reply.headers["x-wicketgate-ignored"] == "zap"


async def test_the_only_model_need_not_be_named():
    request = await asked(model=None)

    assert request.model == "demo"
