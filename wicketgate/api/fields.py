"""Fields of a JSON body: what is wrong with one, in OpenAI's codes, and names that nobody knows."""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticKnownError, from_json

from wicketgate.api.value_count import ValueCount, parts_of
from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import TypeVar

    from pydantic_core import ErrorDetails

    Body = TypeVar("Body", bound="WireModel")

MISSPELT_LETTERS: Final = 2
"""A name this close to a known one is a misspelling."""
MIN_MISSPELT_LENGTH: Final = 6
MAX_UNKNOWN: Final = 32
"""So many unknown names are looked at and reported; more are ignored in silence."""
MAX_TEMPLATE_KWARGS: Final = 32
MAX_TEMPLATE_KWARGS_CHARS: Final = 8 * 1024
"""Of chat_template_kwargs as JSON."""
OWN_TEMPLATE_VARIABLES: Final = ("messages", "tools")
"""Variables of a chat template that fields of their own set."""
MAX_ECHOED: Final = 40
"""Longest value that an error repeats."""

_FAULTS: Final = {
    "missing": ("is required", "missing_required_parameter"),
    "greater_than_equal": ("must be at least {ge}", "{number}_below_min_value"),
    "greater_than": ("must be above {gt}", "{number}_below_min_value"),
    "less_than_equal": ("must be at most {le}", "{number}_above_max_value"),
    "too_short": ("must not be empty", "empty_array"),
    "string_too_short": ("must not be empty", "empty_string"),
    "too_long": ("must have at most {max_length} entries", "array_above_max_length"),
    "string_too_long": ("must have at most {max_length} characters", "string_above_max_length"),
    "finite_number": ("must be a finite number", "invalid_value"),
    "literal_error": ("must be {expected}", "invalid_value"),
    "union_tag_invalid": ("must have one of the types {expected_tags}", "invalid_value"),
    "string_pattern_mismatch": ("must match {pattern}", "invalid_value"),
    "string_type": ("must be a string", "invalid_type"),
    "int_type": ("must be an integer", "invalid_type"),
    "float_type": ("must be a number", "invalid_type"),
    "bool_type": ("must be true or false", "invalid_type"),
    "list_type": ("must be an array", "invalid_type"),
    "dict_type": ("must be an object", "invalid_type"),
    "model_type": ("must be an object", "invalid_type"),
}
"""What pydantic calls a fault: our words and OpenAI's code."""


def sized(most: int) -> BeforeValidator:
    """Refuse an object of more than `most` entries before they are read, where max_length reads them all."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > most:
            bound = {"field_type": "Dictionary", "max_length": most, "actual_length": len(value)}
            raise PydanticKnownError("too_long", bound)
        return value

    return BeforeValidator(check)


class WireModel(BaseModel):
    """A JSON object that a client sends: nothing is converted or infinite; what is null counts as absent."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if isinstance(value, dict):
            return {name: field for name, field in value.items() if field is not None}
        return value


def read_object(data: bytes) -> dict[str, Any]:
    """
    Read a body. A field that is null counts as absent.

    Raises:
        InvalidRequestError: it is no JSON object; NaN, lone surrogates and 200 levels are none.
    """
    # Every so many new objects the collector would go through all that there are: three times the time for
    # a body of many small ones, and nothing in JSON is a cycle.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        # To look up texts among those before them takes longer than to make them.
        value = from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise InvalidRequestError(f"the body must be JSON: {error}", code="invalid_json") from None
    finally:
        if was_enabled:
            gc.enable()
    if not isinstance(value, dict):
        raise InvalidRequestError("the body must be a JSON object", code="invalid_type")
    return {name: field for name, field in value.items() if field is not None}


class Arguments:
    """Reads what the calls of a request were given; all of them together may have the values of one body."""

    def __init__(self) -> None:
        self._before: ValueCount | None = None

    def read(self, text: str, *, param: str) -> dict[str, Any]:
        """
        Read what a call was given, a JSON object as text; no text is none.

        Raises:
            InvalidRequestError: it is something else, or has too many values.
        """
        data = text.encode()
        self._before = count = ValueCount(param=param, before=self._before)
        for part in parts_of(data):
            count.add(part)
        value: object = {}
        if text.strip():
            try:
                value = from_json(data, allow_inf_nan=False)
            except ValueError:
                value = None
        if not isinstance(value, dict):
            raise InvalidRequestError(f"{param} must be a JSON object as text", param=param)
        return value


def validate(model: type[Body], fields: Mapping[str, Any]) -> Body:
    """
    Make a wire model of a body's fields.

    Raises:
        InvalidRequestError: names the first field that is wrong, its value where it is short, and the bound.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False)[0]) from None


def check_template_kwargs(kwargs: Mapping[str, Any]) -> None:
    """
    Bound what a chat template gets besides messages and tools: it may look at it for each of them.

    Raises:
        InvalidRequestError: they are too long, or stand for what fields of their own set.
    """
    for name in OWN_TEMPLATE_VARIABLES:
        if name in kwargs:
            raise InvalidRequestError(
                f"chat_template_kwargs must not hold {name}; send the field {name}",
                param=f"chat_template_kwargs.{name}",
            )
    if len(json.dumps(kwargs)) > MAX_TEMPLATE_KWARGS_CHARS:
        raise InvalidRequestError(
            f"chat_template_kwargs must have at most {MAX_TEMPLATE_KWARGS_CHARS} characters as JSON",
            param="chat_template_kwargs",
            code="string_above_max_length",
        )


def path_of(place: Iterable[str | int]) -> str:
    """Write a place in a body: messages[0].content. Names in <> are pydantic's, not the client's."""
    path = ""
    for step in place:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("<"):
            path += f".{step}" if path else step
    return path


def unknown_names(fields: Mapping[str, Any], known: Collection[str], *, refuses: bool) -> tuple[str, ...]:
    """
    Find the fields that nobody knows.

    Args:
        refuses: Refuse them all, not only those that look misspelt.

    Returns:
        Their names, fit for a header.

    Raises:
        InvalidRequestError: one is within two letters of a known name, or any is there and `refuses`.
    """
    unknown = [name for name in fields if name not in known][:MAX_UNKNOWN]
    for name in unknown:
        meant = _meant(name, known)
        if meant is not None:
            raise InvalidRequestError(
                f"unknown field {name}. Did you mean {meant}?", param=name, code="unknown_parameter"
            )
    if unknown and refuses:
        name = unknown[0][:MAX_ECHOED]
        raise InvalidRequestError(
            f"unknown field {name} (server.unknown_fields is refuse)", param=name, code="unknown_parameter"
        )
    return tuple(quote(name[:MAX_ECHOED], safe="") for name in unknown)


def distance(one: str, other: str) -> int:
    """
    Count the letters to insert, delete or replace between two names (Levenshtein).

    >>> distance("temprature", "temperature")
    1
    """
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, against in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != against))
    return row[-1]


def _meant(name: str, known: Collection[str]) -> str | None:
    if not MIN_MISSPELT_LENGTH <= len(name) <= MAX_ECHOED:
        return None
    near = [other for other in known if abs(len(other) - len(name)) <= MISSPELT_LETTERS]
    return min((other for other in near if distance(name, other) <= MISSPELT_LETTERS), default=None)


def _invalid(error: ErrorDetails) -> InvalidRequestError:
    param = path_of(error["loc"])
    words, code = _FAULTS.get(error["type"], ("must be of another type", "invalid_type"))
    bounds = error.get("ctx", {})
    number = "integer" if any(type(bound) is int for bound in bounds.values()) else "decimal"
    got = "" if error["type"] == "missing" else _echo(error["input"])
    return InvalidRequestError(
        f"{param} {words.format(**bounds)}{got}", param=param, code=code.format(number=number)
    )


def _echo(value: object) -> str:
    """Repeat a short value; longer ones may be what the user wrote."""
    if isinstance(value, bool | int | float | str) and len(repr(value)) <= MAX_ECHOED:
        return f", got {value!r}"
    return ""
