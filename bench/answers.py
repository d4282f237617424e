"""What a client makes of the bytes of a completion (pure): its text, when it came, how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of /v1/completions or /v1/chat/completions."""

    status: int
    """0 when there was none."""
    headers: Mapping[str, str]
    text: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    """From `usage`; None where it was not told."""
    first_s: float | None = None
    """When the first text arrived."""
    last_s: float | None = None
    """When the last text arrived."""
    error: Mapping[str, Any] | None = None
    """OpenAI's `error`, whole or within a stream."""

    @property
    def flags(self) -> frozenset[str]:
        """Features that the request was on."""
        return frozenset(self.headers.get("x-wicketgate-flags", "").split(",")) - {"", "-"}


def read(status: int, headers: Mapping[str, str], chunks: Sequence[tuple[float, bytes]]) -> Answer:
    """
    Read an answer.

    Args:
        status: Of HTTP; 0 when nothing came.
        headers: Names in lower case.
        chunks: When each piece of the body arrived, and the piece.

    Raises:
        ValueError: the body is not what an OpenAI endpoint says.
    """
    if headers.get("content-type", "").startswith("text/event-stream"):
        return _read_stream(status, headers, chunks)
    body = b"".join(piece for _, piece in chunks)
    if not body:
        return Answer(status=status, headers=headers)
    document = json.loads(body)
    if "error" in document:
        return Answer(status=status, headers=headers, error=document["error"])
    choice = document["choices"][0]
    at_s = chunks[-1][0]
    return Answer(
        status=status,
        headers=headers,
        text=_text(choice),
        finish_reason=choice["finish_reason"],
        completion_tokens=document["usage"]["completion_tokens"],
        first_s=at_s,
        last_s=at_s,
    )


def _read_stream(status: int, headers: Mapping[str, str], chunks: Sequence[tuple[float, bytes]]) -> Answer:
    texts: list[tuple[float, str]] = []
    reason: str | None = None
    tokens: int | None = None
    error: Mapping[str, Any] | None = None
    for at_s, event in _events(chunks):
        if "error" in event:
            error = event["error"]
        for choice in event.get("choices", ()):
            # Role-only and empty chunks are no tokens.
            if text := _text(choice):
                texts.append((at_s, text))
            reason = choice["finish_reason"] or reason
        if usage := event.get("usage"):
            tokens = usage["completion_tokens"]
    return Answer(
        status=status,
        headers=headers,
        text="".join(text for _, text in texts),
        finish_reason=reason,
        completion_tokens=tokens,
        first_s=texts[0][0] if texts else None,
        last_s=texts[-1][0] if texts else None,
        error=error,
    )


def _events(chunks: Sequence[tuple[float, bytes]]) -> list[tuple[float, dict[str, Any]]]:
    """Cut a stream into its events, each with the time at which it was complete; comments are left out."""
    events = []
    rest = b""
    for at_s, piece in chunks:
        *whole, rest = (rest + piece).split(b"\n\n")
        for block in whole:
            data = b"\n".join(line[5:] for line in block.split(b"\n") if line.startswith(b"data:")).strip()
            if data and data != b"[DONE]":
                events.append((at_s, json.loads(data)))
    return events


def _text(choice: Mapping[str, Any]) -> str:
    part = choice.get("delta") or choice.get("message") or choice
    return part.get("text") or part.get("content") or ""
