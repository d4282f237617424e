"""Pins what the bench reads from the bytes of an answer: text, times, usage, errors, flags."""

from __future__ import annotations

import json

import pytest

from bench.answers import read

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


def event(**fields: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def choice(text: str, reason: str | None = None) -> dict[str, object]:
    """Return one choice of a completion."""
    return {"index": 0, "text": text, "finish_reason": reason}


def test_a_stream_gives_its_text_with_the_times_of_its_first_and_last_text():
    chunks = [
        (1.0, event(choices=[choice("a")])),
        (2.0, event(choices=[choice("b")])),
        (3.0, event(choices=[choice("", "length")])),
        (4.0, event(choices=[], usage={"completion_tokens": 2}) + b"data: [DONE]\n\n"),
    ]

    answer = read(200, EVENTS, chunks)

    assert (answer.text, answer.first_s, answer.last_s) == ("ab", 1.0, 2.0)
    assert (answer.finish_reason, answer.completion_tokens, answer.error) == ("length", 2, None)


def test_a_role_an_empty_text_and_a_comment_are_no_first_token():
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    text = {"index": 0, "delta": {"content": "hi"}, "finish_reason": None}
    chunks = [(1.0, event(choices=[role])), (2.0, b": ping\n\n"), (3.0, event(choices=[text]))]

    answer = read(200, EVENTS, chunks)

    assert (answer.text, answer.first_s) == ("hi", 3.0)


def test_an_event_cut_in_two_arrives_with_its_second_half():
    whole = event(choices=[choice("a")])

    answer = read(200, EVENTS, [(1.0, whole[:9]), (2.0, whole[9:-1]), (5.0, whole[-1:])])

    assert (answer.text, answer.first_s) == ("a", 5.0)


def test_an_error_within_a_stream_is_kept_beside_the_text():
    chunks = [(1.0, event(choices=[choice("a")])), (2.0, event(error={"code": "engine_failed"}))]

    answer = read(200, EVENTS, chunks)

    assert (answer.text, answer.error) == ("a", {"code": "engine_failed"})


def test_a_whole_answer_is_read_in_both_forms():
    usage = {"completion_tokens": 3}
    message = {"index": 0, "message": {"role": "assistant", "content": "xyz"}, "finish_reason": "stop"}
    for each in (choice("xyz", "stop"), message):
        body = json.dumps({"choices": [each], "usage": usage}).encode()

        answer = read(200, {"content-type": "application/json"}, [(1.0, body[:5]), (2.0, body[5:])])

        assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("xyz", "stop", 3)
        assert answer.first_s == answer.last_s == 2.0


def test_a_refusal_is_its_error():
    body = json.dumps({"error": {"code": "overloaded"}}).encode()

    answer = read(429, {"content-type": "application/json", "retry-after": "2"}, [(1.0, body)])

    assert (answer.status, answer.error, answer.text) == (429, {"code": "overloaded"}, "")
    assert answer.headers["retry-after"] == "2"


def test_no_body_is_an_answer_without_text():
    assert read(0, {}, []).text == ""


@pytest.mark.parametrize(
    ("header", "flags"),
    [("ttft_pipeline,qos_monitoring", {"ttft_pipeline", "qos_monitoring"}), ("-", set()), (None, set())],
)
def test_the_flags_of_a_request_are_those_of_its_header(header: str | None, flags: set[str]):
    headers = {} if header is None else {"x-wicketgate-flags": header}

    assert read(200, headers, []).flags == flags
