"""Messages as templates expect them, and tools told to models that were taught none (pure)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Message = dict[str, object]

_PREAMBLE: Final = """\
You can call these functions, each described by a JSON object with its name and a schema of its parameters:
{tools}

To call one, write the call on a line of its own, in exactly this form, and nothing after it:
<tool_call>{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}</tool_call>
Several calls are written one after another. The results come in <tool_response> tags. Answer without a call \
when none is needed."""


def plain_messages(messages: Sequence[Mapping[str, object]], *, knows_developer: bool) -> list[Message]:
    """Give every message a content, which templates add to text unseen, and system's name to developers."""
    plain = []
    for message in messages:
        copy = {**message, "content": message.get("content") if message.get("content") is not None else ""}
        if copy.get("role") == "developer" and not knows_developer:
            copy["role"] = "system"
        plain.append(copy)
    return plain


def told_messages(messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[Message]:
    """
    Write tools, calls and their results as text, for a template that knows none of them.

    The tools come in the system message, which is made where there is none; calls are part of what the
    assistant said; results that follow each other are one message of the user.
    """
    told = list(_without_calls(messages))
    if not tools:
        return told
    described = "\n".join(_json(tool.get("function", tool)) for tool in tools)
    preamble = _PREAMBLE.format(tools=described)
    if told and told[0].get("role") == "system":
        content = "\n\n".join(part for part in (str(told[0]["content"]), preamble) if part)
        return [{**told[0], "content": content}, *told[1:]]
    return [{"role": "system", "content": preamble}, *told]


def _without_calls(messages: Sequence[Message]) -> Iterator[Message]:
    results: list[str] = []
    for message in messages:
        if message.get("role") == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        calls = message.get("tool_calls")
        if isinstance(calls, list | tuple) and calls:
            said = [str(message["content"])] if message["content"] else []
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            yield {**rest, "content": "\n".join([*said, *map(_call_text, calls)])}
        else:
            yield message
    if results:
        yield {"role": "user", "content": "\n".join(results)}


def _call_text(call: Mapping[str, object]) -> str:
    function = call.get("function")
    named = function if isinstance(function, dict) else {}
    written = _json({"name": named.get("name"), "arguments": named.get("arguments")})
    return f"<tool_call>{written}</tool_call>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
