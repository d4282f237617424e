"""One tool call written as a JSON object, read while it comes (pure)."""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from wicketgate.pipeline.tools.body import More, Opened
from wicketgate.pipeline.tools.json_value import JsonValue

if TYPE_CHECKING:
    from collections.abc import Container

    from wicketgate.pipeline.tools.body import BodyEvent

_ARGUMENTS: Final = ("arguments", "parameters")


class _Next(Enum):
    BRACE = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()


class JsonCall:
    """
    `{"name": .., "arguments": {..}}`, with other members anywhere; `parameters` means the same.

    The arguments go out as they come once the name is known. Written as a string of JSON they are decoded,
    null and none at all are no arguments.

    Args:
        names: Of the tools that may be called; a call of another is broken off.
    """

    def __init__(self, names: Container[str]) -> None:
        self._names = names
        self._next = _Next.BRACE
        self._key: str | None = None
        self._value: JsonValue | None = None
        self._text: list[str] = []
        """Of the key or value that is being read, if it does not go out at once."""
        self._name: str | None = None
        self._arguments: str | None = None
        """The whole arguments, where they came before the name."""
        self._is_live = False
        self._events: list[BodyEvent] = []
        self.has_opened = False
        self.is_broken = False
        """It is no call, or not a whole one."""
        self.rest: str | None = None
        """What came after it; None while it goes on."""

    def feed(self, text: str) -> list[BodyEvent]:
        """Take more text, the first of it the opening brace."""
        left: str | None = text
        while left and self.rest is None:
            left = self._step(left)
        events, self._events = self._events, []
        return events

    def _step(self, text: str) -> str:
        if self._value is not None:
            return self._read(self._value, text)
        text = text.lstrip(" \t\r\n," if self._next is _Next.KEY else " \t\r\n")
        if text:
            match self._next, text[0]:
                case _Next.BRACE, "{":
                    self._next = _Next.KEY
                    return text[1:]
                case _Next.KEY, '"':
                    self._value = JsonValue()
                case _Next.KEY, "}":
                    self._close(text[1:])
                    return ""
                case _Next.COLON, ":":
                    self._next = _Next.VALUE
                    return text[1:]
                case _Next.VALUE, first:
                    self._begin(first)
                case _:
                    self._break(text)
                    return ""
        return text

    def _begin(self, first: str) -> None:
        self._value = JsonValue()
        self._is_live = (
            self._key in _ARGUMENTS and first == "{" and self._name is not None and not self.has_opened
        )
        if self._is_live:
            self._open()

    def _read(self, value: JsonValue, text: str) -> str:
        piece = value.feed(text)
        if not self._is_live:
            self._text.append(piece)
        elif piece:
            self._events.append(More(piece))
        if value.rest is None:
            return ""
        rest, self._value = value.rest, None
        whole, self._text = "".join(self._text), []
        if value.is_broken:
            self._break(rest)
        elif self._next is _Next.KEY:
            self._key, self._next = _loaded(whole), _Next.COLON
        else:
            self._next = _Next.KEY
            if not self._is_live and not self._has_taken(whole):
                self._break(rest)
            self._is_live = False
        return rest if self.rest is None else ""

    def _has_taken(self, whole: str) -> bool:
        """Take a member that has come whole; whether it is what a call may have."""
        if self.has_opened:
            return True
        if self._key == "name" and self._name is None:
            self._name = _loaded(whole)
            if self._name is None or self._name not in self._names:
                return False
        elif self._key in _ARGUMENTS:
            self._arguments = _object_text(whole)
            if self._arguments is None:
                return False
        if self._name is not None and self._arguments is not None:
            self._open()
            self._events.append(More(self._arguments))
        return True

    def _open(self) -> None:
        self.has_opened = True
        self._events.append(Opened(self._name or ""))

    def _close(self, rest: str) -> None:
        if self._name is None:
            self._break(rest)
            return
        if not self.has_opened:
            self._open()
            self._events.append(More("{}"))
        self.rest = rest

    def _break(self, rest: str) -> None:
        self.is_broken, self.rest = True, rest


def _loaded(text: str) -> str | None:
    """The text that a JSON string stands for; None: it is no string."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _object_text(text: str) -> str | None:
    """The object that whole arguments stand for, as JSON; None: they stand for none."""
    if text == "null":
        return "{}"
    if not text.startswith('"'):
        return text if text.startswith("{") else None
    inner = _loaded(text)
    if inner is None or inner.strip() in ("", "null"):
        return None if inner is None else "{}"
    return inner if _is_object(inner) else None


def _is_object(text: str) -> bool:
    try:
        text.encode()  # half a surrogate pair can be escaped, but not sent
        return isinstance(json.loads(text, parse_constant=_refuse), dict)
    except (ValueError, RecursionError):
        return False


def _refuse(name: str) -> None:
    raise ValueError(name)
