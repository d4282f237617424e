"""
Pins what bad requests get: a status of 4xx and OpenAI's envelope, which names the field and the bound.

The cases and codes are those of the project's list of invalid requests, as far as their fields are built.
"""

from __future__ import annotations

import pytest

from tests.api_fakes import Client, FakeAnswers, make_app
from wicketgate.api.endpoint import ApiSettings

pytestmark = pytest.mark.anyio
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
COMPLETION = {"model": "demo", "prompt": "hi", "max_tokens": 4}
MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
UNSUPPORTED = "unsupported_parameter"


def user(content):
    return {"messages": [{"role": "user", "content": content}]}


CHAT_CASES = [
    ({"model": None}, "model", MISSING),
    ({"model": 7}, "model", TYPE),
    ({"messages": None}, "messages", MISSING),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "hi"}, "messages", TYPE),
    ({"messages": ["hi"]}, "messages[0]", TYPE),
    ({"messages": [{"content": "x"}]}, "messages[0].role", MISSING),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", VALUE),
    ({"messages": [{"role": "user"}]}, "messages[0].content", MISSING),
    (user(5), "messages[0].content", TYPE),
    (user([]), "messages[0].content", "empty_array"),
    (user([{"type": "zap"}]), "messages[0].content[0].type", VALUE),
    (user([{"type": "text"}]), "messages[0].content[0].text", MISSING),
    (
        user([{"type": "image_url", "image_url": {"url": "data:,"}}]),
        "messages[0].content[0].type",
        "unsupported_value",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", MISSING),
    (
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "z"}]},
        "messages[0].tool_call_id",
        VALUE,
    ),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls", UNSUPPORTED),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    ({"temperature": "1"}, "temperature", TYPE),
    ({"top_p": 1.1}, "top_p", "decimal_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 129}, "n", "integer_above_max_value"),
    ({"n": True}, "n", TYPE),
    ({"n": 2}, "n", UNSUPPORTED),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 65}, "max_tokens", "integer_above_max_value"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_parameter_combination"),
    (
        {"max_tokens": None, "max_completion_tokens": 10**9},
        "max_completion_tokens",
        "integer_above_max_value",
    ),
    ({"stop": 5}, "stop", TYPE),
    ({"stop": [1]}, "stop[0]", TYPE),
    ({"stop": [""]}, "stop[0]", "empty_string"),
    ({"stop": ["x"] * 17}, "stop", "array_above_max_length"),
    ({"stop": ["x" * 1025]}, "stop[0]", "string_above_max_length"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", VALUE),
    ({"stop_token_ids": [300]}, "stop_token_ids[0]", VALUE),
    ({"presence_penalty": 2.5}, "presence_penalty", "decimal_above_max_value"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "decimal_below_min_value"),
    ({"logit_bias": [1]}, "logit_bias", TYPE),
    ({"logit_bias": {"5": "x"}}, "logit_bias.5", TYPE),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", VALUE),
    ({"logit_bias": {"300": 1}}, "logit_bias.300", VALUE),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1", VALUE),
    ({"logit_bias": {"five": 1}}, "logit_bias.five", VALUE),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias." + "9" * 20, VALUE),
    ({"logit_bias": {str(each): 1 for each in range(1025)}}, "logit_bias", "array_above_max_length"),
    ({"priority": 10}, "priority", "integer_above_max_value"),
    ({"priority": -1}, "priority", "integer_below_min_value"),
    ({"cache_salt": 5}, "cache_salt", TYPE),
    ({"cache_salt": "x" * 257}, "cache_salt", "string_above_max_length"),
    ({"logprobs": 3}, "logprobs", TYPE),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"top_logprobs": 3}, "top_logprobs", VALUE),
    ({"seed": 2**63}, "seed", "integer_above_max_value"),
    ({"stream": "yes"}, "stream", TYPE),
    ({"stream_options": {}}, "stream_options", VALUE),
    ({"response_format": {"type": "xml"}}, "response_format.type", VALUE),
    ({"response_format": {"type": "json_object"}}, "response_format", UNSUPPORTED),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", UNSUPPORTED),
    ({"tool_choice": "must"}, "tool_choice", VALUE),
    ({"tool_choice": "required"}, "tool_choice", VALUE),
    ({"tool_choice": {"type": "function"}}, "tool_choice", VALUE),
    ({"parallel_tool_calls": False}, "parallel_tool_calls", VALUE),
    ({"functions": [{"name": "f"}]}, "functions", UNSUPPORTED),
    ({"reasoning_effort": "low"}, "reasoning_effort", UNSUPPORTED),
    ({"store": True}, "store", UNSUPPORTED),
    ({"service_tier": "flex"}, "service_tier", UNSUPPORTED),
    ({"temprature": 1}, "temprature", "unknown_parameter"),
    ({"metadata": {"a": 1}}, "metadata.a", TYPE),
    ({"top_k": -2}, "top_k", "integer_below_min_value"),
    ({"min_p": 1.5}, "min_p", "decimal_above_max_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "decimal_below_min_value"),
    ({"repetition_penalty": 0.001}, "repetition_penalty", "decimal_below_min_value"),
    ({"repetition_penalty": 101}, "repetition_penalty", "decimal_above_max_value"),
    ({"min_tokens": 5}, "min_tokens", "integer_above_max_value"),
    ({"min_tokens": -1}, "min_tokens", "integer_below_min_value"),
]
COMPLETION_CASES = [
    ({"prompt": None}, "prompt", MISSING),
    ({"prompt": []}, "prompt", "empty_array"),
    ({"prompt": 5}, "prompt", TYPE),
    ({"prompt": [None]}, "prompt[0]", TYPE),
    ({"prompt": ["a", 1]}, "prompt[1]", TYPE),
    ({"prompt": [1, True]}, "prompt[1]", TYPE),
    ({"prompt": ["a", "b"]}, "prompt", "unsupported_value"),
    ({"prompt": [-1]}, "prompt[0]", VALUE),
    ({"prompt": [[]]}, "prompt[0]", "empty_array"),
    ({"prompt": [[1, "a"]]}, "prompt[0][1]", TYPE),
    ({"suffix": "x"}, "suffix", UNSUPPORTED),
    ({"echo": True}, "echo", UNSUPPORTED),
    ({"best_of": 2}, "best_of", UNSUPPORTED),
    ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
]
NEUTRAL = {
    "n": 1,
    "tools": [],
    "tool_choice": "auto",
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
    "prompt_cache_retention": "24h",
    "top_logprobs": 0,
    "reasoning_effort": None,
    "stop": [],
}


def case_id(case):
    return ",".join(f"{name}:{value}"[:40] for name, value in case[0].items())


@pytest.mark.parametrize("case", CHAT_CASES, ids=case_id)
async def test_a_chat_that_is_wrong_is_refused_by_its_field(case):
    fields, param, code = case
    answers = FakeAnswers()

    reply = await Client(make_app(answers)).ask("/v1/chat/completions", CHAT | fields)

    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert (reply.error["param"], reply.error["code"]) == (param, code)
    assert param.split(".")[0].split("[")[0] in reply.error["message"]
    assert not answers.requests


@pytest.mark.parametrize("case", COMPLETION_CASES, ids=case_id)
async def test_a_completion_that_is_wrong_is_refused_by_its_field(case):
    fields, param, code = case

    reply = await Client(make_app()).ask("/v1/completions", COMPLETION | fields)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


async def test_fields_that_ask_for_nothing_are_accepted():
    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT | NEUTRAL)

    assert reply.status == 200
    assert "x-wicketgate-ignored" not in reply.headers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 2.1}, "temperature must be at most 2.0, got 2.1"),
        ({"max_tokens": -1}, "max_tokens must be at least 1, got -1"),
        ({"max_tokens": 65}, "max_tokens must be at most 64, the model's context, got 65"),
        ({"n": 2}, "this value of n is not supported yet; leave it out or send 1"),
        ({"messages": []}, "messages must not be empty"),
        ({"temprature": 1}, "unknown field temprature. Did you mean temperature?"),
    ],
)
async def test_the_message_says_what_is_and_what_must_be(fields, message):
    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT | fields)

    assert reply.error["message"] == message


async def test_what_the_user_wrote_is_never_repeated():
    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT | {"messages": "my long secret " * 9})

    assert "secret" not in reply.error["message"]


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
    reply = await Client(make_app()).ask("/v1/chat/completions", body)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, None, "invalid_json")


async def test_an_infinite_number_is_refused():
    reply = await Client(make_app()).ask("/v1/chat/completions", b'{"temperature": 1e999}')

    assert (reply.error["param"], reply.error["code"]) == ("temperature", VALUE)


async def test_a_body_that_is_no_object_is_refused():
    reply = await Client(make_app()).ask("/v1/chat/completions", [1])

    assert (reply.status, reply.error["code"]) == (400, TYPE)


@pytest.mark.parametrize(
    ("method", "path", "status", "param", "code"),
    [
        ("POST", "/v1/nope", 404, None, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, None, "method_not_allowed"),
        ("POST", "/v1/models", 405, None, "method_not_allowed"),
        ("GET", "/v1/models/nope", 404, "model", "model_not_found"),
        ("GET", "/v1/models/a/b", 404, "model", "model_not_found"),
    ],
)
async def test_a_wrong_address_is_refused(method, path, status, param, code):
    reply = await Client(make_app()).ask(path, b"", method=method)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (status, param, code)


async def test_a_wrong_method_is_told_the_right_ones():
    reply = await Client(make_app()).ask("/v1/models", b"", method="DELETE")

    assert reply.headers["allow"] == "GET, HEAD"


async def test_an_unknown_model_is_not_found():
    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT | {"model": "nope"})

    assert (reply.status, reply.error["param"], reply.error["code"]) == (404, "model", "model_not_found")


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
    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT, headers=headers)

    assert (reply.status, reply.error["code"]) == (status, code)


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": ""}]
)
async def test_a_body_as_curl_sends_it_goes_to_the_only_model(headers):
    answers = FakeAnswers()

    reply = await Client(make_app(answers)).ask(
        "/v1/chat/completions", CHAT | {"model": None}, headers=headers
    )

    assert reply.status == 200
    assert answers.requests[0].model == "demo"


async def test_without_a_name_and_with_two_models_none_is_guessed():
    from tests.api_fakes import CARD

    client = Client(make_app(models=[CARD, CARD]))
    reply = await client.ask("/v1/chat/completions", CHAT | {"model": None}, headers={})

    assert (reply.status, reply.error["param"]) == (400, "model")


async def test_a_page_of_another_origin_must_name_the_model():
    headers = {"content-type": "application/json", "origin": "https://chat.example"}

    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT | {"model": None}, headers=headers)

    assert (reply.status, reply.error["param"]) == (400, "model")


async def test_a_body_over_the_cap_is_read_to_its_end_and_refused_with_the_cap():
    app = make_app(settings=ApiSettings(max_body_bytes=1000))

    reply = await Client(app).ask("/v1/chat/completions", parts=[b"x" * 600] * 4)

    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert "at most 1000 bytes" in reply.error["message"]


async def test_a_body_that_comes_too_slowly_is_a_timeout():
    app = make_app(settings=ApiSettings(body_timeout_s=0.01))
    messages = []

    async def never():
        import asyncio

        await asyncio.get_running_loop().create_future()

    async def send(message):
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "client": None}
    await app(scope | {"query_string": b"", "http_version": "1.1"}, never, send)

    assert messages[0]["status"] == 408


async def test_a_client_that_leaves_within_its_body_hears_nothing():
    client = Client(make_app())
    client.gone.set()

    reply = await client.ask("/v1/completions", parts=[])

    assert reply.status == 0


async def test_unknown_fields_are_ignored_and_named():
    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT | {"zap": 1, "späß\r\n": 2})

    assert reply.status == 200
    assert reply.headers["x-wicketgate-ignored"] == "zap, sp%C3%A4%C3%9F%0D%0A"


async def test_unknown_fields_can_be_refused():
    app = make_app(settings=ApiSettings(refuses_unknown_fields=True))

    reply = await Client(app).ask("/v1/chat/completions", CHAT | {"zap": 1})

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "zap", "unknown_parameter")


async def test_thousands_of_unknown_fields_are_no_trouble():
    fields = {f"field_number_{n}": n for n in range(5000)}

    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT | fields)

    assert reply.status == 200
    assert reply.headers["x-wicketgate-ignored"].count(",") == 31
