"""What the text of an argument stands for, by the schema of its parameter (pure)."""

from __future__ import annotations

import ast
import json
import warnings
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wicketgate.pipeline.tools.body import Properties

_NOT_LITERAL: Final = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)
_TRUE: Final = frozenset(("true", "1", "yes", "on"))
_FALSE: Final = frozenset(("false", "0", "no", "off"))
_TEXT_TYPES: Final = frozenset(("string", "str", "text", "varchar", "char", "enum"))
_WHOLE_TYPES: Final = ("int", "uint", "long", "short", "unsigned")


def literal(text: str) -> object:
    """Read JSON, else a Python literal, else text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return python_literal(text)


def python_literal(text: str) -> object:
    """Read a Python literal, else text."""
    try:
        return ast.literal_eval(parsed(text.lstrip(" \t")))
    except _NOT_LITERAL:
        return text


def parsed(text: str) -> ast.expr:
    """
    Parse a Python expression.

    Raises:
        SyntaxError, ValueError, MemoryError, RecursionError: it is none.
    """
    with warnings.catch_warnings():  # a model's text is no source of ours to be warned about
        warnings.simplefilter("ignore")
        return ast.parse(text, mode="eval").body


def is_text(name: str, properties: Properties) -> bool:
    """Whether a parameter is declared as text."""
    schema = properties.get(name)
    return isinstance(schema, dict) and schema.get("type") == "string"


def by_type(text: str, schema: object) -> object:
    """
    Read an argument by the one type that its parameter is declared with; without one, only containers.

    Raises:
        ValueError: a number was declared, and this is none.
    """
    if text.lower() == "null":
        return None
    if not isinstance(schema, dict) or not schema:
        return text
    if "type" not in schema:
        value = _json_or_text(text)
        return value if isinstance(value, dict | list) else text
    kind = str(schema["type"]).strip().lower()
    if kind in _TEXT_TYPES:
        return text
    if kind.startswith(_WHOLE_TYPES):
        return _whole(text)
    if kind.startswith(("num", "float")):
        return _number(text)
    if kind in ("boolean", "bool", "binary"):
        return text.lower() == "true"
    if kind in ("object", "array", "arr") or kind.startswith(("dict", "list")):
        value = _json_or_text(text)
        if value is not text:
            return value
    return python_literal(text)


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


def _whole(text: str) -> int:
    number = _number(text)
    if isinstance(number, float):
        raise ValueError(f"{text!r} is no whole number")
    return number


def _number(text: str) -> int | float:
    """Read a number; one without a fraction is whole."""
    try:
        return int(text)  # floats are exact only to 2^53
    except ValueError:
        number = float(text)
    return int(number) if number.is_integer() else number


def by_types(text: str, schema: object) -> object:
    """Read an argument by any of the types that its parameter may have; text is the last that is tried."""
    kinds = frozenset(_kinds(schema)) or frozenset(("string",))
    if text.lower() == "null" or ("null" in kinds and text.lower() in ("none", "nil")):
        return None
    for value in _readings(text, kinds):
        return value
    return literal_json(text)


def literal_json(text: str) -> object:
    """Read JSON, else text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _readings(text: str, kinds: frozenset[str]) -> Iterator[object]:
    """What text may stand for, the narrowest type first."""
    if kinds & {"integer", "int"}:
        try:
            yield int(text)
        except ValueError:
            pass
    if kinds & {"number", "float"}:
        try:
            yield _number(text)
        except ValueError:
            pass
    word = text.lower().strip()
    if kinds & {"boolean", "bool"} and word in _TRUE | _FALSE:
        yield word in _TRUE
    if kinds & {"object", "array"}:
        value = _json_or_text(text)
        value = python_literal(text) if value is text else value
        if value is not text:
            yield value
    if kinds & {"string", "str", "text"}:
        yield text


_NAMES: Final = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def _kinds(schema: object) -> Iterator[str]:
    """All types that a schema allows, in any depth of anyOf, oneOf and allOf."""
    if not isinstance(schema, dict):
        return
    named = schema.get("type")
    names = [named] if isinstance(named, str) else _listed(named)
    yield from (name.lower() for name in names if isinstance(name, str))
    yield from (_NAMES[type(value)] for value in _listed(schema.get("enum")) if type(value) in _NAMES)
    for key in ("anyOf", "oneOf", "allOf"):
        for choice in _listed(schema.get(key)):
            # A choice of no type, like any schema of none, is text.
            yield from frozenset(_kinds(choice)) or ("string",)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
