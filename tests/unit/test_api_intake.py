"""Pins how a body is taken in: packed or not, within its bound once unpacked, of which content types."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from starlette.routing import Route

from tests.api_fakes import Client, make_app
from wicketgate.api.endpoint import ApiSettings, Endpoint
from wicketgate.api.intake import ignored_headers, read_intake
from wicketgate.errors import InvalidRequestError

pytestmark = pytest.mark.anyio
BODY = json.dumps({"a": 1, "b": None}).encode()
JSON = {"content-type": "application/json"}


def routes(backend):
    async def show(exchange) -> None:
        intake = await read_intake(exchange, backend)
        about = {"fields": intake.fields, "casual": intake.is_casual, "session": intake.arrival.session}
        await exchange.answer(about)

    return [Route("/show", Endpoint(backend.edge, show, methods=("POST",)))]


async def show(body: bytes, **headers: str):
    settings = ApiSettings(max_body_bytes=100_000)
    app = make_app(routes=routes, settings=settings)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Client(app).ask("/show", body, headers=JSON | headers)


async def test_fields_that_are_null_are_absent() -> None:
    reply = await show(BODY, x_session_id="talk")

    assert reply.json == {"fields": {"a": 1}, "casual": False, "session": "talk"}


PACKED = gzip.compress(BODY, mtime=0)


@pytest.mark.parametrize(
    ("pack", "encoding"), [(gzip.compress, "gzip"), (gzip.compress, "X-GZIP"), (zlib.compress, "deflate")]
)
async def test_a_packed_body_is_unpacked(pack, encoding) -> None:
    reply = await show(pack(BODY), content_encoding=encoding)

    assert reply.json["fields"] == {"a": 1}


async def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = gzip.compress(bytes(50_000_000))

    reply = await show(bomb, content_encoding="gzip")

    assert len(bomb) < 100_000
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("body", [b"", b"no", PACKED[:-9], PACKED + b"more", b"\x1f\x8b" + bytes(30)])
async def test_a_body_that_is_not_what_its_encoding_says_is_refused(body) -> None:
    reply = await show(body, content_encoding="gzip")

    assert (reply.status, reply.error["code"]) == (400, "invalid_content_encoding")


async def test_an_unknown_encoding_is_refused_with_those_that_are_known() -> None:
    reply = await show(BODY, content_encoding="zap")

    assert (reply.status, reply.error["code"]) == (415, "unsupported_content_encoding")
    assert "gzip, deflate or identity" in reply.error["message"]


async def test_an_unpacked_body_as_long_as_allowed_is_taken() -> None:
    body = b'{"a":"' + b"x" * (100_000 - 8) + b'"}'

    taken = await show(gzip.compress(body), content_encoding="gzip")
    refused = await show(gzip.compress(body + b" "), content_encoding="gzip")

    assert (len(body), taken.status, refused.status) == (100_000, 200, 413)


@pytest.mark.parametrize(
    ("headers", "status", "casual"),
    [
        ({"content_type": "application/json; charset=utf-8"}, 200, False),
        ({"content_type": "application/x-www-form-urlencoded"}, 200, True),
        ({"content_type": ""}, 200, True),
        ({"content_type": "", "origin": "https://elsewhere.example"}, 400, None),
        ({"content_type": "text/plain"}, 400, None),
    ],
)
async def test_content_types_that_are_read(headers, status, casual) -> None:
    reply = await show(BODY, **headers)

    assert reply.status == status
    if casual is None:
        assert reply.error["code"] == "unsupported_content_type"
    else:
        assert reply.json["casual"] is casual


def test_unknown_fields_are_named_in_a_header_or_refused() -> None:
    fields = {"model": "demo", "zap": 1, "zip": 2}

    assert ignored_headers(fields, {"model"}, refuses=False) == ((b"x-wicketgate-ignored", b"zap, zip"),)
    assert ignored_headers({"model": "demo"}, {"model"}, refuses=False) == ()
    with pytest.raises(InvalidRequestError, match="zap"):
        ignored_headers(fields, {"model"}, refuses=True)
