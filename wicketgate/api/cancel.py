"""
`DELETE /v1/requests/{id}`: end a request by the id that its answer's header names.

The Python SDKs never reset an HTTP/2 stream: whoever stops reading there has no other way to say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from wicketgate.api.described import Described
from wicketgate.api.endpoint import Endpoint
from wicketgate.errors import CancelledRequestError, NotFoundError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange

ROUTES: Final = (
    Described(
        path="/v1/requests/{request_id}",
        method="DELETE",
        body=None,
        summary="End a request by the id in the x-request-id header of its answer",
    ),
)


def cancel_routes(backend: Backend) -> list[BaseRoute]:
    """Make the route."""

    async def cancel(exchange: Exchange) -> None:
        name = exchange.path_params["request_id"]
        error = CancelledRequestError("the request was cancelled (DELETE /v1/requests)")
        if not backend.generation.live.stop(name, error, client=exchange.client):
            # Of another key's request nobody learns that it is there.
            raise NotFoundError(
                f"no request {name[:80]!r} is being served", param="request_id", code="not_found"
            )
        await exchange.answer({"id": name, "object": "request", "cancelled": True})

    endpoint = Endpoint(backend.edge, cancel, methods=("DELETE",), is_exempt=True, family=None)
    return [Route("/v1/requests/{request_id}", endpoint)]
