"""Pins /openapi.json: the application's own routes, methods and bodies, in a document that tools can read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route, Router

from tests.api_fakes import Client, make_app
from wicketgate.api import embeddings, score, tokenize
from wicketgate.api.anthropic import bodies as anthropic
from wicketgate.api.openai import bodies as openai_bodies
from wicketgate.api.responses import bodies as responses_bodies

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio
BODIES = {
    "/v1/chat/completions": openai_bodies.ChatBody,
    "/v1/completions": openai_bodies.CompletionBody,
    "/v1/responses": responses_bodies.ResponsesBody,
    "/v1/messages": anthropic.MessagesBody,
    "/v1/messages/count_tokens": anthropic.PromptBody,
    "/v1/score": score.ScoreBody,
    "/generative_scoring": score.ScoreBody,
    "/v1/embeddings": embeddings.EmbeddingsBody,
    "/tokenize": tokenize.TokenizeBody,
    "/v1/tokenize": tokenize.TokenizeBody,
    "/detokenize": tokenize.DetokenizeBody,
    "/v1/detokenize": tokenize.DetokenizeBody,
}
REFERENCE = {
    "type": "object",
    "required": ["$ref"],
    "properties": {"$ref": {"pattern": r"^#/components/schemas/[A-Za-z0-9._-]+$"}},
    "additionalProperties": False,
}
CONTENT = {
    "type": "object",
    "required": ["application/json"],
    "additionalProperties": {
        "type": "object",
        "required": ["schema"],
        "properties": {"schema": REFERENCE},
        "additionalProperties": False,
    },
}
OPERATION = {
    "type": "object",
    "required": ["summary", "responses"],
    "properties": {
        "summary": {"type": "string", "minLength": 1, "maxLength": 100},
        "parameters": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "in", "required", "schema"],
                "properties": {"in": {"const": "path"}, "required": {"const": True}},
            },
        },
        "requestBody": {
            "type": "object",
            "required": ["content"],
            "properties": {"required": {"const": True}, "content": CONTENT},
            "additionalProperties": False,
        },
        "responses": {
            "type": "object",
            "required": ["200", "default"],
            "additionalProperties": {
                "type": "object",
                "required": ["description"],
                "properties": {"content": CONTENT},
            },
        },
    },
    "additionalProperties": False,
}
OPENAPI = {
    "type": "object",
    "required": ["openapi", "info", "paths", "components", "security"],
    "properties": {
        "openapi": {"pattern": r"^3\.1\.\d+$"},
        "info": {"type": "object", "required": ["title", "version"]},
        "paths": {
            "type": "object",
            "propertyNames": {"pattern": r"^/[^:]*$"},
            "additionalProperties": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"enum": ["get", "post", "delete"]},
                "additionalProperties": OPERATION,
            },
        },
        "components": {"type": "object", "required": ["schemas", "securitySchemes"]},
        "security": {"type": "array", "items": {"type": "object"}},
    },
    "additionalProperties": False,
}
"""OpenAPI 3.1, as far as this document uses it."""


@pytest.fixture
async def document() -> dict[str, Any]:
    reply = await Client(make_app()).ask("/openapi.json", b"", method="GET")

    assert reply.status == 200
    return cast("dict[str, Any]", reply.json)


def references(value: object) -> Iterator[str]:
    """Yield what a document refers to."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


async def test_the_document_has_the_form_of_openapi_3_1(document: dict[str, Any]) -> None:
    assert [fault.message for fault in Draft202012Validator(OPENAPI).iter_errors(document)] == []


async def test_every_route_of_the_application_stands_in_it_with_its_methods(document: dict[str, Any]) -> None:
    app = make_app()
    assert isinstance(app, Router)
    client = Client(app)
    served = {}
    for route in app.routes:
        assert isinstance(route, Route)
        asked = re.sub(r"{[^}]*}", "x", route.path)
        refusal = await client.ask(asked, b"", method="PUT", headers={})
        client.gone.clear()
        assert refusal.status == 405, route.path
        served[re.sub(r":\w+}", "}", route.path)] = set(refusal.headers["allow"].split(", ")) - {"HEAD"}

    assert served == {
        path: {method.upper() for method in operations} for path, operations in document["paths"].items()
    }


async def test_every_route_that_reads_a_body_names_its_model(document: dict[str, Any]) -> None:
    named = {
        path: operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "requestBody" in operation
    }

    assert named == {path: body.__name__ for path, body in BODIES.items()}


@pytest.mark.parametrize("body", sorted(set(BODIES.values()), key=lambda body: body.__name__))
async def test_a_bodys_schema_has_the_fields_that_clients_send(body: Any, document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"][body.__name__]

    fields = {field.alias or name for name, field in body.model_fields.items()}
    required = {field.alias or name for name, field in body.model_fields.items() if field.is_required()}
    assert set(schema["properties"]) == fields
    assert set(schema.get("required", [])) == required


async def test_every_schema_is_a_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_every_reference_leads_to_a_schema_and_no_schema_is_left_over(document: dict[str, Any]) -> None:
    names = {reference.removeprefix("#/components/schemas/") for reference in references(document)}

    assert names == set(document["components"]["schemas"])


async def test_no_schema_is_named_by_the_module_that_it_comes_from(document: dict[str, Any]) -> None:
    assert [name for name in document["components"]["schemas"] if "wicketgate" in name] == []


async def test_every_parameter_of_a_path_is_described(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            described = [parameter["name"] for parameter in operation.get("parameters", [])]
            assert described == re.findall(r"{(\w+)}", path)


@pytest.mark.parametrize(
    ("path", "is_anthropic"), [("/v1/chat/completions", False), ("/v1/messages", True), ("/nowhere", False)]
)
async def test_an_error_has_the_form_that_the_document_gives(
    path: str, is_anthropic: bool, document: dict[str, Any]
) -> None:
    error = await Client(make_app()).ask(path, {"messages": 1})

    assert error.status >= 400
    schema = {"$ref": "#/components/schemas/Error", "components": document["components"]}
    assert [fault.message for fault in Draft202012Validator(schema).iter_errors(error.json)] == []
    assert ("request_id" in error.json) is is_anthropic


ASKED = [{"role": "user", "content": "hi"}]
BAD_CHATS = ({"temperature": 3}, {"messages": []}, {"n": 0}, {"stream": "yes"}, {"stop": [""]}, {"stop": ""})
GOOD = [
    ("/v1/chat/completions", {"messages": ASKED}),
    ("/v1/chat/completions", {"messages": ASKED, "stop": "a", "tool_choice": "none"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}),
    ("/v1/chat/completions", {"messages": ASKED, "stop": ["a", "b"], "logit_bias": {"1": -5}}),
    ("/v1/completions", {"prompt": "hi", "stop": "a"}),
    ("/v1/completions", {"prompt": [[1, 2], [3]]}),
    ("/v1/responses", {"input": "hi", "text": {"format": {"type": "text"}}}),
    ("/v1/responses", {"input": [{"role": "user", "content": "hi"}], "tool_choice": "auto"}),
    ("/v1/messages", {"max_tokens": 1, "messages": ASKED, "system": [{"type": "text", "text": "be"}]}),
]


def complaints(path: str, body: object, document: dict[str, Any]) -> list[str]:
    """Return what the document has against a body."""
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"] | {"components": document["components"]}
    return [fault.message for fault in Draft202012Validator(schema).iter_errors(body)]


@pytest.mark.parametrize(("path", "body"), GOOD)
async def test_a_body_that_is_answered_is_one_of_the_schema(
    path: str, body: dict[str, Any], document: dict[str, Any]
) -> None:
    reply = await Client(make_app()).ask(path, body)

    assert reply.status == 200, reply.json
    assert complaints(path, body, document) == []


@pytest.mark.parametrize("wrong", BAD_CHATS)
async def test_a_body_that_is_refused_is_none_of_the_schema(
    wrong: dict[str, Any], document: dict[str, Any]
) -> None:
    body = {"messages": ASKED} | wrong

    reply = await Client(make_app()).ask("/v1/chat/completions", body)

    assert reply.status == 400
    assert complaints("/v1/chat/completions", body, document) != []
