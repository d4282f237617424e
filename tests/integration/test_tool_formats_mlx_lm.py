"""Pins that tool calls are read as mlx_lm's own parsers read them, and that the same form is found out."""

from __future__ import annotations

import importlib
import random

import pytest
from mlx_lm.tokenizer_utils import _infer_tool_parser

from tests.tool_texts import WRITERS, Read, marked, mistral_list, reader, tool
from wicketgate.pipeline.thinking import XTML_TOKENS
from wicketgate.pipeline.tools.formats import TOOL_FORMATS, tool_format

CASES = 150
LETTERS = "ab c\"'\\{}[],:=()\n\té你🙂<>/&;0-."
TEMPLATES = [
    "<minimax:tool_call>", "<|tool_call> <tool_call|>", "<|tool_call>", "<start_function_call>",
    "<longcat_tool_call>", "<arg_key>", "<|tool_list_start|>", "<|tool_call_start|>",
    "<tool_call>\n<function=", "<tool_call>\\n<function=", "<|tool_calls_section_begin|>",
    '<function name="<param name="', "[TOOL_CALLS]", "<atem:function_calls>", "<tool_call>tool_call.name",
    "<tool_call>", "", None,
]  # fmt: skip
VOCABULARIES = [(), XTML_TOKENS, XTML_TOKENS[:3], ("<|tool_call_start|>", "<|tool_call_end|>")]


class Theirs:
    """What mlx_lm asks of a tokenizer."""

    def __init__(self, template: str | None, vocabulary: tuple[str, ...]) -> None:
        self.chat_template = template
        self._vocabulary = vocabulary

    def get_vocab(self) -> dict[str, int]:
        return {name: n for n, name in enumerate(self._vocabulary)}


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_same_form_is_found_out(vocabulary):
    rng = random.Random(3)
    parts = [template for template in TEMPLATES if template]
    templates = [*TEMPLATES, *("".join(rng.sample(parts, 3)) for _ in range(200))]

    for template in templates:
        found = tool_format(template=template, vocabulary=vocabulary)
        assert (found and found.name) == _infer_tool_parser(Theirs(template, vocabulary)), template


@pytest.mark.parametrize("form", sorted(TOOL_FORMATS))
def test_the_markers_are_the_same(form):
    module = importlib.import_module(f"mlx_lm.tool_parsers.{form}")

    assert (TOOL_FORMATS[form].start, TOOL_FORMATS[form].end or "") == (
        module.tool_call_start,
        module.tool_call_end,
    )


def text(rng: random.Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randrange(14)))


def value(rng: random.Random, kind: str, *, is_flat: bool) -> object:
    match kind:
        case "string":
            return text(rng)
        case "integer":
            return rng.randrange(-99, 99_999)
        case "number":
            return rng.choice([1.5, -2.25, 1e30, 3])
        case "array" if not is_flat:
            return rng.choices([1, "x y", None, True, {"k": "v"}], k=rng.randrange(3))
        case "object" if not is_flat:
            return {key: rng.choice([1, "x, y", [1, 2], False]) for key in "pq"[: rng.randrange(3)]}
        case _:
            return rng.random() < 0.5


def pieces(rng: random.Random, written: str) -> list[str]:
    cut = []
    while written:
        size = rng.choice((1, 1, 2, 3, 5, 9, 40))
        cut.append(written[:size])
        written = written[size:]
    return cut


@pytest.mark.parametrize(
    ("form", "write"), [*sorted(WRITERS.items(), key=lambda item: item[0]), ("mistral", mistral_list)]
)
def test_calls_are_read_as_their_parser_reads_them(form, write):
    """Whole and in pieces. Theirs of function_gemma knows no containers."""
    parse = importlib.import_module(f"mlx_lm.tool_parsers.{form}").parse_tool_call
    rng = random.Random(form)
    compared = 0

    for _ in range(CASES):
        kinds = rng.choices(["string", "integer", "number", "boolean", "array", "object"], k=rng.randrange(4))
        properties = {f"p{n}": {"type": kind} for n, kind in enumerate(kinds)}
        flat = form == "function_gemma"
        arguments = {name: value(rng, kind["type"], is_flat=flat) for name, kind in properties.items()}
        if flat and "}" in repr(list(arguments.values())):
            continue
        written = write("get_x", arguments)
        try:
            theirs = parse(written, [tool("get_x", properties)])
        except (AttributeError, ValueError):  # a call without arguments of longcat
            assert not arguments
            continue
        calls = theirs if isinstance(theirs, list) else [theirs]

        ours = Read(reader(form, {"get_x": properties}), pieces(rng, marked(form, written)))

        assert ours.loaded == [(call["name"], call["arguments"]) for call in calls], written
        assert ours.text == ""
        compared += 1

    assert compared > CASES / 2
