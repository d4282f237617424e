"""Tool calls written as a name, a mark, and the arguments as JSON, read while they come (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.pipeline.phrases import Phrases, PhraseSearch
from wicketgate.pipeline.tools.body import More, Opened
from wicketgate.pipeline.tools.json_value import JsonValue
from wicketgate.pipeline.tools.unreadable import Unreadable

if TYPE_CHECKING:
    import re

    from wicketgate.pipeline.tools.body import BodyEvent, Tools


_LONGEST_CHARS: Final = 1000
"""No header is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """How the text in front of arguments looks."""

    mark: str
    """Between the name and the arguments."""
    name: re.Pattern[str]
    """Matches all that comes before the mark; group 1 is the name."""
    begun: re.Pattern[str]
    """Matches whatever may still become that."""
    idle: re.Pattern[str]
    """Matches what may stand behind the last arguments and says nothing."""


class HeaderCalls:
    """
    A Body.

    Args:
        tools: What may be called.
        header: The form.
        start: The marker in front.
        end: The marker behind; None: the body ends with the first text that can be no header.
    """

    def __init__(self, tools: Tools, *, header: Header, start: str, end: str | None) -> None:
        self._tools = tools
        self._header = header
        self._phrases = Phrases([header.mark] if end is None else [header.mark, end])
        self._end = end
        self._lost = Unreadable(start, end, idle=header.idle)
        self._search: PhraseSearch | None = PhraseSearch(self._phrases)
        self._front = ""
        self._name = ""
        self._value: JsonValue | None = None
        self.rest: str | None = None
        """What came after the end; None while the end has not come."""

    def feed(self, text: str) -> list[BodyEvent]:
        """Take more text."""
        events: list[BodyEvent] = []
        left = text
        while left and self.rest is None:
            if self._value is not None:
                left = self._arguments(self._value, left, events)
            elif self._search is not None:
                left = self._before(self._search, left, events)
            elif self._name:
                left = self._begin(left, events)
            else:
                left = self._to_end(left, events)
        return events

    def flush(self) -> list[BodyEvent]:
        """End the text."""
        if self._value is not None:
            return []
        if self._search is not None:
            self._lost.keep(self._front + self._search.flush())
        return [*self._lost.given_up()]

    def _before(self, search: PhraseSearch, text: str, events: list[BodyEvent]) -> str:
        """Look for a header."""
        self._front += search.feed(text)
        if search.found is None:
            if self._match(self._header.begun) is None:
                return self._none(self._front + search.flush(), "", events)
            return ""
        self._search = None
        name = self._match(self._header.name)
        if search.found == self._end or name is None or name[1] not in self._tools:
            return self._none(self._front, search.found + search.rest, events)
        self._name = name[1]
        self._lost.keep(self._front + search.found)
        return search.rest

    def _match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        return expression.fullmatch(self._front) if len(self._front) <= _LONGEST_CHARS else None

    def _none(self, front: str, behind: str, events: list[BodyEvent]) -> str:
        """Go on behind text that is no header: after the end, or with all of it where there is no end."""
        self._search, self._front = None, ""
        return self._to_end(front + behind, events)

    def _begin(self, text: str, events: list[BodyEvent]) -> str:
        left = text.lstrip()
        self._lost.keep(text[: len(text) - len(left)])
        if left.startswith("{"):
            self._value = JsonValue()
            self._lost.called()
            events.append(Opened(self._name))
        elif left:
            self._name = ""
        return left

    def _arguments(self, value: JsonValue, text: str, events: list[BodyEvent]) -> str:
        if piece := value.feed(text):
            events.append(More(piece))
        if value.rest is None:
            return ""
        self._value, self._name, self._front = None, "", ""
        self._search = None if value.is_broken else PhraseSearch(self._phrases)
        return value.rest

    def _to_end(self, text: str, events: list[BodyEvent]) -> str:
        rest = text if self._end is None else self._lost.to_end(text)
        if rest is not None:
            self.rest = rest
            events += self._lost.given_up()
        return ""
