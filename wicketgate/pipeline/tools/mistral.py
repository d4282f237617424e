"""Mistral's calls: a JSON list, or a name and its arguments; nothing ends them (pure)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wicketgate.pipeline.tools.header_calls import Header, HeaderCalls
from wicketgate.pipeline.tools.json_calls import JsonCalls

if TYPE_CHECKING:
    from wicketgate.pipeline.tools.body import Body, BodyEvent, Tools

MISTRAL_START: Final = "[TOOL_CALLS]"
MISTRAL_ARGUMENTS: Final = "[ARGS]"
_HEADER: Final = Header(
    mark=MISTRAL_ARGUMENTS,
    name=re.compile(r"\s*([\w-]+)\s*"),
    begun=re.compile(r"\s*[\w-]*\s*"),
    idle=re.compile(r"\s*"),
)


class MistralCalls:
    """A Body, of the one kind or the other."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._body: Body = HeaderCalls(tools, header=_HEADER, start=MISTRAL_START, end=None)
        self._front: str | None = ""
        """What came in front of the first character that says which kind it is; None once it has."""

    @property
    def rest(self) -> str | None:
        """What came after the end; None while the end has not come."""
        return self._body.rest

    def feed(self, text: str) -> list[BodyEvent]:
        """Take more text."""
        if self._front is None:
            return self._body.feed(text)
        text = self._front + text
        begun = text.lstrip()
        self._front = None if begun else text
        if begun.startswith(("[", "{")):
            self._body = JsonCalls(self._tools, start=MISTRAL_START, end=None)
        return self._body.feed(text) if begun else []

    def flush(self) -> list[BodyEvent]:
        """End the text."""
        return [*self._body.feed(self._front or ""), *self._body.flush()]
