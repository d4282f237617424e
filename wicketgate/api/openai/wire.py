"""
What answers of /v1/chat/completions and /v1/completions have in common on the wire (pure).

Deltas are added up by the clients, so that role comes once and text never twice; per choice one chunk with a
finish reason, no text in it; the usage chunk after all, with no choices; [DONE] in the same write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from transport import sse
from wicketgate.api.envelopes import error_event
from wicketgate.inference import FinishReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Finished

MIN_LOGPROB: Final = -9999.0
"""What OpenAI writes for a probability of nothing; JSON has no infinity."""
HOLE: Final = "\u0000text\u0000"
"""Where a chunk's text goes; no id or model name holds a NUL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What every chunk of an answer says of it."""

    request_id: str
    model: str
    created_unix_s: int
    fingerprint: str
    has_usage: bool
    """stream_options.include_usage."""

    @property
    def digits(self) -> str:
        """The random part of the request's id."""
        return self.request_id.removeprefix("req_")

    def head(self, *, prefix: str, name: str) -> dict[str, object]:
        """Return the fields before the choices."""
        head: dict[str, object] = {
            "id": f"{prefix}{self.digits}",
            "object": name,
            "created": self.created_unix_s,
            "model": self.model,
        }
        if self.fingerprint:
            head["system_fingerprint"] = self.fingerprint
        return head


class Chunks:
    """
    Writes the chunks of one stream.

    Args:
        head: What each begins with.
        has_usage: The last one tells usage, and those before it that it is still to come.
    """

    def __init__(self, head: dict[str, object], *, has_usage: bool) -> None:
        self._head = head
        self._has_usage = has_usage

    def event(self, choice: dict[str, object]) -> bytes:
        """Write a chunk with one choice."""
        return sse.event(self._value([choice], usage=None))

    def encoder(self, choice: dict[str, object]) -> sse.ChunkEncoder:
        """Return what writes chunks that differ in one text only; in the choice HOLE stands for it."""
        return sse.ChunkEncoder(self._value([choice], usage=None), hole=HOLE)

    def closing(self, usage: dict[str, object]) -> bytes:
        """Write the end of the stream."""
        if not self._has_usage:
            return sse.DONE
        return sse.event(self._value([], usage=usage)) + sse.DONE

    def _value(
        self, choices: list[dict[str, object]], *, usage: dict[str, object] | None
    ) -> dict[str, object]:
        value: dict[str, object] = {**self._head, "choices": choices}
        if self._has_usage:
            value["usage"] = usage
        return value


def failure(error: WicketgateError) -> bytes:
    """Write the end of a stream that failed after its status was sent."""
    return error_event(error)


def usage(ends: Sequence[Finished], *, per_prompt: int) -> dict[str, object]:
    """
    Write what a call cost.

    Args:
        ends: Of its choices, in order; those of one prompt stand together.
        per_prompt: How many those are; the prompt counts once.
    """
    prompts = ends[::per_prompt]
    prompt_tokens = sum(end.prompt_tokens for end in prompts)
    completion_tokens = sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in prompts)},
        "completion_tokens_details": {"reasoning_tokens": sum(end.reasoning_tokens for end in ends)},
    }


def ending(finished: Finished, *, reason: str | None = None) -> dict[str, object]:
    """
    Write how a choice has ended; what stopped it is told where the client has named it.

    Args:
        finished: The end.
        reason: Instead of `stop`.
    """
    if finished.reason is FinishReason.LENGTH:
        return {"finish_reason": "length"}
    end: dict[str, object] = {"finish_reason": reason or "stop"}
    if finished.stop is not None:
        end["stop_reason"] = finished.stop
    return end


def json_logprob(logprob: float) -> float:
    """Return a log-probability that JSON can hold."""
    return max(logprob, MIN_LOGPROB)


def token_text(data: bytes) -> str:
    r"""Show a token: its text, or for a part of a character the bytes as \xe4\xbd."""
    return data.decode() if is_text(data) else "".join(f"\\x{byte:02x}" for byte in data)


def is_text(data: bytes) -> bool:
    """Tell whether a token is whole characters."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
