"""
Pins what requests get that are wrong before their fields are: bodies, methods, paths and keys.

These are numbers 106 to 121 of the invalid requests (122 stands in test_api_admin.py); none of them may
disturb a stream beside it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.api_fakes import Client, FakeAnswers, finished, make_app, make_backend, text
from wicketgate.api.endpoint import ApiSettings
from wicketgate.api.keys import Key, Keys, Role
from wicketgate.api.models import model_routes
from wicketgate.api.openai.routes import chat_routes
from wicketgate.api.responses.routes import response_routes

pytestmark = pytest.mark.anyio

MAX_BODY_BYTES = 200_000
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
KEYS = Keys([Key(id="alice", role=Role.USER, sha256=hashlib.sha256(b"k1").hexdigest())])
JSON = {"content-type": "application/json", "authorization": "Bearer k1"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One request, and what it gets; by default the chat of a good client."""

    number: int
    what: str
    body: Any = field(default_factory=lambda: CHAT)
    method: str = "POST"
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    param: str | None = None
    code: str = "invalid_json"
    status: int = 400


ROWS = [
    Row(
        number=106,
        what="a response that is not stored",
        method="GET",
        path="/v1/responses/resp_x",
        param="response_id",
        code="not_found",
        status=404,
    ),
    Row(number=107, what="a body that breaks off", body=b"{"),
    Row(number=108, what="an empty body", body=b""),
    Row(number=109, what="NaN", body=json.dumps(CHAT).encode()[:-1] + b',"temperature":NaN}'),
    Row(number=110, what="no UTF-8", body=b"\xff\xfe"),
    Row(number=111, what="100,000 brackets", body=b"[" * 100_000),
    Row(
        number=112,
        what="text",
        headers={"content-type": "text/plain"},
        code="unsupported_content_type",
    ),
    Row(
        number=113,
        what="a packing that nobody knows",
        headers={"content-encoding": "zap"},
        code="unsupported_content_encoding",
        status=415,
    ),
    Row(
        number=114,
        what="a gzip bomb",
        body=gzip.compress(bytes(30_000_000)),
        headers={"content-encoding": "gzip"},
        code="request_too_large",
        status=413,
    ),
    Row(
        number=115,
        what="a body over the cap",
        body=b" " * (MAX_BODY_BYTES + 1),
        code="request_too_large",
        status=413,
    ),
    Row(number=116, what="GET on chat", method="GET", code="method_not_allowed", status=405),
    Row(number=117, what="POST on models", path="/v1/models", code="method_not_allowed", status=405),
    Row(number=118, what="an unknown path", path="/v1/nope", code="unknown_url", status=404),
    Row(
        number=119,
        what="an unknown model",
        method="GET",
        path="/v1/models/nope",
        param="model",
        code="model_not_found",
        status=404,
    ),
    Row(number=120, what="no key", headers={"authorization": ""}, code="invalid_api_key", status=401),
    Row(
        number=121,
        what="a wrong key",
        headers={"authorization": "Bearer k2"},
        code="invalid_api_key",
        status=401,
    ),
]


def backend_of(answers: FakeAnswers):
    return make_backend(answers, keys=KEYS, settings=ApiSettings(max_body_bytes=MAX_BODY_BYTES))


def app_of(backend):
    def routes(backend):
        return [*chat_routes(backend), *model_routes(backend), *response_routes(backend)]

    return make_app(routes=routes, backend=backend)


async def ask(app, row: Row):
    return await Client(app).ask(row.path, row.body, method=row.method, headers=JSON | row.headers)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number} {row.what}")
async def test_a_wrong_request_is_refused_before_anything_is_computed(row):
    answers = FakeAnswers()
    reply = await ask(app_of(backend_of(answers)), row)

    assert (reply.status, reply.error["code"], reply.error["param"]) == (row.status, row.code, row.param)
    assert reply.error["type"] == "invalid_request_error"
    assert not answers.requests


async def test_none_of_them_is_noticed_by_a_stream():
    answers = FakeAnswers(items=[*text(*"abcdefghijkl"), finished()], pause_s=0.02)
    backend = backend_of(answers)
    app = app_of(backend)
    stream = asyncio.create_task(
        Client(app).ask("/v1/chat/completions", CHAT | {"stream": True}, headers=JSON)
    )
    replies = [await ask(app, row) for row in ROWS]
    events = (await stream).events

    assert [reply.status for reply in replies] == [row.status for row in ROWS]
    assert "".join(
        choice["delta"].get("content", "") for event in events[:-1] for choice in event["choices"]
    ) == ("abcdefghijkl")
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/v1/chat/completions", "POST")])
async def test_a_wrong_method_is_told_the_right_one(method, path, allowed):
    reply = await ask(app_of(backend_of(FakeAnswers())), Row(number=0, what="", method=method, path=path))

    assert reply.headers["allow"] == allowed
