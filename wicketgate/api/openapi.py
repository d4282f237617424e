"""`GET /openapi.json`: what every route takes, made of the models that check it."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from wicketgate.api.described import Described
from wicketgate.api.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.endpoint import Edge
    from wicketgate.api.exchange import Exchange

_PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}")
_SCHEMAS: Final = "#/components/schemas/"
_QUALIFIED: Final = re.compile(r"wicketgate__api__([a-z]+)__bodies__(\w+)")
"""What pydantic calls models of one name in several modules."""
_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}


def _object(**properties: object) -> dict[str, object]:
    """Return the schema of an object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


_ERROR: Final = {
    "anyOf": [
        _object(error=_object(message=_TEXT, type=_TEXT, param=_TEXT_OR_NULL, code=_TEXT_OR_NULL)),
        _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT), request_id=_TEXT),
    ]
}
"""OpenAI's, and that of Anthropic's routes."""
ITSELF: Final = Described(path="/openapi.json", method="GET", body=None, summary="Return this document")


@cache
def document(routes: Sequence[Described]) -> dict[str, Any]:
    """
    Return the OpenAPI document of some routes.

    Args:
        routes: A tuple; the document is made once for it.
    """
    bodies = {route.body for route in routes if route.body is not None}
    ordered = sorted(bodies, key=lambda body: body.__name__)
    _, made = models_json_schema(
        [(body, "validation") for body in ordered], ref_template=_SCHEMAS + "{model}"
    )
    definitions = json.loads(_QUALIFIED.sub(lambda name: name[1].title() + name[2], json.dumps(made)))
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wicketgate",
            "version": version("wicketgate"),
            "description": "A field that is null counts as absent.",
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def openapi_route(edge: Edge, routes: Sequence[Described]) -> BaseRoute:
    """Make the route; it says nothing that is secret, and asks for no key."""

    async def handle(exchange: Exchange) -> None:
        await exchange.answer(document((*routes, ITSELF)))

    return Route("/openapi.json", Endpoint(edge, handle, methods=("GET",), is_public=True, is_exempt=True))


def _operation(route: Described) -> dict[str, object]:
    operation: dict[str, object] = {
        "summary": route.summary,
        "responses": {
            "200": {"description": "The answer; with stream, server-sent events"},
            "default": {
                "description": "An error",
                "content": {"application/json": {"schema": {"$ref": _SCHEMAS + "Error"}}},
            },
        },
    }
    names = _PARAMETER.findall(route.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.body is not None:
        reference = {"$ref": _SCHEMAS + route.body.__name__}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference}},
        }
    return operation
