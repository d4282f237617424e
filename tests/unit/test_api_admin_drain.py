"""The route that drains: what it passes on, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.unit.test_api_admin import FakeOperations
from wicketgate.api.admin.app import create_admin_app
from wicketgate.api.admin.drain import drain_route

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio


async def ask(body: object) -> tuple[httpx.Response, list[bool]]:
    asked: list[bool] = []

    def drain(now: bool) -> Mapping[str, object]:
        asked.append(now)
        return {"in_flight": 2, "queued": 3, "drain_timeout_s": 30.0}

    app = create_admin_app(FakeOperations(), more_routes=[drain_route(drain)], guard=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        return await http.post("/v1/drain", json=body), asked


@pytest.mark.parametrize(("body", "now"), [({}, False), ({"now": False}, False), ({"now": True}, True)])
async def test_a_drain_is_passed_on(body, now) -> None:
    answer, asked = await ask({**body, "actor": "a", "reason": "r"})

    assert (answer.status_code, asked) == (200, [now])
    assert answer.json() == {
        "schema": "wicketgate.drain/1",
        "ok": True,
        "now": now,
        "in_flight": 2,
        "queued": 3,
        "drain_timeout_s": 30.0,
    }


@pytest.mark.parametrize(("body", "param"), [({"now": 1}, "now"), ({"nwo": True}, "nwo")])
async def test_what_makes_no_sense_drains_nothing(body, param) -> None:
    answer, asked = await ask(body)

    assert (answer.status_code, answer.json()["error"]["param"], asked) == (400, param, [])
