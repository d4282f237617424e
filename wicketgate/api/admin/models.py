"""
Routes of the admin application about models and their prefix stores.

They change what is loaded and what is kept, never who gets a feature; on TCP a change needs the token, as the
admin application sees to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec
from starlette.responses import JSONResponse
from starlette.routing import Route

from wicketgate.api.admin.app import read_body, text_field
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from wicketgate.engine.wire import CacheReport

SCHEMA_MODELS: Final = "wicketgate.models/1"
SCHEMA_CACHE: Final = "wicketgate.cache/1"

Tier = Literal["", "memory", "disk", "all"]
_TIERS: Final[dict[str, Tier]] = {"memory": "memory", "disk": "disk", "all": "all"}


class ModelOperations(Protocol):
    """What the routes ask of the runtime; each raises what the operator should hear."""

    def load(self, name: str) -> object:
        """Begin to load a model; nothing happens to one that is loaded."""

    def unload(self, name: str) -> object:
        """Begin to unload a model; nothing happens to one that is not loaded."""

    async def cache(self, name: str | None, *, clear: Tier = "") -> Mapping[str, CacheReport]:
        """Return what the prefix stores of loaded models hold, after clearing them as asked."""


def model_routes(
    operations: ModelOperations, *, rows: Callable[[], Sequence[Mapping[str, object]]]
) -> list[BaseRoute]:
    """
    Make the routes under /v1/engine.

    Args:
        operations: The runtime's models.
        rows: Returns every configured model as screens read it.
    """

    def listed() -> Response:
        return JSONResponse({"schema": SCHEMA_MODELS, "ok": True, "models": list(rows())})

    async def list_models(_: Request) -> Response:
        return listed()

    async def load(request: Request) -> Response:
        operations.load(request.path_params["model"])
        return listed()

    async def unload(request: Request) -> Response:
        operations.unload(request.path_params["model"])
        return listed()

    async def show_cache(request: Request) -> Response:
        return _reports(await operations.cache(request.query_params.get("model")))

    async def clear_cache(request: Request) -> Response:
        body = await read_body(request)
        named = text_field(body, "tier") or "all"
        tier = _TIERS.get(named)
        if tier is None:
            raise InvalidRequestError(f"tier must be memory, disk or all, got {named[:40]}", param="tier")
        return _reports(await operations.cache(text_field(body, "model"), clear=tier))

    return [
        Route("/v1/engine/models", list_models),
        Route("/v1/engine/models/{model:path}/load", load, methods=["POST"]),
        Route("/v1/engine/models/{model:path}/unload", unload, methods=["POST"]),
        Route("/v1/engine/cache", show_cache),
        Route("/v1/engine/cache/clear", clear_cache, methods=["POST"]),
    ]


def _reports(reports: Mapping[str, CacheReport]) -> Response:
    rows = []
    for model, report in reports.items():
        row = msgspec.structs.asdict(report)
        del row["id"]
        row["entries"] = [msgspec.structs.asdict(entry) for entry in report.entries]
        rows.append({"model": model, **row})
    return JSONResponse({"schema": SCHEMA_CACHE, "ok": True, "models": rows})
