"""
Tools of a request, in no API's form: what the prompt shows of them and how an answer may call them (pure).

A call that a client demands is forced: whatever syntax the model's template taught it, the answer is held by
a grammar to one JSON list of {"name", "parameters"}, which any model can be made to write. A call that the
model may make is written, and read, as its template taught it or as it was told; where that is JSON between
marks, the arguments of strict tools are held to their schemas.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal

from wicketgate.api import schemas
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import CallSyntax, Grammar, OutputForm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from wicketgate.api.requests import ModelCard

MAX_TOOLS: Final = 128
MAX_CALLS: Final = 8
"""Of one forced answer."""
MIN_CHARS: Final = 16
"""Of a text in a forced call, however short the answer must be."""
NAME_PATTERN: Final = r"^[a-zA-Z0-9_.-]{1,64}$"
"""What a tool may be called. OpenAI allows no dot; servers of tools have names with one."""
NAME: Final = re.compile(NAME_PATTERN.replace("$", r"\Z"))
TEXT: Final = OutputForm()
"""An answer without calls."""
_ANY: Final[schemas.Schema] = {"type": "object"}
_SPACED: Final = {"x-guidance": {"whitespace_pattern": "[ \\n]?"}}
"""Models were taught to write a space behind colons and commas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One function that the client offers."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    """JSON schema of its arguments; None takes none."""
    strict: bool = False
    """Its calls must fit the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Whether the answer calls tools, and which."""

    kind: Literal["none", "auto", "required", "named"] = "auto"
    name: str | None = None
    """The tool to call, where kind is named."""
    allowed: tuple[str, ...] | None = None
    """Those that may be called; None is all of them. The prompt shows all, so that its KV can be reused."""
    parallel: bool = True
    """Several calls in one answer are welcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPlan:
    """What a request's tools come to."""

    prompt_tools: tuple[Mapping[str, object], ...] = ()
    """For ChatPrompt.tools."""
    grammar: Grammar | None = None
    """Holds the answer where calls are demanded, where a tool is strict, or where an answer has a schema."""
    output: OutputForm = TEXT


def plan_tools(
    tools: Sequence[Tool],
    choice: ToolChoice,
    *,
    card: ModelCard,
    param: str,
    max_tokens: int | None = None,
    answer: schemas.Schema | None = None,
) -> ToolPlan:
    """
    Decide how an answer may call tools.

    Args:
        param: Where a tool's schema stands in the request, with {index} for its place:
            tools[{index}].function.parameters.
        max_tokens: Of the answer; None is the model's context. Texts in forced calls end before it.
        answer: Checked schema of an answer that calls nothing; None is any text.

    Raises:
        InvalidRequestError: the choice names a tool that is not there, or a schema cannot be enforced.
    """
    _check_choice(tools, choice)
    if not tools or choice.kind == "none":
        return ToolPlan()
    names = _callable(tools, choice)
    is_forced = choice.kind in {"required", "named"}
    counter = count(1)
    arguments = {
        index: _arguments(tool, index=index, param=param, counter=counter)
        for index, tool in enumerate(tools)
        if tool.strict or (is_forced and tool.name in names)
    }
    max_calls = 1 if choice.kind == "named" or not choice.parallel else None
    grammar = None
    if is_forced:
        called = {tool.name: arguments[i] for i, tool in enumerate(tools) if tool.name in names}
        schema = _calls(
            called, max_tokens=max_tokens or card.context_tokens, max_calls=max_calls or MAX_CALLS
        )
        grammar = schemas.grammar(schema, param="tools")
    elif arguments or answer is not None:
        called = {tool.name: arguments.get(i, _ANY) for i, tool in enumerate(tools) if tool.name in names}
        grammar = _marked_calls(called, card=card, answer=answer)
    return ToolPlan(
        prompt_tools=tuple(_shown(tool) for tool in tools),
        grammar=grammar,
        output=OutputForm(
            calls=CallSyntax.FORCED if is_forced else CallSyntax.NATIVE, tools=names, max_calls=max_calls
        ),
    )


def _callable(tools: Sequence[Tool], choice: ToolChoice) -> tuple[str, ...]:
    if choice.kind == "named":
        return tuple(tool.name for tool in tools if tool.name == choice.name)
    return tuple(tool.name for tool in tools if choice.allowed is None or tool.name in choice.allowed)


def _calls(called: Mapping[str, schemas.Schema], *, max_tokens: int, max_calls: int) -> schemas.Schema:
    """Return the schema of one forced answer."""
    texts = max(schemas.open_texts(arguments) for arguments in called.values())
    # A token is one character at least, but for rare ones; so half of the tokens are left for the rest.
    max_chars = max(max_tokens // (2 * max(texts, 1)), MIN_CHARS)
    closed = {name: schemas.bounded(arguments, max_chars=max_chars) for name, arguments in called.items()}
    calls = {"type": "array", "items": {"anyOf": _each_call(called, key="parameters")}}
    return {**calls, "minItems": 1, "maxItems": max_calls, "$defs": closed}


def _each_call(called: Iterable[str], *, key: str) -> list[schemas.Schema]:
    return [
        {
            "type": "object",
            "properties": {"name": {"const": name}, key: {"$ref": f"#/$defs/{name}"}},
            "required": ["name", key],
            "additionalProperties": False,
        }
        for name in called
    ]


def _marked_calls(
    called: Mapping[str, schemas.Schema], *, card: ModelCard, answer: schemas.Schema | None
) -> Grammar | None:
    """Return what holds the calls that a model may make, and its answer; None where its form is not JSON."""
    if card.tool_format is not None and card.call_marks_are_tokens is None:
        return None
    start, end = ("<tool_call>", "</tool_call>")
    if not card.call_marks_are_tokens:
        start, end = f'"{start}"', f'"{end}"'
    call = {"anyOf": _each_call(called, key="arguments"), "$defs": dict(called), **_SPACED}
    lines = [
        "%llguidance {}",
        "SPACE: /[ \\n]{1,4}/",
        f"call: open SPACE? %json {json.dumps(call)} SPACE? {end}",
    ]
    if answer is not None:
        lines += [f"start: (SPACE? call)+ SPACE? | %json {json.dumps({**answer, **schemas.GUIDANCE})}"]
        lines += [f"open: {start}"]
    else:
        lines += ["start: call* TEXT", "TEXT: /(.|\\n)*/"]
        # What is text ends as soon as the mark is complete; a token that is the mark is no text.
        lines += [f"open: TEXT {start}" if card.call_marks_are_tokens else f"open[lazy]: TEXT {start}"]
    return schemas.within_bounds(Grammar(kind="lark", text="\n".join(lines), param="tools"))


def _check_choice(tools: Sequence[Tool], choice: ToolChoice) -> None:
    names = {tool.name for tool in tools}
    wanted = {choice.name} if choice.kind == "named" else set(choice.allowed or ())
    if unknown := sorted(str(name)[:64] for name in wanted - names):
        raise InvalidRequestError(
            f"tool_choice names {unknown[0]}, which is not in tools", param="tool_choice"
        )
    if choice.kind == "required" and not tools:
        raise InvalidRequestError("tool_choice required needs tools", param="tool_choice")


def _arguments(tool: Tool, *, index: int, param: str, counter: Iterator[int]) -> schemas.Schema:
    """Check the schema of a tool's arguments; it will stand among the definitions of a larger one."""
    place = param.format(index=index)
    schema = {"type": "object", **(tool.parameters or {"properties": {}, "additionalProperties": False})}
    if schema["type"] != "object":
        raise InvalidRequestError(
            f"{place}: #/type must be object, for the arguments of a call",
            param=place,
            code="invalid_json_schema",
        )
    root = f"#/$defs/{tool.name}"
    return schemas.checked(schema, strict=tool.strict, param=place, root=root, counter=counter)


def _shown(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters or {"type": "object", "properties": {}})
    return {"type": "function", "function": function}
