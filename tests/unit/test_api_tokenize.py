"""Pins /tokenize and /detokenize: vLLM's shapes, llama.cpp's word, and what is refused by its field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.api_fakes import Client, make_app
from tests.job_fakes import FakeDesk
from tests.text_models import CHATML, byte_level, write_model
from wicketgate.api.tokenize import MAX_CHARS, tokenize_routes
from wicketgate.pipeline.text import TextModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[FakeDesk]:
    folder = write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": CHATML})
    text = TextModel.load(folder)
    yield FakeDesk(text)
    text.close()


@pytest.fixture
def client(desk: FakeDesk) -> Client:
    return Client(make_app(routes=tokenize_routes, jobs=desk.jobs()))


async def asked(client: Client, path: str, **fields: Any) -> Any:
    reply = await client.ask(path, {"model": "demo"} | fields)
    assert reply.status == 200, reply.json
    return reply.json


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
async def test_a_text_becomes_tokens_with_the_special_ones(client: Client, path: str) -> None:
    found = await asked(client, path, prompt='!"')

    assert found == {"count": 3, "max_model_len": 64, "tokens": [1, 2, 3]}


async def test_the_special_tokens_may_be_left_out_and_nothing_is_nothing(client: Client) -> None:
    without = await asked(client, "/tokenize", prompt="!", add_special_tokens=False)
    nothing = await asked(client, "/tokenize", prompt="", add_special_tokens=False)

    assert (without["tokens"], nothing["tokens"]) == ([2], [])


async def test_llama_cpps_word_for_the_prompt_is_understood(client: Client) -> None:
    assert (await asked(client, "/tokenize", content="!"))["tokens"] == [1, 2]


async def test_the_texts_of_the_tokens_come_where_they_are_asked_for(client: Client) -> None:
    found = await asked(client, "/tokenize", prompt="!", return_token_strs=True)

    assert found["token_strs"] == ["\x01", "\x02"]  # as the card of the tests says


async def test_messages_are_tokenised_as_the_template_writes_them(desk: FakeDesk, client: Client) -> None:
    whole = await asked(client, "/tokenize", messages=MESSAGES)
    closed = await asked(client, "/tokenize", messages=MESSAGES, add_generation_prompt=False)

    assert desk.text.decode(whole["tokens"]) == "<s>user:hi>"
    assert desk.text.decode(closed["tokens"]) == "<s>user:hi"


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
async def test_tokens_become_text(client: Client, path: str) -> None:
    found = await asked(client, path, tokens=[2, 3])

    assert found == {"prompt": '!"'}


@pytest.mark.parametrize(
    ("path", "fields", "param", "code"),
    [
        ("/tokenize", {}, "prompt", "missing_required_parameter"),  # 104
        ("/detokenize", {"tokens": [-1]}, "tokens[0]", "invalid_value"),  # 105
        ("/detokenize", {"tokens": [5, 300]}, "tokens[1]", "invalid_value"),
        ("/detokenize", {}, "tokens", "missing_required_parameter"),
        ("/tokenize", {"prompt": 5}, "prompt", "invalid_type"),
        ("/tokenize", {"prompt": "a" * (MAX_CHARS + 1)}, "prompt", "string_above_max_length"),
        ("/tokenize", {"messages": MESSAGES * 10_001}, "messages", "array_above_max_length"),
        (
            "/tokenize",
            {"messages": MESSAGES, "chat_template_kwargs": {"a": "x" * 9000}},
            "chat_template_kwargs",
            "string_above_max_length",
        ),
        ("/tokenize", {"messages": []}, "messages", "empty_array"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "messages", "invalid_parameter_combination"),
    ],
)
async def test_what_cannot_be_turned_is_refused_by_its_field(
    client: Client, path: str, fields: dict[str, Any], param: str, code: str
) -> None:
    reply = await client.ask(path, {"model": "demo"} | fields)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


async def test_tokenising_needs_no_ticket(desk: FakeDesk, client: Client) -> None:
    await asked(client, "/tokenize", prompt="!")

    assert desk.requests == []
