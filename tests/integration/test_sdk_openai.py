"""
The official openai-python against a really started gateway, over HTTP/1.1 and HTTP/2.

Every answer and every chunk that the SDK gets is held to OpenAI's published description of its API.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import TYPE_CHECKING, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field
from tokenizers import Tokenizer

from tests.conftest import DEMO
from tests.openai_schemas import extensions
from tests.recorded_http import Ear
from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MESSAGES = [{"role": "user", "content": "Tell me about water."}]
ENDLESS = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}}
"""Options of a stream that only its client ends."""


class Forecast(BaseModel):
    """What a random model can be held to, and ends."""

    city: str = Field(max_length=12)
    days: int = Field(ge=0, le=30)
    sky: Literal["clear", "cloudy"]


class Sky(BaseModel):
    """The same in fewer tokens."""

    sky: Literal["clear", "cloudy"]


TOOL = openai.pydantic_function_tool(Forecast, name="forecast", description="Tell the weather")
TOOLS = {"model": "demo", "messages": MESSAGES, "tools": [TOOL], "max_tokens": 400, "seed": 1}
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
NAMED = {"type": "function", "function": {"name": "forecast"}}
RESPONSES_TOOL = {
    "type": "function",
    "name": "forecast",
    "parameters": TOOL["function"]["parameters"],
    "strict": True,
}

BOTH = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
"""What is carried differently by the two; the rest is asked for over HTTP/1.1, as the SDK does by itself."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("sdk"), DEMO) as running:
        yield running


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear = Ear()
    yield ear
    assert ear.faults == []


@pytest.fixture
def http2() -> bool:
    return False


@pytest.fixture
def client(gateway: Gateway, ear: Ear, http2: bool) -> Iterator[OpenAI]:
    options = {"base_url": f"{gateway.url}/v1", "api_key": "none", "max_retries": 0}
    with OpenAI(**options, http_client=ear.client(http2=http2)) as client:
        yield client


def async_client(gateway: Gateway, ear: Ear, *, http2: bool) -> AsyncOpenAI:
    http_client = ear.async_client(http2=http2)
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=http_client)


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(demo_model / "tokenizer.json"))


# Chats


@BOTH
def test_a_chat_streams_words_and_ends(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo", messages=MESSAGES, stream=True, seed=1, max_tokens=40, temperature=0.5
    )

    chunks = list(stream)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].delta.role] == ["assistant"]
    assert len(text.split()) > 5
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].choices[0].delta.content is None
    assert len({chunk.id for chunk in chunks}) == 1


@BOTH
def test_the_streamed_text_is_the_text_of_the_whole_answer(client: OpenAI) -> None:
    options = {"model": "demo", "messages": MESSAGES, "seed": 7, "max_tokens": 40, "temperature": 0.8}

    whole = client.chat.completions.create(**options)
    stream = client.chat.completions.create(**options, stream=True)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content


def test_usage_is_what_the_tokenizer_counts(client: OpenAI, tokenizer: Tokenizer) -> None:
    prompt = "The iterator protocol consists of two methods"

    answer = client.completions.create(model="demo", prompt=prompt, max_tokens=24, temperature=0, logprobs=0)

    assert answer.usage is not None
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.tokens
    ended = answer.choices[0].finish_reason == "stop"
    assert "".join(tokens) == answer.choices[0].text
    assert answer.usage.prompt_tokens == len(tokenizer.encode(prompt).ids)
    assert answer.usage.completion_tokens == len(tokens) + ended
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@BOTH
def test_a_stream_reports_usage_when_asked(client: OpenAI, ear: Ear) -> None:
    stream = client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        stream=True,
        max_tokens=5,
        stream_options={"include_usage": True},
    )

    chunks = list(stream)

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 5
    assert ear.heard[0].events[-1] == "[DONE]"


def test_a_stream_has_no_usage_unless_asked(client: OpenAI, ear: Ear) -> None:
    list(client.chat.completions.create(model="demo", messages=MESSAGES, stream=True, max_tokens=3))

    assert b"usage" not in ear.heard[0].body


@BOTH
def test_choices_of_a_stream_come_side_by_side_and_are_those_of_the_whole_answer(client: OpenAI) -> None:
    options = {"model": "demo", "messages": MESSAGES, "seed": 3, "n": 3, "max_tokens": 12}

    whole = client.chat.completions.create(**options)
    # Its final completion raises for answers that ran to max_tokens; what was added up stands in the events.
    with client.chat.completions.stream(**options) as stream:
        added_up = [event.snapshot for event in stream if event.type == "chunk"][-1]

    texts = [choice.message.content for choice in whole.choices]
    assert [choice.message.content for choice in added_up.choices] == texts
    assert len(set(texts)) == 3


def test_logprobs_are_those_of_the_text(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )

    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    for entry in choice.logprobs.content:
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)


def test_logprobs_of_a_stream_are_those_of_the_whole_answer(client: OpenAI) -> None:
    options = {"model": "demo", "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    options |= {"logprobs": True, "top_logprobs": 2}

    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True))

    streamed = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs is not None
        for entry in chunk.choices[0].logprobs.content or ()
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole.choices[0].logprobs.content]


def test_a_stop_text_ends_the_answer_before_it(client: OpenAI) -> None:
    options = {"model": "demo", "prompt": "The following", "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**options).choices[0].text
    stop = whole[10:14]

    answer = client.completions.create(**options, stop=[stop])

    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


# What answers are held to


def test_an_answer_is_parsed_as_the_class_that_was_asked_for(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="demo", messages=MESSAGES, response_format=Forecast, max_tokens=400, seed=1
    )

    assert isinstance(answer.choices[0].message.parsed, Forecast)
    assert json.loads(answer.choices[0].message.content) == answer.choices[0].message.parsed.model_dump()


@BOTH
def test_a_streamed_answer_is_parsed_too(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo", messages=MESSAGES, response_format=Forecast, max_tokens=400, seed=1
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()

    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert isinstance(final.choices[0].message.parsed, Forecast)


def test_any_object_may_be_asked_for(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        response_format={"type": "json_object"},
        max_tokens=800,
        seed=2,
        temperature=0,
    )

    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert answer.choices[0].message.content.startswith("{")


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_that_is_demanded_is_valid(client: OpenAI, choice: object) -> None:
    answer = client.chat.completions.parse(**TOOLS, tool_choice=choice, parallel_tool_calls=False)

    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    assert isinstance(call.function.parsed_arguments, Forecast)
    # The grammar leaves no white space to the model: it could go on with it until its tokens are used up.
    assert re.search(r"\s", TEXT.sub("", call.function.arguments)) is None


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@BOTH
def test_a_streamed_call_opens_once_and_its_arguments_add_up(client: OpenAI, choice: object) -> None:
    with client.chat.completions.stream(**TOOLS, tool_choice=choice, parallel_tool_calls=False) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        final = stream.get_final_completion()

    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    (call,) = final.choices[0].message.tool_calls
    assert [delta.function.name for delta in deltas if delta.function.name] == ["forecast"]
    assert [delta.id for delta in deltas if delta.id] == [call.id]
    assert len(deltas) > 2
    assert isinstance(call.function.parsed_arguments, Forecast)
    assert final.choices[0].finish_reason == "tool_calls"


def test_several_calls_of_one_answer_have_places_and_names_of_their_own(gateway: Gateway, ear: Ear) -> None:
    """What this model draws after a call is another one, until there are eight."""
    tool = openai.pydantic_function_tool(Sky, name="sky")
    options = {**TOOLS, "tools": [tool], "tool_choice": "required"}
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=ear.client()) as client:
        with client.chat.completions.stream(**options) as stream:
            calls = stream.get_final_completion().choices[0].message.tool_calls

    assert [call.index for call in calls] == list(range(len(calls)))
    assert len({call.id for call in calls}) == len(calls) > 1
    assert all(isinstance(call.function.parsed_arguments, Sky) for call in calls)


def test_what_a_call_gave_is_answered(client: OpenAI) -> None:
    called = client.chat.completions.create(**TOOLS, tool_choice=NAMED).choices[0].message
    given = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "rain"}

    answer = client.chat.completions.create(
        **{**TOOLS, "messages": [*MESSAGES, called, given], "max_tokens": 8}, tool_choice="none"
    )

    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_a_model_whose_template_knows_no_tools_answers_in_words(client: OpenAI) -> None:
    answer = client.chat.completions.create(**{**TOOLS, "max_tokens": 8})

    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


# Completions, embeddings, models


def test_echoed_prompts_have_log_probabilities(client: OpenAI, tokenizer: Tokenizer) -> None:
    prompt = "The following"

    whole = client.completions.create(
        model="demo", prompt=prompt, max_tokens=4, temperature=0, echo=True, logprobs=1
    )
    stream = client.completions.create(
        model="demo", prompt=prompt, max_tokens=4, temperature=0, echo=True, logprobs=1, stream=True
    )

    logprobs = whole.choices[0].logprobs
    assert whole.choices[0].text.startswith(prompt)
    assert logprobs.token_logprobs[0] is None
    assert "".join(logprobs.tokens) == whole.choices[0].text
    offsets = [0]
    for token in logprobs.tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    assert logprobs.text_offset == offsets
    chunks = [chunk.choices[0] for chunk in stream]
    assert [offset for each in chunks if each.logprobs for offset in each.logprobs.text_offset] == offsets


def test_prompts_times_samples_have_places_in_order(client: OpenAI) -> None:
    answer = client.completions.create(
        model="demo", prompt=["The", "A class"], n=2, best_of=3, max_tokens=3, seed=1
    )

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


@BOTH
def test_vectors_are_the_same_as_numbers_and_as_base64(client: OpenAI, ear: Ear) -> None:
    inputs = {"model": "demo", "input": ["water", "a class of objects"]}

    default = client.embeddings.create(**inputs)
    numbers = client.embeddings.create(**inputs, encoding_format="float")

    assert isinstance(json.loads(ear.heard[0].body)["data"][0]["embedding"], str)
    for one, other in zip(default.data, numbers.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-5)


def test_models_are_listed_and_described(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").object == "model"


# Responses


@BOTH
def test_a_response_streams_what_it_is_in_the_end(client: OpenAI, ear: Ear) -> None:
    options = {"model": "demo", "input": "Tell me about water.", "max_output_tokens": 30, "temperature": 0}

    whole = client.responses.create(**options)
    with client.responses.stream(**options) as stream:
        events = list(stream)

    assert events[0].type == "response.created"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == (
        whole.output_text
    )
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.output_text == whole.output_text
    assert "[DONE]" not in ear.heard[1].events


def test_a_response_is_parsed_as_the_class_that_was_asked_for(client: OpenAI) -> None:
    options = {"model": "demo", "input": "hi", "text_format": Forecast, "max_output_tokens": 400}

    whole = client.responses.parse(**options)
    with client.responses.stream(**options) as stream:
        final = stream.get_final_response()

    assert isinstance(whole.output_parsed, Forecast)
    assert isinstance(final.output_parsed, Forecast)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "forecast"}])
def test_a_response_calls_what_it_must(client: OpenAI, choice: object) -> None:
    options = {"model": "demo", "input": "hi", "tools": [RESPONSES_TOOL], "tool_choice": choice}
    options |= {"parallel_tool_calls": False, "max_output_tokens": 400}

    whole = client.responses.create(**options)
    with client.responses.stream(**options) as stream:
        final = stream.get_final_response()

    for (call,) in (whole.output, final.output):
        Forecast.model_validate_json(call.arguments)
        assert (call.type, call.name, call.status) == ("function_call", "forecast", "completed")
        assert call.id != call.call_id


def test_what_a_response_called_is_answered_in_the_next(client: OpenAI) -> None:
    options = {"model": "demo", "tools": [RESPONSES_TOOL], "store": True, "max_output_tokens": 400}
    called = client.responses.create(
        **options, input="hi", tool_choice={"type": "function", "name": "forecast"}
    )
    given = {"type": "function_call_output", "call_id": called.output[0].call_id, "output": "rain"}

    answer = client.responses.create(
        **{**options, "max_output_tokens": 8},
        input=[given],
        previous_response_id=called.id,
        tool_choice="none",
    )

    assert answer.output_text
    assert answer.previous_response_id == called.id


@BOTH
def test_a_response_is_stored_until_it_is_deleted(client: OpenAI) -> None:
    made = client.responses.create(model="demo", input="hi", store=True, max_output_tokens=4)

    found = client.responses.retrieve(made.id)
    asked = client.responses.input_items.list(made.id)
    client.responses.delete(made.id)

    assert found.output_text == made.output_text
    assert [item.content[0].text for item in asked] == ["hi"]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_log_probabilities_of_a_response(client: OpenAI) -> None:
    answer = client.responses.create(
        model="demo",
        input="hi",
        max_output_tokens=6,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )

    (part,) = answer.output[0].content
    assert "".join(entry.token for entry in part.logprobs) == part.text


# What goes wrong


@BOTH
def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=MESSAGES)

    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"n": 129}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, "messages"),
    ],
)
def test_a_bad_request_names_its_field(
    gateway: Gateway, ear: Ear, options: dict[str, object], param: str
) -> None:
    with (
        OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=ear.client()) as client,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        client.chat.completions.create(**({"model": "demo", "messages": MESSAGES} | options))

    assert caught.value.param is not None
    assert caught.value.param.startswith(param)
    assert caught.value.body["message"]
    assert len(ear.heard) == 1, "what can never succeed is not tried again"


# The wire


@BOTH
def test_every_answer_tells_its_protocol_features_and_id(client: OpenAI, http2: bool) -> None:
    raw = client.chat.completions.with_raw_response.create(model="demo", messages=MESSAGES, max_tokens=4)

    assert raw.http_response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert raw.request_id.startswith("req_")
    assert raw.headers["request-id"] == raw.request_id
    assert "http2_transport" in raw.headers["x-wicketgate-flags"]


def test_only_documented_keys_are_added_to_what_openai_describes(gateway: Gateway, ear: Ear) -> None:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=ear.client()) as client:
        client.models.list()
        options = {"model": "demo", "messages": MESSAGES, "max_tokens": 60, "stop": ["e"]}
        client.chat.completions.create(**options)
        list(client.chat.completions.create(**options, stream=True))
        client.completions.create(model="demo", prompt="a", echo=True, logprobs=1, max_tokens=4)
        client.responses.create(model="demo", input="hi", max_output_tokens=4)
        client.embeddings.create(model="demo", input="hi")

    added = [extensions(heard) for heard in ear.heard]

    page = {"has_more", "first_id", "last_id"}
    model = {"type", "display_name", "created_at", "context_length"}
    # OpenAI's own answers have `store`; its description forgets it.
    assert added == [page | model, {"stop_reason"}, {"stop_reason"}, set(), {"store"}, set()]


@pytest.mark.anyio
@BOTH
async def test_the_asynchronous_client_does_the_same(gateway: Gateway, ear: Ear, http2: bool) -> None:
    async with async_client(gateway, ear, http2=http2) as client:
        models = [model.id async for model in client.models.list()]
        parsed = await client.chat.completions.parse(
            model="demo", messages=MESSAGES, response_format=Forecast, max_tokens=400, seed=1
        )
        stream = await client.chat.completions.create(
            model="demo", messages=MESSAGES, stream=True, max_tokens=10
        )
        chunks = [chunk async for chunk in stream]
        async with client.responses.stream(model="demo", input="hi", text_format=Forecast) as events:
            final = await events.get_final_response()

    assert models == ["demo"]
    assert isinstance(parsed.choices[0].message.parsed, Forecast)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert isinstance(final.output_parsed, Forecast)


@pytest.mark.anyio
async def test_75_streams_at_once_take_one_connection(gateway: Gateway, ear: Ear) -> None:
    opened = 'wicketgate_connections_opened_total{protocol="h2"}'
    before = gateway.metrics()[opened]

    async with async_client(gateway, ear, http2=True) as client:

        async def stream() -> str | None:
            chunks = await client.chat.completions.create(
                model="demo", messages=MESSAGES, max_tokens=24, stream=True, extra_body={"ignore_eos": True}
            )
            reasons = [chunk.choices[0].finish_reason async for chunk in chunks]
            return reasons[-1]

        ends = await asyncio.gather(*(stream() for _ in range(75)))

    assert ends == ["length"] * 75
    assert gateway.metrics()[opened] - before == 1


def request_line(gateway: Gateway, request_id: str | None) -> dict[str, object] | None:
    lines = [line for line in gateway.events("request") if line["request_id"] == request_id]
    return lines[0] if lines else None


@pytest.mark.anyio
@pytest.mark.parametrize("is_sync", [True, False], ids=["sync", "async"])
async def test_a_client_of_http1_cancels_by_closing(
    gateway: Gateway, ear: Ear, eventually: Callable[..., None], is_sync: bool
) -> None:
    if is_sync:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=ear.client()) as client:
            stream = client.chat.completions.create(model="demo", messages=MESSAGES, stream=True, **ENDLESS)
            next(stream)
            stream.close()
    else:
        async with async_client(gateway, ear, http2=False) as client:
            waiting = await client.chat.completions.create(
                model="demo", messages=MESSAGES, stream=True, **ENDLESS
            )
            await anext(waiting)
            await waiting.close()

    request_id = ear.heard[0].headers["x-request-id"]
    eventually("its end is logged", lambda: request_line(gateway, request_id) is not None, 5)
    line = request_line(gateway, request_id)
    assert line["outcome"] == "cancelled"
    assert line["completion_tokens"] < 4000
    ear.heard.clear()  # its last event was cut


def test_a_client_of_http2_cancels_by_the_id_of_the_request(gateway: Gateway, ear: Ear) -> None:
    """No Python SDK resets an HTTP/2 stream."""
    options = {"base_url": f"{gateway.url}/v1", "api_key": "none", "http_client": ear.client(http2=True)}
    with OpenAI(**options) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="demo", messages=MESSAGES, stream=True, **ENDLESS
        )
        stream = raw.parse()
        next(stream)
        answer = client.delete(f"/requests/{raw.headers['x-request-id']}", cast_to=dict[str, object])
        with pytest.raises(openai.APIError) as caught:
            list(stream)

    assert answer["cancelled"] is True
    assert caught.value.code == "cancelled"
    assert request_line(gateway, raw.headers["x-request-id"])["outcome"] == "cancelled"
