"""Pins what every endpoint does, whatever it serves: ids, methods, faults of ours, and whose errors."""

from __future__ import annotations

import logging

import pytest
from starlette.routing import Route

from tests.api_fakes import Client, make_app
from transport.limits import BodyLimit
from wicketgate.api.endpoint import Endpoint, new_id
from wicketgate.api.envelopes import Family
from wicketgate.api.exchange import Exchange
from wicketgate.errors import UnavailableError

pytestmark = pytest.mark.anyio


def client(handle, *, methods=("GET",), **endpoint) -> Client:
    return Client(
        make_app(
            routes=lambda backend: [Route("/x", Endpoint(backend.edge, handle, methods=methods, **endpoint))]
        )
    )


async def answer(exchange):
    await exchange.answer({"said": "hello"})


async def break_down(_):
    raise RuntimeError("the secret s3cret, and what the user wrote")


async def refuse(_):
    raise UnavailableError("not now", code="starting", retry_after_s=2.0)


async def test_every_answer_names_its_request_for_both_kinds_of_clients():
    client_of = client(answer)
    first = await client_of.ask("/x", b"", method="GET")
    second = await client_of.ask("/x", b"", method="GET")

    assert first.headers["x-request-id"] == first.headers["request-id"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_ids_are_128_random_bits():
    ids = {new_id() for _ in range(100)}

    assert len(ids) == 100
    assert {len(each) for each in ids} == {len("req_") + 32}


async def test_another_method_is_refused_with_those_that_are_taken():
    reply = await client(answer, methods=("GET", "DELETE")).ask("/x", {})

    assert (reply.status, reply.headers["allow"]) == (405, "GET, DELETE, HEAD")
    assert reply.error["code"] == "method_not_allowed"


async def test_head_comes_with_get():
    reply = await client(answer).ask("/x", b"", method="HEAD")

    assert reply.status == 200


async def test_a_fault_of_ours_tells_the_client_only_where_to_look(caplog):
    with caplog.at_level(logging.ERROR):
        reply = await client(break_down).ask("/x", b"", method="GET")

    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert "s3cret" not in str(reply.json)
    assert reply.headers["x-should-retry"] == "false"
    assert caplog.records[0].request_id == reply.headers["x-request-id"]
    assert caplog.records[0].request_id in reply.error["message"]


@pytest.mark.parametrize(
    ("family", "headers", "status", "kind"),
    [
        (Family.OPENAI, {"anthropic-version": "2026-10-21"}, 503, "server_error"),
        (Family.ANTHROPIC, {}, 529, "overloaded_error"),
        (None, {}, 503, "server_error"),
        (None, {"anthropic-version": "2026-10-21"}, 529, "overloaded_error"),
    ],
)
async def test_an_error_comes_in_the_words_of_its_api_and_where_both_call_in_the_clients(
    family, headers, status, kind
):
    reply = await client(refuse, family=family).ask("/x", b"", method="GET", headers=headers)

    assert (reply.status, reply.json["error"]["type"]) == (status, kind)
    assert reply.headers["retry-after"] == "2"


async def test_of_a_body_that_is_refused_unread_nothing_is_kept():
    held, most = set(), 0

    class Part(bytes):
        def __del__(self):
            held.discard(id(self))

    async def receive():
        nonlocal most
        part = Part(b"x" * 1000)
        held.add(id(part))
        most, receive.left = max(most, len(held)), receive.left - 1
        return {"type": "http.request", "body": part, "more_body": receive.left > 0}

    async def send(_):
        pass

    receive.left = 50
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [], "client": None}
    limit = BodyLimit(max_bytes=100_000, timeout_s=10.0)
    exchange = Exchange(scope, receive, send, limit=limit, request_id="req_1")

    await exchange.refuse(UnavailableError("not now"))

    assert receive.left == 0
    assert most <= 3
