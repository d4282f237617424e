"""
How many values a JSON text holds, counted before they are made of it (pure).

A parser makes an object of every value, in one call that nothing interrupts: 20 bytes of text cost as much as
20,000, when they are ten numbers and not one word.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NAMES: Final = 1 << 16
"""Named fields of all objects together: parsing so many takes up to 30 ms (Linux CPU)."""
MAX_DIGITS: Final = 400
"""Of a number: to read it takes longer with the square of them; the largest double has 309."""
MORE_VALUES: Final = 1 << 17
"""Values besides those of a prompt that is token ids: so many texts take up to 10 ms (Linux CPU)."""
PART_BYTES: Final = 64 * 1024
"""Counted at once: 3 milliseconds at most (Linux CPU), then others have a turn."""
_LONG_NUMBER: Final = re.compile(rb"(?<![0-9])[0-9]{%d}" % (MAX_DIGITS + 1))


class ValueCount:
    """
    Counts the values of a JSON text that comes in parts.

    Of what is no JSON it counts at least what stands before the first fault: no parser comes further.

    Args:
        most_ids: Token ids of the longest prompt that may be sent.
        param: The field that is such a text; None is the whole body.
        before: Of the text before this one, where several share the bounds.
    """

    def __init__(
        self, *, most_ids: int = 0, param: str | None = None, before: ValueCount | None = None
    ) -> None:
        self.names: int = 0 if before is None else before.names
        """Of fields."""
        self.values: int = 0 if before is None else before.values
        """Entries of lists, and fields but for the first of each object."""
        self._param = param
        self._name = "the body" if param is None else param
        self._shared = "" if before is None else ", those of such fields before it counted"
        self._most_values = MORE_VALUES + most_ids
        self._is_inside = False
        """The last part ended within a text."""
        self._cut = b""
        """A backslash that the last part ended with."""

    def add(self, part: bytes) -> None:
        """
        Count those of the next part.

        Raises:
            InvalidRequestError: there are too many by now, or a number has too many digits.
        """
        part = self._cut + part
        backslashes = len(part) - len(part.rstrip(b"\\"))
        self._cut = b"\\" if backslashes % 2 else b""
        part = part[: len(part) - len(self._cut)]
        pieces = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(pieces[self._is_inside :: 2])
        self._is_inside ^= len(pieces) % 2 == 0
        self.names += outside.count(b":")
        self.values += outside.count(b",") + outside.count(b"[")
        if _LONG_NUMBER.search(outside):
            raise InvalidRequestError(
                f"a number in {self._name} must have at most {MAX_DIGITS} digits", param=self._param
            )
        self._require(self.names, MAX_NAMES, "fields, those inside of others counted")
        self._require(self.values, self._most_values, "values, those of all lists together")

    def _require(self, count: int, most: int, kind: str) -> None:
        if count > most:
            raise InvalidRequestError(
                f"{self._name} must have at most {most} {kind}{self._shared}, got {count} or more;"
                " send less at a time",
                param=self._param,
                code="array_above_max_length",
            )


def parts_of(data: bytes) -> Iterator[bytes]:
    """Cut a text into what is counted at once."""
    for at in range(0, len(data), PART_BYTES):
        yield data[at : at + PART_BYTES]
