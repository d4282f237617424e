"""Pins what a body of chat or completions asks the pipeline for: prompts, sampling, tools, forms, choices."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.api_fakes import CARD
from wicketgate.api.openai.bodies import read_chat, read_completion
from wicketgate.api.openai.requests import chat_requests, completion_requests
from wicketgate.api.requests import Arrival
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import CallSyntax, ChatPrompt, TextPrompt, TokenPrompt

ARRIVAL = Arrival(id="req_" + "0" * 31 + "1", arrived_s=7.0, session=None, client=None, connection=None)
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
ABLE = replace(CARD, tool_format="json_tools")
THINKER = replace(CARD, thinks=True, can_stop_thinking=True)


def chats(card=CARD, **fields):
    return chat_requests(read_chat(CHAT | fields), card=card, arrival=ARRIVAL)


def chat(card=CARD, **fields):
    (request,) = chats(card, **fields)
    return request


def completions(prompt="hi", **fields):
    body = read_completion({"model": "demo", "prompt": prompt, **fields})
    return completion_requests(body, card=CARD, arrival=ARRIVAL)


def completion(prompt="hi", **fields):
    (request,) = completions(prompt, **fields)
    return request


def said(*messages):
    return chat(messages=list(messages)).prompt.messages


def test_a_chat_becomes_a_request_with_its_defaults():
    request = chat()

    assert request.prompt == ChatPrompt(messages=({"role": "user", "content": "hi"},), template_kwargs={})
    assert (request.id, request.model, request.api, request.stream) == (ARRIVAL.id, "demo", "chat", False)
    assert request.sampling.max_tokens == CARD.context_tokens
    assert (request.sampling.temperature, request.sampling.logprobs, request.sampling.seed) == (1.0, None, 1)
    assert (request.output.calls, request.output.is_raw) == (CallSyntax.NONE, False)


def test_every_sampling_field_reaches_the_request():
    request = chat(
        max_completion_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        repetition_penalty=1.1,
        seed=-1,
        stop="END",
        stop_token_ids=[9],
        ignore_eos=True,
        min_tokens=2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"7": 1.5, "8": -100},
        logprobs=True,
        top_logprobs=4,
    )

    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (5, 0.5, 0.9, 7)
    assert (sampling.min_p, sampling.repetition_penalty, sampling.seed) == (0.1, 1.1, 2**64 - 1)
    assert (sampling.stop_token_ids, sampling.ignore_eos, sampling.logprobs) == ((9,), True, 4)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.min_tokens) == (0.5, -0.5, 2)
    assert sampling.logit_bias == ((7, 1.5), (8, -100.0))
    assert request.stop == ("END",)


def test_the_rest_of_the_fields_reach_the_request_too():
    request = completion(
        priority=3,
        cache_salt="s",
        session_id="c",
        stream=True,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
    )

    assert (request.priority, request.salt, request.session, request.stream) == (3, "s", "c", True)
    assert request.output.include_stop
    assert not request.output.skip_special_tokens


def test_a_nucleus_of_nothing_takes_the_likeliest_token():
    sampling = chat(top_p=0).sampling

    assert (sampling.temperature, sampling.top_p) == (0.0, 1.0)


@pytest.mark.parametrize("top_k", [-1, 0, 300, 10**9])
def test_as_many_candidates_as_there_are_tokens_is_no_bound(top_k):
    assert chat(top_k=top_k).sampling.top_k == 0


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("hi", [TextPrompt(text="hi")]),
        (["hi"], [TextPrompt(text="hi")]),
        (["a", "b"], [TextPrompt(text="a"), TextPrompt(text="b")]),
        ([1, 2], [TokenPrompt(ids=(1, 2))]),
        ([[1, 2], [3]], [TokenPrompt(ids=(1, 2)), TokenPrompt(ids=(3,))]),
    ],
)
def test_prompts_are_texts_or_ids(prompt, meant):
    assert [request.prompt for request in completions(prompt)] == meant


def test_a_completion_has_16_tokens_and_is_read_as_it_is():
    request = completion()

    assert request.sampling.max_tokens == 16
    assert request.output.is_raw


def test_each_choice_is_a_request_with_its_own_id_and_draws():
    requests = chats(n=3, seed=5)

    assert [request.choice for request in requests] == [0, 1, 2]
    assert len({request.id for request in requests}) == 3
    assert requests[0].sampling.seed == 5
    assert len({request.sampling.seed for request in requests}) == 3


def test_sample_j_of_prompt_i_is_choice_i_times_n_plus_j():
    requests = completions(["a", "b"], n=2)

    assert [(request.choice, request.prompt.text) for request in requests] == [
        (0, "a"),
        (1, "a"),
        (2, "b"),
        (3, "b"),
    ]


def test_with_a_seed_a_prompt_is_answered_the_same_alone_and_among_others():
    seeds = [request.sampling.seed for request in completions(["a", "b"], n=2, seed=5)]

    assert seeds[:2] == seeds[2:] == [request.sampling.seed for request in completions("a", n=2, seed=5)]


def test_without_a_seed_no_two_choices_are_drawn_alike():
    assert len({request.sampling.seed for request in completions(["a", "a"], n=2)}) == 4


def test_the_best_are_found_by_log_probabilities_that_nobody_asked_for():
    requests = completions(n=1, best_of=3)

    assert [request.sampling.logprobs for request in requests] == [0, 0, 0]


def test_as_many_as_are_drawn_need_not_be_compared():
    assert completion(best_of=1).sampling.logprobs is None


def test_of_no_tokens_at_all_a_request_says_one():
    assert completion(max_tokens=0).sampling.max_tokens == 1


def test_content_in_parts_is_joined_and_a_developer_speaks_as_the_system():
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]

    messages = said(
        {"role": "developer", "content": parts, "name": "x"},
        {"role": "assistant", "content": "c", "reasoning_content": "d"},
        {"role": "assistant", "content": None, "refusal": "e"},
    )

    assert messages == (
        {"role": "system", "content": "ab", "name": "x"},
        {"role": "assistant", "content": "c", "reasoning_content": "d"},
        {"role": "assistant", "content": "e"},
    )


def test_calls_of_the_history_have_their_arguments_as_objects():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "é"]}'}}
    bare = {"id": "c2", "function": {"name": "g", "arguments": " "}}

    messages = said(
        {"role": "assistant", "content": None, "tool_calls": [call, bare]},
        {"role": "tool", "content": [{"type": "text", "text": "r"}], "tool_call_id": "c1"},
    )

    assert messages[0] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": [1, "é"]}}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": {}}},
        ],
    }
    assert messages[1] == {"role": "tool", "content": "r", "tool_call_id": "c1"}


@pytest.mark.parametrize(
    ("choice", "syntax", "names"),
    [
        (None, CallSyntax.NATIVE, ("f", "g")),
        ("auto", CallSyntax.NATIVE, ("f", "g")),
        ("none", CallSyntax.NONE, ()),
        ("required", CallSyntax.FORCED, ("f", "g")),
        ({"type": "function", "function": {"name": "g"}}, CallSyntax.FORCED, ("g",)),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]},
            },
            CallSyntax.NATIVE,
            ("g",),
        ),
    ],
)
def test_every_form_of_tool_choice_is_understood(choice, syntax, names):
    tools = [TOOL, {"type": "function", "function": {"name": "g"}}]

    request = chat(ABLE, tools=tools, tool_choice=choice)

    assert (request.output.calls, request.output.tools) == (syntax, names)
    assert (request.sampling.grammar is not None) == (syntax is CallSyntax.FORCED)


def test_the_prompt_shows_the_tools():
    assert chat(ABLE, tools=[TOOL]).prompt.tools == (TOOL,)


def test_calls_in_parallel_can_be_declined():
    assert chat(ABLE, tools=[TOOL], parallel_tool_calls=False).output.max_calls == 1


@pytest.mark.parametrize(
    ("form", "kind", "param"),
    [
        ({"type": "json_object"}, "json_object", "response_format"),
        (JSON_SCHEMA, "json_schema", "response_format.json_schema.schema"),
    ],
)
def test_a_form_of_the_answer_becomes_a_grammar(form, kind, param):
    grammar = chat(response_format=form).sampling.grammar

    assert (grammar.kind, grammar.param) == (kind, param)


def test_a_schema_that_is_not_strict_may_be_open():
    loose = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}

    assert json.loads(chat(response_format=loose).sampling.grammar.text)["type"] == "object"


def test_plain_text_needs_no_grammar():
    assert chat(response_format={"type": "text"}).sampling.grammar is None


def test_a_form_and_calls_of_a_form_of_their_own_do_not_go_together():
    with pytest.raises(InvalidRequestError, match="do not go together") as caught:
        chat(replace(CARD, tool_format="mistral"), tools=[TOOL], response_format=JSON_SCHEMA)

    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_parameter_combination")


@pytest.mark.parametrize("form", [JSON_SCHEMA, {"type": "json_object"}])
def test_a_form_and_calls_in_json_go_together(form):
    grammar = chat(tools=[TOOL], response_format=form).sampling.grammar

    assert grammar.kind == "lark"
    assert "<tool_call>" in grammar.text


def test_a_demanded_call_leaves_the_form_no_room():
    forced = chat(tools=[TOOL], tool_choice="required", response_format=JSON_SCHEMA)

    assert (forced.output.calls, forced.sampling.grammar.param) == (CallSyntax.FORCED, "tools")


@pytest.mark.parametrize(
    ("card", "fields", "kwargs"),
    [
        (THINKER, {"reasoning_effort": "none"}, {"enable_thinking": False}),
        (THINKER, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (CARD, {"reasoning_effort": "none"}, {}),
        (CARD, {"chat_template_kwargs": {"a": [1]}}, {"a": [1]}),
        (
            THINKER,
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            {"enable_thinking": True},
        ),
    ],
)
def test_how_much_to_think_is_told_to_the_template(card, fields, kwargs):
    assert chat(card, **fields).prompt.template_kwargs == kwargs


@pytest.mark.parametrize(
    ("card", "effort"), [(CARD, "low"), (replace(THINKER, can_stop_thinking=False), "none")]
)
def test_an_effort_that_the_model_cannot_make_is_refused(card, effort):
    with pytest.raises(InvalidRequestError) as caught:
        chat(card, reasoning_effort=effort)

    assert (caught.value.param, caught.value.code) == ("reasoning_effort", "unsupported_parameter")


@pytest.mark.parametrize(
    "messages",
    [
        [1] * 10_001,
        [{"role": "user", "content": [1] * 10_000}],
        [{"role": "assistant", "tool_calls": [1] * 10_000}],
    ],
)
def test_what_a_chat_is_made_of_is_counted_before_it_is_read(messages):
    with pytest.raises(InvalidRequestError) as refusal:
        read_chat({"messages": messages})

    assert (refusal.value.param, refusal.value.code) == ("messages", "array_above_max_length")


def test_too_many_prompts_are_refused_before_they_are_read():
    with pytest.raises(InvalidRequestError) as refusal:
        completions(prompt=[[1]] * 128 + [None])

    assert refusal.value.code == "array_above_max_length"


def test_too_many_ids_are_refused_before_they_are_read():
    with pytest.raises(InvalidRequestError) as refusal:
        completions(prompt=[*([1] * CARD.context_tokens), None])

    assert (refusal.value.param, refusal.value.code) == ("prompt", "context_length_exceeded")


def test_metadata_has_a_bound():
    with pytest.raises(InvalidRequestError) as refusal:
        completion(metadata={str(number): "" for number in range(65)})

    assert refusal.value.param == "metadata"
