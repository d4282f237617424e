"""Pins how an answer may call tools: what the prompt shows, which grammar holds it, how it is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

import wicketgate.demo
from tests.api_fakes import CARD
from wicketgate.api.schemas import MAX_SCHEMAS
from wicketgate.api.tools import MAX_CALLS, MIN_CHARS, Tool, ToolChoice, ToolPlan, plan_tools
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import CallSyntax

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool(name="weather", description="Says it.", parameters=CITY)
CLOCK = Tool(name="clock")
ABLE = replace(CARD, tool_format="json_tools")
PARAM = "tools[{index}].function.parameters"
TOKENIZER = Path(wicketgate.demo.__file__).parent / "model" / "tokenizer.json"


def plan(*tools, card=ABLE, max_tokens=None, **choice):
    return plan_tools(tools, ToolChoice(**choice), card=card, param=PARAM, max_tokens=max_tokens)


def schema_of(made):
    assert made.grammar.kind == "json_schema"
    assert made.grammar.param == "tools"
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(made.grammar.text))
    assert not error
    return json.loads(made.grammar.text)


def test_without_tools_an_answer_is_text():
    assert plan() == ToolPlan()


def test_tools_that_must_not_be_called_are_not_shown():
    assert plan(WEATHER, kind="none") == ToolPlan()


def test_tools_that_may_be_called_are_shown_and_read_as_the_template_taught():
    made = plan(WEATHER, CLOCK)

    assert made.grammar is None
    assert (made.output.calls, made.output.tools, made.output.max_calls) == (
        CallSyntax.NATIVE,
        ("weather", "clock"),
        None,
    )
    assert made.prompt_tools == (
        {"type": "function", "function": {"name": "weather", "description": "Says it.", "parameters": CITY}},
        {
            "type": "function",
            "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
        },
    )


def test_a_model_whose_template_knows_no_tools_may_call_them_too():
    """It is told of them, and how to call them."""
    made = plan(WEATHER, card=CARD)

    assert (made.output.calls, made.grammar) == (CallSyntax.NATIVE, None)


def test_calls_in_parallel_can_be_declined():
    assert plan(WEATHER, parallel=False).output.max_calls == 1


def test_all_tools_are_shown_and_only_those_allowed_may_be_called():
    made = plan(WEATHER, CLOCK, allowed=("clock",))

    assert len(made.prompt_tools) == 2
    assert made.output.tools == ("clock",)


def test_a_required_call_is_forced_on_any_model():
    made = plan(WEATHER, CLOCK, kind="required", card=CARD)

    schema = schema_of(made)
    assert made.output.calls is CallSyntax.FORCED
    assert (schema["type"], schema["minItems"], schema["maxItems"]) == ("array", 1, MAX_CALLS)
    assert [each["properties"]["name"] for each in schema["items"]["anyOf"]] == [
        {"const": "weather"},
        {"const": "clock"},
    ]
    assert [each["properties"]["parameters"] for each in schema["items"]["anyOf"]] == [
        {"$ref": "#/$defs/weather"},
        {"$ref": "#/$defs/clock"},
    ]
    assert schema["$defs"]["clock"] == {"type": "object", "properties": {}, "additionalProperties": False}


def test_a_named_tool_is_called_once():
    made = plan(WEATHER, CLOCK, kind="named", name="clock", card=CARD)

    schema = schema_of(made)
    assert (made.output.tools, made.output.max_calls) == (("clock",), 1)
    assert (schema["maxItems"], set(schema["$defs"])) == (1, {"clock"})


def test_one_of_those_allowed_can_be_required():
    made = plan(WEATHER, CLOCK, kind="required", allowed=("weather",))

    assert set(schema_of(made)["$defs"]) == {"weather"}


def test_forced_texts_have_room_in_the_answer():
    made = plan(WEATHER, kind="required", max_tokens=1000)

    assert schema_of(made)["$defs"]["weather"]["properties"]["city"] == {"type": "string", "maxLength": 500}


def test_forced_texts_are_not_cut_to_nothing():
    made = plan(WEATHER, kind="required", max_tokens=4)

    assert schema_of(made)["$defs"]["weather"]["properties"]["city"]["maxLength"] == MIN_CHARS


def test_references_of_a_forced_tool_lead_to_its_own_schema():
    node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/end"}]}}}
    tool = Tool(name="chain", parameters=node | {"$defs": {"end": {"type": "null"}}})

    schema = schema_of(plan(CLOCK, tool, kind="required"))

    assert schema["$defs"]["chain"]["properties"]["next"]["anyOf"] == [
        {"$ref": "#/$defs/chain"},
        {"$ref": "#/$defs/chain/$defs/end"},
    ]


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ((), {"kind": "required"}),
        ((WEATHER,), {"kind": "named", "name": "clock"}),
        ((), {"kind": "named", "name": "clock"}),
        ((WEATHER,), {"allowed": ("weather", "clock")}),
    ],
)
def test_a_choice_of_what_is_not_there_is_refused(tools, choice):
    with pytest.raises(InvalidRequestError, match="tool_choice") as caught:
        plan(*tools, **choice)

    assert (caught.value.param, caught.value.code) == ("tool_choice", "invalid_value")


@pytest.mark.parametrize(
    ("tool", "choice"),
    [
        (Tool(name="f", parameters=CITY, strict=True), {}),
        (Tool(name="f", parameters={"type": "string"}), {"kind": "required"}),
        (Tool(name="f", parameters={"not": {}}), {"kind": "named", "name": "f"}),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_at_its_place(tool, choice):
    with pytest.raises(InvalidRequestError) as caught:
        plan(CLOCK, tool, **choice)

    assert caught.value.code == "invalid_json_schema"
    assert caught.value.param == "tools[1].function.parameters"


def test_a_schema_that_nothing_has_to_fit_is_not_looked_at():
    made = plan(Tool(name="f", parameters={"not": {}}))

    assert made.prompt_tools[0]["function"]["parameters"] == {"not": {}}


STRICT = Tool(name="strict", parameters=CITY | {"additionalProperties": False}, strict=True)
GOOD = '<tool_call>\n{"name": "strict", "arguments": {"city": "Bonn"}}\n</tool_call>'
WRONG = GOOD.replace('"Bonn"', "5")


@pytest.fixture(scope="module")
def told():
    """The demo model's tokens, in which the marks of a call are text."""
    return Tokenizer.from_file(str(TOKENIZER))


@pytest.fixture(scope="module")
def taught():
    """The same with tokens for the marks."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in ("<tool_call>", "</tool_call>")])
    return tokenizer


def allows(made, tokenizer, text):
    assert (made.grammar.kind, made.grammar.param) == ("lark", "tools")
    matcher = LLMatcher(LLTokenizer(tokenizer.to_str()), made.grammar.text)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    taken = matcher.try_consume_tokens(ids)
    assert not matcher.is_error(), matcher.get_error()
    return taken == len(ids) and matcher.is_accepting()


@pytest.mark.parametrize("vocabulary", ["told", "taught"])
@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("It rains.", True),
        (GOOD, True),
        (f"I look.\n{GOOD}\n{GOOD}", True),
        (GOOD.replace(" ", ""), True),
        (GOOD.replace("strict", "clock").replace('"city": "Bonn"', '"any": [1]'), True),
        (WRONG, False),
        (GOOD.replace("strict", "other"), False),
        ("<tool_call>It rains.", False),
    ],
)
def test_a_strict_tool_that_may_be_called_is_called_by_its_schema(vocabulary, text, is_allowed, request):
    is_taught = vocabulary == "taught"
    card = replace(ABLE, call_marks_are_tokens=True) if is_taught else CARD

    made = plan(CLOCK, STRICT, card=card)

    assert made.output.calls is CallSyntax.NATIVE
    assert allows(made, request.getfixturevalue(vocabulary), text) == is_allowed


@pytest.mark.parametrize("vocabulary", ["told", "taught"])
@pytest.mark.parametrize(
    ("text", "is_allowed"), [('{"a":1}', True), (GOOD, True), (f"{GOOD}\n{GOOD}", True), ("It rains.", False)]
)
def test_an_answer_with_a_schema_leaves_room_for_calls(vocabulary, text, is_allowed, request):
    is_taught = vocabulary == "taught"
    card = replace(ABLE, call_marks_are_tokens=True) if is_taught else CARD
    answer = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}

    made = plan_tools([STRICT], ToolChoice(), card=card, param=PARAM, answer=answer)

    assert allows(made, request.getfixturevalue(vocabulary), text) == is_allowed


def test_calls_in_another_form_than_json_are_read_and_not_enforced():
    assert plan(STRICT, card=replace(CARD, tool_format="qwen3_coder")).grammar is None


def test_a_strict_tool_may_take_no_arguments():
    assert plan(replace(CLOCK, strict=True)).output.tools == ("clock",)


def test_the_schemas_of_all_tools_together_have_a_bound():
    wide = {"type": "object", "properties": {f"p{number}": {} for number in range(MAX_SCHEMAS // 2)}}

    with pytest.raises(InvalidRequestError) as refusal:
        plan(Tool(name="one", parameters=wide), Tool(name="two", parameters=wide), kind="required")

    assert (refusal.value.param, refusal.value.code) == (PARAM.format(index=1), "invalid_json_schema")
