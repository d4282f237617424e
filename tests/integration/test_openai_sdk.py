"""The official SDK against a really started server: streams, answers, usage, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import openai
import pytest
from openai import OpenAI
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server import Gateway

MESSAGES = [{"role": "user", "content": "Tell me about water."}]


@pytest.fixture
def client(server: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(demo_model / "tokenizer.json"))


def test_a_chat_streams_words_and_ends(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo", messages=MESSAGES, stream=True, seed=1, max_tokens=40, temperature=0.5
    )

    chunks = list(stream)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(text.split()) > 5
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


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


def test_a_stream_reports_usage_when_asked(client: OpenAI) -> None:
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


def test_a_stop_text_ends_the_answer_before_it(client: OpenAI) -> None:
    options = {"model": "demo", "prompt": "The following", "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**options).choices[0].text
    stop = whole[10:14]

    answer = client.completions.create(**options, stop=[stop])

    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_the_sdk_works_over_http2(server: Gateway) -> None:
    transport = httpx.HTTPTransport(http1=False, http2=True)
    http_client = httpx.Client(transport=transport)
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http_client) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="demo", messages=MESSAGES, max_tokens=4
        )

    assert answer.http_response.http_version == "HTTP/2"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "http2_transport" in answer.headers["x-wicketgate-flags"]


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=MESSAGES)

    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, "messages"),
    ],
)
def test_a_bad_request_names_its_field(client: OpenAI, options: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**({"model": "demo", "messages": MESSAGES} | options))

    assert caught.value.param is not None
    assert caught.value.param.startswith(param)
    assert caught.value.body["message"]
