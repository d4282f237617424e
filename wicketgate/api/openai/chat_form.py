"""Answers of /v1/chat/completions as clients read them, whole and in chunks (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wicketgate.api.openai.wire import HOLE, Chunks, ending, failure, json_logprob, token_text, usage
from wicketgate.inference import FinishReason
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk, TextChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from transport import sse
    from wicketgate.api.openai.wire import About
    from wicketgate.api.order import Answer, Choice
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Finished, TokenLogprob
    from wicketgate.pipeline.pieces import Piece

_ID_PREFIX: Final = "chatcmpl-"


class ChatForm:
    """
    The answer to one chat.

    Args:
        about: What the answer says of itself.
        choices: How many it has.
        token_bytes: Bytes of one token by itself.
        has_logprobs: Each choice tells those of its tokens, none perhaps.
        call_reason: finish_reason of a choice that calls tools.
    """

    def __init__(
        self,
        about: About,
        *,
        choices: int,
        token_bytes: Callable[[int], bytes],
        has_logprobs: bool,
        call_reason: str = "tool_calls",
    ) -> None:
        self._about = about
        self._token_bytes = token_bytes
        self._has_logprobs = has_logprobs
        self._call_reason = call_reason
        head = about.head(prefix=_ID_PREFIX, name="chat.completion.chunk")
        self._chunks = Chunks(head, has_usage=about.has_usage)
        self._ends: list[Finished | None] = [None] * choices
        self._contents: list[sse.ChunkEncoder] = []
        """By choice."""
        self._encoders: dict[tuple[int, str, int], sse.ChunkEncoder] = {}
        """Of reasoning and of arguments, by choice and call."""

    def opening(self, answers: Sequence[Answer]) -> bytes:
        """Write the role of each choice, once and in order: some clients know no choice before its role."""
        role = {"role": "assistant", "content": "", "refusal": None}
        indices = range(len(answers))
        self._contents = [self._encoder(index, {"content": HOLE}) for index in indices]
        return b"".join(self._chunks.event(_delta(index, role)) for index in indices)

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:
        """Write what came of one choice."""
        if len(pieces) == 1:
            return self._piece(choice, pieces[0])
        return b"".join([self._piece(choice, piece) for piece in pieces])

    def finished(self, choice: int, finished: Finished) -> bytes:
        """Write how a choice has ended; clients stop to read text here."""
        self._ends[choice] = finished
        return self._chunks.event(_delta(choice, {}) | self._ending(finished))

    def closing(self) -> bytes:
        """Write usage where it was asked for, and the end."""
        return self._chunks.closing(
            usage([end for end in self._ends if end is not None], per_prompt=len(self._ends))
        )

    def failure(self, error: WicketgateError) -> bytes:
        """Write what went wrong, and no end: a stream that ends well has one."""
        return failure(error)

    def whole(self, choices: Sequence[Choice]) -> Mapping[str, object]:
        """Return an answer that does not stream."""
        return {
            **self._about.head(prefix=_ID_PREFIX, name="chat.completion"),
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": usage([choice.finished for choice in choices], per_prompt=len(choices)),
        }

    def _piece(self, choice: int, piece: Piece) -> bytes:
        if isinstance(piece, TextChunk):
            if piece.logprobs is None:
                return self._contents[choice].encode(piece.text)
            logprobs = {"logprobs": self._logprobs(piece.logprobs)}
            return self._chunks.event(_delta(choice, {"content": piece.text}) | logprobs)
        if isinstance(piece, ReasoningChunk):
            return self._rare(choice, "reasoning", 0).encode(piece.text)
        if isinstance(piece, CallOpened):
            call = self._call(choice, piece.index, piece.name, "")
            return self._chunks.event(_delta(choice, {"tool_calls": [call]}))
        return self._rare(choice, "arguments", piece.index).encode(piece.text)

    def _rare(self, choice: int, kind: str, call: int) -> sse.ChunkEncoder:
        key = (choice, kind, call)
        if key not in self._encoders:
            delta: dict[str, object] = {"reasoning_content": HOLE}
            if kind == "arguments":
                # id, type and name came when the call was opened: clients would add them up.
                delta = {"tool_calls": [{"index": call, "function": {"arguments": HOLE}}]}
            self._encoders[key] = self._encoder(choice, delta)
        return self._encoders[key]

    def _encoder(self, choice: int, delta: dict[str, object]) -> sse.ChunkEncoder:
        return self._chunks.encoder(_delta(choice, delta))

    def _choice(self, index: int, choice: Choice) -> dict[str, object]:
        entries = (
            entry for piece in choice.pieces if isinstance(piece, TextChunk) for entry in piece.logprobs or ()
        )
        return {
            "index": index,
            "message": self._message(index, choice.pieces),
            "logprobs": self._logprobs(entries) if self._has_logprobs else None,
            **self._ending(choice.finished),
        }

    def _message(self, choice: int, pieces: Sequence[Piece]) -> dict[str, object]:
        content = "".join(piece.text for piece in pieces if isinstance(piece, TextChunk))
        reasoning = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningChunk))
        calls = [
            self._call(choice, opened.index, opened.name, _arguments(opened.index, pieces))
            for opened in pieces
            if isinstance(opened, CallOpened)
        ]
        message: dict[str, object] = {
            "role": "assistant",
            "content": None if not content and (reasoning or calls) else content,
            "refusal": None,
            "annotations": [],
        }
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = [{name: call[name] for name in call if name != "index"} for call in calls]
        return message

    def _call(self, choice: int, index: int, name: str, arguments: str) -> dict[str, object]:
        return {
            "index": index,
            "id": f"call_{self._about.digits[:24]}{choice:02x}{index:02x}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }

    def _ending(self, finished: Finished) -> dict[str, object]:
        has_called = finished.calls > 0 and finished.reason is FinishReason.STOP
        return ending(finished, reason=self._call_reason if has_called else None)

    def _logprobs(self, entries: Iterable[TokenLogprob]) -> dict[str, object]:
        """Write every token with its bytes and the best alternatives, best first."""
        content = [
            {
                **self._token(entry.token, entry.logprob),
                "top_logprobs": [self._token(token, logprob) for token, logprob in entry.top],
            }
            for entry in entries
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, object]:
        data = self._token_bytes(token)
        return {"token": token_text(data), "logprob": json_logprob(logprob), "bytes": list(data)}


def _arguments(index: int, pieces: Sequence[Piece]) -> str:
    return "".join(
        piece.text for piece in pieces if isinstance(piece, CallArguments) and piece.index == index
    )


def _delta(choice: int, delta: Mapping[str, object]) -> dict[str, object]:
    return {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}
