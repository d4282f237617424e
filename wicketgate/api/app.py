"""The clients' application: the routes of every API, on raw ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Router

from wicketgate.api import cancel as cancelling
from wicketgate.api import embeddings, health, models, score, tokenize
from wicketgate.api.anthropic import routes as anthropic
from wicketgate.api.endpoint import Endpoint, not_found
from wicketgate.api.openai import routes as openai
from wicketgate.api.openapi import openapi_route
from wicketgate.api.responses import routes as responses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from wicketgate.api.backend import Backend
    from wicketgate.api.health import Health
    from wicketgate.api.responses.store import StoreParams

DESCRIBED = (
    *openai.ROUTES,
    *responses.ROUTES,
    *anthropic.ROUTES,
    *score.ROUTES,
    *embeddings.ROUTES,
    *tokenize.ROUTES,
    *models.ROUTES,
    *cancelling.ROUTES,
    *health.ROUTES,
)
"""What /openapi.json tells of."""


def create_app(
    backend: Backend,
    *,
    health_facts: Callable[[], Health],
    stored: StoreParams | None = None,
    more_routes: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """
    Build the application.

    Args:
        backend: What answers are made of.
        health_facts: What probes are answered from.
        stored: How much of /v1/responses is stored for those who ask for it.
        more_routes: Served too, with no key asked for.
    """
    edge = backend.edge
    routes: list[BaseRoute] = [
        *openai.chat_routes(backend),
        *responses.response_routes(backend, params=stored),
        *anthropic.message_routes(backend),
        *score.score_routes(backend),
        *embeddings.embedding_routes(backend),
        *tokenize.tokenize_routes(backend),
        *models.model_routes(backend),
        *cancelling.cancel_routes(backend),
        *health.health_routes(edge, health_facts, clock=backend.clock),
        openapi_route(edge, DESCRIBED),
        *more_routes,
    ]
    # The middlewares of starlette.applications.Starlette would wrap `send` for every chunk of a stream.
    nowhere = Endpoint(edge, not_found, methods=None, family=None)
    return Router(routes, redirect_slashes=False, default=nowhere)
