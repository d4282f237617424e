"""Where one of several phrases ends in a text that comes in pieces: stop texts, markers (pure)."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Phrases:
    """
    Phrases to look for, none of them empty; made once, searched for in many texts.

    Theory of operation: an Aho-Corasick automaton over characters. The depth of a state is the length of the
    longest end of the text that begins some phrase.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fallback = [0]
        self.depth = [0]
        """Of each state."""
        self.found = [""]
        """The longest phrase that is complete in each state, if any."""
        for phrase in phrases:
            self._add(phrase)
        self._link()
        first = "".join(map(re.escape, self._next[0]))
        self.first = re.compile(f"[{first}]") if first else None
        """Where a phrase may begin."""

    def _add(self, phrase: str) -> None:
        state = 0
        for character in phrase:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._fallback.append(0)
                self.depth.append(self.depth[state] + 1)
                self.found.append("")
            state = self._next[state][character]
        self.found[state] = phrase

    def _link(self) -> None:
        """Breadth first: a state falls back to the longest proper end of its text that is a state too."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            self.found[state] = self.found[state] or self.found[self._fallback[state]]
            for character, child in self._next[state].items():
                self._fallback[child] = self.step(self._fallback[state], character)
                queue.append(child)

    def step(self, state: int, character: str) -> int:
        """Return the state after one more character."""
        while state and character not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(character, 0)

    def passed(self, state: int) -> int:
        """Return the state that stands for `state` where the phrase complete in it does not count."""
        while state and not self._next[state]:
            state = self._fallback[state]
        return state


class PhraseSearch:
    """The search for the phrase that completes first in one text; of several at once the longest counts."""

    def __init__(self, phrases: Phrases) -> None:
        self._phrases = phrases
        self._state = 0
        self._held = ""
        self.found: str | None = None
        """The phrase that completed; the text is over."""
        self.rest = ""
        """What came after it in the piece that completed it."""

    def feed(self, text: str, *, may_end: bool = True) -> str:
        """
        Take more text, give what is certain to be in front of the phrase. After the phrase nothing comes.

        Args:
            text: The next piece.
            may_end: Whether a phrase that completes in this piece counts.
        """
        phrases = self._phrases
        if phrases.first is None or self.found is not None:
            return "" if self.found is not None else text
        at = len(self._held)
        text = self._held + text
        while at < len(text):
            if not self._state:
                candidate = phrases.first.search(text, at)
                if candidate is None:
                    break
                at = candidate.start()
            self._state = phrases.step(self._state, text[at])
            at += 1
            if found := phrases.found[self._state]:
                if may_end:
                    self.found, self.rest, self._held = found, text[at:], ""
                    return text[: at - len(found)]
                self._state = phrases.passed(self._state)
        certain = len(text) - phrases.depth[self._state]
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """End the text: what was held back has become no phrase. Another text may begin."""
        held, self._held, self._state = self._held, "", 0
        return held
