"""Pins what browsers are told: preflights before any key, allowed origins only, and what a page may read."""

from __future__ import annotations

import pytest
from starlette.routing import Route

from tests.api_fakes import Client, make_app
from wicketgate.api.cors import Cors
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.keys import Key, Keys, Role

SOME = Cors(origins=("https://example.org", "http://localhost:5173"), max_age_s=600.0)
ALL = Cors(origins=("*",), max_age_s=0.0)
SDK_HEADERS = "authorization,content-type,x-stainless-lang,anthropic-dangerous-direct-browser-access"


def client(cors: Cors | None) -> Client:
    async def answer(exchange):
        await exchange.answer({})

    def routes(backend):
        return [Route("/x", Endpoint(backend.edge, answer, methods=("POST",)))]

    keys = Keys([Key(id="a", role=Role.USER, sha256="0" * 64)])
    return Client(make_app(routes=routes, keys=keys, cors=lambda: cors))


async def preflight(cors: Cors | None, *, origin: str = "https://example.org", names: str = SDK_HEADERS):
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": names,
    }
    return await client(cors).ask("/x", b"", method="OPTIONS", headers=headers)


@pytest.mark.anyio
async def test_a_preflight_is_answered_without_a_key_and_allows_the_headers_that_sdks_send():
    reply = await preflight(SOME)

    assert (reply.status, reply.parts) == (204, [b""])
    assert reply.headers["access-control-allow-origin"] == "https://example.org"
    assert reply.headers["access-control-allow-headers"] == SDK_HEADERS
    assert reply.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert reply.headers["access-control-max-age"] == "600"
    assert reply.headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.anyio
async def test_another_origin_gets_no_header_and_no_error():
    reply = await preflight(SOME, origin="https://evil.example")

    assert reply.status == 204
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert reply.headers["vary"] == "origin"


@pytest.mark.anyio
async def test_everybody_may_where_the_configuration_says_so():
    reply = await preflight(ALL, origin="null")

    assert reply.headers["access-control-allow-origin"] == "*"
    assert "vary" not in reply.headers


@pytest.mark.anyio
@pytest.mark.parametrize("names", ["a\r\nset-cookie: x", "a,,b", "a b", ",".join(["a"] * 65), ""])
async def test_what_is_no_list_of_names_is_not_reflected(names):
    reply = await preflight(SOME, names=names)

    assert "access-control-allow-headers" not in reply.headers


@pytest.mark.anyio
async def test_an_error_can_be_read_by_the_page_too():
    reply = await client(SOME).ask("/x", headers={"origin": "http://localhost:5173"})

    assert reply.status == 401
    assert reply.headers["access-control-allow-origin"] == "http://localhost:5173"
    exposed = reply.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "request-id", "retry-after-ms", "x-ratelimit-remaining-tokens"} <= set(exposed)
    assert "anthropic-ratelimit-requests-reset" in exposed


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{}, {"origin": "https://evil.example"}])
async def test_an_answer_to_nobody_allowed_says_only_that_it_depends_on_the_origin(headers):
    reply = await client(SOME).ask("/x", headers=headers)

    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert reply.headers["vary"] == "origin"


@pytest.mark.anyio
async def test_without_configuration_a_preflight_is_a_method_like_any_other():
    reply = await preflight(None)

    assert (reply.status, reply.headers["allow"]) == (405, "POST")


@pytest.mark.anyio
async def test_options_without_an_origin_is_no_preflight():
    reply = await client(SOME).ask("/x", b"", method="OPTIONS", headers={})

    assert reply.status == 405


def test_hosts_are_compared_without_regard_to_case():
    cors = Cors(origins=("https://Example.org",), max_age_s=1.0)

    assert cors.headers("https://example.org")[0] == (
        b"access-control-allow-origin",
        b"https://example.org",
    )
