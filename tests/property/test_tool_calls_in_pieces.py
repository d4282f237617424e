"""Pins that calls are read the same however their text is cut, and that what is no call is not lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tool_texts import WRITERS, Read, marked, reader
from wicketgate.pipeline.output_reader import Said
from wicketgate.pipeline.tools.formats import TOOL_FORMATS

NAMES = st.sampled_from(["get_x", "f", "other"])
TEXT = st.text(alphabet="ab c\"'\\{}[],:=()\n\té你🙂<>/&;0-.", max_size=12)
LEAF = TEXT | st.integers(-99, 99_999) | st.booleans() | st.none() | st.sampled_from([1.5, 1e30])
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("pqr"), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b_1", "city"]), VALUE, max_size=3)
CUTS = st.lists(st.integers(1, 12), min_size=1, max_size=30)
PROPERTIES = {"a": {"type": "string"}, "b_1": {"type": ["integer", "null"]}}


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces = []
    while text:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[:size])
        text = text[size:]
    return pieces


@pytest.mark.parametrize("form", sorted(WRITERS))
@settings(deadline=None, max_examples=25)
@given(calls=st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3), said=TEXT, sizes=CUTS)
def test_an_answer_is_read_the_same_from_any_pieces(form, calls, said, sizes):
    tools = {"get_x": PROPERTIES, "f": {}}
    text = said + "\n".join(marked(form, WRITERS[form](name, arguments)) for name, arguments in calls) + said

    whole = Read(reader(form, tools), [text])
    pieces = Read(reader(form, tools), cut(text, sizes))

    assert (pieces.text, pieces.calls) == (whole.text, whole.calls)


def parts_of(form: str) -> list[str]:
    """What an answer of this form is written with, whole and broken."""
    known = TOOL_FORMATS[form]
    call = WRITERS[form]("f", {"a": "b"})
    return [known.start, known.end or "", call, call[: len(call) // 2], call[len(call) // 2 :], *known.tokens]


@pytest.mark.parametrize("form", sorted(TOOL_FORMATS))
@settings(deadline=None, max_examples=30)
@given(data=st.data(), sizes=CUTS)
def test_what_is_no_call_of_a_tool_comes_out_letter_for_letter(form, data, sizes):
    text = "".join(data.draw(st.lists(st.sampled_from(parts_of(form)) | TEXT, max_size=8)))

    read = Read(reader(form, {}), cut(text, sizes))

    assert (read.text, read.calls) == (text, [])


@pytest.mark.parametrize("form", sorted(TOOL_FORMATS))
@settings(deadline=None, max_examples=30)
@given(data=st.data(), sizes=CUTS)
def test_visible_text_says_where_in_the_answer_it_stands(form, data, sizes):
    text = "".join(data.draw(st.lists(st.sampled_from(parts_of(form)) | TEXT, max_size=8)))
    reading = reader(form, {"f": {}})

    events = [event for piece in cut(text, sizes) for event in reading.feed(piece)] + reading.flush()

    said = [event for event in events if isinstance(event, Said)]
    assert [text[event.begin : event.begin + len(event.text)] for event in said] == [e.text for e in said]
    assert [event.begin for event in said] == sorted(event.begin for event in said)
