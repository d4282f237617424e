"""Pins that what streams say adds up to the whole answer, whatever a model does, in both dialects."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import hypothesis.strategies as st

from tests.api_fakes import CARD, finished
from wicketgate.api.anthropic.wire import MessageForm
from wicketgate.api.order import Choice
from wicketgate.api.responses.wire import ResponseForm
from wicketgate.errors import EngineFailedError
from wicketgate.inference import FinishReason
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk, TextChunk

WORDS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3)
PARTS = st.lists(
    st.tuples(st.just("text"), WORDS)
    | st.tuples(st.just("reasoning"), WORDS)
    | st.tuples(st.just("call"), st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2)),
    max_size=5,
)


class FakeRunning:
    """A request that has begun."""

    prompt_ids = (1, 2, 3)
    cached_tokens = 0


def pieces_of(parts: list[tuple[str, Any]]) -> list[Any]:
    pieces: list[Any] = []
    calls = 0
    for kind, said in parts:
        match kind:
            case "text":
                pieces += [TextChunk(text=word, tokens=1) for word in said]
            case "reasoning":
                pieces += [ReasoningChunk(text=word, tokens=1) for word in said]
            case _:
                text = json.dumps(said)
                half = len(text) // 2
                pieces.append(CallOpened(index=calls, name=f"f{calls}"))
                pieces += [CallArguments(index=calls, text=piece) for piece in (text[:half], text[half:])]
                calls += 1
    return pieces


def response_form() -> ResponseForm:
    return ResponseForm(
        {"id": "resp_" + "0" * 32},
        token_bytes=CARD.token_bytes,
        unix_clock=lambda: 7.0,
        on_end=lambda _: None,
    )


def message_form() -> MessageForm:
    return MessageForm(request_id="req_" + "0" * 32, model="demo", max_tokens=9, shows_thinking=True)


def streamed(form: Any, pieces: list[Any], ends: Any) -> list[Any]:
    """Return the events of pieces that come one by one."""
    data = form.opening([FakeRunning()])
    data += b"".join(form.pieces(0, [piece]) for piece in pieces)
    data += form.finished(0, ends) + form.closing()
    return [json.loads(block.split("\ndata: ")[1]) for block in data.decode().split("\n\n")[:-1]]


def added_up(events: list[Any]) -> list[Any]:
    """Return the output that the events of a response tell, item by item."""
    told: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            told[event["output_index"]] = told.get(event["output_index"], "") + event["delta"]
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    for index, item in enumerate(items):
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert text == told.get(index, "")
    return items


@hypothesis.given(PARTS, st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]))
def test_the_events_of_a_response_add_up(parts, reason):
    pieces, ends = pieces_of(parts), finished(reason)
    whole = response_form().whole([Choice(answer=FakeRunning(), pieces=pieces, finished=ends)])

    events = streamed(response_form(), pieces, ends)

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == json.loads(json.dumps(whole))
    assert added_up(events) == whole["output"]


@hypothesis.given(PARTS)
def test_the_events_of_a_message_add_up(parts):
    pieces, ends = pieces_of(parts), finished()
    whole = message_form().whole([Choice(answer=FakeRunning(), pieces=pieces, finished=ends)])

    content: list[Any] = []
    for event in streamed(message_form(), pieces, ends):
        match event:
            case {"type": "content_block_start"}:
                assert event["index"] == len(content)
                content.append(event["content_block"])
                text = ""
            case {"delta": {"type": "text_delta", "text": piece}}:
                content[-1]["text"] += piece
            case {"delta": {"type": "thinking_delta", "thinking": piece}}:
                content[-1]["thinking"] += piece
            case {"delta": {"type": "signature_delta", "signature": signature}}:
                content[-1]["signature"] = signature
            case {"delta": {"type": "input_json_delta", "partial_json": piece}}:
                text += piece
            case {"type": "content_block_stop"} if content[-1]["type"] == "tool_use":
                content[-1]["input"] = json.loads(text)

    assert content == whole["content"]


def test_a_response_that_fails_before_it_is_made_is_a_flat_error():
    data = response_form().failure(EngineFailedError("x"))

    name, value = data.decode().removesuffix("\n\n").split("\n")
    error = {"type": "error", "code": "engine_failed", "message": "x", "param": None, "sequence_number": 0}
    assert (name, json.loads(value.removeprefix("data: "))) == ("event: error", error)


def test_separators_of_lines_are_escaped_in_deltas():
    chunk = TextChunk(text="a\u2028b", tokens=1)

    for form in (response_form(), message_form()):
        assert b"a\\u2028b" in form.pieces(0, [chunk])
