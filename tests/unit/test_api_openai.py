"""
Pins what /v1/chat/completions and /v1/completions answer to good requests, whole and streamed.

Every answer and every chunk here is checked against OpenAI's published description, but for fields of ours.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.api_fakes import CARD, Client, FakeAnswers, finished, make_app, text
from wicketgate.api.endpoint import ApiSettings
from wicketgate.api.openai.routes import MAX_ECHOED, chat_routes
from wicketgate.errors import OverloadedError
from wicketgate.inference import FinishReason, TokenLogprob, TokenPrompt
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk, TextChunk

pytestmark = pytest.mark.anyio
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "demo", "prompt": "hi"}
DIGITS = "0" * 31 + "1"
ABOUT = {"created": 1_700_000_123, "model": "demo"}
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
MODEL = replace(CARD, tool_format="json_tools", fingerprint="fp_1")
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {}}}}
CALLS = [
    CallOpened(index=0, name="get"),
    CallArguments(index=0, text='{"a":'),
    CallArguments(index=0, text="1}"),
    CallOpened(index=1, name="get"),
    CallArguments(index=1, text="{}"),
]
CALLED = [*CALLS, finished(calls=2)]


def nullable(part):
    """The description is of OpenAPI 3.0, where that is a word of its own."""
    if isinstance(part, list):
        return [nullable(each) for each in part]
    if not isinstance(part, dict):
        return part
    read = {name: nullable(each) for name, each in part.items()}
    return {"anyOf": [read, {"type": "null"}]} if part.get("nullable") is True else read


def load_schemas():
    path = Path(__file__).parent.parent / "vectors" / "openai_schemas.json"
    document = nullable(json.loads(path.read_text(encoding="utf-8")))
    registry = Registry().with_resource("urn:openai", DRAFT202012.create_resource(document))
    names = {
        "chat.completion": "CreateChatCompletionResponse",
        "chat.completion.chunk": "CreateChatCompletionStreamResponse",
        "text_completion": "CreateCompletionResponse",
    }
    return {
        kind: jsonschema.Draft202012Validator(
            {"$ref": f"urn:openai#/components/schemas/{name}"}, registry=registry
        )
        for kind, name in names.items()
    }


SCHEMAS = load_schemas()


def check(value):
    # The description knows no null before usage, none in a completion's stream, none for the first token of
    # an echoed prompt; OpenAI's own answers and clients do.
    described = {name: field for name, field in value.items() if name != "usage" or field is not None}
    if value["object"] == "text_completion":
        described["choices"] = [described_text(choice) for choice in value["choices"]]
    SCHEMAS[value["object"]].validate(described)


def described_text(choice):
    logprobs = None if choice["logprobs"] is None else rated_places(choice["logprobs"])
    return choice | {"finish_reason": choice["finish_reason"] or "stop", "logprobs": logprobs}


def rated_places(logprobs):
    places = [place for place, logprob in enumerate(logprobs["token_logprobs"]) if logprob is not None]
    return {name: [entries[place] for place in places] for name, entries in logprobs.items()}


async def ask(path, body, answers=None, models=None, **more):
    app = make_app(answers, routes=chat_routes, models=models or [CARD], **more)
    reply = await Client(app).ask(path, body)
    if reply.status == 200 and body.get("stream"):
        for event in reply.events:
            if event != "[DONE]" and "error" not in event:
                check(event)
    elif reply.status == 200:
        check(reply.json)
    return reply


async def chat(answers=None, *, models=None, **fields):
    return await ask("/v1/chat/completions", CHAT | fields, answers, models)


async def completion(answers=None, *, jobs=None, **fields):
    return await ask("/v1/completions", COMPLETION | fields, answers, jobs=jobs)


def choices(reply):
    """The choices of all events of a stream."""
    return [choice for event in reply.events[:-1] for choice in event["choices"]]


def entry(token, logprob, *top):
    return TokenLogprob(token=token, logprob=logprob, top=top)


def rated(piece, *entries):
    return TextChunk(text=piece, tokens=len(entries), logprobs=entries)


class FakeJobs:
    """Knows byte n as token n, and in front of each text a special token that is no part of it."""

    def __init__(self):
        self.asked = []

    async def tokenize(self, model, prompt):
        return list(prompt.ids) if isinstance(prompt, TokenPrompt) else [256, *prompt.text.encode()]

    async def prompt_logprobs(self, request, *, top):
        self.asked.append((request.prompt, top))
        return [None, *(entry(token, -float(token), (120, -0.5)) for token in request.prompt.ids[1:])]


async def test_a_chat_is_answered_with_one_message():
    reply = await chat()

    assert reply.json == {
        "id": f"chatcmpl-{DIGITS}",
        "object": "chat.completion",
        **ABOUT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


async def test_a_completion_is_answered_with_text():
    reply = await completion(FakeAnswers([*text("abc"), finished(FinishReason.LENGTH, cached_tokens=1)]))

    assert reply.json == {
        "id": f"cmpl-{DIGITS}",
        "object": "text_completion",
        **ABOUT,
        "choices": [{"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"}],
        "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 1}},
    }


async def test_a_streamed_chat_has_role_text_finish_and_end_in_this_order():
    reply = await chat(stream=True)

    about = {"id": f"chatcmpl-{DIGITS}", "object": "chat.completion.chunk", **ABOUT}
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.events == [
        {**about, "choices": [{**choice, "delta": {"role": "assistant", "content": "", "refusal": None}}]},
        {**about, "choices": [{**choice, "delta": {"content": "Hel"}}]},
        {**about, "choices": [{**choice, "delta": {"content": "lo"}}]},
        {**about, "choices": [{**choice, "delta": {}, "finish_reason": "stop"}]},
        "[DONE]",
    ]


async def test_a_streamed_completion_has_text_finish_and_end():
    reply = await completion(stream=True)

    texts = [(choice["text"], choice["finish_reason"]) for choice in choices(reply)]
    assert texts == [("Hel", None), ("lo", None), ("", "stop")]
    assert reply.events[-1] == "[DONE]"


@pytest.mark.parametrize("ask_for", [chat, completion])
async def test_usage_is_the_last_chunk_and_null_before_when_it_is_asked_for(ask_for):
    reply = await ask_for(stream=True, stream_options={"include_usage": True})

    *before, last, done = reply.events
    assert [event["usage"] for event in before] == [None] * len(before)
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert last["object"] == before[0]["object"]
    assert done == "[DONE]"


async def test_usage_is_not_named_when_it_is_not_asked_for():
    reply = await chat(stream=True)

    assert not any("usage" in event for event in reply.events[:-1])


async def test_the_end_of_the_body_comes_in_the_same_write_as_done():
    reply = await chat(stream=True)

    assert reply.parts[-1].endswith(b"data: [DONE]\n\n")


async def test_the_first_text_comes_in_the_same_write_as_the_role():
    reply = await chat(stream=True)

    assert reply.parts[0].count(b"data: ") == 2


async def test_an_answer_without_text_is_still_an_answer():
    reply = await chat(FakeAnswers([finished()]), stream=True)

    assert [choice["finish_reason"] for choice in choices(reply)] == [None, "stop"]


async def test_the_last_text_never_comes_in_the_chunk_that_finishes():
    """Clients stop to read text there (vllm 36944)."""
    answers = FakeAnswers([[*text("all", "!"), finished()]])

    deltas = [choice["delta"] for choice in choices(await chat(answers, stream=True))]
    texts = [choice["text"] for choice in choices(await completion(answers, stream=True))]
    assert deltas[1:] == [{"content": "all"}, {"content": "!"}, {}]
    assert texts == ["all", "!", ""]


async def test_line_separators_are_escaped_in_events():
    reply = await chat(FakeAnswers([*text("a\u2028b\u0085c"), finished()]), stream=True)

    assert b"".join(reply.parts).decode().splitlines() == b"".join(reply.parts).decode().split("\n")[:-1]
    assert choices(reply)[1]["delta"]["content"] == "a\u2028b\u0085c"


@pytest.mark.parametrize("stream", [True, False])
async def test_the_fingerprint_of_the_model_is_told(stream):
    reply = await chat(models=[MODEL], stream=stream)

    told = reply.events[:-1] if stream else [reply.json]
    assert {each["system_fingerprint"] for each in told} == {"fp_1"}


async def test_several_choices_are_answered_in_the_order_of_their_index():
    answers = FakeAnswers(choices=[[*text("a"), finished()], [*text("b"), finished(FinishReason.LENGTH)]])
    reply = await chat(answers, n=2)

    told = [
        (each["index"], each["message"]["content"], each["finish_reason"]) for each in reply.json["choices"]
    ]
    assert told == [(0, "a", "stop"), (1, "b", "length")]


async def test_the_roles_of_all_choices_come_first_and_in_order():
    """openai-python dies of a choice 1 that comes before choice 0."""
    answers = FakeAnswers(choices=[[*text("a"), finished()], [*text("b"), finished()]])
    reply = await chat(answers, n=2, stream=True)

    roles = [choice["index"] for choice in choices(reply) if "role" in choice["delta"]]
    assert roles == [choice["index"] for choice in choices(reply)[:2]] == [0, 1]
    assert all(len(event["choices"]) == 1 for event in reply.events[:-1])
    assert sorted(choice["index"] for choice in choices(reply) if choice["finish_reason"]) == [0, 1]


async def test_a_prompt_counts_once_and_the_tokens_of_all_its_choices():
    usage = (await chat(n=3)).json["usage"]

    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 6, 9)


async def test_each_of_several_prompts_counts():
    reply = await completion(prompt=["a", "b"], n=2)

    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1, 2, 3]
    assert (reply.json["usage"]["prompt_tokens"], reply.json["usage"]["completion_tokens"]) == (6, 8)


async def test_the_best_of_each_prompt_are_sent_the_likeliest_first():
    drawn = [("a", -3.0), ("b", -1.0), ("c", -2.0), ("d", -1.0), ("e", -5.0), ("f", -0.5)]
    items = [[rated(name, entry(97, logprob)), finished()] for name, logprob in drawn]
    reply = await completion(FakeAnswers(choices=items), prompt=["x", "y"], n=2, best_of=3)

    told = [(choice["index"], choice["text"], choice["logprobs"]) for choice in reply.json["choices"]]
    assert told == [(0, "b", None), (1, "c", None), (2, "f", None), (3, "d", None)]
    assert reply.json["usage"]["completion_tokens"] == 12


async def test_an_answer_without_tokens_is_the_worst():
    items = [[finished()], [rated("b", entry(97, -9.0)), finished()]]
    reply = await completion(FakeAnswers(choices=items), best_of=2)

    assert reply.json["choices"][0]["text"] == "b"


async def test_what_stopped_an_answer_is_told_where_the_client_has_named_it():
    whole = await chat(FakeAnswers([finished(stop="END")]))
    streamed = await completion(FakeAnswers([finished(stop=7)]), stream=True)

    assert (whole.json["choices"][0]["finish_reason"], whole.json["choices"][0]["stop_reason"]) == (
        "stop",
        "END",
    )
    assert choices(streamed)[-1]["stop_reason"] == 7


async def test_reasoning_comes_beside_the_content():
    answers = FakeAnswers(
        [ReasoningChunk(text="hm", tokens=1), *text("so"), finished(reasoning_tokens=1)],
    )

    whole = (await chat(answers)).json
    streamed = choices(await chat(answers, stream=True))
    assert whole["choices"][0]["message"]["reasoning_content"] == "hm"
    assert whole["choices"][0]["message"]["content"] == "so"
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}
    assert [choice["delta"] for choice in streamed[1:]] == [
        {"reasoning_content": "hm"},
        {"content": "so"},
        {},
    ]


async def test_an_answer_cut_in_its_reasoning_has_no_content():
    answers = FakeAnswers([ReasoningChunk(text="hm", tokens=1), finished(FinishReason.LENGTH)])
    choice = (await chat(answers)).json["choices"][0]

    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "length")


async def test_calls_are_told_whole():
    reply = await chat(FakeAnswers(CALLED), models=[MODEL], tools=[TOOL])

    choice = reply.json["choices"][0]
    calls = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert [call["function"] for call in calls] == [
        {"name": "get", "arguments": '{"a":1}'},
        {"name": "get", "arguments": "{}"},
    ]
    assert all(set(call) == {"id", "type", "function"} for call in calls)


async def test_a_streamed_call_has_id_type_and_name_once_and_then_arguments():
    """Clients add up the strings of deltas: `getget`, `call_acall_a`; a null type kills openai-python."""
    reply = await chat(FakeAnswers(CALLED), models=[MODEL], tools=[TOOL], stream=True)

    deltas = [choice["delta"] for choice in choices(reply)[1:-1]]
    calls = [call for delta in deltas for call in delta["tool_calls"]]
    first, second = calls[0], calls[3]
    assert first["id"] != second["id"]
    assert calls == [
        {"index": 0, "id": first["id"], "type": "function", "function": {"name": "get", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a":'}},
        {"index": 0, "function": {"arguments": "1}"}},
        {"index": 1, "id": second["id"], "type": "function", "function": {"name": "get", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert choices(reply)[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "setting", "reason"),
    [
        ({"type": "function", "function": {"name": "get"}}, "tool_calls", "tool_calls"),
        ({"type": "function", "function": {"name": "get"}}, "stop", "stop"),
        ("required", "stop", "tool_calls"),
    ],
)
async def test_a_named_tool_finishes_as_the_settings_say(choice, setting, reason):
    app = make_app(
        FakeAnswers(CALLED),
        routes=chat_routes,
        settings=ApiSettings(named_tool_finish=setting),
        models=[MODEL],
    )
    reply = await Client(app).ask("/v1/chat/completions", CHAT | {"tools": [TOOL], "tool_choice": choice})

    assert reply.json["choices"][0]["finish_reason"] == reason


async def test_calls_of_different_choices_have_different_ids():
    reply = await chat(FakeAnswers(CALLED), models=[MODEL], tools=[TOOL], n=2)

    ids = [call["id"] for choice in reply.json["choices"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_cut_in_a_call_says_so(stream):
    answers = FakeAnswers([*CALLS[:2], finished(FinishReason.LENGTH, calls=1)])
    reply = await chat(answers, models=[MODEL], tools=[TOOL], stream=stream)

    last = choices(reply)[-1] if stream else reply.json["choices"][0]
    assert last["finish_reason"] == "length"


async def test_log_probabilities_of_a_chat_show_text_and_bytes():
    entries = (entry(0xC3, -0.5, (0xC3, -0.5), (97, float("-inf"))), entry(0xA9, -0.1))
    reply = await chat(FakeAnswers([rated("é", *entries), finished()]), logprobs=True, top_logprobs=2)

    first = {"token": "\\xc3", "logprob": -0.5, "bytes": [0xC3]}
    assert reply.json["choices"][0]["logprobs"] == {
        "content": [
            {**first, "top_logprobs": [first, {"token": "a", "logprob": -9999.0, "bytes": [97]}]},
            {"token": "\\xa9", "logprob": -0.1, "bytes": [0xA9], "top_logprobs": []},
        ],
        "refusal": None,
    }


async def test_log_probabilities_of_an_answer_without_text_are_empty_lists():
    of_chat = await chat(FakeAnswers([finished()]), logprobs=True)
    of_completion = await completion(FakeAnswers([finished()]), logprobs=1)

    assert of_chat.json["choices"][0]["logprobs"] == {"content": [], "refusal": None}
    assert of_completion.json["choices"][0]["logprobs"] == {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }


async def test_log_probabilities_of_a_streamed_chat_come_with_their_text():
    reply = await chat(FakeAnswers([rated("a", entry(97, -1.0)), finished()]), stream=True, logprobs=True)

    assert choices(reply)[1]["delta"] == {"content": "a"}
    assert choices(reply)[1]["logprobs"]["content"][0]["token"] == "a"


async def test_log_probabilities_of_a_completion_count_from_the_prompt_and_hold_the_chosen_token():
    entries = (entry(97, -1.5, (98, -0.5)), entry(0xC3, -0.1), entry(0xA9, -0.1), entry(98, -0.2))
    reply = await completion(FakeAnswers([rated("aéb", *entries), finished()]), logprobs=1)

    assert reply.json["choices"][0]["logprobs"] == {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9", "b"],
        "token_logprobs": [-1.5, -0.1, -0.1, -0.2],
        "top_logprobs": [{"b": -0.5, "a": -1.5}, {"bytes:\\xc3": -0.1}, {"bytes:\\xa9": -0.1}, {"b": -0.2}],
        "text_offset": [2, 3, 3, 4],
    }


async def test_of_alternatives_that_look_the_same_the_likeliest_is_told_but_the_chosen_one_always():
    """Tools compare the chosen token's number in both places for equality."""
    twins = (entry(97, -3.0, (256, -0.5), (257, -1.0), (97, -3.0)), entry(257, -2.0, (256, -0.5)))
    reply = await completion(FakeAnswers([rated("aa", *twins), finished()]), logprobs=3)

    top = reply.json["choices"][0]["logprobs"]["top_logprobs"]
    assert top == [{"<special>": -0.5, "a": -3.0}, {"<special>": -2.0}]


async def test_text_offsets_of_a_stream_go_on_from_the_prompt_also_without_echo():
    """They did not count the prompt (vllm 47815)."""
    pieces = [rated("a", entry(97, -1.0)), rated("b", entry(98, -1.0))]
    reply = await completion(FakeAnswers([*pieces, finished()]), stream=True, logprobs=0, prompt=[97, 97, 97])

    assert [choice["logprobs"]["text_offset"] for choice in choices(reply)[:2]] == [[3], [4]]


async def test_text_offsets_of_choices_do_not_mix():
    items = [[rated("ab", entry(97, -1.0), entry(98, -1.0)), finished()] for _ in range(2)]
    reply = await completion(FakeAnswers(choices=items), logprobs=0, n=2)

    assert [choice["logprobs"]["text_offset"] for choice in reply.json["choices"]] == [[2, 3], [2, 3]]


@pytest.mark.parametrize(("prompt", "begun"), [("hi", "hi"), ([104, 0xC3, 0xA9], "hé")])
async def test_an_echo_is_the_text_of_the_prompt_in_front(prompt, begun):
    whole = await completion(prompt=prompt, echo=True)
    streamed = await completion(prompt=prompt, echo=True, stream=True)

    assert whole.json["choices"][0]["text"] == f"{begun}Hello"
    assert [choice["text"] for choice in choices(streamed)] == [begun, "Hel", "lo", ""]


async def test_an_echo_tells_how_likely_the_prompt_was_and_nothing_of_its_first_token():
    """Without it evaluations score chance (llama.cpp 27174)."""
    answers, jobs = FakeAnswers([rated("a", entry(97, -1.0)), finished()]), FakeJobs()
    reply = await completion(answers, jobs=jobs, prompt=[104, 105], echo=True, logprobs=1)

    assert reply.json["choices"][0]["text"] == "hia"
    assert reply.json["choices"][0]["logprobs"] == {
        "tokens": ["h", "i", "a"],
        "token_logprobs": [None, -105.0, -1.0],
        "top_logprobs": [None, {"x": -0.5, "i": -105.0}, {"a": -1.0}],
        "text_offset": [0, 1, 2],
    }
    assert jobs.asked == [(TokenPrompt(ids=(104, 105)), 1)]


async def test_a_special_token_that_was_put_in_front_takes_no_room_in_the_text():
    answers = FakeAnswers([rated("a", entry(97, -1.0)), finished()])
    reply = await completion(answers, jobs=FakeJobs(), prompt="hé", echo=True, logprobs=0)

    logprobs = reply.json["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["<special>", "h", "bytes:\\xc3", "bytes:\\xa9", "a"]
    assert logprobs["text_offset"] == [0, 0, 1, 1, 2]


async def test_an_echo_of_more_tokens_than_are_written_at_once_is_refused():
    more = {"jobs": FakeJobs(), "models": [replace(CARD, context_tokens=1000)]}
    body = COMPLETION | {"echo": True, "logprobs": 0, "max_tokens": 0, "n": 2}
    most = MAX_ECHOED // 128

    taken = await ask("/v1/completions", body | {"prompt": [[104] * most] * 64}, **more)
    refused = await ask(
        "/v1/completions", body | {"prompt": [[104] * most] * 63 + [[104] * (most + 1)]}, **more
    )

    assert taken.status == 200
    assert (refused.status, refused.error["code"]) == (400, "array_above_max_length")


async def test_a_streamed_echo_has_the_prompt_in_its_first_chunk():
    answers = FakeAnswers([rated("a", entry(97, -1.0)), finished()])
    reply = await completion(
        answers, jobs=FakeJobs(), prompt=[[104], [105]], echo=True, logprobs=0, stream=True
    )

    first, second, *rest = choices(reply)
    assert [(each["index"], each["text"], each["logprobs"]["tokens"]) for each in (first, second)] == [
        (0, "h", ["h"]),
        (1, "i", ["i"]),
    ]
    assert [each["logprobs"]["text_offset"] for each in rest if each["logprobs"]] == [[1], [1]]


async def test_a_prompt_that_is_echoed_with_its_tokens_is_tokenised_once():
    answers = FakeAnswers()
    await completion(answers, jobs=FakeJobs(), echo=True, logprobs=0, n=2)

    assert [request.prompt for request in answers.requests] == [TokenPrompt(ids=(256, 104, 105))] * 2
    assert answers.requests[0].prompt is answers.requests[1].prompt, "a client's limits would count it twice"


async def test_of_no_tokens_at_all_the_prompt_can_be_rated():
    answers = FakeAnswers()
    reply = await completion(
        answers, jobs=FakeJobs(), prompt=[[104, 105], [106]], max_tokens=0, echo=True, logprobs=0
    )

    told = [(each["text"], each["logprobs"]["token_logprobs"]) for each in reply.json["choices"]]
    assert told == [("hi", [None, -105.0]), ("j", [None])]
    assert {each["finish_reason"] for each in reply.json["choices"]} == {"length"}
    assert (reply.json["usage"]["prompt_tokens"], reply.json["usage"]["completion_tokens"]) == (3, 0)
    assert not answers.requests


async def test_of_no_tokens_at_all_the_prompts_are_counted():
    jobs = FakeJobs()
    reply = await completion(jobs=jobs, max_tokens=0)

    assert (reply.json["choices"][0]["text"], reply.json["usage"]["prompt_tokens"]) == ("", 3)
    assert not jobs.asked


@pytest.mark.parametrize("ask_for", [chat, completion])
async def test_a_failure_after_text_ends_the_stream_with_an_error_and_without_done(ask_for):
    reply = await ask_for(FakeAnswers([*text("Hel"), finished(FinishReason.ERROR)]), stream=True)

    assert reply.status == 200
    assert set(reply.events[-1]["error"]) == {"message", "type", "param", "code"}
    assert reply.events[-1]["error"]["code"] == "engine_failed"
    assert not any("error" in event for event in reply.events[:-1])


async def test_a_refusal_of_the_pipeline_has_its_status_and_says_when_to_come_back():
    reply = await chat(
        FakeAnswers(error=OverloadedError("too many requests", retry_after_s=2.3)), stream=True
    )

    assert reply.status == 429
    assert reply.error == {
        "message": "too many requests",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }
    assert int(reply.headers["retry-after"]) in {3}
    assert 2300 <= int(reply.headers["retry-after-ms"]) <= 2875


async def test_no_key_is_null_but_those_that_clients_want():
    """`error: null` in a chunk is an error to some, a null type of a call kills others."""
    reply = await chat(FakeAnswers(CALLED), models=[MODEL], tools=[TOOL], stream=True)

    nulls = {
        name
        for event in reply.events[:-1]
        for part in (event, *event["choices"], *(choice["delta"] for choice in event["choices"]))
        for name, value in part.items()
        if value is None
    }
    assert nulls == {"logprobs", "finish_reason", "refusal"}
