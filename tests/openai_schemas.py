"""
Holds answers of ours to OpenAI's published description of its API (tests/vectors/openai_schemas.json).

What that description gets wrong about OpenAI's own answers stands in `_NULLS` and `_BASE64`; nothing else may
differ. Keys that it does not know are allowed where it leaves an object open, and are named by `extensions`.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FILE: Final = Path(__file__).parent / "vectors" / "openai_schemas.json"
_COMPLETION: Final = "CreateCompletionResponse/properties"
_NULLS: Final = (
    # It has one schema for a completion and for its chunks, which say null until they know.
    f"{_COMPLETION}/choices/items/properties/finish_reason",
    f"{_COMPLETION}/usage",
    # Nothing precedes the first token of an echoed prompt: it has no probability.
    f"{_COMPLETION}/choices/items/properties/logprobs/anyOf/0/properties/token_logprobs/items",
    f"{_COMPLETION}/choices/items/properties/logprobs/anyOf/0/properties/top_logprobs/items",
)
"""Schemas that should be nullable."""
_BASE64: Final = "Embedding/properties/embedding"
"""Is described as numbers only, though a request may ask for base64, and SDKs do."""
_ROOTS: Final = {
    "/chat/completions": ("CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"),
    "/completions": ("CreateCompletionResponse", "CreateCompletionResponse"),
    "/embeddings": ("CreateEmbeddingResponse", None),
    "/models": ("ListModelsResponse", None),
    "/models/{id}": ("Model", None),
    "/responses": ("Response", "ResponseStreamEvent"),
    "/responses/{id}": ("Response", None),
    "/responses/{id}/input_items": ("ResponseItemList", None),
}
"""By path: what is answered whole, and what each event is."""
_DONE: Final = "[DONE]"
_LINES: Final = ("data: ", "event: ", ": ping")
"""What a line begins with. Others (`id:`, `retry:`) make clients read an event where there is none."""


@dataclass(slots=True)
class Heard:
    """One answer, as it came over the wire."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def events(self) -> list[str]:
        """The data of its events."""
        return [line.removeprefix("data: ") for line in self.lines if line.startswith("data: ")]

    @property
    def lines(self) -> list[str]:
        """The lines of its events; none of an answer that is whole."""
        return self.body.decode().split("\n") if self._is_stream else []

    @property
    def _is_stream(self) -> bool:
        return self.headers["content-type"].startswith("text/event-stream")

    @property
    def values(self) -> list[tuple[str, Any]]:
        """What it says, as JSON, each with the name of the schema that it must satisfy."""
        whole, event = _ROOTS[self._route]
        if self._is_stream:
            parts = [json.loads(data) for data in self.events if data != _DONE]
            # A failure after the status was sent is an event of its own.
            return [
                ("ErrorResponse" if "error" in part and event != "ResponseStreamEvent" else event, part)
                for part in parts
            ]
        return [("ErrorResponse" if self.status >= 400 else whole, json.loads(self.body))]

    @property
    def _route(self) -> str:
        parts = self.path.removeprefix("/v1").split("/")
        if len(parts) > 2 and parts[1] in ("models", "responses"):
            parts[2] = "{id}"
        return "/".join(parts)


def faults(heard: Heard) -> list[str]:
    """Return where an answer is not as published; nothing, if it is."""
    if heard.method == "DELETE":
        return []
    odd = [line for line in heard.lines if line and not line.startswith(_LINES)]
    return [f"{heard.path}: no line of an event: {line[:80]!r}" for line in odd] + [
        f"{heard.method} {heard.path}: {root} {error.json_path}: {error.message[:200]}"
        for root, value in heard.values
        for error in _validator(_narrow(root, value)).iter_errors(value)
    ]


def extensions(heard: Heard) -> set[str]:
    """Return the names of keys in an answer that the description does not know."""
    names: set[str] = set()
    for root, value in heard.values:
        for error in _validator(_narrow(root, value), is_closed=True).iter_errors(value):
            names |= set(_unknown(error))
    return names


def _unknown(error: Any) -> Iterator[str]:
    if error.validator == "unevaluatedProperties":
        # It lists them in its message only, each in quotes.
        yield from re.findall(r"'([^']+)'", error.message)
    for inner in error.context:
        yield from _unknown(inner)


def _narrow(root: str, value: Any) -> str:
    """Return the one schema of an event's type: to try all of them takes long, and tells little."""
    if root != "ResponseStreamEvent":
        return root
    return _event_types()[value["type"]]


@functools.cache
def _event_types() -> dict[str, str]:
    schemas = _schemas()
    names = (each["$ref"].rpartition("/")[2] for each in schemas["ResponseStreamEvent"]["anyOf"])
    return {schemas[name]["properties"]["type"]["enum"][0]: name for name in names}


@functools.cache
def _validator(root: str, *, is_closed: bool = False) -> Draft202012Validator:
    components = {"schemas": _closed(_schemas()) if is_closed else _schemas()}
    return Draft202012Validator({"$ref": f"#/components/schemas/{root}", "components": components})


@functools.cache
def _schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = json.loads(_FILE.read_text())["components"]["schemas"]
    for place in _NULLS:
        _at(schemas, place)["nullable"] = True
    numbers = dict(_at(schemas, _BASE64))
    _at(schemas, _BASE64).clear()
    _at(schemas, _BASE64)["anyOf"] = [numbers, {"type": "string"}]
    return {name: _with_nulls(schema) for name, schema in schemas.items()}


def _at(schemas: Any, place: str) -> Any:
    for step in place.split("/"):
        schemas = schemas[int(step) if isinstance(schemas, list) else step]
    return schemas


def _with_nulls(schema: Any) -> Any:
    """Say `nullable`, a word of OpenAPI 3.0 that JSON Schema does not know, in its own words."""
    if isinstance(schema, list):
        return [_with_nulls(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: _with_nulls(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [result, {"type": "null"}]} if schema.get("nullable") is True else result


def _closed(schemas: Any) -> Any:
    """Let no object have a key that it does not describe; what is part of another schema is left to that."""
    parts = set(_parts(schemas))

    def close(schema: Any, *, is_part: bool) -> Any:
        if isinstance(schema, list):
            return [close(each, is_part=is_part) for each in schema]
        if not isinstance(schema, dict):
            return schema
        result = {name: close(value, is_part=name == "allOf") for name, value in schema.items()}
        if not is_part and ("allOf" in schema or isinstance(schema.get("properties"), dict)):
            result.setdefault("unevaluatedProperties", False)
        return result

    return {name: close(schema, is_part=name in parts) for name, schema in schemas.items()}


def _parts(schema: Any) -> Iterator[str]:
    """Name the schemas that others are put together from."""
    if isinstance(schema, dict):
        for part in schema.get("allOf", ()):
            if "$ref" in part:
                yield part["$ref"].rpartition("/")[2]
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _parts(inner)
