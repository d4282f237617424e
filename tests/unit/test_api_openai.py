"""Pins what /v1/chat/completions and /v1/completions answer, whole and streamed, to good requests."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import pytest

from tests.api_fakes import CARD, Client, FakeAnswers, finished, make_app, text
from wicketgate.api.endpoint import ApiSettings
from wicketgate.api.keys import Key, Keys, Role
from wicketgate.api.openai_wire import prompt_chars
from wicketgate.errors import EngineFailedError, OverloadedError, UnavailableError
from wicketgate.inference import ChatPrompt, FinishReason, TextPrompt, TokenLogprob, TokenPrompt
from wicketgate.pipeline.text import TextChunk

pytestmark = pytest.mark.anyio
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "demo", "prompt": "hi"}
ABOUT = {"created": 1_700_000_123, "model": "demo"}
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


async def chat(answers: FakeAnswers | None = None, **fields):
    return await Client(make_app(answers)).ask("/v1/chat/completions", CHAT | fields)


async def completion(answers: FakeAnswers | None = None, **fields):
    return await Client(make_app(answers)).ask("/v1/completions", COMPLETION | fields)


async def asked(path: str, body: dict, **headers: str):
    """The request that the pipeline gets."""
    answers = FakeAnswers()
    reply = await Client(make_app(answers)).ask(
        path, body, headers={"content-type": "application/json", **headers}
    )
    assert reply.status == 200, reply.parts
    return answers.requests[0]


async def test_a_chat_is_answered_with_one_message():
    reply = await chat()

    assert reply.status == 200
    assert reply.json == {
        "id": "chatcmpl-" + "0" * 31 + "1",
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
        "id": "cmpl-" + "0" * 31 + "1",
        "object": "text_completion",
        **ABOUT,
        "choices": [{"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"}],
        "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 1}},
    }


async def test_a_streamed_chat_has_role_text_finish_and_end_in_this_order():
    reply = await chat(stream=True)

    about = {"id": "chatcmpl-" + "0" * 31 + "1", "object": "chat.completion.chunk", **ABOUT}
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

    texts = [
        (event["choices"][0]["text"], event["choices"][0]["finish_reason"]) for event in reply.events[:-1]
    ]
    assert texts == [("Hel", None), ("lo", None), ("", "stop")]
    assert reply.events[-1] == "[DONE]"


@pytest.mark.parametrize("ask", [chat, completion])
async def test_usage_is_the_last_chunk_and_null_before_when_it_is_asked_for(ask):
    reply = await ask(stream=True, stream_options={"include_usage": True})

    *before, last, done = reply.events
    assert [event["usage"] for event in before] == [None] * len(before)
    assert (last["choices"], last["usage"]) == ([], USAGE)
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

    assert [event["choices"][0]["finish_reason"] for event in reply.events[:-1]] == [None, "stop"]


async def test_line_separators_are_escaped_in_events():
    reply = await chat(FakeAnswers([*text("a\u2028b\u0085c"), finished()]), stream=True)

    assert b"".join(reply.parts).decode().splitlines() == b"".join(reply.parts).decode().split("\n")[:-1]
    assert reply.events[1]["choices"][0]["delta"]["content"] == "a\u2028b\u0085c"


def entry(token: int, logprob: float, *top: tuple[int, float]) -> TokenLogprob:
    return TokenLogprob(token=token, logprob=logprob, top=top)


async def test_log_probabilities_of_a_chat_show_text_and_bytes():
    entries = (entry(0xC3, -0.5, (0xC3, -0.5), (97, float("-inf"))), entry(0xA9, -0.1))
    reply = await chat(
        FakeAnswers([TextChunk(text="é", tokens=2, logprobs=entries), finished()]),
        logprobs=True,
        top_logprobs=2,
    )

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


async def test_log_probabilities_of_a_completion_count_from_the_prompt_and_hold_the_chosen_token():
    entries = (entry(97, -1.5, (98, -0.5)), entry(0xC3, -0.1), entry(0xA9, -0.1), entry(98, -0.2))
    reply = await completion(
        FakeAnswers([TextChunk(text="aéb", tokens=4, logprobs=entries), finished()]), logprobs=1
    )

    assert reply.json["choices"][0]["logprobs"] == {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9", "b"],
        "token_logprobs": [-1.5, -0.1, -0.1, -0.2],
        "top_logprobs": [{"b": -0.5, "a": -1.5}, {"bytes:\\xc3": -0.1}, {"bytes:\\xa9": -0.1}, {"b": -0.2}],
        "text_offset": [2, 3, 3, 4],
    }


async def test_text_offsets_go_on_over_the_chunks_of_a_stream():
    pieces = [TextChunk(text="a", tokens=1, logprobs=(entry(97, -1.0),)) for _ in range(2)]
    reply = await completion(FakeAnswers([*pieces, finished()]), stream=True, logprobs=0, prompt=[97, 97, 97])

    offsets = [event["choices"][0]["logprobs"]["text_offset"] for event in reply.events[:2]]
    assert offsets == [[3], [4]]


def test_a_chat_has_no_text_offsets_to_count_from():
    assert prompt_chars(ChatPrompt(messages=(), template_kwargs={}), CARD.token_bytes) == 0


async def test_log_probabilities_of_a_streamed_chat_come_with_their_text():
    piece = TextChunk(text="a", tokens=1, logprobs=(entry(97, -1.0),))
    reply = await chat(FakeAnswers([piece, finished()]), stream=True, logprobs=True)

    assert reply.events[1]["choices"][0]["logprobs"]["content"][0]["token"] == "a"


async def test_a_chat_becomes_a_request_with_its_defaults():
    request = await asked("/v1/chat/completions", CHAT)

    assert request.prompt == ChatPrompt(messages=({"role": "user", "content": "hi"},), template_kwargs={})
    assert (request.id, request.model, request.api, request.stream) == (
        "req_" + "0" * 31 + "1",
        "demo",
        "chat",
        False,
    )
    assert request.arrived_s == 7.0
    assert request.connection == "127.0.0.1:50000"
    assert request.sampling.max_tokens == CARD.context_tokens
    assert (request.sampling.temperature, request.sampling.logprobs) == (1.0, None)


async def test_without_a_seed_the_requests_own_id_is_one():
    request = await asked("/v1/chat/completions", CHAT)

    assert request.sampling.seed == 1


async def test_every_sampling_field_reaches_the_request():
    fields = {
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "seed": -1,
        "stop": "END",
        "stop_token_ids": [9],
        "ignore_eos": True,
        "min_tokens": 2,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"7": 1.5, "8": -100},
        "logprobs": True,
        "top_logprobs": 4,
    }
    request = await asked("/v1/chat/completions", CHAT | fields)

    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (5, 0.5, 0.9, 7)
    assert (sampling.min_p, sampling.repetition_penalty, sampling.seed) == (0.1, 1.1, 2**64 - 1)
    assert (sampling.stop_token_ids, sampling.ignore_eos, sampling.logprobs) == ((9,), True, 4)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.min_tokens) == (0.5, -0.5, 2)
    assert sampling.logit_bias == ((7, 1.5), (8, -100.0))
    assert request.stop == ("END",)


async def test_a_class_of_service_and_a_salt_reach_the_request():
    request = await asked("/v1/completions", COMPLETION | {"priority": 3, "cache_salt": "s"})

    assert (request.priority, request.salt) == (3, "s")


async def test_kv_is_not_shared_between_the_clients_of_different_keys():
    keys = Keys([Key(id=name, role=Role.USER, sha256=sha256(name.encode()).hexdigest()) for name in "ab"])
    answers = FakeAnswers()
    app = make_app(answers, keys=keys)

    for name in "ab":
        headers = {"content-type": "application/json", "authorization": f"Bearer {name}"}
        await Client(app).ask("/v1/completions", COMPLETION, headers=headers)

    assert len({request.salt for request in answers.requests}) == 2


@pytest.mark.parametrize(
    ("fields", "session"),
    [
        ({"session_id": "s"}, "s"),
        ({"prompt_cache_key": "p"}, "p"),
        ({"user": "u"}, ""),
        ({}, ""),
        ({"session_id": "x" * 200}, "x" * 128),
    ],
)
async def test_a_conversation_is_named_by_its_session_only(fields, session):
    assert (await asked("/v1/completions", COMPLETION | fields)).session == session


async def test_a_nucleus_of_nothing_takes_the_likeliest_token():
    request = await asked("/v1/chat/completions", CHAT | {"top_p": 0})

    assert (request.sampling.temperature, request.sampling.top_p) == (0.0, 1.0)


@pytest.mark.parametrize("top_k", [-1, 0, 300, 10**9])
async def test_as_many_candidates_as_there_are_tokens_is_no_bound(top_k):
    request = await asked("/v1/chat/completions", CHAT | {"top_k": top_k})

    assert request.sampling.top_k == 0


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("hi", TextPrompt(text="hi")),
        (["hi"], TextPrompt(text="hi")),
        ([1, 2], TokenPrompt(ids=(1, 2))),
        ([[1, 2]], TokenPrompt(ids=(1, 2))),
    ],
)
async def test_a_prompt_is_text_or_ids_alone_or_in_a_list_of_one(prompt, meant):
    request = await asked("/v1/completions", COMPLETION | {"prompt": prompt})

    assert request.prompt == meant
    assert request.sampling.max_tokens == 16


async def test_content_in_parts_is_joined_and_a_developer_speaks_as_the_system():
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    messages = [
        {"role": "developer", "content": parts, "name": "x"},
        {"role": "assistant", "content": "c", "reasoning_content": "d"},
    ]
    request = await asked("/v1/chat/completions", CHAT | {"messages": messages})

    assert request.prompt.messages == (
        {"role": "system", "content": "ab", "name": "x"},
        {"role": "assistant", "content": "c", "reasoning_content": "d"},
    )


@pytest.mark.parametrize(
    ("fields", "headers", "key", "source"),
    [
        ({"user": "u", "session_id": "s"}, {"x-session-id": "h"}, "h", "x-session-id"),
        ({"user": "u", "session_id": "s", "prompt_cache_key": "p"}, {}, "s", "session_id"),
        ({"user": "u", "safety_identifier": "i", "prompt_cache_key": "p"}, {}, "p", "prompt_cache_key"),
        ({"user": "u", "safety_identifier": "i"}, {}, "i", "safety_identifier"),
        ({"user": "u"}, {}, "u", "user"),
        ({}, {}, "req_" + "0" * 31 + "1", "request"),
    ],
)
async def test_a_request_is_decided_by_its_session_its_user_or_itself(fields, headers, key, source):
    request = await asked("/v1/chat/completions", CHAT | fields, **headers)

    assert (request.key, request.key_source) == (key, source)


async def test_the_answer_names_the_features_that_the_request_was_on():
    reply = await chat(FakeAnswers(flags=("adaptive_governor", "qos_monitoring")))

    assert reply.headers["x-wicketgate-flags"] == "adaptive_governor,qos_monitoring"


async def test_a_request_on_no_feature_says_so():
    reply = await chat(stream=True)

    assert reply.headers["x-wicketgate-flags"] == "-"


async def test_every_answer_names_its_request_and_the_clients_own_name_for_it():
    headers = {"content-type": "application/json", "x-request-id": "mine-1"}
    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT, headers=headers)

    assert reply.headers["x-request-id"] == "req_" + "0" * 31 + "1"
    assert reply.headers["x-client-request-id"] == "mine-1"


async def test_a_client_cannot_smuggle_a_header_in_its_request_id():
    headers = {"content-type": "application/json", "x-request-id": "a b\tc"}
    reply = await Client(make_app()).ask("/v1/chat/completions", CHAT, headers=headers)

    assert "x-client-request-id" not in reply.headers


async def test_a_refusal_of_the_pipeline_has_its_status_and_says_when_to_come_back():
    error = OverloadedError("too many requests", retry_after_s=2.3)
    reply = await chat(FakeAnswers(error=error), stream=True)

    assert reply.status == 429
    assert reply.error == {
        "message": "too many requests",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }
    assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("3", "2300")


async def test_a_wait_is_never_said_to_be_a_minute_or_more():
    reply = await chat(FakeAnswers(error=OverloadedError("full", retry_after_s=300)))

    assert reply.headers["retry-after"] == "59"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_any_text_has_its_own_status(stream):
    failure = finished(FinishReason.ERROR, error=UnavailableError("restarting", code="engine_restarting"))
    reply = await chat(FakeAnswers([failure]), stream=stream)

    assert (reply.status, reply.error["code"]) == (503, "engine_restarting")


@pytest.mark.parametrize(
    ("reason", "code"), [(FinishReason.ERROR, "engine_failed"), (FinishReason.CANCELLED, "draining")]
)
async def test_a_failure_after_text_ends_the_stream_with_an_error_and_without_done(reason, code):
    reply = await chat(FakeAnswers([*text("Hel"), finished(reason)]), stream=True)

    assert reply.status == 200
    assert reply.events[-1]["error"]["code"] == code
    assert "[DONE]" not in reply.events


async def test_a_failure_after_text_is_a_failure_of_a_whole_answer():
    failure = finished(FinishReason.ERROR, error=EngineFailedError("out of memory"))
    reply = await chat(FakeAnswers([*text("Hel"), failure]))

    assert (reply.status, reply.error["message"]) == (500, "out of memory")


async def test_a_fault_of_ours_is_an_internal_error_that_names_the_request(caplog):
    reply = await chat(FakeAnswers(error=RuntimeError("secret")))

    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert "req_" in reply.error["message"]
    assert "secret" not in reply.error["message"]
    assert caplog.records[0].getMessage() == "request_failed"


async def test_a_stream_whose_text_is_late_gets_its_headers_and_the_role_meanwhile():
    answers = FakeAnswers([*text("late"), finished()], pause_s=0.03)
    app = make_app(answers, settings=ApiSettings(hold_headers_s=0.01))

    reply = await Client(app).ask("/v1/chat/completions", CHAT | {"stream": True})

    assert reply.parts[0].count(b"data: ") == 1
    assert b"assistant" in reply.parts[0]
    assert reply.events[1]["choices"][0]["delta"] == {"content": "late"}


async def test_a_silent_stream_gets_a_comment_line_as_heartbeat():
    answers = FakeAnswers([*text("a"), finished()], pause_s=0.05)
    app = make_app(answers, settings=ApiSettings(heartbeat_s=0.02))

    reply = await Client(app).ask("/v1/completions", COMPLETION | {"stream": True})

    assert b": ping\n" in reply.parts
    assert reply.events[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_its_generation(stream):
    answers = FakeAnswers([*text("a"), None])
    client = Client(make_app(answers))

    asking = asyncio.create_task(client.ask("/v1/chat/completions", CHAT | {"stream": stream}))
    while not answers.opened or not answers.opened[0].given:
        await asyncio.sleep(0)
    client.gone.set()
    await asking

    assert answers.opened[0].cancelled.is_set()


@pytest.mark.parametrize("stream", [True, False])
async def test_the_regular_end_is_not_taken_for_a_client_that_leaves(stream):
    reply = await chat(stream=stream)

    assert reply.is_whole


async def test_a_client_that_leaves_while_it_waits_gives_up_its_place_and_hears_nothing():
    answers = FakeAnswers(is_full=True)
    client = Client(make_app(answers))

    asking = asyncio.create_task(client.ask("/v1/chat/completions", CHAT))
    await answers.waited.wait()
    client.gone.set()
    reply = await asking

    assert answers.left.is_set()
    assert (reply.status, reply.parts) == (0, [])


async def test_every_answer_is_cancelled_at_its_end_so_that_its_ticket_is_surely_back():
    answers = FakeAnswers()
    await chat(answers)

    assert answers.opened[0].cancelled.is_set()


async def test_a_request_that_is_held_up_beyond_its_deadline_is_ended():
    answers = FakeAnswers(is_full=True)
    app = make_app(answers, settings=ApiSettings(request_timeout_s=-1.99))

    reply = await Client(app).ask("/v1/chat/completions", CHAT)

    assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")
    assert reply.headers["x-should-retry"] == "false"


async def test_the_models_are_listed_and_shown_by_name():
    client = Client(make_app())

    listed = await client.ask("/v1/models", b"", method="GET")
    shown = await Client(client.app).ask("/v1/models/demo", b"", method="GET")

    assert listed.json["object"] == "list"
    assert listed.json["data"] == [shown.json]
    assert (shown.json["id"], shown.json["object"], shown.json["owned_by"]) == ("demo", "model", "wicketgate")


async def test_a_client_that_does_not_read_gets_no_heartbeat_on_top():
    """A heartbeat held up by a full buffer would never hear that the client has left."""
    answers = FakeAnswers([*text("a"), finished()])
    app = make_app(answers, settings=ApiSettings(heartbeat_s=0.01))
    sending = []

    async def slowly(scope, receive, send):
        async def slow_send(message):
            sending.append(message)
            assert len(sending) == 1
            await asyncio.sleep(0.05)
            sending.clear()
            await send(message)

        await app(scope, receive, slow_send)

    reply = await Client(slowly).ask("/v1/completions", COMPLETION | {"stream": True})

    assert reply.events[-1] == "[DONE]"
    assert b": ping\n" not in reply.parts
