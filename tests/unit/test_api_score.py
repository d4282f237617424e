"""Pins /v1/score and /generative_scoring: what is rated, both answers, and what is refused by its field."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.api_fakes import CARD, Client, make_app, make_backend
from tests.job_fakes import FakeDesk, logprob
from tests.text_models import byte_level, write_model
from wicketgate.api.score import score_routes
from wicketgate.errors import OverloadedError
from wicketgate.pipeline.text import TextModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

BODY: dict[str, Any] = {"model": "demo", "query": "a", "items": ["b"], "label_token_ids": [5, 6]}
MISSING, VALUE, TYPE = "missing_required_parameter", "invalid_value", "invalid_type"
ABSENT = object()
ROWS: list[tuple[int, dict[str, Any], str, str]] = [
    (90, {"query": ABSENT}, "query", MISSING),
    (91, {"items": []}, "items", "empty_array"),
    (92, {"items": ["a", [1]]}, "items[1]", TYPE),
    (93, {"label_token_ids": ABSENT}, "label_token_ids", MISSING),
    (94, {"label_token_ids": [-1]}, "label_token_ids[0]", VALUE),
    (95, {"label_token_ids": [999_999_999]}, "label_token_ids[0]", VALUE),
    (96, {"labels": ["y"]}, "labels", "invalid_parameter_combination"),
    (97, {"label_token_ids": ABSENT, "labels": [""]}, "labels[0]", "empty_string"),
    (98, {"query": [5]}, "query", TYPE),
    (0, {"items": ABSENT}, "items", MISSING),
    (0, {"items": [[1], ["a"]], "query": [1]}, "items[1][0]", TYPE),
    (0, {"items": [[True]], "query": [1]}, "items[0][0]", TYPE),
    (0, {"items": [[1, 300]], "query": [1]}, "items[0][1]", VALUE),
    (0, {"items": [[1]], "query": [-1]}, "query[0]", VALUE),
    (0, {"items": 5}, "items", TYPE),
    (0, {"items": ["a"] * 2049}, "items", "array_above_max_length"),
    (0, {"items": ["a"] * 2048, "label_token_ids": [5] * 17}, "items", "array_above_max_length"),
    (0, {"label_token_ids": []}, "label_token_ids", "empty_array"),
    (0, {"label_token_ids": [True]}, "label_token_ids[0]", TYPE),
    (0, {"label_token_ids": [1] * 257}, "label_token_ids", "array_above_max_length"),
    (0, {"label_normalization": "max"}, "label_normalization", VALUE),
    (0, {"join": "tokens"}, "join", VALUE),
    (0, {"apply_softmax": 1}, "apply_softmax", TYPE),
    (0, {"item_frist": True}, "item_frist", "unknown_parameter"),
    (0, {"items": ["b" * 62]}, "items[0]", "context_length_exceeded"),
    (0, {"priority": 10}, "priority", "integer_above_max_value"),
]
"""Changes to a valid body; numbers are those of the table that all APIs share."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[FakeDesk]:
    text = TextModel.load(write_model(tmp_path, byte_level()))
    yield FakeDesk(text)
    text.close()


def client(desk: FakeDesk, **more: Any) -> Client:
    return Client(make_app(routes=score_routes, jobs=desk.jobs(), **more))


def byte(character: str) -> int:
    """The token of a character below U+007F, as the tiny tokenizer numbers them."""
    return sorted([*range(0x21, 0x7F)]).index(ord(character)) + 2


def likely(text: str, label: int) -> float:
    return math.exp(logprob([1, *map(byte, text)], [label]))


@pytest.mark.parametrize(
    ("number", "change", "param", "code"), ROWS, ids=[f"{row[0]}-{row[2]}" for row in ROWS]
)
@pytest.mark.parametrize("path", ["/v1/score", "/generative_scoring"])
async def test_what_cannot_be_rated_is_refused_by_its_field(
    desk: FakeDesk, path: str, number: int, change: dict[str, Any], param: str, code: str
) -> None:
    body = {name: value for name, value in (BODY | change).items() if value is not ABSENT}

    reply = await client(desk).ask(path, body)

    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    assert desk.engine.asked == []


async def test_each_item_gets_the_probability_of_each_label(desk: FakeDesk) -> None:
    reply = await client(desk).ask("/v1/score", BODY | {"items": ["b", "cd", ""]})

    assert reply.status == 200
    assert reply.json == {
        "id": "score-" + "0" * 31 + "1",
        "object": "scoring",
        "created": 1_700_000_123,
        "model": "demo",
        "scores": [[likely(text, 5), likely(text, 6)] for text in ("ab", "acd", "a")],
        "usage": {
            "prompt_tokens": 3 + 4 + 2,
            "completion_tokens": 0,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


async def test_vllms_route_answers_with_the_first_label_and_shares_1_where_nothing_is_said(
    desk: FakeDesk,
) -> None:
    reply = await client(desk).ask("/generative_scoring", BODY | {"items": ["b", "c"]})

    first = [likely(text, 5) / (likely(text, 5) + likely(text, 6)) for text in ("ab", "ac")]
    assert reply.json["object"] == "list"
    assert reply.json["data"] == [
        {"index": index, "object": "score", "score": pytest.approx(score)}
        for index, score in enumerate(first)
    ]
    assert "scores" not in reply.json


@pytest.mark.parametrize("path", ["/v1/score", "/generative_scoring"])
async def test_what_the_body_says_of_softmax_holds_on_both_routes(desk: FakeDesk, path: str) -> None:
    def rows(reply: Any) -> list[float]:
        return (
            [row[0] for row in reply["scores"]]
            if "scores" in reply
            else [each["score"] for each in reply["data"]]
        )

    raw = await client(desk).ask(path, BODY | {"apply_softmax": False})
    shared = await client(desk).ask(path, BODY | {"apply_softmax": True, "label_token_ids": [5]})

    assert rows(raw.json) == [likely("ab", 5)]
    assert rows(shared.json) == [1.0]


async def test_labels_of_several_tokens_are_summed_or_averaged(desk: FakeDesk) -> None:
    body = {"query": "a", "items": ["b"], "labels": ["xyz", "x"]}
    whole = await client(desk).ask("/v1/score", body)
    mean = await client(desk).ask("/v1/score", body | {"label_normalization": "mean"})

    sums = [logprob([1, byte("a"), byte("b")], list(map(byte, label))) for label in ("xyz", "x")]
    assert whole.json["scores"] == [[pytest.approx(math.exp(each)) for each in sums]]
    assert mean.json["scores"] == [[pytest.approx(math.exp(sums[0] / 3)), pytest.approx(math.exp(sums[1]))]]


async def test_the_item_may_come_first(desk: FakeDesk) -> None:
    reply = await client(desk).ask("/v1/score", BODY | {"item_first": True})

    assert reply.json["scores"] == [[likely("ba", 5), likely("ba", 6)]]


async def test_ids_are_rated_as_they_are(desk: FakeDesk) -> None:
    reply = await client(desk).ask("/v1/score", BODY | {"query": [9, 8], "items": [[7], []]})

    wanted = [[math.exp(logprob(prompt, [label])) for label in (5, 6)] for prompt in ([9, 8, 7], [9, 8])]
    assert reply.json["scores"] == wanted
    assert desk.engine.asked == [("score", [9, 8], [[7], []], [[5], [6]])]


async def test_200_items_go_to_the_engine_as_one_question(desk: FakeDesk) -> None:
    items = [chr(33 + index % 90) * (1 + index % 7) for index in range(200)]

    reply = await client(desk).ask("/v1/score", BODY | {"items": items})

    assert reply.json["scores"] == [[likely(f"a{item}", 5), likely(f"a{item}", 6)] for item in items]
    assert len(desk.engine.asked) == len(desk.requests) == 1


async def test_order_and_company_change_no_score(desk: FakeDesk) -> None:
    items = ["b", "cc", "d", "cc"]
    together = await client(desk).ask("/v1/score", BODY | {"items": items})
    backwards = await client(desk).ask("/v1/score", BODY | {"items": items[::-1]})
    alone = [
        (await client(desk).ask("/v1/score", BODY | {"items": [item]})).json["scores"][0] for item in items
    ]

    assert together.json["scores"] == backwards.json["scores"][::-1] == alone


async def test_one_item_may_come_without_a_list(desk: FakeDesk) -> None:
    reply = await client(desk).ask("/v1/score", BODY | {"items": "b"})

    assert reply.json["scores"] == [[likely("ab", 5), likely("ab", 6)]]


@pytest.mark.parametrize("name", ["text_1", "queries", "documents"])
async def test_pairs_of_texts_are_answered_with_the_form_that_works(desk: FakeDesk, name: str) -> None:
    reply = await client(desk).ask("/v1/score", {"model": "demo", name: "a"})

    assert (reply.status, reply.error["param"]) == (400, name)
    assert '"query"' in reply.error["message"]
    assert '"items"' in reply.error["message"]


async def test_a_score_is_a_request_of_the_class_of_scores_with_what_it_computes(desk: FakeDesk) -> None:
    app = client(desk)
    headers = {"content-type": "application/json", "x-session-id": "s1"}
    await app.ask("/v1/score", BODY | {"items": ["b", "bcd"], "cache_salt": "t"}, headers=headers)

    (request,) = desk.requests
    assert (request.api, request.priority, request.salt, request.key) == ("score", 2, "t", "s1")
    assert len(request.prompt.ids) == 5


async def test_a_refusal_of_the_pipeline_gets_its_own_status(desk: FakeDesk) -> None:
    desk.error = OverloadedError("full", retry_after_s=2.0)

    reply = await client(desk).ask("/v1/score", BODY)

    assert (reply.status, reply.error["code"]) == (429, "overloaded")


async def test_fields_that_nobody_knows_are_named(desk: FakeDesk) -> None:
    reply = await client(desk).ask("/v1/score", BODY | {"wings": 2})

    assert reply.headers["x-wicketgate-ignored"] == "wings"


async def test_without_a_model_one_must_be_the_only_one(desk: FakeDesk) -> None:
    body = {name: value for name, value in BODY.items() if name != "model"}
    one = await client(desk).ask("/v1/score", body)
    two = await client(desk, models=[CARD, replace(CARD, id="other")]).ask("/v1/score", body)

    assert one.status == 200
    assert (two.status, two.error["param"], two.error["code"]) == (400, "model", MISSING)


class Stuck:
    """An engine that never answers."""

    context_tokens = 64

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.left = asyncio.Event()

    async def score(self, *_: Any, **__: Any) -> None:
        self.began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.left.set()


async def test_a_client_that_goes_away_ends_the_work(desk: FakeDesk) -> None:
    stuck = desk.engine = Stuck()
    app = client(desk)
    asking = asyncio.create_task(app.ask("/v1/score", BODY))
    await stuck.began.wait()

    app.gone.set()
    reply = await asking

    assert stuck.left.is_set()
    assert reply.parts == []


async def test_a_call_can_be_ended_by_its_id(desk: FakeDesk) -> None:
    from wicketgate.errors import CancelledRequestError

    stuck = desk.engine = Stuck()
    backend = make_backend(jobs=desk.jobs())
    app = Client(make_app(routes=score_routes, backend=backend))
    asking = asyncio.create_task(app.ask("/v1/score", BODY))
    await stuck.began.wait()

    (name,) = backend.generation.live._entries
    is_stopped = backend.generation.live.stop(name, CancelledRequestError("told to"), client=None)
    reply = await asking

    assert is_stopped
    assert stuck.left.is_set()
    assert (reply.status, reply.error["code"]) == (499, "cancelled")
    assert not backend.generation.live.stop(name, CancelledRequestError("told to"), client=None)


async def test_an_echo_that_is_assessed_can_be_ended_by_its_id(desk: FakeDesk) -> None:
    from wicketgate.api.openai.routes import chat_routes
    from wicketgate.errors import CancelledRequestError

    stuck = desk.engine = Stuck()
    stuck.assess = stuck.score
    backend = make_backend(jobs=desk.jobs())
    app = Client(make_app(routes=chat_routes, backend=backend))
    body = {"prompt": [1, 2], "echo": True, "logprobs": 1, "max_tokens": 1}
    asking = asyncio.create_task(app.ask("/v1/completions", body))
    await stuck.began.wait()

    (name,) = backend.generation.live._entries
    backend.generation.live.stop(name, CancelledRequestError("told to"), client=None)
    reply = await asking

    assert (reply.status, reply.error["code"]) == (499, "cancelled")
