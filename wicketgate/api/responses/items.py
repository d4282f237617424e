"""Items of a Responses output while they grow: what they are, and the events that tell of them (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from transport import sse
from wicketgate.api.openai.wire import MIN_LOGPROB, token_text
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk, TextChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.inference import TokenLogprob
    from wicketgate.pipeline.pieces import Piece

    Event = tuple[str, dict[str, object]]
    """Name without `response.`, and fields but for type and sequence_number."""


class OutputItem(Protocol):
    """One item of an output; its last event holds all that its deltas said."""

    def takes(self, piece: Piece) -> bool:
        """Whether a piece goes on with this item."""

    def add(self, piece: Piece) -> None:
        """Take a piece."""

    def delta(self, piece: Piece, number: int) -> bytes:
        """Write the event of a piece that was taken."""

    def opening(self) -> list[Event]:
        """Return the events before its first piece."""

    def closing(self, status: str) -> list[Event]:
        """Return the events after its last piece."""

    def value(self, status: str) -> dict[str, object]:
        """Return what it is now."""


class Deltas:
    """
    Writes events that differ in number and text only: the JSON around them is made once for each item.

    Args:
        name: Of the event, without `response.`.
        fields: The others.
    """

    def __init__(self, name: str, **fields: object) -> None:
        kind = f"response.{name}"
        before = sse.event({"type": kind, **fields}, name=kind)
        self._before = before.removesuffix(b"}\n\n") + b',"sequence_number":'

    def encode(self, number: int, text: str) -> bytes:
        """Write one event."""
        return b'%b%d,"delta":%b}\n\n' % (self._before, number, sse.json_string(text))


class TextItem:
    """
    What the model says, a `message`, or what it thinks, `reasoning`; one part of text.

    Args:
        name: Its id.
        index: Its place in the output.
        token_bytes: Bytes of one token by itself, for log-probabilities.
    """

    def __init__(
        self, name: str, index: int, *, is_reasoning: bool, token_bytes: Callable[[int], bytes]
    ) -> None:
        self._id, self._index = name, index
        self._is_reasoning = is_reasoning
        self._kind = "reasoning_text" if is_reasoning else "output_text"
        self._pieces = ReasoningChunk if is_reasoning else TextChunk
        self._token_bytes = token_bytes
        self._texts: list[str] = []
        self._logprobs: list[dict[str, object]] = []
        self._place: dict[str, object] = {"item_id": name, "output_index": index, "content_index": 0}
        extra: dict[str, object] = {} if is_reasoning else {"logprobs": []}
        self._deltas = Deltas(f"{self._kind}.delta", **self._place, **extra)

    def takes(self, piece: Piece) -> bool:
        """Whether a piece goes on with this item."""
        return isinstance(piece, self._pieces)

    def add(self, piece: Piece) -> None:
        """Take a piece."""
        assert not isinstance(piece, CallOpened)
        self._texts.append(piece.text)
        if isinstance(piece, TextChunk) and piece.logprobs:
            self._logprobs.extend(entries(piece.logprobs, self._token_bytes))

    def delta(self, piece: Piece, number: int) -> bytes:
        """Write the event of a piece that was taken."""
        assert not isinstance(piece, CallOpened)
        if not (isinstance(piece, TextChunk) and piece.logprobs):
            return self._deltas.encode(number, piece.text)
        kind = "response.output_text.delta"
        logprobs = [_without_bytes(entry) for entry in self._logprobs[-len(piece.logprobs) :]]
        about = {"type": kind, "sequence_number": number, **self._place}
        return sse.event({**about, "delta": piece.text, "logprobs": logprobs}, name=kind)

    def opening(self) -> list[Event]:
        """Return the events before its first piece."""
        item = {**self.value("in_progress"), "content": []}
        return [
            ("output_item.added", {"output_index": self._index, "item": item}),
            ("content_part.added", {**self._place, "part": self._part()}),
        ]

    def closing(self, status: str) -> list[Event]:
        """Return the events after its last piece."""
        text: dict[str, object] = {**self._place, "text": "".join(self._texts)}
        if not self._is_reasoning:
            text["logprobs"] = [_without_bytes(entry) for entry in self._logprobs]
        return [
            (f"{self._kind}.done", text),
            ("content_part.done", {**self._place, "part": self._part()}),
            ("output_item.done", {"output_index": self._index, "item": self.value(status)}),
        ]

    def value(self, status: str) -> dict[str, object]:
        """Return what it is now."""
        about: dict[str, object] = {"id": self._id, "status": status, "content": [self._part()]}
        if self._is_reasoning:
            return {**about, "type": "reasoning", "summary": []}
        return {**about, "type": "message", "role": "assistant"}

    def _part(self) -> dict[str, object]:
        part: dict[str, object] = {"type": self._kind, "text": "".join(self._texts)}
        return part if self._is_reasoning else {**part, "annotations": [], "logprobs": list(self._logprobs)}


class CallItem:
    """
    A call of a function.

    Args:
        name: Its id as an item.
        index: Its place in the output.
        call: Its id as a call: what its output will name.
        function: The name of the function.
    """

    def __init__(self, name: str, index: int, *, call: str, function: str) -> None:
        self._id, self._index, self._call, self._function = name, index, call, function
        self._arguments: list[str] = []
        self._place: dict[str, object] = {"item_id": name, "output_index": index}
        self._deltas = Deltas("function_call_arguments.delta", **self._place)

    def takes(self, piece: Piece) -> bool:
        """Whether a piece goes on with this item."""
        return isinstance(piece, CallArguments)

    def add(self, piece: Piece) -> None:
        """Take a piece."""
        assert not isinstance(piece, CallOpened)
        self._arguments.append(piece.text)

    def delta(self, piece: Piece, number: int) -> bytes:
        """Write the event of a piece that was taken."""
        assert not isinstance(piece, CallOpened)
        return self._deltas.encode(number, piece.text)

    def opening(self) -> list[Event]:
        """Return the events before its first piece."""
        return [("output_item.added", {"output_index": self._index, "item": self.value("in_progress")})]

    def closing(self, status: str) -> list[Event]:
        """Return the events after its last piece."""
        text = "".join(self._arguments)
        return [
            ("function_call_arguments.done", {**self._place, "name": self._function, "arguments": text}),
            ("output_item.done", {"output_index": self._index, "item": self.value(status)}),
        ]

    def value(self, status: str) -> dict[str, object]:
        """Return what it is now."""
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "call_id": self._call,
            "name": self._function,
            "arguments": "".join(self._arguments),
        }


class Output:
    """
    The items of one answer, one open at a time.

    Args:
        suffix: Of all its ids, never used by another answer.
        token_bytes: Bytes of one token by itself.
    """

    def __init__(self, suffix: str, token_bytes: Callable[[int], bytes]) -> None:
        self._suffix = suffix
        self._token_bytes = token_bytes
        self._done: list[dict[str, object]] = []
        self._open: OutputItem | None = None

    def item(self, piece: Piece) -> tuple[OutputItem, list[Event]]:
        """Return the item that a piece belongs to, and the events of what ends and begins before it."""
        if self._open is not None and self._open.takes(piece):
            return self._open, []
        events = self.close("completed")
        self._open = self._begin(piece)
        return self._open, events + self._open.opening()

    def close(self, status: str) -> list[Event]:
        """End the open item, if there is one."""
        if self._open is None:
            return []
        events = self._open.closing(status)
        self._done.append(self._open.value(status))
        self._open = None
        return events

    def end(self, status: str) -> list[Event]:
        """End the output; one without anything gets an empty message, since clients look for one."""
        if self._done or self._open is not None:
            return self.close(status)
        self._open = self._text("msg", is_reasoning=False)
        return self._open.opening() + self.close(status)

    def values(self) -> list[dict[str, object]]:
        """Return all items so far, the open one as cut short."""
        opened = [] if self._open is None else [self._open.value("incomplete")]
        return [*self._done, *opened]

    def _begin(self, piece: Piece) -> OutputItem:
        match piece:
            case CallOpened(name=function):
                call = f"call_{self._suffix}{len(self._done)}"
                return CallItem(self._name("fc"), len(self._done), call=call, function=function)
            case ReasoningChunk():
                return self._text("rs", is_reasoning=True)
            case TextChunk():
                return self._text("msg", is_reasoning=False)
            case CallArguments():
                raise AssertionError("arguments without a call")

    def _text(self, prefix: str, *, is_reasoning: bool) -> TextItem:
        name, index = self._name(prefix), len(self._done)
        return TextItem(name, index, is_reasoning=is_reasoning, token_bytes=self._token_bytes)

    def _name(self, prefix: str) -> str:
        return f"{prefix}_{self._suffix}{len(self._done)}"


def entries(logprobs: Sequence[TokenLogprob], token_bytes: Callable[[int], bytes]) -> list[dict[str, object]]:
    """Write log-probabilities: every token with its bytes and the best alternatives, best first."""

    def one(token: int, logprob: float) -> dict[str, object]:
        data = token_bytes(token)
        return {"token": token_text(data), "bytes": list(data), "logprob": max(logprob, MIN_LOGPROB)}

    return [
        {**one(entry.token, entry.logprob), "top_logprobs": [one(token, value) for token, value in entry.top]}
        for entry in logprobs
    ]


def _without_bytes(entry: dict[str, object]) -> dict[str, object]:
    """Events have no bytes."""
    top = entry["top_logprobs"]
    assert isinstance(top, list)
    bare = [{"token": each["token"], "logprob": each["logprob"]} for each in top]
    return {"token": entry["token"], "logprob": entry["logprob"], "top_logprobs": bare}
