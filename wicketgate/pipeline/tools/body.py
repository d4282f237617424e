"""What reading the inside of a call's markers gives, and how it is asked for (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Opened:
    """A call begins."""

    name: str


@dataclass(frozen=True, slots=True)
class More:
    """More of its arguments."""

    text: str


@dataclass(frozen=True, slots=True)
class Unread:
    """Text between the markers that is no call."""

    text: str
    behind: int = 0
    """Characters that were taken after it."""


BodyEvent = Opened | More | Unread

Properties = Mapping[str, object]
"""Of a tool's parameters, by name: their JSON schemas."""
Tools = Mapping[str, Properties]
"""The tools that may be called, by name."""


class Body(Protocol):
    """The text between a call's markers, while it comes."""

    @property
    def rest(self) -> str | None:
        """What came after the end; None while the end has not come."""

    def feed(self, text: str) -> list[BodyEvent]:
        """Take more text."""

    def flush(self) -> list[BodyEvent]:
        """End the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """One way of writing calls."""

    name: str
    start: str
    end: str | None
    """None: the calls go on until something else comes."""
    body: Callable[[Tools], Body]
    """Begins to read what comes after `start`."""
    tokens: tuple[str, ...] = ()
    """Tokens, special ones perhaps, that the calls are written with, besides the two markers."""
