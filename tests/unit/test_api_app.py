"""Pins how the clients' application serves a page that is not its own, such as /metrics."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.api_fakes import READY, Client, make_backend
from wicketgate.api.app import create_app
from wicketgate.api.health import Probes

pytestmark = pytest.mark.anyio


def application():
    async def page(_):
        return PlainTextResponse("a_total 1\n")

    route = Route("/metrics", page)
    backend = make_backend()
    return create_app(backend, probes=Probes(backend.edge, lambda: READY), more_routes=[route])


async def test_it_is_served_as_it_is():
    transport = httpx.ASGITransport(app=application())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/metrics")).text == "a_total 1\n"


async def test_another_method_is_refused_in_the_apis_envelope():
    reply = await Client(application()).ask("/metrics", b"x")

    assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD"
