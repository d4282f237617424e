"""
What breaks clients of other servers, tried on ours with openai-python and anthropic-python and faked answers.

Slow streams, failures in every place, refusals and what is made of them, thinking, and calls side by side.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tests.api_edge import ApiEdge
from tests.api_fakes import FakeAnswers, finished, text
from tests.openai_schemas import extensions
from tests.recorded_http import Ear
from wicketgate.api.endpoint import ApiSettings
from wicketgate.errors import DeadlineExceededError, EngineFailedError, InternalError, OverloadedError
from wicketgate.inference import FinishReason
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
MESSAGES = [{"role": "user", "content": "hi"}]
ASK = {"model": "demo", "messages": MESSAGES, "max_tokens": 16}
RESPONSE = {"model": "demo", "input": "hi"}
FAILURE = finished(FinishReason.ERROR, error=EngineFailedError("out of memory"))


@dataclass
class Sdks:
    """Clients of one listener, and what came over the wire to them."""

    answers: FakeAnswers
    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    ear: Ear


@asynccontextmanager
async def sdks(
    answers: FakeAnswers, *, retries: int = 0, http2: bool = True, **more: Any
) -> AsyncIterator[Sdks]:
    ear, other = Ear(), Ear()
    async with ApiEdge(answers, **more) as edge:
        options: dict[str, Any] = {"api_key": "none", "max_retries": retries}
        async with (
            openai.AsyncOpenAI(
                base_url=f"{edge.url}/v1", http_client=ear.async_client(http2=http2), **options
            ) as first,
            anthropic.AsyncAnthropic(
                base_url=edge.url, http_client=other.async_client(http2=http2), **options
            ) as second,
        ):
            yield Sdks(answers, first, second, ear)
    assert ear.faults == []


class Refusing(FakeAnswers):
    """Refuses the first request, and answers those after it."""

    async def open(self, request: Any, *, client_request_id: str | None = None) -> Any:
        try:
            return await super().open(request, client_request_id=client_request_id)
        finally:
            self.error = None


async def content(stream: Any) -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


# Slow streams


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
async def test_heartbeats_of_a_slow_stream_disturb_nobody(http2: bool) -> None:
    slow = {"settings": ApiSettings(heartbeat_s=0.02, hold_headers_s=0.02)}
    async with sdks(FakeAnswers(pause_s=0.1), http2=http2, **slow) as clients:
        chat = await content(await clients.openai.chat.completions.create(**ASK, stream=True))
        old = await clients.openai.completions.create(model="demo", prompt="hi", stream=True)
        completed = "".join([chunk.choices[0].text async for chunk in old])
        async with clients.openai.responses.stream(**RESPONSE) as response:
            responded = (await response.get_final_response()).output_text
        async with clients.anthropic.messages.stream(**ASK) as message:
            said = await message.get_final_text()

    assert [chat, completed, responded, said] == ["Hello"] * 4
    for heard in clients.ear.heard:
        assert heard.body.count(b": ping\n") > 2
        assert b": ping\n\n" not in heard.body, "a blank line would end an event that is none"


async def test_the_end_comes_in_the_same_write_as_the_last_event() -> None:
    async with sdks(FakeAnswers(pause_s=0.01)) as clients:
        stream = await clients.openai.chat.completions.with_raw_response.create(**ASK, stream=True)
        parts = [part async for part in stream.http_response.aiter_raw()]

    assert b'"finish_reason":"stop"' in parts[-1]
    assert parts[-1].endswith(b"data: [DONE]\n\n")


async def test_separators_of_lines_in_a_text_end_no_event() -> None:
    odd = "a\u2028b\u2029c\u0085d\r\ne"
    async with sdks(FakeAnswers([*text(odd), finished()])) as clients:
        streamed = await content(await clients.openai.chat.completions.create(**ASK, stream=True))
        async with clients.anthropic.messages.stream(**ASK) as message:
            said = await message.get_final_text()

    assert streamed == said == odd
    (heard,) = clients.ear.heard
    assert all(len(line.splitlines()) == 1 for line in heard.body.decode().split("\n") if line)


# Failures


async def test_a_failure_before_the_first_token_has_a_status() -> None:
    async with sdks(FakeAnswers([FAILURE])) as clients:
        with pytest.raises(openai.InternalServerError) as first:
            await clients.openai.chat.completions.create(**ASK, stream=True)
        with pytest.raises(openai.InternalServerError):
            await clients.openai.responses.create(**RESPONSE, stream=True)
        with pytest.raises(anthropic.InternalServerError) as second:
            await clients.anthropic.messages.create(**ASK, stream=True)

    assert (first.value.status_code, first.value.code) == (500, "engine_failed")
    assert (second.value.status_code, second.value.type) == (500, "api_error")


async def test_a_failure_in_the_middle_of_a_stream_is_raised_with_its_type() -> None:
    async with sdks(FakeAnswers([*text("Hel"), FAILURE]), retries=2) as clients:
        with pytest.raises(openai.APIError, match="out of memory") as chat:
            await content(await clients.openai.chat.completions.create(**ASK, stream=True))
        events = [event async for event in await clients.openai.responses.create(**RESPONSE, stream=True)]
        with pytest.raises(anthropic.APIStatusError, match="out of memory") as message:
            async with clients.anthropic.messages.stream(**ASK) as stream:
                await stream.get_final_message()

    assert (chat.value.code, chat.value.type) == ("engine_failed", "server_error")
    assert (events[-1].type, events[-1].response.error.code) == ("response.failed", "server_error")
    assert message.value.type == "api_error"
    assert len(clients.answers.requests) == 3, "nothing of a stream that has begun is tried again"


# Refusals


async def test_clients_come_back_when_they_are_told_to() -> None:
    """By themselves they would wait for half a second at most."""
    for name in ("openai", "anthropic"):
        answers = Refusing(error=OverloadedError("full", retry_after_s=0.8))
        async with sdks(answers, retries=1) as clients:
            began_s = time.monotonic()
            if name == "openai":
                await clients.openai.chat.completions.create(**ASK)
            else:
                await clients.anthropic.messages.create(**ASK)

        assert time.monotonic() - began_s >= 0.8
        assert len(answers.requests) == 2


async def test_shedding_is_a_529_to_anthropics_client_and_a_429_to_openais() -> None:
    async with sdks(FakeAnswers(error=OverloadedError("full", retry_after_s=5))) as clients:
        with pytest.raises(anthropic.APIStatusError) as first:
            await clients.anthropic.messages.create(**ASK)
        with pytest.raises(openai.RateLimitError) as second:
            await clients.openai.chat.completions.create(**ASK)

    assert (first.value.status_code, first.value.type) == (529, "overloaded_error")
    assert (second.value.type, second.value.code) == ("server_error", "overloaded")
    for refused in (first.value, second.value):
        assert 5 <= int(refused.response.headers["retry-after"]) <= 7
        assert 5000 <= int(refused.response.headers["retry-after-ms"]) <= 6250


@pytest.mark.parametrize("error", [InternalError("a fault"), DeadlineExceededError("too long")])
async def test_what_would_fail_again_is_not_tried_again(error: Exception) -> None:
    async with sdks(FakeAnswers(error=error), retries=2) as clients:
        with pytest.raises(openai.InternalServerError):
            await clients.openai.chat.completions.create(**ASK)
        with pytest.raises(anthropic.APIStatusError):
            await clients.anthropic.messages.create(**ASK)

    assert len(clients.answers.requests) == 2


# Answers of several parts


def call(index: int, name: str, *pieces: str) -> list[Any]:
    return [CallOpened(index=index, name=name), *(CallArguments(index=index, text=piece) for piece in pieces)]


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("look", "go")
]
CALLS = [
    ReasoningChunk(text="Let me ", tokens=1),
    ReasoningChunk(text="see.", tokens=1),
    *text("I look."),
    *call(0, "look", '{"at"', ':"you"}'),
    *call(1, "go", "{}"),
    finished(calls=2, reasoning_tokens=2),
]


async def test_thinking_text_and_parallel_calls_add_up_in_a_chat() -> None:
    async with sdks(FakeAnswers(CALLS)) as clients:
        whole = await clients.openai.chat.completions.create(**ASK, tools=TOOLS)
        async with clients.openai.chat.completions.stream(**ASK, tools=TOOLS) as stream:
            final = await stream.get_final_completion()
        extra = [extensions(heard) for heard in clients.ear.heard]

    for choice in (whole.choices[0], final.choices[0]):
        calls = choice.message.tool_calls
        assert [(each.function.name, each.function.arguments) for each in calls] == [
            ("look", '{"at":"you"}'),
            ("go", "{}"),
        ]
        assert len({each.id for each in calls}) == 2
        assert (choice.message.role, choice.message.content) == ("assistant", "I look.")
        assert choice.message.reasoning_content == "Let me see."
        assert choice.finish_reason == "tool_calls"
    assert extra == [{"reasoning_content"}] * 2


async def test_thinking_text_and_parallel_calls_are_items_of_a_response() -> None:
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    async with sdks(FakeAnswers(CALLS)) as clients:
        whole = await clients.openai.responses.create(**RESPONSE, tools=flat)
        async with clients.openai.responses.stream(**RESPONSE, tools=flat) as stream:
            final = await stream.get_final_response()

    for response in (whole, final):
        thinking, message, look, go = response.output
        assert thinking.content[0].text == "Let me see."
        assert message.content[0].text == "I look."
        assert [(look.name, look.arguments), (go.name, go.arguments)] == [
            ("look", '{"at":"you"}'),
            ("go", "{}"),
        ]
        assert len({look.call_id, go.call_id, look.id, go.id}) == 4


async def test_thinking_text_and_parallel_calls_are_blocks_of_a_message() -> None:
    tools = [{"name": tool["function"]["name"], "input_schema": {"type": "object"}} for tool in TOOLS]
    async with sdks(FakeAnswers(CALLS)) as clients:
        whole = await clients.anthropic.messages.create(**ASK, tools=tools)
        async with clients.anthropic.messages.stream(**ASK, tools=tools) as stream:
            final = await stream.get_final_message()

    for message in (whole, final):
        thinking, words, look, go = message.content
        assert (thinking.thinking, bool(thinking.signature)) == ("Let me see.", True)
        assert words.text == "I look."
        assert [(look.name, look.input), (go.name, go.input)] == [("look", {"at": "you"}), ("go", {})]
        assert message.stop_reason == "tool_use"


async def test_choices_open_in_order_whichever_speaks_first() -> None:
    later, sooner = [[]] * 5 + [*text("a"), finished()], [*text("b"), finished()]
    async with sdks(FakeAnswers(choices=[later, sooner])) as clients:
        async with clients.openai.chat.completions.stream(**ASK, n=2) as stream:
            final = await stream.get_final_completion()

    assert [choice.message.content for choice in final.choices] == ["a", "b"]
