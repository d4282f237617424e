"""
The models that may be asked for, and what the server is.

OpenAI's and Anthropic's SDKs call the same paths: one body has the keys of both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from wicketgate.api.described import Described
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.requests import find_model

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange
    from wicketgate.api.requests import ModelCard

ROUTES: Final = (
    Described(path="/v1/models", method="GET", body=None, summary="List the models that may be asked for"),
    Described(path="/v1/models/{model}", method="GET", body=None, summary="Describe one model"),
    Described(path="/ping", method="GET", body=None, summary="Answer as soon as the server listens"),
    Described(path="/ping", method="POST", body=None, summary="Answer as soon as the server listens"),
    Described(path="/version", method="GET", body=None, summary="Tell the server's version"),
)


def model_routes(backend: Backend) -> list[BaseRoute]:
    """Make the routes /v1/models, /v1/models/NAME, /ping and /version."""

    async def show_all(exchange: Exchange) -> None:
        data = [_about(card) for card in backend.models()]
        ids = [card["id"] for card in data]
        ends = {"first_id": ids[0], "last_id": ids[-1]} if ids else {}
        await exchange.answer({"object": "list", "data": data, "has_more": False, **ends})

    async def show_one(exchange: Exchange) -> None:
        await exchange.answer(_about(find_model(backend.models(), exchange.path_params["model"])))

    async def ping(exchange: Exchange) -> None:
        await exchange.answer({})

    async def tell_version(exchange: Exchange) -> None:
        await exchange.answer({"version": version("wicketgate")})

    edge = backend.edge
    return [
        Route("/v1/models", Endpoint(edge, show_all, methods=("GET",), family=None)),
        Route("/v1/models/{model:path}", Endpoint(edge, show_one, methods=("GET",), family=None)),
        Route("/ping", Endpoint(edge, ping, methods=("GET", "POST"), is_public=True, is_exempt=True)),
        Route("/version", Endpoint(edge, tell_version, methods=("GET",))),
    ]


def _about(card: ModelCard) -> dict[str, object]:
    created = datetime.fromtimestamp(card.created_unix_s, tz=UTC)
    return {
        "id": card.id,
        "object": "model",
        "type": "model",
        "created": card.created_unix_s,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "display_name": card.id,
        "owned_by": "wicketgate",
        "context_length": card.context_tokens,
    }
