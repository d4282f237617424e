"""Pins calls that are written as JSON: what goes out while they come, and the shapes that they have."""

from __future__ import annotations

import pytest

from tests.tool_texts import Read, marked, reader
from wicketgate.pipeline.output_reader import Markers, OutputReader, Said
from wicketgate.pipeline.pieces import CallArguments, CallOpened
from wicketgate.pipeline.tools.formats import FORCED, TOOL_FORMATS

TOOLS = {"f": {}, "g": {}}


def inside(text: str) -> Read:
    """Between the markers, character by character."""
    return Read(reader("json_tools", TOOLS), marked("json_tools", text))


def forced() -> OutputReader:
    return OutputReader(Markers(think=None, tools=FORCED), tools=TOOLS, is_call=True)


def test_the_name_comes_first_and_then_the_arguments_as_they_are_written():
    reading = reader("json_tools", TOOLS)

    steps = [
        reading.feed(piece)
        for piece in (
            '<tool_call>{"name": "f"',
            ', "arguments": {"a"',
            ": [1, ",
            '{"b": "}"}]}',
            "}",
            "</tool_call>",
        )
    ]

    assert steps == [
        [],
        [CallOpened(index=0, name="f"), CallArguments(index=0, text='{"a"')],
        [CallArguments(index=0, text=": [1, ")],
        [CallArguments(index=0, text='{"b": "}"}]}')],
        [],
        [],
    ]


def test_forced_calls_go_out_as_they_are_written():
    reading = forced()

    steps = [
        reading.feed(piece)
        for piece in ('[{"name": "f", "parameters": {"a', '": 1}}, {"na', 'me": "g", "parameters": {}}]')
    ]

    assert steps == [
        [CallOpened(index=0, name="f"), CallArguments(index=0, text='{"a')],
        [CallArguments(index=0, text='": 1}')],
        [CallOpened(index=1, name="g"), CallArguments(index=1, text="{}")],
    ]


def test_a_forced_answer_that_is_cut_in_a_call_keeps_what_was_written_of_it():
    assert Read(forced(), ['[{"name": "f", "parameters": {"a": "b']).calls == [("f", '{"a": "b')]


def test_a_forced_answer_that_is_cut_before_a_call_is_text():
    assert Read(forced(), ['[{"name": "f", "par']).text == '[{"name": "f", "par'


def test_what_follows_forced_calls_is_text():
    answer = Read(forced(), ['[{"name": "f", "parameters": {}}]', " more"])

    assert (answer.calls, answer.text) == ([("f", "{}")], "more")


SHAPES = [
    ('{"arguments": {"a": 1}, "name": "f"}', '{"a": 1}'),
    ('{"name": "f"}', "{}"),
    ('{"name": "f", "arguments": null}', "{}"),
    ('{"name": "f", "arguments": ""}', "{}"),
    ('{"name": "f", "arguments": "null"}', "{}"),
    ('{"name": "f", "arguments": "{\\"a\\": \\"\\\\\\"\\"}"}', '{"a": "\\""}'),
    ('{"id": "\\"}", "t": {"a": [1]}, "n": -1e3, "name": "f", "arguments": {"a": 1}, "z": true}', '{"a": 1}'),
    ('{"name": "\\u0066", "arguments": {"a": 1}}', '{"a": 1}'),
    ('{"name": "f", "arguments": {"a": 1}, "name": "g", "arguments": {}}', '{"a": 1}'),
    ('{"name": "f", "arguments": {"a": NaN, "b": [-Infinity, Infinity], "c": -1, "d": 1e5}}',
     '{"a": null, "b": [null, null], "c": -1, "d": 1e5}'),
    ('{"name": "f", "arguments": {"a": "</tool_call>"}}', '{"a": "</tool_call>"}'),
    ('{"name": "f", "arguments": {"a": 1}', '{"a": 1}'),
    ('{"name": "f",\n  "arguments": {\n"a": 1}\n}\n', '{\n"a": 1}'),
    ('{"name": "f", "parameters": {"a": 1}}', '{"a": 1}'),
    ('{"name": "f", "arguments": {"a": "\\\\"}}', '{"a": "\\\\"}'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "arguments"), SHAPES)
def test_a_call_is_read_in_all_its_shapes(text, arguments):
    answer = inside(text)

    assert (answer.calls, answer.text) == ([("f", arguments)], "")


NO_CALLS = [
    "", "7", '"f"', "NaN", "[]", "[1]", "{}", '{"a": 1}', '{"name": 5}', '{"name": null, "arguments": {}}',
    '{"name": "h", "arguments": {}}', '{"name": "f", "arguments": 5}', '{"name": "f", "arguments": [1]}',
    '{"name": "f", "arguments": "x"}', '{"name": "f", "arguments": "[1]"}',
    '{"name": "f", "arguments": "{\\"a\\": NaN}"}', '{"name": "f", "arguments": "{\\"a\\": \\"\\ud800\\"}"}',
    '{"name": "f", "arguments": "\\x"}', '{"name" "f"}', "{name: 'f'}", '{"name": "f" "arguments": }',
    '{"name": "f\\x"}', '{"name": truefalse, "arguments": {}}', '{"a": [truefalsenull], "name": "f"}',
    '{"arguments": {"a": @}, "name": "f"}', '{"arguments": {"a": TooLongAWord}, "name": "f"}',
]  # fmt: skip


@pytest.mark.parametrize("text", NO_CALLS)
def test_json_that_is_no_call_is_text(text):
    answer = inside(text)

    assert (answer.calls, answer.text) == ([], marked("json_tools", text))


def test_deeper_nesting_than_can_be_read_in_arguments_that_are_text_makes_the_call_text():
    text = '{"name": "f", "arguments": "' + "[" * 100_000 + '"}'

    assert Read(reader("json_tools", TOOLS), [marked("json_tools", text)]).calls == []


def test_several_calls_may_stand_between_one_pair_of_markers():
    answer = inside('[{"name": "f", "arguments": {}}, {"name": "g"}]\n{"name": "f"}')

    assert answer.calls == [("f", "{}"), ("g", "{}"), ("f", "{}")]


def test_what_cannot_be_read_behind_a_call_is_text_without_the_marker():
    answer = inside('{"name": "f"} {"name": "h"}')

    assert (answer.calls, answer.text) == ([("f", "{}")], ' {"name": "h"}')


def test_arguments_that_break_off_stay_as_they_were_sent():
    answer = inside('{"name": "f", "arguments": {"a": <b>}}')

    assert answer.calls == [("f", '{"a": ')]
    assert answer.text == "<b>}}"


def test_arguments_that_are_cut_short_by_the_end_stay_as_they_were_sent():
    answer = Read(reader("json_tools", TOOLS), ['<tool_call>{"name": "f", "arguments": {"a": "b'])

    assert (answer.calls, answer.text) == ([("f", '{"a": "b')], "")


def test_half_an_escape_is_held_back():
    reading = reader("json_tools", TOOLS)
    reading.feed('<tool_call>{"name": "f", "arguments": {"a": "')

    assert reading.feed("x\\") == [CallArguments(index=0, text="x")]
    assert reading.feed('"y') == [CallArguments(index=0, text='\\"y')]


def test_text_that_cannot_be_a_marker_goes_out_at_once():
    reading = reader("json_tools", TOOLS)

    assert reading.feed("a < b <tool") == [Said("a < b ", 0)]
    assert reading.feed("s>") == [Said("<tools>", 6)]


def test_one_brace_more_closes_what_one_brace_less_left_open():
    assert TOOL_FORMATS["json_tools"].end == "</tool_call>"
    assert inside('{"name": "f", "arguments": {"a": 1}}}').text == "}"
