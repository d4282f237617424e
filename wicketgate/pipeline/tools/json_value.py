"""The text of one JSON value, cut out of what comes in pieces (pure)."""

from __future__ import annotations

import re
from typing import Final

_IN_STRING: Final = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_BETWEEN: Final = re.compile(r"[\s0-9.,:+]*")
_WORD: Final = re.compile(r"-?[A-Za-z]*")
_SCALAR: Final = re.compile(r"[^\s,:\[\]{}\"<]*")
_LONGEST_WORD: Final = len("-Infinity")
_NOT_FINITE: Final = frozenset(("NaN", "Infinity", "-Infinity"))


class JsonValue:
    """
    Follows a value to its end by counting brackets; it need not be valid inside.

    NaN and the infinities, which Python writes and no other language reads, become null. A character that no
    JSON may hold outside of a string breaks the value off there.
    """

    def __init__(self) -> None:
        self._held = ""
        self._held_chars = 0
        self._depth = 0
        self._in_string = False
        self._is_scalar = False
        self._has_begun = False
        self.is_broken = False
        """It ended where no value ends."""
        self.rest: str | None = None
        """What came after it; None while it goes on."""

    def feed(self, text: str) -> str:
        """Take more text, the first of it the first of the value; give what of it belongs to the value."""
        self._held_chars = len(self._held)
        text, self._held = self._held + text, ""
        if not self._has_begun and text:
            self._has_begun = True
            self._is_scalar = text[0] not in '"{['
        if self._is_scalar:
            return self._scalar(text)
        given: list[str] = []
        at = 0
        while at < len(text) and self.rest is None:
            at = self._string(text, at, given) if self._in_string else self._outside(text, at, given)
        return "".join(given)

    def _scalar(self, text: str) -> str:
        match = _SCALAR.match(text)
        end = match.end() if match else 0
        if end < len(text):
            self.rest = text[end:]
        return text[:end]

    def _string(self, text: str, at: int, given: list[str]) -> int:
        """Take a string up to its end; half an escape at the end of the text is held back."""
        match = _IN_STRING.match(text, at)
        end = match.end() if match else at
        given.append(text[at:end])
        if end == len(text):
            return end
        if text[end] != '"':
            self._held = text[end:]
            return len(text)
        given.append('"')
        self._in_string = False
        return self._after(text, end + 1)

    def _outside(self, text: str, at: int, given: list[str]) -> int:
        match = _BETWEEN.match(text, at)
        end = match.end() if match else at
        given.append(text[at:end])
        if end == len(text):
            return end
        character = text[end]
        if character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        else:
            return self._word(text, end, given)
        given.append(character)
        return self._after(text, end + 1) if character in "}]" else end + 1

    def _word(self, text: str, at: int, given: list[str]) -> int:
        """Take true, false, null, the sign or the exponent of a number."""
        match = _WORD.match(text, at)
        end = match.end() if match else at
        if end == at or end - at > _LONGEST_WORD:
            # What was held back counts as taken when it came.
            end = max(at, self._held_chars)
            given.append(text[at:end])
            self.is_broken, self.rest = True, text[end:]
        elif end == len(text):
            self._held = text[at:]
        else:
            word = text[at:end]
            given.append("null" if word in _NOT_FINITE else word)
        return end

    def _after(self, text: str, at: int) -> int:
        if not self._depth:
            self.rest = text[at:]
        return at
