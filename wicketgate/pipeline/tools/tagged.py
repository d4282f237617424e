"""Calls whose arguments stand between tags of their own (pure)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from wicketgate.pipeline.tools.values import by_type, by_types, is_text, literal, literal_json
from wicketgate.pipeline.tools.whole_calls import Call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wicketgate.pipeline.tools.body import Properties, Tools


def blocks(text: str, head: re.Pattern[str], close: str) -> Iterator[tuple[re.Match[str], str]]:
    """
    Find what stands between a head and the next `close`, again and again.

    One expression for all of it would look for the end once for each head: a model that repeats itself would
    hold up the event loop.
    """
    at = 0
    while (found := head.search(text, at)) is not None:
        end = text.find(close, found.end())
        if end < 0:
            return
        yield found, text[found.end() : end]
        at = end + len(close)


_FUNCTION: Final = re.compile(r"<function=\s*([^\s<>]+)>?")
_PARAMETER: Final = re.compile(r"<parameter=\s*([^\s<>]+)>?")


def qwen3_coder(text: str, tools: Tools) -> list[Call]:
    """Read `<function=f><parameter=x>value</parameter></function>`."""
    calls = []
    for head, body in blocks(text, _FUNCTION, "</function>"):
        properties = tools.get(head[1], {})
        found = [(key[1], value) for key, value in blocks(body, _PARAMETER, "</parameter>")]
        values = ((key, value.removeprefix("\n").removesuffix("\n")) for key, value in found)
        calls.append(Call(head[1], {key: by_type(value, properties.get(key)) for key, value in values}))
    return calls


_KEY: Final = re.compile(r"<arg_key>")
_VALUE: Final = re.compile(r"(?:\\n|\s)*<arg_value>")


def glm47(text: str, tools: Tools) -> list[Call]:
    """Read `f<arg_key>x</arg_key><arg_value>value</arg_value>`; also `f`, `f {..}` and a JSON object."""
    name, has_pairs, _ = text.partition("<arg_key>")
    name = name.strip()
    if has_pairs:
        properties = tools.get(name, {})
        found = _glm_pairs(text)
        return [Call(name, {k: v if is_text(k, properties) else literal(v) for k, v in found})]
    if name.startswith(("{", "[")):
        return _json_calls(name)
    name, _, rest = re.sub(r"\s+", " ", name, count=1).partition(" ")
    value = literal(rest.strip()) if rest.strip() else {}
    return [Call(name, value)] if isinstance(value, dict) else []


def _glm_pairs(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while (head := _KEY.search(text, at)) is not None:
        end = text.find("</arg_key>", head.end())
        at = end + len("</arg_key>")
        value = _VALUE.match(text, at) if end >= 0 else None
        if value is None:
            return
        last = text.find("</arg_value>", value.end())
        if last < 0:
            return
        yield text[head.end() : end].strip(), text[value.end() : last].strip()
        at = last


def _json_calls(text: str) -> list[Call]:
    value = json.loads(text)
    calls = []
    for call in value if isinstance(value, list) else [value]:
        arguments = call.get("arguments") if isinstance(call, dict) else ""
        if isinstance(arguments, str):
            arguments = literal(arguments)
        arguments = {} if arguments is None else arguments
        if not isinstance(call, dict) or not isinstance(arguments, dict):
            return []
        calls.append(Call(str(call.get("name")), arguments))
    return calls


def longcat(text: str, tools: Tools) -> list[Call]:
    """Read GLM's form with tags that begin with `longcat_`, or a JSON object."""
    return glm47(text.replace("<longcat_arg_", "<arg_").replace("</longcat_arg_", "</arg_"), tools)


_INVOKE: Final = re.compile(r"<invoke name=([^<>]+)>")
_NAMED: Final = re.compile(r"<parameter name=([^<>]+)>")


def minimax_m2(text: str, tools: Tools) -> list[Call]:
    """Read `<invoke name="f"><parameter name="x">value</parameter></invoke>`."""
    calls = []
    for head, body in blocks(text, _INVOKE, "</invoke>"):
        name = _unquoted(head[1])
        found = [(_unquoted(key[1]), value.strip()) for key, value in blocks(body, _NAMED, "</parameter>")]
        calls.append(Call(name, _typed(found, tools.get(name, {}))))
    return calls


_QUOTED: Final = r"(\"[^\"]*\"|'[^']*'|[^\s\"'<>]+)"
_MINICPM_HEAD: Final = re.compile(rf"\s*{_QUOTED}\s*>")
_PARAM: Final = re.compile(rf"<param\s+name\s*=\s*{_QUOTED}\s*>")
_CDATA: Final = re.compile(r"\s*<!\[CDATA\[(.*?)\]\]>\s*", re.DOTALL)


def minicpm5(text: str, tools: Tools) -> list[Call]:
    """Read `"f"><param name="x">value</param>`: the markers are part of the tag of the function."""
    head = _MINICPM_HEAD.match(text)
    if head is None:
        return []
    name = _unquoted(head[1])
    found = []
    for key, value in blocks(text[head.end() :], _PARAM, "</param>"):
        verbatim = _CDATA.fullmatch(value)
        found.append((_unquoted(key[1]), value.strip() if verbatim is None else verbatim[1]))
    return [Call(name, _typed(found, tools.get(name, {})))]


def _typed(found: list[tuple[str, str]], properties: Properties) -> dict[str, object]:
    return {key: by_types(value, properties.get(key, "")) for key, value in found}


def _unquoted(text: str) -> str:
    text = text.strip()
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text


_ATEM: Final = re.compile(r"<atem:invoke\b[^<>]*?\bname=\"([^\"<>]+)\">")
_ATEM_PARAMETER: Final = re.compile(r"<atem:parameter\b[^<>]*?\bname=\"([^\"<>]+)\"[^<>]*>")


def muse_spark(text: str, _: Tools) -> list[Call]:
    """Read `<atem:invoke name="f"><atem:parameter name="x">value</atem:parameter></atem:invoke>`."""
    calls = []
    at = 0
    while (head := _ATEM.search(text, at)) is not None:
        arguments, at = _atem_arguments(text, head.end())
        calls.append(Call(head[1], arguments))
    return calls


def _atem_arguments(text: str, at: int) -> tuple[dict[str, object], int]:
    """Read parameters up to the end of the call, which is not looked for inside of them."""
    arguments: dict[str, object] = {}
    while True:
        end = text.index("</atem:invoke>", at)
        head = _ATEM_PARAMETER.search(text, at, end)
        if head is None:
            return arguments, end
        last = text.index("</atem:parameter>", head.end())
        value = text[head.end() : last]
        read = literal_json(value)
        arguments[head[1]] = value.strip() if read is value else read
        at = last
