"""
OpenFeature's remote evaluation protocol (OFREP), for clients in other processes and languages.

    POST /ofrep/v1/evaluate/flags/{key}    one feature
    POST /ofrep/v1/evaluate/flags          all of them, with an ETag

Both only read. `context.targetingKey` is what a request's own key is to the gateway (session, user or id);
`context.client` and `context.connection` are the id of its API key and its `address:port`, for features that
are decided by them. The answer is what a request with these keys would get now.

Source:
    https://github.com/open-feature/protocol, service/openapi.yaml, version 0.3.0.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rollout.evaluation import evaluate
from rollout.spec import did_you_mean
from wicketgate.api.admin.app import read_body
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from rollout.assignment import FlagSnapshot

PATH: Final = "/ofrep/v1/evaluate/flags"
MAX_KEY_CHARACTERS: Final = 4096
"""No targetingKey, client or connection is longer."""
_MAX_ECHO_CHARACTERS: Final = 100


class _Context(NamedTuple):
    """The keys that a client gave, as `evaluate` takes them."""

    key: str | None
    client: str | None
    connection: str | None


class _ContextError(ValueError):
    """A body that is no evaluation request."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.failure = {"errorCode": code, "errorDetails": details}


def ofrep_routes(snapshot: Callable[[], FlagSnapshot]) -> list[BaseRoute]:
    """
    Make the routes.

    Args:
        snapshot: Returns the flags that are in force.
    """

    async def one(request: Request) -> Response:
        feature = request.path_params["key"]
        try:
            context = await _context(request)
        except _ContextError as error:
            return JSONResponse({"key": feature, **error.failure}, status_code=400)
        flags = snapshot()
        if feature not in flags.spec.features:
            return JSONResponse(_not_found(flags, feature), status_code=404)
        answer = _evaluation(flags, feature, context)
        return JSONResponse(answer, status_code=400 if "errorCode" in answer else 200)

    async def bulk(request: Request) -> Response:
        try:
            context = await _context(request)
        except _ContextError as error:
            return JSONResponse(error.failure, status_code=400)
        flags = snapshot()
        answer = JSONResponse(
            {
                "flags": [_evaluation(flags, feature, context) for feature in flags.spec.features],
                "metadata": {"revision": flags.revision},
            }
        )
        # Of the answer itself: a reload, a latch in memory and another context change it at one revision.
        tag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
        if _is_known(tag, request.headers.get("if-none-match")):
            return Response(status_code=304, headers={"etag": tag})
        answer.headers["etag"] = tag
        return answer

    return [Route(PATH, bulk, methods=["POST"]), Route(f"{PATH}/{{key}}", one, methods=["POST"])]


def _evaluation(flags: FlagSnapshot, feature: str, context: _Context) -> dict[str, object]:
    evaluation = evaluate(flags, feature, context.key, client=context.client, connection=context.connection)
    if evaluation.missing is not None:
        return {
            "key": feature,
            "errorCode": "TARGETING_KEY_MISSING",
            "errorDetails": evaluation.complaint,
            "metadata": evaluation.metadata(),
        }
    return {
        "key": feature,
        "value": evaluation.on,
        "variant": evaluation.variant,
        "reason": str(evaluation.reason),
        "metadata": evaluation.metadata(),
    }


def _not_found(flags: FlagSnapshot, feature: str) -> dict[str, object]:
    shown = feature[:_MAX_ECHO_CHARACTERS]
    return {
        "key": shown,
        "errorCode": "FLAG_NOT_FOUND",
        "errorDetails": f"no feature named {shown}.{did_you_mean(shown, flags.spec.features)}",
    }


async def _context(request: Request) -> _Context:
    """Read the context; a body without one has an empty one, as clients send at 0 and 100 %."""
    try:
        body = await read_body(request)
    except InvalidRequestError as error:
        raise _ContextError("PARSE_ERROR", error.message) from error
    context = body.get("context", {})
    if not isinstance(context, dict):
        raise _ContextError("INVALID_CONTEXT", "context must be an object")
    return _Context(*(_key(context, name) for name in ("targetingKey", "client", "connection")))


def _key(context: dict[str, object], name: str) -> str | None:
    """Return one key of a context; an empty one counts as none, as it does for flagd."""
    value = context.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > MAX_KEY_CHARACTERS):
        raise _ContextError(
            "INVALID_CONTEXT", f"{name} must be a string of at most {MAX_KEY_CHARACTERS} characters"
        )
    return value or None


def _is_known(tag: str, if_none_match: str | None) -> bool:
    """Tell whether a client has what it asks for; some send the tag without its quotes."""
    given = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return "*" in given or tag in given or tag.strip('"') in given
