"""Pins the list of models: one body for OpenAI's and Anthropic's clients, errors in their own words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.api_fakes import CARD, Client, make_app
from wicketgate.api.models import model_routes

pytestmark = pytest.mark.anyio
OTHER = replace(CARD, id="team/model-2")
ABOUT = {
    "id": "demo",
    "object": "model",
    "type": "model",
    "created": 1_700_000_000,
    "created_at": "2023-11-14T22:13:20Z",
    "display_name": "demo",
    "owned_by": "wicketgate",
    "context_length": 64,
}


def client(*cards: Any) -> Client:
    return Client(make_app(routes=model_routes, models=list(cards)))


async def test_the_list_has_the_keys_of_both_families() -> None:
    reply = await client(CARD, OTHER).ask("/v1/models", method="GET")

    assert reply.json == {
        "object": "list",
        "data": [ABOUT, ABOUT | {"id": OTHER.id, "display_name": OTHER.id}],
        "has_more": False,
        "first_id": "demo",
        "last_id": OTHER.id,
    }


async def test_an_empty_list_has_no_ends() -> None:
    reply = await client().ask("/v1/models", method="GET")

    assert reply.json == {"object": "list", "data": [], "has_more": False}


async def test_a_model_is_found_by_a_name_with_a_slash() -> None:
    # Servers hand a%2Fb over as a/b.
    reply = await client(CARD, OTHER).ask("/v1/models/team/model-2", method="GET")

    assert reply.json == ABOUT | {"id": OTHER.id, "display_name": OTHER.id}


async def test_an_unknown_model_is_not_found_in_openais_words() -> None:  # 119
    reply = await client(CARD).ask("/v1/models/nope", method="GET")

    assert reply.status == 404
    assert (reply.error["param"], reply.error["code"]) == ("model", "model_not_found")
    assert reply.error["type"] == "invalid_request_error"


async def test_and_in_anthropics_for_who_speaks_them() -> None:
    headers = {"anthropic-version": "2026-10-21"}
    reply = await client(CARD).ask("/v1/models/nope", method="GET", headers=headers)

    assert (reply.status, reply.json["type"], reply.json["error"]["type"]) == (
        404,
        "error",
        "not_found_error",
    )


async def test_the_list_cannot_be_posted_to() -> None:
    reply = await client(CARD).ask("/v1/models", {})

    assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")


async def test_a_ping_is_answered_and_the_version_told() -> None:
    app = client(CARD)
    ping = await app.ask("/ping", method="GET")
    version = await client(CARD).ask("/version", method="GET")

    assert (ping.status, ping.json) == (200, {})
    assert set(version.json) == {"version"}
