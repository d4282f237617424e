"""
Pins which JSON schemas are refused, and where; what is kept of the others; and how open ones are closed.

That the grammar's compiler takes what we keep is asked of itself.
"""

from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher

from wicketgate.api import schemas
from wicketgate.api.schemas import MAX_INTEGER, bounded, checked, grammar, json_object, open_texts, structured
from wicketgate.errors import InvalidRequestError

CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}


def read(schema, *, strict=False):
    return checked(schema, strict=strict, param="p")


def kept(grammar):
    schema = json.loads(grammar.text)
    assert schema.pop("x-guidance") == {"whitespace_pattern": ""}
    return schema


def refused(schema, *, strict=False):
    with pytest.raises(InvalidRequestError) as caught:
        read(schema, strict=strict)
    assert (caught.value.code, caught.value.param) == ("invalid_json_schema", "p")
    return caught.value.message


def is_compiled(schema):
    source = LLMatcher.grammar_from_json_schema(json.dumps(schema), {"whitespace_pattern": ""})
    return LLMatcher.validate_grammar(source)


def test_a_schema_becomes_a_grammar_that_names_its_field():
    made = structured(CLOSED, strict=True, param="p")

    assert (made.kind, made.param, kept(made)) == ("json_schema", "p", CLOSED)


def test_any_object_needs_no_schema():
    made = json_object("response_format")

    assert (made.kind, made.text, made.param) == ("json_object", "", "response_format")


def test_what_says_nothing_of_the_form_is_left_out():
    about = {"$schema": "x", "title": "A", "description": "b", "nullable": True, "zap": 1, "examples": [{}]}
    inner = {"type": "string", "title": "T", "default": ""}

    assert read(CLOSED | about | {"properties": {"a": inner}}) == CLOSED


def test_a_property_may_be_called_as_a_word_of_schemas():
    schema = CLOSED | {"properties": {"not": {"type": "string", "title": "x"}}, "required": ["not"]}

    assert read(schema, strict=True)["properties"] == {"not": {"type": "string"}}


def test_uniqueness_that_is_not_asked_for_is_no_fault():
    assert read({"type": "array", "uniqueItems": False}) == {"type": "array"}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "strin"}, "#/type must be one of object"),
        ({"type": ["string", 5]}, "#/type"),
        ({"type": {}}, "#/type"),
        ({"not": {}}, "#/not cannot be enforced"),
        ({"items": {"uniqueItems": True}}, "#/items/uniqueItems cannot"),
        ({"anyOf": [{}, {"if": {}}]}, "#/anyOf/1/if cannot"),
        ({"properties": {"a": {"dependentRequired": {}}}}, "#/properties/a/dependentRequired cannot"),
        ({"$defs": {"a": {"$ref": "https://x/y"}}}, "#/$defs/a/$ref must begin with #"),
        ({"$ref": 5}, "#/$ref must begin"),
        ({"properties": []}, "#/properties must be an object"),
        ({"properties": {"a": 5}}, "#/properties/a must be a schema"),
        ({"anyOf": {}}, "#/anyOf must be an array"),
        ({"required": "a"}, "#/required must be an array of names"),
        ({"required": [1]}, "#/required must be an array of names"),
        ({"minimum": 5, "maximum": 1}, "#/minimum must be at most maximum (1), got 5"),
        ({"minLength": 2, "maxLength": 1}, "#/minLength must be at most maxLength"),
        ({"maxItems": "5"}, "#/maxItems must be a number"),
        ({"maxItems": True}, "#/maxItems must be a number"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_place(schema, place):
    assert refused(schema).startswith(f"p: {place}")


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "object"}, "#/additionalProperties must be false"),
        (CLOSED | {"additionalProperties": True}, "#/additionalProperties must be false"),
        (CLOSED | {"required": []}, "#/required must name every property in a strict schema; a is not in it"),
        ({"properties": {"a": {}}}, "#/additionalProperties must be false"),
        (CLOSED | {"properties": {"a": {"type": "object"}}}, "#/properties/a/additionalProperties"),
        ({"type": ["object", "null"]}, "#/additionalProperties"),
    ],
)
def test_a_strict_schema_is_closed_and_has_no_optional_properties(schema, place):
    assert refused(schema, strict=True).startswith(f"p: {place}")
    assert read(schema, strict=False)


def test_what_is_no_object_is_no_schema():
    with pytest.raises(InvalidRequestError, match="p must be an object") as caught:
        read([])

    assert caught.value.code == "invalid_type"


def test_booleans_are_schemas_within_a_schema():
    schema = {"type": "array", "prefixItems": [True], "items": False}

    assert read(schema) == schema


def test_a_schema_that_nests_too_deep_is_refused():
    schema = {}
    for _ in range(schemas.MAX_DEPTH + 1):
        schema = {"items": schema}

    assert "schemas deep" in refused(schema)
    assert read(schema["items"])


def test_a_grammar_that_the_engine_would_not_take_is_refused():
    with pytest.raises(InvalidRequestError, match="at most 65536 bytes") as caught:
        grammar({"enum": ["é" * 40_000]}, param="p")

    assert caught.value.code == "invalid_json_schema"


def test_references_follow_a_schema_to_where_it_will_stand():
    schema = {"properties": {"a": {"$ref": "#/$defs/b"}}, "items": {"$ref": "#"}}

    moved = checked(schema, strict=False, param="p", root="#/$defs/3")

    assert moved == {"properties": {"a": {"$ref": "#/$defs/3/$defs/b"}}, "items": {"$ref": "#/$defs/3"}}


SHORT = {
    "anyOf": [{"type": "string", "maxLength": 9}, *({"type": kind} for kind in ("number", "boolean", "null"))]
}


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({}, SHORT),
        ({"type": "string"}, {"type": "string", "maxLength": 9}),
        ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 3}),
        ({"type": "string", "minLength": 12}, {"type": "string", "minLength": 12, "maxLength": 12}),
        ({"pattern": "a"}, {"pattern": "a", "maxLength": 9}),
        ({"const": "x"}, {"const": "x"}),
        ({"$ref": "#"}, {"$ref": "#"}),
        ({"type": "integer"}, {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}),
        (
            {"type": "integer", "minimum": 3},
            {"type": "integer", "minimum": 3, "maximum": MAX_INTEGER},
        ),
        (
            {"type": ["integer", "null"], "exclusiveMaximum": 5},
            {"type": ["integer", "null"], "exclusiveMaximum": 5, "minimum": -MAX_INTEGER},
        ),
        ({"type": "number"}, {"type": "number"}),
        ({"type": "array"}, {"type": "array", "items": SHORT}),
        ({"type": "array", "items": True}, {"type": "array", "items": SHORT}),
        ({"type": "array", "items": False}, {"type": "array", "items": False}),
        ({"prefixItems": [{}]}, {"prefixItems": [SHORT]}),
        (
            {"type": "object", "properties": {}},
            {"type": "object", "properties": {}, "additionalProperties": False},
        ),
        (
            {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "null"}},
            {
                "properties": {"a": {"type": "null"}},
                "type": "object",
                "additionalProperties": {"type": "null"},
            },
        ),
        (
            {"type": "object", "additionalProperties": {"type": "null"}},
            {
                "type": "object",
                "patternProperties": {"^(?s:.{1,64})$": {"type": "null"}},
                "additionalProperties": False,
            },
        ),
        (
            {"type": "object"},
            {"type": "object", "patternProperties": {"^(?s:.{1,64})$": SHORT}, "additionalProperties": False},
        ),
        (
            {"type": ["string", "array"]},
            {"type": ["string", "array"], "maxLength": 9, "items": SHORT},
        ),
        ({"anyOf": [{"type": "string"}]}, {"anyOf": [{"type": "string", "maxLength": 9}]}),
    ],
)
def test_what_is_open_is_closed_and_bounded(schema, closed):
    assert bounded(schema, max_chars=9) == closed
    assert not is_compiled(closed)


@pytest.mark.parametrize(
    ("schema", "count"),
    [
        (True, 1),
        (False, 0),
        ({}, 1),
        ({"type": "string"}, 1),
        ({"type": "string", "maxLength": 5}, 0),
        ({"type": "integer"}, 0),
        ({"properties": {"a": {"type": "string"}, "b": {"format": "uri"}}}, 2),
        ({"type": "array", "items": {"type": "string"}}, 4),
        ({"additionalProperties": {"type": "string"}}, 4),
        ({"anyOf": [{"type": "string"}, {"const": "x"}]}, 1),
    ],
)
def test_texts_without_a_bound_are_counted_as_often_as_they_are_expected(schema, count):
    assert open_texts(schema) == count


def test_a_schema_of_too_many_schemas_is_refused():
    names = [f"p{number}" for number in range(schemas.MAX_SCHEMAS)]
    schema = {
        "type": "object",
        "properties": {name: {} for name in names},
        "required": names,
        "additionalProperties": False,
    }

    error = refused(schema, strict=True)

    assert str(schemas.MAX_SCHEMAS) in str(error)
