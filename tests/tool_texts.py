"""Tool calls as the templates of each family make models write them, and what a reader makes of a text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from wicketgate.pipeline.output_reader import Markers, OutputReader, Said, Thought
from wicketgate.pipeline.pieces import CallArguments, CallOpened
from wicketgate.pipeline.tools.formats import TOOL_FORMATS
from wicketgate.pipeline.tools.marked import ESCAPE, GEMMA_QUOTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Arguments = dict[str, object]


def tag_text(value: object) -> str:
    """As templates write an argument between tags: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def gemma(value: object, quote: str) -> str:
    match value:
        case str():
            return f"{quote}{value}{quote}"
        case dict():
            return "{" + ",".join(f"{key}:{gemma(item, quote)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(gemma(item, quote) for item in value) + "]"
        case _:
            return json.dumps(value)


def json_tools(name: str, arguments: Arguments) -> str:
    return "\n" + json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False) + "\n"


def qwen3_coder(name: str, arguments: Arguments) -> str:
    inside = "".join(f"<parameter={k}>\n{tag_text(v)}\n</parameter>\n" for k, v in arguments.items())
    return f"\n<function={name}>\n{inside}</function>\n"


def glm47(name: str, arguments: Arguments) -> str:
    pairs = (f"<arg_key>{k}</arg_key>\n<arg_value>{tag_text(v)}</arg_value>\n" for k, v in arguments.items())
    return f"{name}\n{''.join(pairs)}"


def longcat(name: str, arguments: Arguments) -> str:
    return glm47(name, arguments).replace("arg_", "longcat_arg_")


def minimax_m2(name: str, arguments: Arguments) -> str:
    inside = "".join(f'<parameter name="{k}">{tag_text(v)}</parameter>\n' for k, v in arguments.items())
    return f'\n<invoke name="{name}">\n{inside}</invoke>\n'


def minicpm5(name: str, arguments: Arguments) -> str:
    values = {k: tag_text(v) for k, v in arguments.items()}
    kept = {k: f"<![CDATA[{v}]]>" if set(v) & set("<&\n") else v for k, v in values.items()}
    inside = "".join(f'<param name="{k}">{v}</param>' for k, v in kept.items())
    return f'"{name}">{inside}'


def muse_spark(name: str, arguments: Arguments) -> str:
    inside = "".join(
        f'<atem:parameter name="{k}" string="true">{tag_text(v)}</atem:parameter>'
        for k, v in arguments.items()
    )
    return f'<atem:invoke name="{name}">{inside}</atem:invoke>'


def pythonic(name: str, arguments: Arguments) -> str:
    return f"[{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})]"


def gemma4(name: str, arguments: Arguments) -> str:
    return f"call:{name}{gemma(arguments, GEMMA_QUOTE)}"


def function_gemma(name: str, arguments: Arguments) -> str:
    return f"call:{name}{gemma(arguments, ESCAPE)}"


def kimi_k2(name: str, arguments: Arguments) -> str:
    written = json.dumps(arguments, ensure_ascii=False)
    return f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{written}<|tool_call_end|>"


def kimi_k3(name: str, arguments: Arguments) -> str:
    kinds = {str: "string"}
    inside = "".join(
        f'<|open|>argument key="{k}" type="{kinds.get(type(v), "json")}"<|sep|>{tag_text(v)}'
        "<|close|>argument<|sep|>"
        for k, v in arguments.items()
    )
    return f'<|open|>call tool="{name}" index="1"<|sep|>{inside}<|close|>call<|sep|>'


def mistral(name: str, arguments: Arguments) -> str:
    return f"{name}[ARGS]{json.dumps(arguments, ensure_ascii=False)}"


def mistral_list(name: str, arguments: Arguments) -> str:
    return json.dumps([{"name": name, "arguments": arguments, "id": "abcdefgh0"}], ensure_ascii=False)


WRITERS: Mapping[str, Callable[[str, Arguments], str]] = {
    "json_tools": json_tools,
    "qwen3_coder": qwen3_coder,
    "glm47": glm47,
    "laguna": glm47,
    "longcat": longcat,
    "minimax_m2": minimax_m2,
    "minicpm5": minicpm5,
    "muse_spark": muse_spark,
    "pythonic": pythonic,
    "gemma4": gemma4,
    "function_gemma": function_gemma,
    "kimi_k2": kimi_k2,
    "kimi_k3": kimi_k3,
    "mistral": mistral,
}
"""The text between the markers, of one call."""


def marked(form: str, inside: str) -> str:
    """Put the markers of a format around a text."""
    return TOOL_FORMATS[form].start + inside + (TOOL_FORMATS[form].end or "")


def tool(name: str, properties: Mapping[str, object]) -> dict[str, object]:
    """As a client declares it."""
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": dict(properties)}},
    }


def reader(form: str | None, tools: Mapping[str, Mapping[str, object]], **options: object) -> OutputReader:
    """A reader of one format alone."""
    markers = Markers(think=None, tools=None if form is None else TOOL_FORMATS[form])
    return OutputReader(markers, tools=tools, **options)


class Read:
    """What a reader made of pieces of text."""

    def __init__(self, reading: OutputReader, pieces: Iterable[str]) -> None:
        self.text = self.thought = ""
        self.calls: list[tuple[str, str]] = []
        for piece in pieces:
            self._take(reading.feed(piece))
        self._take(reading.flush())

    def _take(self, events: Sequence[object]) -> None:
        for event in events:
            match event:
                case Said(text=text):
                    self.text += text
                case Thought(text=text):
                    self.thought += text
                case CallOpened(index=index, name=name):
                    assert index == len(self.calls)
                    self.calls.append((name, ""))
                case CallArguments(index=index, text=text):
                    assert index == len(self.calls) - 1
                    self.calls[-1] = (self.calls[-1][0], self.calls[-1][1] + text)

    @property
    def loaded(self) -> list[tuple[str, object]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]
