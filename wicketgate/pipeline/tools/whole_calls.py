"""Tool calls that can only be read when all of them have come (pure)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wicketgate.pipeline.phrases import Phrases, PhraseSearch
from wicketgate.pipeline.tools.body import BodyEvent, More, Opened, Unread

if TYPE_CHECKING:
    from wicketgate.pipeline.tools.body import Tools


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    name: str
    arguments: Mapping[str, object]


Parse = Callable[[str, "Tools"], list[Call]]
"""Reads the text between the markers; ValueError, or no calls, where it holds none."""


class WholeCalls:
    """
    A Body.

    Args:
        tools: What may be called; where one call is of another, all of the text is text.
        parse: Reads it.
        start: The marker in front.
        end: The marker behind.
        needs_end: Without the marker behind calls may be cut short unnoticed, and are text.
    """

    def __init__(self, tools: Tools, *, parse: Parse, start: str, end: str, needs_end: bool) -> None:
        self._tools = tools
        self._parse = parse
        self._start = start
        self._end = end
        self._needs_end = needs_end
        self._search = PhraseSearch(Phrases([end]))
        self._text: list[str] = []
        self.rest: str | None = None
        """What came after the end; None while the end has not come."""

    def feed(self, text: str) -> list[BodyEvent]:
        """Take more text."""
        self._text.append(self._search.feed(text))
        if self._search.found is None:
            return []
        self.rest = self._search.rest
        return self._read("".join(self._text), end=self._end)

    def flush(self) -> list[BodyEvent]:
        """End the text."""
        text = "".join(self._text) + self._search.flush()
        return [Unread(self._start + text)] if self._needs_end else self._read(text, end="")

    def _read(self, text: str, *, end: str) -> list[BodyEvent]:
        try:
            calls = self._parse(text, self._tools)
            pieces = [(call.name, json_text(call.arguments)) for call in calls]
        except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError):
            pieces = []
        if not pieces or any(name not in self._tools for name, _ in pieces):
            return [Unread(self._start + text + end)]
        return [event for name, arguments in pieces for event in (Opened(name), More(arguments))]


def json_text(value: object) -> str:
    """
    Write a value as JSON that any language reads: what is not finite becomes null.

    Raises:
        TypeError: JSON has no such thing.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair can be escaped, but not sent
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value))
    return text


def _finite(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
