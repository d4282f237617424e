"""Pins how a body is taken in: packed or not, within its bound once unpacked, of which content types."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib

import pytest
from starlette.routing import Route

from tests.api_fakes import CARD, Client, make_app, make_backend
from wicketgate.api.endpoint import ApiSettings, Endpoint
from wicketgate.api.intake import INLINE_BYTES, Intake, beside, ignored_headers, read_intake
from wicketgate.api.requests import Arrival
from wicketgate.api.value_count import MORE_VALUES
from wicketgate.errors import InvalidRequestError, OverloadedError

pytestmark = pytest.mark.anyio
BODY = json.dumps({"a": 1, "b": None}).encode()
JSON = {"content-type": "application/json"}


def routes(backend):
    async def show(exchange) -> None:
        intake = await read_intake(exchange, backend)
        await exchange.answer({"fields": intake.fields, "session": intake.arrival.session})

    return [Route("/show", Endpoint(backend.edge, show, methods=("POST",)))]


async def show(body: bytes, *, max_body_bytes: int = 100_000, **headers: str):
    settings = ApiSettings(max_body_bytes=max_body_bytes)
    app = make_app(routes=routes, settings=settings)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Client(app).ask("/show", body, headers=JSON | headers)


async def test_fields_that_are_null_are_absent() -> None:
    reply = await show(BODY, x_session_id="talk")

    assert reply.json == {"fields": {"a": 1}, "session": "talk"}


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
    "headers",
    [
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": ""},
    ],
)
async def test_content_types_that_are_read(headers) -> None:
    assert (await show(BODY, **headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [{"content_type": "", "origin": "https://elsewhere.example"}, {"content_type": "text/plain"}],
)
async def test_content_types_that_are_not(headers) -> None:
    reply = await show(BODY, **headers)

    assert (reply.status, reply.error["code"]) == (400, "unsupported_content_type")


async def test_a_body_of_more_values_than_the_longest_prompt_has_is_refused_before_it_is_parsed() -> None:
    most = MORE_VALUES + CARD.context_tokens
    ones = b'{"a":[' + b",".join([b"1"] * (most + 1)) + b"]}"

    taken = await show(ones.replace(b"1,", b"", 1), max_body_bytes=1_000_000)
    refused = await show(ones, max_body_bytes=1_000_000)

    assert taken.status == 200
    assert (refused.status, refused.error["code"]) == (400, "array_above_max_length")
    assert f"at most {most} values" in refused.error["message"]


async def test_a_long_body_is_understood_beside_the_event_loop_one_at_a_time() -> None:
    backend = make_backend()
    arrival = Arrival(id="req_1", arrived_s=0.0, session=None, client=None, connection=None)
    short, long = (
        Intake(fields={}, size_bytes=size, arrival=arrival) for size in (INLINE_BYTES, INLINE_BYTES + 1)
    )

    assert await beside(backend, short, threading.get_ident) == threading.get_ident()
    assert await beside(backend, long, threading.get_ident) != threading.get_ident()


async def test_what_a_cancelled_call_has_begun_ends_before_the_next_begins_and_what_waits_is_not_done() -> (
    None
):
    backend, done = make_backend(), []
    arrival = Arrival(id="req_1", arrived_s=0.0, session=None, client=None, connection=None)
    long = Intake(fields={}, size_bytes=INLINE_BYTES + 1, arrival=arrival)
    has_begun, may_end = threading.Event(), threading.Event()

    def first() -> None:
        has_begun.set()
        may_end.wait(10)
        done.append("first")

    calls = [
        asyncio.create_task(beside(backend, long, work))
        for work in (first, lambda: done.append("second"), lambda: done.append("third"))
    ]
    await asyncio.to_thread(has_begun.wait, 10)
    for call in calls[:2]:
        call.cancel()
    await asyncio.gather(*calls[:2], return_exceptions=True)
    begun_early = list(done)
    may_end.set()
    await calls[2]

    assert begun_early == []
    assert done == ["first", "third"]


async def test_a_long_body_whose_turn_does_not_come_is_refused_and_never_read() -> None:
    backend, done = make_backend(), []
    arrival = Arrival(id="req_1", arrived_s=0.0, session=None, client=None, connection=None)
    long = Intake(fields={}, size_bytes=INLINE_BYTES + 1, arrival=arrival)
    may_end = threading.Event()
    first = asyncio.create_task(beside(backend, long, lambda: may_end.wait(10)))
    await asyncio.sleep(0)

    with pytest.raises(OverloadedError, match="too many of more than 32768 bytes") as refusal:
        await beside(backend, long, lambda: done.append("second"), turn_s=0)
    may_end.set()
    await first
    await beside(backend, long, lambda: done.append("third"))

    assert refusal.value.retry_after_s is not None
    assert done == ["third"]


def test_unknown_fields_are_named_in_a_header_or_refused() -> None:
    fields = {"model": "demo", "zap": 1, "zip": 2}

    assert ignored_headers(fields, {"model"}, refuses=False) == ((b"x-wicketgate-ignored", b"zap, zip"),)
    assert ignored_headers({"model": "demo"}, {"model"}, refuses=False) == ()
    with pytest.raises(InvalidRequestError, match="zap"):
        ignored_headers(fields, {"model"}, refuses=True)
