"""The ways of writing tool calls that are known, and which of them a model was taught (pure)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wicketgate.pipeline.thinking import XTML_TOKENS
from wicketgate.pipeline.tools import marked, tagged
from wicketgate.pipeline.tools.body import ToolFormat
from wicketgate.pipeline.tools.header_calls import Header, HeaderCalls
from wicketgate.pipeline.tools.json_calls import JsonCalls
from wicketgate.pipeline.tools.mistral import MISTRAL_ARGUMENTS, MISTRAL_START, MistralCalls
from wicketgate.pipeline.tools.pythonic import pythonic
from wicketgate.pipeline.tools.whole_calls import WholeCalls

if TYPE_CHECKING:
    from collections.abc import Container

    from wicketgate.pipeline.tools.whole_calls import Parse

_KIMI_ARGUMENTS: Final = "<|tool_call_argument_begin|>"
_KIMI_START, _KIMI_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_KIMI_HEADER: Final = Header(
    mark=_KIMI_ARGUMENTS,
    name=re.compile(
        r"\s*+(?:<\|tool_call_end\|>\s*+)?(?:<\|tool_call_begin\|>\s*+)?(?:functions\.)?(.+?):\d+\s*",
        re.DOTALL,
    ),
    begun=re.compile(r".*", re.DOTALL),
    idle=re.compile(r"\s*+(?:<\|tool_call_end\|>\s*+)?"),
)


def _json(name: str, start: str, end: str | None) -> ToolFormat:
    return ToolFormat(
        name=name, start=start, end=end, body=lambda tools: JsonCalls(tools, start=start, end=end)
    )


def _whole(
    parse: Parse,
    start: str,
    end: str,
    *,
    name: str = "",
    tokens: tuple[str, ...] = (),
    needs_end: bool = False,
) -> ToolFormat:
    return ToolFormat(
        name=name or parse.__name__,
        start=start,
        end=end,
        body=lambda tools: WholeCalls(tools, parse=parse, start=start, end=end, needs_end=needs_end),
        tokens=tokens,
    )


JSON_TOOLS: Final = _json("json_tools", "<tool_call>", "</tool_call>")
"""Also the form that a model is told which was taught none."""
FORCED: Final = _json("forced", "", None)
"""The whole answer is a JSON list of calls."""

_ALL: Final = (
    JSON_TOOLS,
    _whole(tagged.qwen3_coder, "<tool_call>", "</tool_call>"),
    _whole(tagged.glm47, "<tool_call>", "</tool_call>", needs_end=True),
    _whole(tagged.glm47, "<tool_call>", "</tool_call>", name="laguna", needs_end=True),
    _whole(tagged.longcat, "<longcat_tool_call>", "</longcat_tool_call>", needs_end=True),
    _whole(tagged.minimax_m2, "<minimax:tool_call>", "</minimax:tool_call>"),
    _whole(tagged.minicpm5, "<function name=", "</function>", needs_end=True),
    _whole(tagged.muse_spark, "<atem:function_calls>", "</atem:function_calls>"),
    _whole(pythonic, "<|tool_call_start|>", "<|tool_call_end|>"),
    _whole(marked.gemma4, "<|tool_call>", "<tool_call|>", tokens=(marked.GEMMA_QUOTE,)),
    _whole(marked.function_gemma, "<start_function_call>", "<end_function_call>", tokens=(marked.ESCAPE,)),
    _whole(marked.kimi_k3, "<|open|>tools<|sep|>", "<|close|>tools<|sep|>", tokens=XTML_TOKENS),
    ToolFormat(
        name="kimi_k2",
        start=_KIMI_START,
        end=_KIMI_END,
        body=lambda tools: HeaderCalls(tools, header=_KIMI_HEADER, start=_KIMI_START, end=_KIMI_END),
        tokens=("<|tool_call_begin|>", _KIMI_ARGUMENTS, "<|tool_call_end|>"),
    ),
    ToolFormat(name="mistral", start=MISTRAL_START, end=None, body=MistralCalls, tokens=(MISTRAL_ARGUMENTS,)),
)
TOOL_FORMATS: Final = {form.name: form for form in _ALL}

_SIGNS: Final[tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]] = (
    ("minimax_m2", (("<minimax:tool_call>",),)),
    ("gemma4", (("<|tool_call>", "<tool_call|>"),)),
    ("function_gemma", (("<start_function_call>",),)),
    ("longcat", (("<longcat_tool_call>",),)),
    ("glm47", (("<arg_key>",),)),
    ("pythonic", (("<|tool_list_start|>",), ("<|tool_call_start|>",))),
    ("qwen3_coder", (("<tool_call>\\n<function=",), ("<tool_call>\n<function=",))),
    ("kimi_k2", (("<|tool_calls_section_begin|>",),)),
    ("minicpm5", (('<function name="', '<param name="'),)),
    ("mistral", (("[TOOL_CALLS]",),)),
    ("muse_spark", (("<atem:function_calls>",),)),
    ("json_tools", (("<tool_call>", "tool_call.name"),)),
)
"""In this order, as mlx_lm looks: of the texts in one of the tuples a template has all."""


def tool_format(
    *, template: str | None, vocabulary: Container[str], named: object = None
) -> ToolFormat | None:
    """
    Find the form in which a model writes calls.

    Args:
        template: The source of its chat template.
        vocabulary: Names of its tokens.
        named: `tool_parser_type` of its tokenizer_config.json.

    Returns:
        None: it was not taught to call tools, or in a form that is not known.
    """
    if isinstance(named, str) and named in TOOL_FORMATS:
        return TOOL_FORMATS[named]
    for name, choices in _SIGNS:
        if template is not None and any(all(sign in template for sign in signs) for signs in choices):
            return TOOL_FORMATS[name]
    if all(token in vocabulary for token in XTML_TOKENS):
        return TOOL_FORMATS["kimi_k3"]
    if "<|tool_call_start|>" in vocabulary and "<|tool_call_end|>" in vocabulary:
        return TOOL_FORMATS["pythonic"]
    return None
