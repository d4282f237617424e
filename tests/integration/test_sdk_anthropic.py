"""The official anthropic-python against a really started gateway, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel, Field

from tests.conftest import DEMO
from tests.recorded_http import Ear
from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ASK = {"model": "demo", "max_tokens": 30, "messages": [{"role": "user", "content": "Tell me about water."}]}


class Forecast(BaseModel):
    """What a random model can be held to, and ends."""

    city: str = Field(max_length=12)
    days: int = Field(ge=0, le=30)
    sky: Literal["clear", "cloudy"]


class Sky(BaseModel):
    """The same without bounds: the SDK sends none, but writes them into descriptions."""

    days: int
    sky: Literal["clear", "cloudy"]


TOOL = {
    "name": "forecast",
    "description": "Tell the weather",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "days": {"type": "integer", "minimum": 0, "maximum": 30},
            "sky": {"enum": ["clear", "cloudy"]},
        },
        "required": ["city", "days", "sky"],
    },
}
NAMED = {"type": "tool", "name": "forecast"}
TOOLS = {**ASK, "tools": [TOOL], "max_tokens": 400}

BOTH = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
"""What is carried differently by the two; the rest is asked for over HTTP/1.1, as the SDK does by itself."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("sdk"), DEMO) as running:
        yield running


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def http2() -> bool:
    return False


@pytest.fixture
def client(gateway: Gateway, ear: Ear, http2: bool) -> Iterator[Anthropic]:
    options = {"base_url": gateway.url, "api_key": "none", "max_retries": 0}
    with Anthropic(**options, http_client=ear.client(http2=http2)) as client:
        yield client


@BOTH
def test_a_message_says_what_it_cost(client: Anthropic) -> None:
    message = client.messages.create(**ASK, system="Be brief.")

    assert (message.type, message.role, message.model) == ("message", "assistant", "demo")
    assert message.content[0].text
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 10
    assert 1 <= message.usage.output_tokens <= 30


@BOTH
def test_a_stream_adds_up_to_a_message(client: Anthropic) -> None:
    with client.messages.stream(**ASK) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()

    assert len(texts) > 5
    assert "".join(texts) == final.content[0].text
    assert final.usage.output_tokens >= len(texts)
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) > 10
    assert final.stop_reason in ("end_turn", "max_tokens")


@BOTH
def test_events_come_in_their_order(client: Anthropic) -> None:
    events = [event.type for event in client.messages.create(**ASK, stream=True)]

    deltas = events[2:-3]
    assert events[:2] == ["message_start", "content_block_start"]
    assert set(deltas) == {"content_block_delta"}
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_stop_sequence_is_named(client: Anthropic) -> None:
    message = client.messages.create(**{**ASK, "max_tokens": 100}, stop_sequences=["e"])

    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "e")
    assert all("e" not in block.text for block in message.content)


@pytest.mark.parametrize("choice", [{"type": "any"}, NAMED], ids=["any", "tool"])
@BOTH
def test_a_call_that_is_demanded_is_valid(client: Anthropic, choice: dict[str, str]) -> None:
    only = {**choice, "disable_parallel_tool_use": True}

    whole = client.messages.create(**TOOLS, tool_choice=only)
    with client.messages.stream(**TOOLS, tool_choice=only) as stream:
        events = list(stream)
        final = stream.get_final_message()

    for message in (whole, final):
        (call,) = message.content
        Forecast.model_validate(call.input)
        assert (call.type, call.name, message.stop_reason) == ("tool_use", "forecast", "tool_use")
    pieces = [event.partial_json for event in events if event.type == "input_json"]
    assert len(pieces) > 2
    Forecast.model_validate_json("".join(pieces))


def test_what_a_call_gave_is_answered(client: Anthropic) -> None:
    called = client.messages.create(**TOOLS, tool_choice=NAMED)
    given = {"type": "tool_result", "tool_use_id": called.content[0].id, "content": "rain"}
    turns = [{"role": "assistant", "content": called.content}, {"role": "user", "content": [given]}]

    answer = client.messages.create(
        **{**TOOLS, "max_tokens": 8, "messages": ASK["messages"] + turns}, tool_choice={"type": "none"}
    )

    assert answer.content[0].text


def test_an_answer_is_parsed_as_the_class_that_was_asked_for(client: Anthropic) -> None:
    message = client.messages.parse(**{**ASK, "max_tokens": 400}, output_format=Sky)

    assert isinstance(message.parsed_output, Sky)


def test_tokens_are_counted_as_a_message_uses_them(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="demo", messages=ASK["messages"], system="Be brief.")
    beta = client.beta.messages.count_tokens(model="demo", messages=ASK["messages"], system="Be brief.")

    used = client.messages.create(**ASK, system="Be brief.").usage
    assert counted.input_tokens == beta.input_tokens
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)


def test_the_beta_client_does_the_same(client: Anthropic) -> None:
    assert client.beta.messages.create(**ASK, betas=["some-beta"]).content[0].text


def test_models_are_listed_and_described(client: Anthropic) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").type == "model"


@pytest.mark.parametrize(
    ("change", "error", "kind", "start"),
    [
        ({"model": "nope"}, anthropic.NotFoundError, "not_found_error", "model: "),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error", "messages: "),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "messages.0.role: ",
        ),
    ],
)
@BOTH
def test_errors_have_the_types_that_the_sdk_knows(
    client: Anthropic,
    ear: Ear,
    change: dict[str, object],
    error: type[anthropic.APIError],
    kind: str,
    start: str,
) -> None:
    with pytest.raises(error) as caught:
        client.messages.create(**ASK | change)

    assert caught.value.type == kind
    assert caught.value.body["error"]["message"].startswith(start)
    assert caught.value.request_id == caught.value.body["request_id"] == ear.heard[0].headers["request-id"]


@pytest.mark.anyio
@BOTH
async def test_the_asynchronous_client_does_the_same(gateway: Gateway, ear: Ear, http2: bool) -> None:
    options = {"base_url": gateway.url, "api_key": "none", "http_client": ear.async_client(http2=http2)}
    async with AsyncAnthropic(**options) as client:
        whole = await client.messages.create(**ASK)
        async with client.messages.stream(**TOOLS, tool_choice=NAMED) as stream:
            final = await stream.get_final_message()
        counted = await client.messages.count_tokens(model="demo", messages=ASK["messages"])

    assert whole.content[0].text
    Forecast.model_validate(final.content[0].input)
    assert counted.input_tokens > 10


def test_a_client_of_http1_cancels_by_closing(
    gateway: Gateway, ear: Ear, eventually: Callable[..., None]
) -> None:
    options = {"base_url": gateway.url, "api_key": "none", "http_client": ear.client()}
    with Anthropic(**options) as client:
        stream = client.messages.create(
            **{**ASK, "max_tokens": 4000}, stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        stream.close()

    request_id = ear.heard[0].headers["request-id"]

    def ends() -> list[object]:
        return [line["outcome"] for line in gateway.events("request") if line["request_id"] == request_id]

    eventually("its end is logged", lambda: ends() != [], 5)
    assert ends() == ["cancelled"]
