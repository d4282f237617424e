"""Calls written with tokens of their model's own in the place of quotes, brackets or tags (pure)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from wicketgate.pipeline.tools.tagged import blocks
from wicketgate.pipeline.tools.values import literal_json
from wicketgate.pipeline.tools.whole_calls import Call

if TYPE_CHECKING:
    from wicketgate.pipeline.tools.body import Tools

GEMMA_QUOTE: Final = '<|"|>'
ESCAPE: Final = "<escape>"

_GEMMA_CALL: Final = re.compile(r"call:([\w-]+)(?=\{)")
_GEMMA_KEY: Final = re.compile(r"\s*([^\s:,{}\[\]\"<]+)\s*:")
_GEMMA_SCALAR: Final = re.compile(r"[^,{}\[\]]*")


def gemma4(text: str, _: Tools) -> list[Call]:
    """Read `call:f{x:1,y:<|"|>text<|"|>}`."""
    return _gemma_calls(text, GEMMA_QUOTE)


def function_gemma(text: str, _: Tools) -> list[Call]:
    """Read `call:f{x:1,y:<escape>text<escape>}`."""
    return _gemma_calls(text, ESCAPE)


def _gemma_calls(text: str, quote: str) -> list[Call]:
    calls = []
    at = 0
    while (head := _GEMMA_CALL.search(text, at)) is not None:
        reader = _GemmaReader(text, head.end(), quote)
        calls.append(Call(head[1], reader.mapping()))
        at = reader.at
    return calls


class _GemmaReader:
    """JSON with bare keys and another quote. ValueError: it is cut short; RecursionError: it is too deep."""

    def __init__(self, text: str, at: int, quote: str) -> None:
        self._text = text
        self._quote = quote
        self.at = at

    def mapping(self) -> dict[str, object]:
        """Read `{key:value,..}`."""
        values: dict[str, object] = {}
        self.at += 1
        while not self._closes("}"):
            key = self._key()
            values[key] = self._value()
        return values

    def _key(self) -> str:
        if (quoted := self._quoted()) is not None:
            self.at = self._text.index(":", self.at) + 1
            return quoted
        match = _GEMMA_KEY.match(self._text, self.at)
        if match is None:
            raise ValueError("no key")
        self.at = match.end()
        return match[1]

    def _value(self) -> object:
        self._space()
        if (quoted := self._quoted()) is not None:
            return quoted
        if self._text.startswith("{", self.at):
            return self.mapping()
        if self._text.startswith("[", self.at):
            return self._sequence()
        match = _GEMMA_SCALAR.match(self._text, self.at)
        text = match[0] if match else ""
        self.at += len(text)
        return literal_json(text)

    def _sequence(self) -> list[object]:
        values = []
        self.at += 1
        while not self._closes("]"):
            values.append(self._value())
        return values

    def _quoted(self) -> str | None:
        if self._text.startswith('"', self.at):
            value, self.at = json.JSONDecoder().raw_decode(self._text, self.at)
            return str(value)
        if not self._text.startswith(self._quote, self.at):
            return None
        begin = self.at + len(self._quote)
        end = self._text.index(self._quote, begin)
        self.at = end + len(self._quote)
        return self._text[begin:end]

    def _closes(self, bracket: str) -> bool:
        """Pass a comma; whether the bracket follows, which is passed too."""
        self._space()
        if self._text.startswith(",", self.at):
            self.at += 1
            self._space()
        if self.at == len(self._text):
            raise ValueError("a call is cut short")
        is_closed = self._text.startswith(bracket, self.at)
        self.at += is_closed
        return is_closed

    def _space(self) -> None:
        while self._text[self.at : self.at + 1].isspace():
            self.at += 1


_XTML_CALL: Final = re.compile(r"<\|open\|>call([^<]*)<\|sep\|>")
_XTML_ARGUMENT: Final = re.compile(r"<\|open\|>argument([^<]*)<\|sep\|>")
_XTML_JSON: Final = re.compile(r"<\|open\|>json[^<]*<\|sep\|>")
_XTML_ATTRIBUTE: Final = re.compile(r'\b(\w+)="([^"]*)"')


def kimi_k3(text: str, _: Tools) -> list[Call]:
    """Read `<|open|>call tool="f"<|sep|>`, arguments of the same form or one of JSON, and the end of it."""
    calls = []
    for head, body in blocks(text, _XTML_CALL, "<|close|>call<|sep|>"):
        calls.append(Call(_attributes(head[1]).get("tool", ""), _xtml_arguments(body)))
    return calls


def _xtml_arguments(body: str) -> dict[str, object]:
    for _head, whole in blocks(body, _XTML_JSON, "<|close|>json<|sep|>"):
        arguments = json.loads(whole)
        if not isinstance(arguments, dict):
            raise ValueError("the arguments must be an object")
        return arguments
    found = blocks(body, _XTML_ARGUMENT, "<|close|>argument<|sep|>")
    named = [(_attributes(head[1]), value) for head, value in found]
    return {a["key"]: _xtml_value(value, a) for a, value in named if "key" in a}


def _attributes(text: str) -> dict[str, str]:
    found = _XTML_ATTRIBUTE.findall(text)
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in found}


def _xtml_value(text: str, attributes: dict[str, str]) -> object:
    return text if attributes.get("type", "string") == "string" else literal_json(text)
