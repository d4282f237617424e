"""`POST /v1/drain`: let the runtime finish what is in flight and end, as SIGTERM does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wicketgate.api.admin.app import read_body, refuse_unknown, text_field
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

log = logging.getLogger(__name__)


def drain_route(drain: Callable[[bool], Mapping[str, object]]) -> Route:
    """
    Make the route.

    Args:
        drain: Begins to drain, or where its argument says so ends what is in flight too; tells what that was.
    """

    async def handle(request: Request) -> Response:
        body = await read_body(request)
        refuse_unknown(body, ("now", "actor", "reason"))
        now = body.get("now", False)
        if not isinstance(now, bool):
            raise InvalidRequestError("now must be true or false", param="now", code="invalid_type")
        actor, reason = text_field(body, "actor") or "admin", text_field(body, "reason") or ""
        log.info("drain_asked", extra={"actor": actor, "reason": reason, "now": now})
        return JSONResponse({"schema": "wicketgate.drain/1", "ok": True, "now": now, **drain(now)})

    return Route("/v1/drain", handle, methods=["POST"])
