"""
JSON schemas that clients send, as grammars that an answer is held to (pure).

What would only be half enforced is refused here by its place; what says nothing of the form (titles,
`$schema`, words of other vocabularies) is left out. What only the grammar's compiler can know, most
contradictions, it says when the request reaches the engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wicketgate.errors import InvalidRequestError
from wicketgate.inference import Grammar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Schema = dict[str, Any]

MAX_SCHEMA_BYTES: Final = 64 * 1024
"""As the engine host bounds a grammar."""
MAX_DEPTH: Final = 64
MAX_SCHEMAS: Final = 5000
"""Schemas within a schema: they are read on the event loop, in about 10 us each (Linux CPU)."""
GUIDANCE: Final = {"x-guidance": {"whitespace_pattern": ""}}
"""The engine would allow white space, the model's choice again and again, until its tokens are used up."""

_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_REFUSED: Final = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
    *("uniqueItems", "contains", "minContains", "maxContains", "propertyNames"),
    *("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
)
"""Words that restrict an answer, and that no grammar here holds it to."""
_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_INNER: Final = ("items", "additionalItems", "additionalProperties")
"""Words whose value is schemas by name, a list of schemas, or a schema."""
_WORDS: Final = frozenset(
    {
        *(*_BY_NAME, *_LISTS, *_INNER, "$ref", "type", "const", "enum", "format", "pattern", "required"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    }
)
"""All others restrict nothing."""
_RANGES: Final = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)
_KINDS: Final = (
    ("object", ("properties", "patternProperties", "additionalProperties", "required")),
    ("array", ("items", "prefixItems", "minItems", "maxItems")),
    ("string", ("pattern", "format", "minLength", "maxLength")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)
"""What a schema without a type is about, by its words."""
_REPEATED: Final = ("items", "additionalProperties", "patternProperties")
REPEATS: Final = 4
"""So many times, as is expected, a model that draws at random goes on with a list or a map."""
MAX_INTEGER: Final = 2**53 - 1
"""Of an integer without a bound of its own, in forced calls; larger ones JavaScript cannot hold."""
MAX_NAME_CHARS: Final = 64
"""Of the names in a map."""
_SETTLED: Final = ("const", "enum", "anyOf", "oneOf", "allOf", "$ref")
"""Words that say by themselves, or by what they hold, what a value is."""


def structured(schema: object, *, strict: bool, param: str) -> Grammar:
    """
    Return the grammar of answers that are one JSON value of a schema.

    Args:
        strict: Refuse objects that are open or have optional properties, as OpenAI does.
        param: Where the schema stands in the request.

    Raises:
        InvalidRequestError: names the place in the schema that cannot be enforced, code invalid_json_schema.
    """
    return grammar(checked(schema, strict=strict, param=param), param=param)


def json_object(param: str) -> Grammar:
    """Return the grammar of answers that are any one JSON object."""
    return Grammar(kind="json_object", param=param)


def grammar(schema: Schema, *, param: str) -> Grammar:
    """
    Write a checked schema as a grammar.

    Raises:
        InvalidRequestError: it is too long for the engine.
    """
    text = json.dumps({**schema, **GUIDANCE}, ensure_ascii=False, separators=(",", ":"))
    return within_bounds(Grammar(kind="json_schema", text=text, param=param))


def within_bounds(grammar: Grammar) -> Grammar:
    """
    Return the grammar that is given.

    Raises:
        InvalidRequestError: it is too long for the engine.
    """
    size_bytes = len(grammar.text.encode())
    if size_bytes > MAX_SCHEMA_BYTES:
        raise InvalidRequestError(
            f"{grammar.param} must take at most {MAX_SCHEMA_BYTES} bytes as a grammar, got {size_bytes};"
            " shorten the schema",
            param=grammar.param,
            code="invalid_json_schema",
        )
    return grammar


def checked(
    schema: object, *, strict: bool, param: str, root: str = "#", counter: Iterator[int] | None = None
) -> Schema:
    """
    Check a schema, and keep of it what restricts an answer.

    Args:
        root: Where it will stand, when it becomes part of another schema; its references follow it there.
        counter: Counts the schemas from 1, those of others that are checked with it too.

    Raises:
        InvalidRequestError: as for `structured`.
    """
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{param} must be an object", param=param, code="invalid_type")
    counter = count(1) if counter is None else counter
    return _Check(strict=strict, param=param, root=root, counter=counter).read(schema, place="#", depth=0)


def bounded(schema: Schema, *, max_chars: int) -> Schema:
    """
    Close what a checked schema leaves open, so that any model comes to the end of its value.

    A model that draws at random ends arrays and fractions by itself, since their end is one of the few tokens
    that are allowed; in a text, and in a map of any names, it is one of all tokens. Digits of an integer are
    bounded too: at a low temperature a small model repeats them for ever.

    Args:
        max_chars: Of texts and names that have no bound of their own.
    """
    kinds = _kinds(schema)
    if "any" in kinds:
        return _short_value(max_chars)
    result = _mapped(schema, lambda inner, _: _bounded_inner(inner, max_chars=max_chars))
    if "string" in kinds:
        result.setdefault("maxLength", max(max_chars, result.get("minLength", 0)))
    if "integer" in kinds and "number" not in kinds:
        _bound_digits(result)
    if "array" in kinds and "prefixItems" not in result:
        result.setdefault("items", _short_value(max_chars))
    if "object" in kinds:
        result.setdefault("type", "object")
        _bound_names(result, max_chars=max_chars)
        result.setdefault("additionalProperties", False)
    return result


def open_texts(schema: Schema | bool) -> int:
    """Estimate how many texts without a bound a value of a checked schema holds."""
    if isinstance(schema, bool):
        return int(schema)
    counts = [int(not {"any", "string"}.isdisjoint(_kinds(schema)) and "maxLength" not in schema)]

    def add(inner: Schema | bool, step: str) -> None:
        counts.append(open_texts(inner) * (REPEATS if step.partition("/")[0] in _REPEATED else 1))

    _mapped(schema, add)
    return sum(counts)


def _bounded_inner(schema: Schema | bool, *, max_chars: int) -> Schema | bool:
    if isinstance(schema, bool):
        return _short_value(max_chars) if schema else False
    return bounded(schema, max_chars=max_chars)


def _bound_digits(schema: Schema) -> None:
    """Keep integers to those that every reader of JSON takes for what they are."""
    if schema.keys().isdisjoint(("minimum", "exclusiveMinimum")):
        schema["minimum"] = -MAX_INTEGER
    if schema.keys().isdisjoint(("maximum", "exclusiveMaximum")):
        schema["maximum"] = MAX_INTEGER


def _bound_names(schema: Schema, *, max_chars: int) -> None:
    """Bound the names of a map's entries, which are texts too."""
    values = schema.get("additionalProperties", "properties" not in schema)
    if values is not False and "patternProperties" not in schema and not schema.get("properties"):
        values = _short_value(max_chars) if values is True else values
        schema["patternProperties"] = {f"^(?s:.{{1,{MAX_NAME_CHARS}}})$": values}
        schema["additionalProperties"] = False


def _short_value(max_chars: int) -> Schema:
    text = {"type": "string", "maxLength": max_chars}
    return {"anyOf": [text, {"type": "number"}, {"type": "boolean"}, {"type": "null"}]}


def _kinds(schema: Schema) -> set[str]:
    """Return what types of value a schema has to describe by itself; none where other words settle it."""
    if not schema.keys().isdisjoint(_SETTLED):
        return set()
    types = schema.get("type")
    if types is None:
        return {kind for kind, words in _KINDS if not schema.keys().isdisjoint(words)} or {"any"}
    return set(types) if isinstance(types, list) else {types}


def _mapped(schema: Schema, convert: Callable[[Any, str], Any]) -> Schema:
    """Return a schema with each schema right within it converted; `convert` is told where that stands."""
    result: Schema = {}
    for word, value in schema.items():
        if word in _BY_NAME and isinstance(value, dict):
            result[word] = {name: convert(each, f"{word}/{name}") for name, each in value.items()}
        elif word in (*_LISTS, "items") and isinstance(value, list):
            result[word] = [convert(each, f"{word}/{index}") for index, each in enumerate(value)]
        elif word in _INNER:
            result[word] = convert(value, word)
        else:
            result[word] = value
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    strict: bool
    param: str
    root: str
    counter: Iterator[int]

    def read(self, schema: Schema, *, place: str, depth: int) -> Schema:
        if next(self.counter) > MAX_SCHEMAS:
            self._refuse(place, f"is one schema more than the {MAX_SCHEMAS} that a request may bring")
        self._check_words(schema, place)
        self._check_bounds(schema, place)
        if self.strict and ("properties" in schema or "object" in _kinds(schema)):
            self._check_closed(schema, place)
        kept = {word: value for word, value in schema.items() if word in _WORDS}
        if "$ref" in kept:
            kept["$ref"] = self.root + kept["$ref"].removeprefix("#")
        return _mapped(kept, lambda inner, step: self._inner(inner, f"{place}/{step[:80]}", depth + 1))

    def _inner(self, value: object, place: str, depth: int) -> Schema | bool:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            self._refuse(place, "must be a schema, an object or a boolean")
        if depth > MAX_DEPTH:
            self._refuse(place, f"is more than {MAX_DEPTH} schemas deep")
        return self.read(value, place=place, depth=depth)

    def _check_words(self, schema: Schema, place: str) -> None:
        for word in _REFUSED:
            # uniqueItems: false asks for nothing.
            if schema.get(word, False) is not False:
                self._refuse(f"{place}/{word}", "cannot be enforced; leave it out")
        types = schema.get("type", [])
        for kind in types if isinstance(types, list) else [types]:
            if kind not in _TYPES:
                self._refuse(f"{place}/type", f"must be one of {', '.join(_TYPES)}")
        reference = schema.get("$ref", "#")
        if not isinstance(reference, str) or not reference.startswith("#"):
            self._refuse(f"{place}/$ref", "must begin with #, which is this schema; others are not fetched")
        for word in (*_BY_NAME, *_LISTS):
            wanted, name = (dict, "an object") if word in _BY_NAME else (list, "an array")
            if word in schema and not isinstance(schema[word], wanted):
                self._refuse(f"{place}/{word}", f"must be {name}")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self._refuse(f"{place}/required", "must be an array of names")

    def _check_bounds(self, schema: Schema, place: str) -> None:
        for pair in _RANGES:
            low, high = (schema.get(word) for word in pair)
            for word, bound in zip(pair, (low, high), strict=True):
                if word in schema and (isinstance(bound, bool) or not isinstance(bound, int | float)):
                    self._refuse(f"{place}/{word}", "must be a number")
            if low is not None and high is not None and low > high:
                self._refuse(f"{place}/{pair[0]}", f"must be at most {pair[1]} ({high}), got {low}")

    def _check_closed(self, schema: Schema, place: str) -> None:
        if schema.get("additionalProperties") is not False:
            self._refuse(f"{place}/additionalProperties", "must be false in a strict schema")
        required = frozenset(schema.get("required", []))
        for name in schema.get("properties", {}):
            if name not in required:
                self._refuse(
                    f"{place}/required",
                    f"must name every property in a strict schema; {name[:40]} is not in it",
                )

    def _refuse(self, place: str, fault: str) -> NoReturn:
        raise InvalidRequestError(
            f"{self.param}: {place} {fault}", param=self.param, code="invalid_json_schema"
        )
