"""Pins the bytes of server-sent events."""

from __future__ import annotations

import json

import pytest

from transport import sse


def test_an_event_is_one_line_of_json_and_a_blank_line():
    assert sse.event({"a": [1, None], "b": "é"}) == 'data: {"a":[1,null],"b":"é"}\n\n'.encode()


def test_an_event_may_have_a_name():
    assert sse.event({}, name="ping") == b"event: ping\ndata: {}\n\n"


def test_a_heartbeat_is_a_comment_without_a_blank_line():
    assert sse.HEARTBEAT == b": ping\n"


@pytest.mark.parametrize("separator", ["\u0085", "\u2028", "\u2029"])
def test_a_line_separator_is_escaped(separator):
    written = sse.json_string(f"a{separator}b")

    assert len(written.decode().splitlines()) == 1
    assert json.loads(written) == f"a{separator}b"


def test_an_encoder_writes_what_the_whole_event_would_be():
    encoder = sse.ChunkEncoder({"x": {"text": "@"}, "y": 1}, hole="@")

    assert encoder.encode('say "hi"\n') == sse.event({"x": {"text": 'say "hi"\n'}, "y": 1})


@pytest.mark.parametrize("template", [{"a": 1}, {"a": "@", "b": "@"}])
def test_a_template_without_exactly_one_hole_is_refused(template):
    with pytest.raises(ValueError, match="exactly once"):
        sse.ChunkEncoder(template, hole="@")


def test_a_number_that_json_has_not_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        sse.json_bytes(float("nan"))
