"""Pins that any text survives an event, on one line, and that the fast encoder is the slow one."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from transport import sse

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50)
ENCODER = sse.ChunkEncoder({"id": 1, "delta": {"content": "\u0000"}, "end": None}, hole="\u0000")


@settings(deadline=None)
@given(TEXT)
def test_the_fast_encoder_writes_what_the_slow_one_does(text):
    assert ENCODER.encode(text) == sse.event({"id": 1, "delta": {"content": text}, "end": None})


@settings(deadline=None)
@given(TEXT)
def test_any_text_comes_back_from_one_line(text):
    written = ENCODER.encode(text).decode()

    (line, blank) = written.splitlines()
    assert blank == ""
    assert json.loads(line.removeprefix("data: "))["delta"]["content"] == text
