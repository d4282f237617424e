"""
The answer to /v1/messages, whole or as events (pure).

Clients see only events that carry their name twice, take blocks in the order of their index, and a thinking
block with a signature only; what a tool is given begins as {} and comes as pieces of JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

from transport import sse
from wicketgate.api.envelopes import Family, error_event
from wicketgate.inference import FinishReason
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk, TextChunk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wicketgate.api.order import Answer, Choice
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Finished
    from wicketgate.pipeline.pieces import Piece

SIGNATURE: Final = "wicketgate"
"""Of thinking: clients want one, and send it back; nobody checks it."""
_DELTAS: Final = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""Of each kind of block: what its deltas are called, and the field that grows."""


@dataclass(slots=True)
class _Block:
    kind: str
    about: dict[str, object]
    before: bytes
    """Of its deltas, all before the text."""
    texts: list[str] = field(default_factory=list)

    def value(self) -> dict[str, object]:
        text = "".join(self.texts)
        match self.kind:
            case "text":
                return {"type": "text", "text": text}
            case "thinking":
                return {"type": "thinking", "thinking": text, "signature": SIGNATURE}
            case _:
                return {**self.about, "input": _object(text)}


class MessageForm:
    """
    Writes one message.

    Args:
        request_id: Ours.
        model: Its id.
        max_tokens: As asked for; 0 only reads the prompt, and the answer is empty.
        shows_thinking: Otherwise thinking blocks are empty.
    """

    def __init__(self, *, request_id: str, model: str, max_tokens: int, shows_thinking: bool) -> None:
        self._request_id = request_id
        name = f"msg_{request_id.removeprefix('req_')}"
        self._about = {"id": name, "type": "message", "role": "assistant", "model": model}
        self._max_tokens = max_tokens
        self._shows_thinking = shows_thinking
        self._blocks: list[_Block] = []

    def opening(self, answers: Sequence[Answer]) -> bytes:
        """Write the events that a stream begins with."""
        (answer,) = answers
        cost = usage(len(answer.prompt_ids), cached_tokens=answer.cached_tokens, output_tokens=0)
        end = {"stop_reason": None, "stop_sequence": None}
        start = _event("message_start", message={**self._about, "content": [], **end, "usage": cost})
        return start + _event("ping")

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:  # noqa: ARG002  (there is one)
        """Write the events of pieces that came together."""
        if not self._max_tokens:
            return b""
        data: list[bytes] = []
        for piece in pieces:
            kind = _kind(piece)
            if not self._blocks or self._blocks[-1].kind != kind or isinstance(piece, CallOpened):
                data += [self._stop(), self._begin(kind, piece)]
            if not isinstance(piece, CallOpened):
                data.append(self._add(piece))
        return b"".join(data)

    def finished(self, choice: int, finished: Finished) -> bytes:  # noqa: ARG002  (there is one)
        """Write the end of the last block, and how the message ended."""
        delta = _event("message_delta", delta=self._end(finished), usage=self._usage(finished))
        return self._stop() + delta

    def closing(self) -> bytes:
        """Write the last event."""
        return _event("message_stop")

    def failure(self, error: WicketgateError) -> bytes:
        """Write the end of a stream that failed."""
        return error_event(error, Family.ANTHROPIC, request_id=self._request_id)

    def whole(self, choices: Sequence[Choice]) -> Mapping[str, object]:
        """Return the answer to a call that does not stream."""
        (choice,) = choices
        self.pieces(0, choice.pieces)
        content = [block.value() for block in self._blocks]
        end = self._end(choice.finished)
        return {**self._about, "content": content, **end, "usage": self._usage(choice.finished)}

    def _begin(self, kind: str, piece: Piece) -> bytes:
        index = len(self._blocks)
        about: dict[str, object] = {"type": kind}
        if isinstance(piece, CallOpened):
            name = f"toolu_{self._request_id.removeprefix('req_')}{index}"
            about |= {"id": name, "name": piece.name, "input": {}}
        elif kind == "thinking":
            about |= {"thinking": "", "signature": ""}
        else:
            about |= {"text": ""}
        delta, grows = _DELTAS[kind]
        before = _event("content_block_delta", index=index, delta={"type": delta, grows: ""})
        self._blocks.append(_Block(kind, about, before.removesuffix(b'""}}\n\n')))
        return _event("content_block_start", index=index, content_block=about)

    def _add(self, piece: Piece) -> bytes:
        assert not isinstance(piece, CallOpened)
        block = self._blocks[-1]
        if block.kind == "thinking" and not self._shows_thinking:
            return b""
        block.texts.append(piece.text)
        return b"%b%b}}\n\n" % (block.before, sse.json_string(piece.text))

    def _stop(self) -> bytes:
        """End the last block, if there is one."""
        if not self._blocks:
            return b""
        index = len(self._blocks) - 1
        data = b""
        if self._blocks[-1].kind == "thinking":
            signature = {"type": "signature_delta", "signature": SIGNATURE}
            data = _event("content_block_delta", index=index, delta=signature)
        return data + _event("content_block_stop", index=index)

    def _end(self, finished: Finished) -> dict[str, object]:
        reason = stop_reason(finished, max_tokens=self._max_tokens)
        is_stop = reason == "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": finished.stop if is_stop else None}

    def _usage(self, finished: Finished) -> dict[str, object]:
        output_tokens = finished.completion_tokens if self._max_tokens else 0
        cost = usage(
            finished.prompt_tokens, cached_tokens=finished.cached_tokens, output_tokens=output_tokens
        )
        details = {"thinking_tokens": finished.reasoning_tokens if self._max_tokens else 0}
        return {**cost, "output_tokens_details": details}


def usage(prompt_tokens: int, *, cached_tokens: int, output_tokens: int) -> dict[str, object]:
    """Write what a request cost; cached tokens are counted apart, and caching them is for nothing."""
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": output_tokens,
    }


def stop_reason(finished: Finished, *, max_tokens: int) -> str:
    """Return why a message ended; one that is cut short is no call."""
    if max_tokens == 0:
        return "max_tokens"
    if finished.reason is FinishReason.LENGTH:
        is_own = finished.completion_tokens >= max_tokens
        return "max_tokens" if is_own else "model_context_window_exceeded"
    if finished.calls:
        return "tool_use"
    return "stop_sequence" if isinstance(finished.stop, str) else "end_turn"


def _kind(piece: Piece) -> str:
    match piece:
        case TextChunk():
            return "text"
        case ReasoningChunk():
            return "thinking"
        case CallOpened() | CallArguments():
            return "tool_use"


def _object(text: str) -> dict[str, Any]:
    """Read what a tool is given; of what was cut short, all that is whole."""
    try:
        value = from_json(text, allow_partial=True)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _event(kind: str, **fields: object) -> bytes:
    return sse.event({"type": kind, **fields}, name=kind)
