"""Takes an answer's text apart while it comes: what the client sees, reasoning, tool calls (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from wicketgate.pipeline.phrases import Phrases, PhraseSearch
from wicketgate.pipeline.pieces import CallArguments, CallOpened
from wicketgate.pipeline.tools.body import More, Opened, Unread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wicketgate.pipeline.thinking import ThinkPair
    from wicketgate.pipeline.tools.body import Body, BodyEvent, ToolFormat, Tools


@dataclass(frozen=True, slots=True)
class Said:
    """Visible text."""

    text: str
    begin: int
    """Its place in the whole text."""


@dataclass(frozen=True, slots=True)
class Thought:
    """Text of reasoning."""

    text: str


Event = Said | Thought | CallOpened | CallArguments


class Markers:
    """
    What to look for in the answers of one model; made once for each way of reading them.

    Args:
        think: How the model marks reasoning, if it does.
        tools: How it writes calls, if they are to be read.
        frame: Texts of its own around the visible text, which is not to show them.
        hidden: Names of special tokens among all these, which a client never sees.
    """

    def __init__(
        self,
        *,
        think: ThinkPair | None,
        tools: ToolFormat | None,
        frame: Sequence[str] = (),
        hidden: Iterable[str] = (),
    ) -> None:
        self.think = think
        self.tools = tools
        starts = [*frame]
        if think is not None:
            starts.append(think.start)
        if tools is not None and tools.start:
            starts.append(tools.start)
        self.starts = Phrases(starts)
        self.think_end = Phrases([] if think is None else [think.end])
        self.is_needed = bool(starts) or tools is not None
        """Whether there is anything to look for."""
        names = "|".join(map(re.escape, sorted(hidden, key=len, reverse=True)))
        self.hidden = re.compile(names) if names else None


class _State(Enum):
    SAYING = auto()
    THINKING = auto()
    CALLING = auto()


class OutputReader:
    """
    Reads one answer.

    Text outside the markers goes out at once, but for an end of it that may begin a marker. Line breaks that
    follow a marker belong to it. Inside reasoning only its end is looked for. What stands between a call's
    markers and is no call is visible text.

    Args:
        markers: What to look for.
        tools: The tools that may be called.
        max_calls: The answer ends where another call would begin.
        is_thinking: The prompt has begun the reasoning.
        is_call: The whole answer, after reasoning, is what `markers.tools` reads between its markers.
    """

    def __init__(
        self,
        markers: Markers,
        *,
        tools: Tools,
        max_calls: int | None = None,
        is_thinking: bool = False,
        is_call: bool = False,
    ) -> None:
        self._markers = markers
        self._tools = tools
        self._max_calls = max_calls
        self._is_call = is_call
        self._state = _State.SAYING
        self._search = PhraseSearch(markers.starts)
        self._body: Body | None = None
        self._events: list[Event] = []
        self._resolved = 0
        """Characters of the whole text whose fate is known."""
        self._skips_breaks = False
        self._has_said = False
        self.calls = 0
        """Calls that have begun."""
        self.is_over = False
        """The answer has all the calls that it may have, and more was to come: nothing is read any more."""
        if is_thinking:
            self._think()
        elif is_call:
            self._open()

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._state is _State.THINKING

    def feed(self, text: str) -> list[Event]:
        """Take more of the answer, give what is certain."""
        while text and not self.is_over:
            if self._skips_breaks:
                stripped = text.lstrip("\n")
                self._resolved += len(text) - len(stripped)
                self._skips_breaks = not stripped
                text = stripped
            elif self._body is not None:
                text = self._call(self._body, text)
            else:
                text = self._look(text)
        return self._given()

    def flush(self) -> list[Event]:
        """End the answer: what was held back comes out."""
        if self._body is not None:
            self._read(self._body.flush())
        elif not self.is_over:
            self._pass(self._search.flush())
        return self._given()

    def _given(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _look(self, text: str) -> str:
        """Pass text up to the next marker; give what comes after it."""
        search = self._search
        self._pass(search.feed(text))
        if search.found is None:
            return ""
        self._marker(search.found)
        return search.rest

    def _pass(self, text: str) -> None:
        if not text:
            return
        if self._state is _State.THINKING:
            self._events.append(Thought(text))
        else:
            self._say(text, self._resolved)
        self._resolved += len(text)

    def _marker(self, marker: str) -> None:
        think, tools = self._markers.think, self._markers.tools
        if self._state is _State.THINKING:
            self._resolved += len(marker)
            self._skips_breaks = True
            if self._is_call:
                self._open()
            else:
                self._speak()
        elif think is not None and marker == think.start:
            if self._has_said and not think.is_anywhere:
                self._speak()
                self._pass(marker)
            else:
                self._resolved += len(marker)
                self._think()
        elif tools is not None and marker == tools.start:
            self._resolved += len(marker)
            self._open()
        else:
            self._resolved += len(marker)
            self._speak()

    def _speak(self) -> None:
        self._state = _State.SAYING
        self._body = None
        self._search = PhraseSearch(self._markers.starts)

    def _think(self) -> None:
        self._state = _State.THINKING
        self._skips_breaks = True
        self._search = PhraseSearch(self._markers.think_end)

    def _open(self) -> None:
        assert self._markers.tools is not None
        self._state = _State.CALLING
        self._body = self._markers.tools.body(self._tools)

    def _call(self, body: Body, text: str) -> str:
        events = body.feed(text)
        rest = body.rest
        self._resolved += len(text) - len(rest or "")
        self._read(events)
        if rest is None:
            return ""
        self._speak()
        self._skips_breaks = not any(isinstance(event, Unread) for event in events)
        return rest

    def _read(self, events: Iterable[BodyEvent]) -> None:
        for event in events:
            if self.is_over:
                return
            match event:
                case Opened(name=name):
                    self.is_over = self.calls == self._max_calls
                    if not self.is_over:
                        self._events.append(CallOpened(index=self.calls, name=name))
                        self.calls += 1
                case More(text=text):
                    self._events.append(CallArguments(index=self.calls - 1, text=text))
                case unread:
                    self._say(unread.text, self._resolved - unread.behind - len(unread.text))

    def _say(self, text: str, begin: int) -> None:
        """Give visible text, without the names of special tokens in it."""
        at = 0
        if self._markers.hidden is not None:
            for name in self._markers.hidden.finditer(text):
                self._said(text[at : name.start()], begin + at)
                at = name.end()
        self._said(text[at:], begin + at)

    def _said(self, text: str, begin: int) -> None:
        if text:
            self._events.append(Said(text, begin))
            self._has_said = self._has_said or not text.isspace()
