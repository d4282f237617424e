"""Tool calls written as JSON objects, one or a list, read while they come (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wicketgate.pipeline.tools.json_call import JsonCall
from wicketgate.pipeline.tools.unreadable import SEPARATORS, Unreadable

if TYPE_CHECKING:
    from wicketgate.pipeline.tools.body import BodyEvent, Tools


class JsonCalls:
    """
    A Body. Calls follow each other, with whatever brackets and commas between them.

    Args:
        tools: What may be called.
        start: The marker in front.
        end: The marker behind; None: the body ends with the first character that begins no call.
    """

    def __init__(self, tools: Tools, *, start: str, end: str | None) -> None:
        self._tools = tools
        self._has_end = end is not None
        self._lost = Unreadable(start, end)
        self._is_lost = False
        self._call: JsonCall | None = None
        self.rest: str | None = None
        """What came after the end; None while the end has not come."""

    def feed(self, text: str) -> list[BodyEvent]:
        """Take more text."""
        events: list[BodyEvent] = []
        left: str | None = text
        while left and self.rest is None:
            if self._call is not None:
                left = self._read(self._call, left, events)
            elif self._is_lost:
                left = self._to_end(left, events)
            else:
                left = self._between(left)
        return events

    def flush(self) -> list[BodyEvent]:
        """End the text."""
        if self._call is not None and self._call.has_opened:
            return []
        return [*self._lost.given_up()]

    def _between(self, text: str) -> str:
        left = text.lstrip(SEPARATORS)
        self._lost.keep(text[: len(text) - len(left)])
        if left.startswith("{"):
            self._call = JsonCall(self._tools)
        else:
            self._is_lost = bool(left)
        return left

    def _read(self, call: JsonCall, text: str, events: list[BodyEvent]) -> str:
        events += call.feed(text)
        rest = call.rest or ""
        if call.has_opened:
            self._lost.called()
        else:
            self._lost.keep(text[: len(text) - len(rest)])
        if call.rest is not None:
            self._call, self._is_lost = None, call.is_broken
            if call.is_broken:
                return self._to_end(rest, events)
        return rest

    def _to_end(self, text: str, events: list[BodyEvent]) -> str:
        rest = self._lost.to_end(text) if self._has_end else text
        if rest is not None:
            self.rest = rest
            events += self._lost.given_up()
        return ""
