"""Pins what a body of /v1/messages means to the pipeline: messages, tools, thinking; and count_tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.api_fakes import CARD, Client, FakeAnswers, make_app
from wicketgate.api.anthropic.routes import message_routes
from wicketgate.inference import CallSyntax

pytestmark = pytest.mark.anyio
MODEL = replace(CARD, context_tokens=4096, tool_format="json_tools", thinks=True, can_stop_thinking=True)
BODY = {"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "one"}
CALL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


def tool(name="f", **fields):
    return {"name": name, "input_schema": SCHEMA, **fields}


def block(text, **fields):
    return {"type": "text", "text": text, **fields}


def user(content="hi"):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


async def ask(card=MODEL, **fields):
    answers = FakeAnswers()
    app = make_app(answers, routes=message_routes, models=[card])
    reply = await Client(app).ask("/v1/messages", BODY | fields)
    return reply, answers


async def asked(card=MODEL, **fields):
    reply, answers = await ask(card, **fields)
    assert reply.status == 200, reply.parts
    return answers.requests[0]


async def messages(*given, **fields):
    request = await asked(messages=list(given), **fields)
    return list(request.prompt.messages)


async def test_text_comes_plain_or_in_blocks():
    plain = await messages(user("a"))
    blocks = await messages(user([block("a", cache_control={"type": "ephemeral"})]))

    assert plain == blocks == [user("a")]


async def test_blocks_of_a_user_and_the_system_stand_apart():
    got = await messages(user([block("a"), block("b")]), system=[block("s"), block("t")])

    assert got == [system("s\n\nt"), user("a\n\nb")]


async def test_messages_of_one_role_are_one():
    got = await messages(user("a"), user("b"), assistant("c"), assistant("d"), user("e"))

    assert got == [user("a\n\nb"), assistant("cd"), user("e")]


async def test_the_system_may_speak_among_the_messages():
    got = await messages(system("a"), user("b"), system("c"), system="s")

    assert got == [system("s\n\na"), user("b"), system("c")]


async def test_calls_and_their_results():
    said = assistant([block("ok"), USE, USE | {"id": "t2"}])
    results = user(
        [RESULT, {**RESULT, "tool_use_id": "t2", "content": [block("1"), block("2")]}, block("go")]
    )

    got = await messages(user(), said, results)

    assert got == [
        user(),
        {"role": "assistant", "content": "ok", "tool_calls": [CALL, {**CALL, "id": "t2"}]},
        {"role": "tool", "tool_call_id": "t1", "name": "f", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "name": "f", "content": "1\n\n2"},
        user("go"),
    ]


async def test_a_result_may_be_empty_or_an_error():
    bare = {"type": "tool_result", "tool_use_id": "t1", "is_error": True}

    got = await messages(user(), assistant([USE]), user([bare]))

    assert got[-1]["content"] == ""


async def test_thoughts_come_back_where_they_can_be_read():
    thought = {"type": "thinking", "thinking": "hm", "signature": "wicketgate"}
    sealed = {"type": "redacted_thinking", "data": "zzz"}

    got = await messages(user(), assistant([thought, sealed, thought, block("ok")]), user())

    assert got[1] == {"role": "assistant", "content": "ok", "reasoning_content": "hmhm"}


async def test_an_answer_goes_on_where_its_beginning_ends():
    request = await asked(messages=[user(), assistant("The best answer is (")])

    assert request.prompt.continues
    assert request.prompt.messages[-1] == assistant("The best answer is (")


@pytest.mark.parametrize("content", ["", [], [{"type": "thinking", "thinking": "hm", "signature": ""}]])
async def test_a_beginning_without_words_is_none(content):
    request = await asked(messages=[user(), assistant(content)])

    assert not request.prompt.continues
    assert request.prompt.messages == (user(),)


# Tools


async def test_tools_reach_the_template_in_the_form_of_chat():
    request = await asked(tools=[tool(description="does", type="custom", eager_input_streaming=True)])

    function = {"name": "f", "description": "does", "parameters": SCHEMA}
    assert request.prompt.tools == ({"type": "function", "function": function},)
    assert request.output.calls is CallSyntax.NATIVE


async def test_tools_of_anthropic_are_dropped_and_named():
    hosted = [{"type": "web_search_20250305", "name": "web_search"}, tool()]

    reply, answers = await ask(tools=hosted)

    assert reply.headers["x-wicketgate-dropped-tools"] == "web_search_20250305"
    assert answers.requests[0].output.tools == ("f",)


@pytest.mark.parametrize(
    ("choice", "syntax", "tools"),
    [
        ({"type": "auto"}, CallSyntax.NATIVE, ("f", "g")),
        ({"type": "any"}, CallSyntax.FORCED, ("f", "g")),
        ({"type": "tool", "name": "g"}, CallSyntax.FORCED, ("g",)),
        ({"type": "none"}, CallSyntax.NONE, ()),
    ],
)
async def test_the_choice_of_tools(choice, syntax, tools):
    request = await asked(tools=[tool(), tool("g")], tool_choice=choice)

    assert (request.output.calls, request.output.tools) == (syntax, tools)
    assert (request.sampling.grammar is not None) == (syntax is CallSyntax.FORCED)


async def test_calls_one_at_a_time():
    choice = {"type": "auto", "disable_parallel_tool_use": True}

    request = await asked(tools=[tool()], tool_choice=choice)

    assert request.output.max_calls == 1


@pytest.mark.parametrize("where", ["output_config.format", "output_format"])
async def test_structured_answers_are_held_to_their_schema(where):
    form = {"type": "json_schema", "schema": SCHEMA}
    fields = {"output_config": {"format": form, "effort": "low"}} if "." in where else {where: form}

    request = await asked(**fields)

    grammar = request.sampling.grammar
    assert (grammar.kind, grammar.param) == ("json_schema", f"{where}.schema")
    assert json.loads(grammar.text)["required"] == ["a"]


# Thinking


@pytest.mark.parametrize(
    ("thinking", "variables"),
    [
        (None, {}),
        ({"type": "enabled", "budget_tokens": 1024}, {"enable_thinking": True}),
        ({"type": "adaptive"}, {"enable_thinking": True}),
        ({"type": "between_tools"}, {"enable_thinking": True}),
        ({"type": "disabled"}, {"enable_thinking": False}),
    ],
)
async def test_thinking_is_told_to_the_template(thinking, variables):
    request = await asked(thinking=thinking, max_tokens=2048)

    assert request.prompt.template_kwargs == variables


async def test_what_a_client_says_to_the_template_itself_counts_most():
    request = await asked(thinking={"type": "disabled"}, chat_template_kwargs={"enable_thinking": True})

    assert request.prompt.template_kwargs == {"enable_thinking": True}


async def test_a_model_that_never_thinks_is_told_nothing():
    request = await asked(replace(MODEL, thinks=False), thinking={"type": "adaptive"})

    assert request.prompt.template_kwargs == {}


# The rest


async def test_sampling_is_as_asked():
    request = await asked(temperature=0.5, top_p=0.25, top_k=3, stop_sequences=["END"], seed=5)

    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (9, 0.5, 0.25)
    assert (sampling.top_k, sampling.seed) == (3, 5)
    assert (request.stop, request.api) == (("END",), "messages")


@pytest.mark.parametrize(("max_tokens", "drawn"), [(0, 1), (4096, 4096), (32_000, 4096)])
async def test_an_answer_is_as_long_as_it_can_be(max_tokens, drawn):
    request = await asked(max_tokens=max_tokens)

    assert request.sampling.max_tokens == drawn


async def test_the_user_names_the_conversation():
    request = await asked(metadata={"user_id": "me"})

    assert (request.key, request.session) == ("me", "me")


async def test_fields_without_effect_are_accepted():
    neutral = {
        "service_tier": "auto",
        "context_management": {"edits": []},
        "cache_control": {"type": "ephemeral"},
        "mcp_servers": [],
        "container": None,
        "metadata": {"user_id": None},
        "system": None,
        "tools": [],
    }

    reply, _ = await ask(**neutral)

    assert reply.status == 200
    assert "x-wicketgate-ignored" not in reply.headers


class FakeJobs:
    """Counts a token for each message and each tool."""

    def __init__(self):
        self.model = None

    async def tokenize(self, model, prompt):
        self.model = model
        return [0] * (len(prompt.messages) + len(prompt.tools))


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/messages/count_tokens?beta=true"])
async def test_tokens_are_counted_with_system_and_tools(path):
    jobs = FakeJobs()
    app = make_app(routes=message_routes, models=[MODEL], jobs=jobs)
    body = {"model": "demo", "messages": [user()], "system": "s", "tools": [tool()]}

    reply = await Client(app).ask(path, body)

    assert (reply.status, reply.json, jobs.model) == (200, {"input_tokens": 3}, "demo")


async def test_what_cannot_be_counted_is_refused_by_its_path():
    reply = await Client(make_app(routes=message_routes)).ask(
        "/v1/messages/count_tokens", {"model": "demo", "messages": [user([{"type": "zap"}])]}
    )

    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert reply.json["error"]["message"].startswith("messages.0.content.0.type: ")
