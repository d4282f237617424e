"""
Answers of /v1/chat/completions and /v1/completions as clients read them, whole and in pieces (pure).

Deltas are added up by the clients, so that role comes once and text never twice; one chunk with a finish
reason, no text in it; the usage chunk after it, with no choices; [DONE] in the same write.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final, Protocol

from transport import sse
from wicketgate.inference import FinishReason, TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.inference import Finished, InferenceRequest, Prompt, TokenLogprob
    from wicketgate.pipeline.text import TextChunk

MIN_LOGPROB: Final = -9999.0
"""What OpenAI writes for a probability of nothing; JSON has no infinity."""
_HOLE: Final = "\u0000text\u0000"
"""Where a chunk's text goes; no id or model name holds a NUL."""


class Form(Protocol):
    """How one of the two APIs writes a choice."""

    id_prefix: str
    name: str
    """The answer's `object`."""
    chunk_name: str
    """The `object` of a piece of a stream."""
    opening: dict[str, object] | None
    """What a stream's first choice holds, where the API has one before any text."""

    def piece(self, text: str | None) -> dict[str, object]:
        """Write text of a stream; None is the end, without text."""

    def message(self, text: str) -> dict[str, object]:
        """Write the text of a whole answer."""

    def logprobs(self, entries: Sequence[TokenLogprob]) -> dict[str, object]:
        """Write log-probabilities of the next tokens of the answer."""


class Writer:
    """
    Writes the answer to one request.

    Args:
        created_unix_s: When the request came.
        has_usage: stream_options.include_usage.
    """

    def __init__(
        self, form: Form, request: InferenceRequest, *, created_unix_s: int, has_usage: bool
    ) -> None:
        self._form = form
        self._about: dict[str, object] = {
            "id": f"{form.id_prefix}{request.id.removeprefix('req_')}",
            "object": form.chunk_name,
            "created": created_unix_s,
            "model": request.model,
        }
        self._has_usage = has_usage
        self._has_logprobs = request.sampling.logprobs is not None
        self._encoder = sse.ChunkEncoder(self._chunk(form.piece(_HOLE)), hole=_HOLE)

    def first(self) -> bytes:
        """Write what a stream begins with, before any text."""
        return b"" if self._form.opening is None else sse.event(self._chunk(self._form.opening))

    def delta(self, chunk: TextChunk) -> bytes:
        """Write one event with text, and the log-probabilities of its tokens where asked for."""
        if chunk.logprobs is None:
            return self._encoder.encode(chunk.text)
        logprobs = self._form.logprobs(chunk.logprobs)
        return sse.event(self._chunk(self._form.piece(chunk.text), logprobs=logprobs))

    def last(self, finished: Finished) -> bytes:
        """Write the finish reason, usage where asked for, and the end."""
        end = sse.event(self._chunk(self._form.piece(None), finish_reason=_reason(finished)))
        if self._has_usage:
            end += sse.event({**self._about, "choices": [], "usage": usage(finished)})
        return end + sse.DONE

    def whole(self, chunks: Sequence[TextChunk], finished: Finished) -> dict[str, object]:
        """Return the answer to a request that does not stream."""
        entries = [entry for chunk in chunks for entry in chunk.logprobs or ()]
        choice = {
            "index": 0,
            **self._form.message("".join(chunk.text for chunk in chunks)),
            "logprobs": self._form.logprobs(entries) if self._has_logprobs else None,
            "finish_reason": _reason(finished),
        }
        about = {**self._about, "object": self._form.name}
        return {**about, "choices": [choice], "usage": usage(finished)}

    def _chunk(
        self, piece: dict[str, object], *, logprobs: object = None, finish_reason: str | None = None
    ) -> dict[str, object]:
        choice = {"index": 0, **piece, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk: dict[str, object] = {**self._about, "choices": [choice]}
        if self._has_usage:
            chunk["usage"] = None
        return chunk


class ChatForm:
    """
    Messages and deltas.

    Args:
        token_bytes: Bytes of one token by itself.
    """

    id_prefix = "chatcmpl-"
    name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self.opening: dict[str, object] | None = {
            "delta": {"role": "assistant", "content": "", "refusal": None}
        }

    def piece(self, text: str | None) -> dict[str, object]:
        """Write a delta."""
        return {"delta": {} if text is None else {"content": text}}

    def message(self, text: str) -> dict[str, object]:
        """Write a message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None, "annotations": []}}

    def logprobs(self, entries: Sequence[TokenLogprob]) -> dict[str, object]:
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
        return {"token": token_text(data), "logprob": max(logprob, MIN_LOGPROB), "bytes": list(data)}


class CompletionForm:
    """
    Text, and log-probabilities in the old form.

    Args:
        token_bytes: Bytes of one token by itself.
        prompt_chars: Characters of the prompt: text offsets count from its start.
    """

    id_prefix = "cmpl-"
    name = chunk_name = "text_completion"

    def __init__(self, token_bytes: Callable[[int], bytes], *, prompt_chars: int) -> None:
        self._token_bytes = token_bytes
        self._offset = prompt_chars
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self.opening: dict[str, object] | None = None

    def piece(self, text: str | None) -> dict[str, object]:
        """Write text."""
        return {"text": text or ""}

    def message(self, text: str) -> dict[str, object]:
        """Write text."""
        return {"text": text}

    def logprobs(self, entries: Sequence[TokenLogprob]) -> dict[str, object]:
        """Write four lists. The chosen token is always among the best of its place, as the same number."""
        offsets, top = [], []
        for entry in entries:
            # Different tokens can look the same: of those the likeliest stays, the chosen one always.
            best = {self._name(token): max(value, MIN_LOGPROB) for token, value in reversed(entry.top)}
            best[self._name(entry.token)] = max(entry.logprob, MIN_LOGPROB)
            top.append(best)
            offsets.append(self._offset)
            self._offset += len(self._characters.decode(self._token_bytes(entry.token)))
        return {
            "tokens": [self._name(entry.token) for entry in entries],
            "token_logprobs": [max(entry.logprob, MIN_LOGPROB) for entry in entries],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        data = self._token_bytes(token)
        return token_text(data) if _is_text(data) else f"bytes:{token_text(data)}"


def prompt_chars(prompt: Prompt, token_bytes: Callable[[int], bytes]) -> int:
    """Count the characters of a completion's prompt; a chat has no text offsets, so that its count is 0."""
    match prompt:
        case TextPrompt(text=text):
            return len(text)
        case TokenPrompt(ids=ids):
            return len(b"".join(map(token_bytes, ids)).decode("utf-8", "replace"))
        case _:
            return 0


def usage(finished: Finished) -> dict[str, object]:
    """Write what a request cost."""
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def token_text(data: bytes) -> str:
    r"""Show a token: its text, or for a part of a character the bytes as \xe4\xbd."""
    return data.decode() if _is_text(data) else "".join(f"\\x{byte:02x}" for byte in data)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _reason(finished: Finished) -> str:
    return "length" if finished.reason is FinishReason.LENGTH else "stop"
