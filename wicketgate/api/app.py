"""The clients' application: the routes of every API, on raw ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route, Router

from transport.instant import Instants
from wicketgate.api import cancel as cancelling
from wicketgate.api import embeddings, health, models, score, tokenize
from wicketgate.api.anthropic import routes as anthropic
from wicketgate.api.endpoint import Endpoint, not_found
from wicketgate.api.hosts import HostCheck, is_asked_for, misdirected
from wicketgate.api.openai import routes as openai
from wicketgate.api.openapi import openapi_route
from wicketgate.api.responses import routes as responses

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Scope

    from transport.instant import Instant
    from wicketgate.api.backend import Backend
    from wicketgate.api.endpoint import Edge
    from wicketgate.api.health import Probes
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
    probes: Probes,
    stored: StoreParams | None = None,
    more_routes: Sequence[Route] = (),
    hosts: Callable[[], Collection[str]] | None = None,
) -> ASGIApp:
    """
    Build the application.

    Args:
        backend: What answers are made of.
        probes: Those of this listener.
        stored: How much of /v1/responses is stored for those who ask for it.
        more_routes: Served too, with no key asked for.
        hosts: Names that requests may ask for while there are no keys; None: any.
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
        *probes.routes(),
        openapi_route(edge, DESCRIBED),
        *more_routes,
        # Starlette's own answer to another method is plain text.
        *(Route(each.path, _only(edge, each)) for each in more_routes),
    ]
    # The middlewares of starlette.applications.Starlette would wrap `send` for every chunk of a stream.
    nowhere = Endpoint(edge, not_found, methods=None, family=None)
    app = Router(routes, redirect_slashes=False, default=nowhere)
    if hosts is None:
        return app
    elsewhere = Endpoint(edge, misdirected, methods=None, is_public=True, is_exempt=True, family=None)
    return HostCheck(app, misdirected=elsewhere, keys=edge.keys, names=hosts)


def create_instants(probes: Probes, *, hosts: Callable[[], Collection[str]]) -> Instants:
    """
    Make what is answered without the application: plain probes, under a name that the application answers to.

    Args:
        probes: Those of this listener.
        hosts: As for the application.
    """

    def answer(scope: Scope) -> Instant | None:
        is_ours = is_asked_for(scope, keys=probes.edge.keys(), names=hosts)
        return probes.find(scope) if is_ours else None

    return Instants(health.PATHS, answer, probes.edge.probed)


def _only(edge: Edge, route: Route) -> Endpoint:
    """Refuse the methods that a route has not."""
    methods = tuple((route.methods or set()) - {"HEAD"})
    return Endpoint(edge, not_found, methods=methods, is_public=True, is_exempt=True, family=None)
