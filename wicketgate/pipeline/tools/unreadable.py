"""Text between the markers that turns out to be no call (pure)."""

from __future__ import annotations

import re
from typing import Final

from wicketgate.pipeline.phrases import Phrases, PhraseSearch
from wicketgate.pipeline.tools.body import Unread

SEPARATORS: Final = " \t\r\n,[]"
"""What may stand between calls that are written as JSON, and says nothing."""
IDLE: Final = re.compile(rf"[{re.escape(SEPARATORS)}]*")


class Unreadable:
    """
    Keeps what came since the last call that could be read, until it is known whether it is one.

    Args:
        start: The marker in front.
        end: The marker behind, if there is one.
        idle: Matches text that says nothing next to calls.
    """

    def __init__(self, start: str, end: str | None, *, idle: re.Pattern[str] = IDLE) -> None:
        self._start = start
        self._idle = idle
        self._search = PhraseSearch(Phrases([end] if end else []))
        self._kept: list[str] = []
        self._has_calls = False

    def keep(self, text: str) -> None:
        """Take text of which it is not known whether it is a call."""
        self._kept.append(text)

    def called(self) -> None:
        """Forget what was kept: it was the beginning of a call."""
        self._kept.clear()
        self._has_calls = True

    def to_end(self, text: str) -> str | None:
        """Keep text up to the end marker; give what comes after it, None where it has not come."""
        self._kept.append(self._search.feed(text))
        return None if self._search.found is None else self._search.rest

    def given_up(self) -> list[Unread]:
        """Give what was kept: beside calls that were read only what says more, else all, with the markers."""
        end = self._search.found or ""
        text = "".join(self._kept) + self._search.flush()
        self._kept.clear()
        if not self._has_calls:
            return [Unread(self._start + text + end)] if self._start + text + end else []
        if not self._start:
            # Nothing but calls may stand there: it is the beginning of one that was cut short.
            return []
        return [] if self._idle.fullmatch(text) else [Unread(text, behind=len(end))]
