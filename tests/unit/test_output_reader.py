"""Pins how reasoning is told from what the client sees, and what belongs to neither."""

from __future__ import annotations

import pytest

from tests.tool_texts import Read
from wicketgate.pipeline.output_reader import Markers, OutputReader, Said, Thought
from wicketgate.pipeline.thinking import THINK_PAIRS, XTML_FRAME, is_open, think_pair
from wicketgate.pipeline.tools.formats import FORCED, JSON_TOOLS, TOOL_FORMATS

TAGS = THINK_PAIRS[0]
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


def thinking(*, tools=JSON_TOOLS, pair=TAGS, **options: object) -> OutputReader:
    frame = XTML_FRAME if pair is THINK_PAIRS[-1] else ()
    return OutputReader(Markers(think=pair, tools=tools, frame=frame), tools={"f": {}}, **options)


@pytest.mark.parametrize("pair", THINK_PAIRS)
def test_reasoning_is_told_from_the_answer(pair):
    answer = Read(thinking(pair=pair), f"{pair.start}\nhm\n{pair.end}\n\nYes.")

    assert (answer.thought, answer.text) == ("hm\n", "Yes.")


def test_reasoning_that_the_prompt_began_needs_no_marker():
    answer = Read(thinking(is_thinking=True), "hm</think>Yes.")

    assert (answer.thought, answer.text) == ("hm", "Yes.")


def test_what_cannot_be_the_end_of_reasoning_goes_out_at_once():
    reading = thinking(is_thinking=True)

    assert reading.feed("\nhm </") == [Thought("hm ")]
    assert reading.feed("b>") == [Thought("</b>")]
    assert reading.is_thinking


def test_reasoning_that_is_cut_leaves_no_answer():
    answer = Read(thinking(is_thinking=True), "hm </thi")

    assert (answer.thought, answer.text) == ("hm </thi", "")


def test_reasoning_without_words_is_none():
    answer = Read(thinking(), "<think>\n\n</think>\n\nYes.")

    assert (answer.thought, answer.text) == ("", "Yes.")


def test_a_call_inside_reasoning_is_reasoning():
    answer = Read(thinking(is_thinking=True), f"I could {CALL}.</think>{CALL}")

    assert answer.thought == f"I could {CALL}."
    assert answer.calls == [("f", "{}")]


def test_a_tag_of_reasoning_inside_the_answer_is_text():
    text = "Write <think> and </think> around it."

    answer = Read(thinking(), text)

    assert (answer.thought, answer.text) == ("", text)


def test_a_tag_of_reasoning_after_white_space_begins_reasoning():
    assert Read(thinking(), "\n <think>hm</think>x").thought == "hm"


def test_reasoning_marked_by_tokens_of_its_own_may_begin_anywhere():
    pair = THINK_PAIRS[2]

    answer = Read(thinking(pair=pair), f"One. {pair.start}hm{pair.end}Two.")

    assert (answer.thought, answer.text) == ("hm", "One. Two.")


def test_forced_calls_come_after_reasoning():
    reading = thinking(tools=FORCED, is_thinking=True, is_call=True)

    answer = Read(reading, 'hm</think>\n\n[{"name": "f", "parameters": {}}]')

    assert (answer.thought, answer.calls, answer.text) == ("hm", [("f", "{}")], "")


def test_a_forced_call_that_is_cut_short_is_no_text_beside_the_one_before_it():
    reading = thinking(tools=FORCED, is_call=True)

    answer = Read(reading, '[{"name": "f", "parameters": {}}, {"name": "f", "parame')

    assert (answer.calls, answer.text) == ([("f", "{}")], "")


def test_the_frame_of_xtml_is_not_part_of_the_answer():
    pair = THINK_PAIRS[-1]
    reading = thinking(pair=pair, tools=TOOL_FORMATS["kimi_k3"], is_thinking=True)

    answer = Read(
        reading,
        "hm<|close|>think<|sep|><|open|>response<|sep|>Yes.<|close|>response<|sep|><|close|>message<|sep|>",
    )

    assert (answer.thought, answer.text) == ("hm", "Yes.")


def test_names_of_special_tokens_are_taken_out_of_visible_text():
    markers = Markers(think=None, tools=TOOL_FORMATS["mistral"], hidden=["[TOOL_CALLS]", "[ARGS]"])
    reading = OutputReader(markers, tools={"f": {}})

    assert reading.feed("a[ARGS]b") == [Said("a", 0), Said("b", 7)]
    assert reading.feed("[TOOL_CALLS]no call") == [Said("no call", 20)]


def test_nothing_is_read_after_the_answer_is_over():
    reading = thinking(max_calls=0)

    assert reading.feed(CALL + "a") == []
    assert reading.feed("b") + reading.flush() == []
    assert (reading.is_over, reading.calls) == (True, 0)


@pytest.mark.parametrize(
    ("vocabulary", "pair"),
    [
        (("<think>", "</think>"), THINK_PAIRS[0]),
        (("<think>",), None),
        (THINK_PAIRS[3].tokens, THINK_PAIRS[3]),
        (THINK_PAIRS[4].tokens, THINK_PAIRS[4]),
        (THINK_PAIRS[4].tokens[:3], None),
    ],
)
def test_a_model_thinks_if_its_vocabulary_has_a_pair(vocabulary, pair):
    assert think_pair(vocabulary) is pair


@pytest.mark.parametrize(("text", "opened"), [("a<think>\n", True), ("<think></think>", False), ("", False)])
def test_reasoning_is_open_where_its_last_marker_is_the_first_of_the_pair(text, opened):
    assert is_open(text, TAGS) is opened
