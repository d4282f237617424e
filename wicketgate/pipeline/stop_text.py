"""Where an answer ends because of a text that the client named, found while the text comes in (pure)."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopText:
    """
    Ends a text before the first stop text that completes in it (of several at once the longest).

    Theory of operation: an Aho-Corasick automaton over characters. The depth of its state is the length of
    the longest end of the text that begins some stop; exactly that much is held back.

    Args:
        stops: None empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._matched = [0]
        for stop in stops:
            self._add(stop)
        self._fallback = [0] * len(self._next)
        self._link()
        self._first = re.compile("[" + "".join(re.escape(stop[0]) for stop in stops) + "]") if stops else None
        self._state = 0
        self._held = ""
        self.stopped = False
        """A stop text has completed; the text is over."""

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._matched.append(0)
            state = self._next[state][character]
        self._matched[state] = len(stop)

    def _link(self) -> None:
        """Breadth first: a state falls back to the longest proper end of its text that is a state too."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            self._matched[state] = self._matched[state] or self._matched[self._fallback[state]]
            for character, child in self._next[state].items():
                self._fallback[child] = self._step(self._fallback[state], character)
                queue.append(child)

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(character, 0)

    def feed(self, text: str) -> str:
        """Take more text, give what is certain to stay. After the stop nothing comes."""
        if self._first is None or self.stopped:
            return "" if self.stopped else text
        text = self._held + text
        at = len(self._held)
        while at < len(text):
            if not self._state:
                candidate = self._first.search(text, at)
                if candidate is None:
                    break
                at = candidate.start()
            self._state = self._step(self._state, text[at])
            at += 1
            if self._matched[self._state]:
                self.stopped, self._held = True, ""
                return text[: at - self._matched[self._state]]
        certain = len(text) - self._depth[self._state]
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """End the text: what was held back has become no stop."""
        held, self._held, self._state = self._held, "", 0
        return held
