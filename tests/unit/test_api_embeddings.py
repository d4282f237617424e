"""Pins /v1/embeddings: every form of input, both forms of vectors, and what is refused by its field."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.api_fakes import CARD, Client, make_app
from tests.job_fakes import VECTOR_SIZE, FakeDesk, FakeEngine, vector
from tests.text_models import byte_level, write_model
from wicketgate.api.embeddings import MAX_TOKENS, embedding_routes
from wicketgate.errors import InvalidRequestError
from wicketgate.pipeline.jobs import EMBEDDED_TOGETHER
from wicketgate.pipeline.text import TextModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
PATH = "/v1/embeddings"
ABSENT = object()
ROWS: list[tuple[int, dict[str, Any], str, str]] = [
    (99, {"input": ABSENT}, "input", "missing_required_parameter"),
    (100, {"input": []}, "input", "empty_array"),
    (101, {"input": ""}, "input", "empty_string"),
    (102, {"encoding_format": "hex"}, "encoding_format", "invalid_value"),
    (103, {"input": [[999_999_999]]}, "input[0][0]", "invalid_value"),
    (0, {"input": 5}, "input", "invalid_type"),
    (0, {"input": ["a", ""]}, "input[1]", "empty_string"),
    (0, {"input": [[1], []]}, "input[1]", "empty_array"),
    (0, {"input": ["a", [1]]}, "input[1]", "invalid_type"),
    (0, {"input": ["a", 1]}, "input[1]", "invalid_type"),
    (0, {"input": [1, "a"]}, "input[1]", "invalid_type"),
    (0, {"input": [1, True]}, "input[1]", "invalid_type"),
    (0, {"input": [-1]}, "input[0]", "invalid_value"),
    (0, {"input": ["a"] * 2049}, "input", "array_above_max_length"),
    (0, {"input": ["a", "b" * 64]}, "input[1]", "context_length_exceeded"),
    (0, {"dimensions": 4}, "dimensions", "unsupported_parameter"),
    (0, {"pooling": "max"}, "pooling", "invalid_value"),
]
"""Changes to a valid body; numbers are those of the table that all APIs share."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[FakeDesk]:
    text = TextModel.load(write_model(tmp_path, byte_level()))
    yield FakeDesk(text)
    text.close()


def client(desk: FakeDesk) -> Client:
    return Client(make_app(routes=embedding_routes, jobs=desk.jobs()))


async def vectors(desk: FakeDesk, **fields: Any) -> list[list[float]]:
    reply = await client(desk).ask(PATH, {"model": "demo", "encoding_format": "float"} | fields)
    assert [each["index"] for each in reply.json["data"]] == list(range(len(reply.json["data"])))
    return [each["embedding"] for each in reply.json["data"]]


@pytest.mark.parametrize(
    ("number", "change", "param", "code"), ROWS, ids=[f"{row[0]}-{row[2]}" for row in ROWS]
)
async def test_what_cannot_be_embedded_is_refused_by_its_field(
    desk: FakeDesk, number: int, change: dict[str, Any], param: str, code: str
) -> None:
    fields = {"model": "demo", "input": "hi"} | change
    body = {name: value for name, value in fields.items() if value is not ABSENT}

    reply = await client(desk).ask(PATH, body)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    assert desk.engine.asked == []


async def test_a_vector_is_base64_of_little_endian_float32_where_nothing_is_said(desk: FakeDesk) -> None:
    reply = await client(desk).ask(PATH, {"model": "demo", "input": [5, 6]})

    (entry,) = reply.json["data"]
    numbers = struct.unpack(f"<{VECTOR_SIZE}f", base64.b64decode(entry["embedding"]))
    assert list(numbers) == vector([5, 6])
    assert reply.json == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": entry["embedding"]}],
        "model": "demo",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("!", [[1, 2]]),
        (["!", '"!'], [[1, 2], [1, 3, 2]]),
        ([7, 8], [[7, 8]]),
        ([[7], [8, 9]], [[7], [8, 9]]),
    ],
)
async def test_texts_get_special_tokens_and_ids_none(
    desk: FakeDesk, given: object, prompts: list[list[int]]
) -> None:
    assert await vectors(desk, input=given) == [vector(prompt) for prompt in prompts]
    assert desk.engine.asked == [("embed", prompts, "last")]


async def test_the_mean_may_be_asked_for(desk: FakeDesk) -> None:
    await vectors(desk, input="a", pooling="mean", user="me", dimensions=None)

    assert desk.engine.asked[0][2] == "mean"
    assert (desk.requests[0].api, desk.requests[0].key, desk.requests[0].priority) == ("embeddings", "me", 2)


async def test_many_inputs_go_to_the_engine_in_parts_and_come_back_in_order(desk: FakeDesk) -> None:
    inputs = [[index % 300, 5] for index in range(2048)]

    found = await vectors(desk, input=inputs)

    assert found == [vector(ids) for ids in inputs]
    assert [len(asked[1]) for asked in desk.engine.asked] == [EMBEDDED_TOGETHER] * 16
    assert (len(desk.requests), desk.prompt_tokens) == (1, [2 * 2048])


async def test_all_inputs_together_have_a_bound(desk: FakeDesk) -> None:
    app = make_app(routes=embedding_routes, jobs=desk.jobs(), models=[replace(CARD, context_tokens=1000)])
    reply = await Client(app).ask(PATH, {"model": "demo", "input": ["a" * 999] * (MAX_TOKENS // 1000 + 1)})

    assert (reply.status, reply.error["param"], reply.error["code"]) == (
        400,
        "input",
        "array_above_max_length",
    )
    assert f"{MAX_TOKENS} tokens" in reply.error["message"]
    assert desk.engine.asked == []


async def test_as_many_token_ids_are_taken_as_tokens_are(desk: FakeDesk) -> None:
    app = make_app(routes=embedding_routes, jobs=desk.jobs(), models=[replace(CARD, context_tokens=1000)])

    reply = await Client(app).ask(PATH, {"model": "demo", "input": [[5] * 150] * (MAX_TOKENS // 150)})

    assert reply.status == 200


async def test_more_numbers_than_are_written_at_once_are_refused_with_the_form_that_works(
    desk: FakeDesk,
) -> None:
    class Wide(FakeEngine):
        async def embed(self, prompts: Any, request: Any, *, pooling: str) -> list[bytes]:
            return [bytes(4 * 1024)] * len(prompts)

    desk.engine = Wide()
    body = {"model": "demo", "input": ["a"] * 1025}

    refused = await client(desk).ask(PATH, body | {"encoding_format": "float"})
    taken = await client(desk).ask(PATH, body)

    assert (refused.status, refused.error["param"]) == (400, "encoding_format")
    assert "send base64" in refused.error["message"]
    assert (taken.status, len(taken.json["data"])) == (200, 1025)


async def test_a_model_without_vectors_is_named(desk: FakeDesk) -> None:
    desk.engine.error = InvalidRequestError("embeddings: this model gives no hidden states")

    reply = await client(desk).ask(PATH, {"model": "demo", "input": "a"})

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "model", "unsupported_value")


async def test_another_refusal_of_the_engine_stays_what_it_is(desk: FakeDesk) -> None:
    desk.engine.error = InvalidRequestError("too much of it", param="input")

    reply = await client(desk).ask(PATH, {"model": "demo", "input": "a"})

    assert (reply.error["message"], reply.error["param"]) == ("too much of it", "input")
