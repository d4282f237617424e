"""
Server-sent events (pure): what goes over the wire for one event, the end and the heartbeat.

Many clients split lines with `splitlines()`, which also splits at U+0085, U+2028 and U+2029; so these never
stand in JSON text as themselves.
"""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring
from typing import Final

DONE: Final = b"data: [DONE]\n\n"
"""The last event of an OpenAI stream; the body ends in the same write, since clients wait for its end."""
HEARTBEAT: Final = b": ping\n"
"""A comment line. A blank line after it would be an empty event, on which some clients die."""
HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""Headers of a streamed answer: no proxy is to hold it back or change it."""

_SEPARATORS: Final = re.compile("[\u0085\u2028\u2029]")


def json_bytes(value: object) -> bytes:
    """Write a value as JSON without spaces; non-ASCII stays as it is but for the line separators."""
    return _safe(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)).encode()


def json_string(text: str) -> bytes:
    """Write one text as a JSON string, as `json_bytes` does, in a third of the time."""
    return _safe(encode_basestring(text)).encode()


def event(value: object, *, name: str | None = None) -> bytes:
    """Write one event with a JSON value; `name` is its type where the API has any."""
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return b"%bdata: %b\n\n" % (head, json_bytes(value))


class ChunkEncoder:
    """
    Writes events that differ in one text only: the JSON around it is made once per stream.

    Args:
        template: What the event's value looks like, with `hole` in place of the text.
        hole: A string that stands once in the template.
    """

    __slots__ = ("_after", "_before")

    def __init__(self, template: object, *, hole: str) -> None:
        before, text, after = event(template).partition(json_string(hole))
        if not text or json_string(hole) in after:
            raise ValueError(f"the template must hold {hole!r} exactly once")
        self._before, self._after = before, after

    def encode(self, text: str) -> bytes:
        """Write the event with this text."""
        return b"%b%b%b" % (self._before, json_string(text), self._after)


def _safe(text: str) -> str:
    if text.isascii():
        return text
    return _SEPARATORS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
