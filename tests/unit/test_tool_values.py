"""Pins what the text of an argument becomes, by the schema of its parameter."""

from __future__ import annotations

import warnings

import pytest

from wicketgate.pipeline.tools.values import by_type, by_types, literal

QWEN = [
    ("null", {"type": "string"}, None),
    ("NULL", None, None),
    ("12", None, "12"),
    ("12", {}, "12"),
    ("12", {"type": "string"}, "12"),
    ("12", {"type": "integer"}, 12),
    ("9007199254740993", {"type": "integer"}, 9007199254740993),
    ("12.0", {"type": "int32"}, 12),
    ("1.5", {"type": "number"}, 1.5),
    ("2.0", {"type": "float"}, 2),
    ("True", {"type": "boolean"}, True),
    ("yes", {"type": "bool"}, False),
    ('{"a": 1}', {"type": "object"}, {"a": 1}),
    ("['a']", {"type": "array"}, ["a"]),
    ("[1, 2", {"type": "list"}, "[1, 2"),
    ("{'a': 1}", {"type": "dict"}, {"a": 1}),
    ("(1)", {"type": "whatever"}, 1),
    ("text", {"type": "whatever"}, "text"),
    ('{"a": 1}', {"anyOf": [{}]}, {"a": 1}),
    ("7", {"anyOf": [{}]}, "7"),
    ("x", {"anyOf": [{}]}, "x"),
]

MINIMAX = [
    ("12", "", "12"),
    ("12", {"type": "integer"}, 12),
    ("null", {"type": "string"}, None),
    ("None", {"type": ["string", "null"]}, None),
    ("nil", {"type": "string"}, "nil"),
    ("x", {"type": "integer"}, "x"),
    ("[1]", {"type": "integer"}, [1]),
    ("1.5", {"type": ["integer", "number"]}, 1.5),
    ("x", {"type": "number"}, "x"),
    ("Yes ", {"type": "boolean"}, True),
    ("off", {"type": "boolean"}, False),
    ("maybe", {"type": "boolean"}, "maybe"),
    ("{'a': 1}", {"type": "object"}, {"a": 1}),
    ('{"a": 1}', {"type": "object"}, {"a": 1}),
    ("x", {"type": "array"}, "x"),
    ("1", {"anyOf": [{"type": "string"}, {"oneOf": [{"type": "integer"}]}]}, 1),
    ("1", {"anyOf": [{"type": "string"}]}, "1"),
    ("1", {"allOf": [{}]}, "1"),
    ("1", {"enum": [1, 2]}, 1),
    ("true", {"enum": [True, None, 1.5, "a", [], {}]}, True),
    ("1", {"enum": [object()]}, "1"),
    ("1", {"type": [5]}, "1"),
]


@pytest.mark.parametrize(("text", "schema", "value"), QWEN)
def test_one_declared_type_decides(text, schema, value):
    read = by_type(text, schema)

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["few", "1.5", "inf"])
def test_what_is_no_whole_number_where_one_is_declared_is_an_error(text):
    with pytest.raises(ValueError, match=text):
        by_type(text, {"type": "integer"})


@pytest.mark.parametrize(("text", "schema", "value"), MINIMAX)
def test_of_several_declared_types_the_narrowest_that_fits_decides(text, schema, value):
    read = by_types(text, schema)

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text", ["-" * 100_000 + "1", "(" * 100_000, "a" + ".a" * 100_000, "[" * 100_000, "9" * 5000, "\0"]
)
def test_what_no_parser_should_have_to_read_is_text(text):
    assert literal(text) == text


def test_a_models_text_is_no_source_to_be_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        assert literal(r"'\d'") == r"\d"
