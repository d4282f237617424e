"""Texts and token ids that a body may hold in several forms (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from wicketgate.api.requests import ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One of the inputs of a body."""

    param: str
    """Where it stands: input[3]."""
    content: str | tuple[int, ...]
    """A text, or the ids of its tokens."""

    def check(self, card: ModelCard) -> None:
        """
        Check that the model knows its ids.

        Raises:
            InvalidRequestError: names the first that it does not.
        """
        if isinstance(self.content, str) or not self.content:
            return
        if min(self.content) >= 0 and max(self.content) < card.vocabulary_tokens:
            return
        for place, token in enumerate(self.content):
            if not 0 <= token < card.vocabulary_tokens:
                param = f"{self.param}[{place}]"
                bound = card.vocabulary_tokens - 1
                raise InvalidRequestError(
                    f"{param} must be a token id from 0 to {bound}, got {token}", param=param
                )


def read_input(value: object, *, param: str, may_be_empty: bool = False) -> Input:
    """
    Read one text, or the ids of one.

    Raises:
        InvalidRequestError: it is neither, or empty.
    """
    if not isinstance(value, str | list):
        raise _wrong_type(param, "a string or an array of token ids")
    if not value and not may_be_empty:
        code = "empty_string" if isinstance(value, str) else "empty_array"
        raise InvalidRequestError(f"{param} must not be empty", param=param, code=code)
    if isinstance(value, str):
        return Input(param=param, content=value)
    if set(map(type, value)) - {int}:  # true is none
        place = next(place for place, token in enumerate(value) if type(token) is not int)
        raise _wrong_type(f"{param}[{place}]", "a token id")
    return Input(param=param, content=tuple(value))


def read_inputs(value: object, *, param: str, most: int, may_be_empty: bool = False) -> list[Input]:
    """
    Read a text, several, the ids of one, or those of several.

    Args:
        value: Of the field.
        param: The field's name.
        most: How many there may be.
        may_be_empty: Whether one of them may.

    Raises:
        InvalidRequestError: there are none or too many, one is empty, or they are not all of a kind.
    """
    if not isinstance(value, list) or (value and type(value[0]) is int):
        return [read_input(value, param=param, may_be_empty=may_be_empty)]
    if not value:
        raise InvalidRequestError(f"{param} must not be empty", param=param, code="empty_array")
    if len(value) > most:
        raise InvalidRequestError(
            f"{param} must have at most {most} entries, got {len(value)}",
            param=param,
            code="array_above_max_length",
        )
    inputs = [
        read_input(each, param=f"{param}[{place}]", may_be_empty=may_be_empty)
        for place, each in enumerate(value)
    ]
    for each in inputs:
        if type(each.content) is not type(inputs[0].content):
            raise _wrong_type(
                each.param, f"of the kind of {param}[0]: all strings, or all arrays of token ids"
            )
    return inputs


def _wrong_type(param: str, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} must be {wanted}", param=param, code="invalid_type")
