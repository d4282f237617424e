"""Pins how tokens become the visible text of an answer, with its stops, end tokens and log-probabilities."""

from __future__ import annotations

import pytest

from tests.text_models import byte_level, load, sentencepiece, write_model
from wicketgate.inference import TokenChunk, TokenLogprob
from wicketgate.pipeline.text import Detokenizer, TextChunk


@pytest.fixture
def model(tmp_path):
    return load(write_model(tmp_path, byte_level(), config={"eos_token_id": 0}))


def ids(model, text: str | bytes) -> list[int]:
    """One token a byte."""
    data = text.encode() if isinstance(text, str) else text
    return [next(i for i in range(2, 258) if model.token_bytes(i) == bytes([byte])) for byte in data]


def chunk(model, text: str | bytes, *, logprobs: bool = False) -> TokenChunk:
    tokens = tuple(ids(model, text))
    entries = tuple(TokenLogprob(token=t, logprob=-1.0, top=()) for t in tokens) if logprobs else None
    return TokenChunk(tokens, entries)


def test_a_character_comes_out_with_its_last_byte(model):
    detokenizer = Detokenizer(model, continues_text=False)

    assert [detokenizer.feed([token]) for token in ids(model, "é!")] == ["", "é", "!"]


def test_an_unfinished_character_becomes_a_replacement_at_the_end(model):
    detokenizer = Detokenizer(model, continues_text=False)

    assert detokenizer.feed(ids(model, b"\xe4\xbd")) == ""
    assert detokenizer.flush() == "\ufffd"


def test_one_bad_byte_spoils_only_itself(model):
    detokenizer = Detokenizer(model, continues_text=False)

    assert detokenizer.feed(ids(model, "你".encode() + b"\xff")) == "你\ufffd"


def test_special_and_unknown_ids_give_nothing(model):
    detokenizer = Detokenizer(model, continues_text=False)

    assert detokenizer.feed([0, 1, 5000]) == ""


@pytest.mark.parametrize(("continues_text", "text"), [(False, "a a"), (True, " a a")])
def test_one_leading_space_is_dropped_unless_the_text_goes_on_from_a_prompt(tmp_path, continues_text, text):
    spm = load(write_model(tmp_path, sentencepiece()))
    detokenizer = Detokenizer(spm, continues_text=continues_text)

    assert detokenizer.feed([258]) + detokenizer.feed([258]) == text


def test_a_chunk_counts_the_tokens_that_arrived_for_its_text(model):
    stream = model.stream()

    assert stream.feed(chunk(model, b"\xc3")) is None
    assert stream.feed(chunk(model, b"\xa9")) == TextChunk(text="é", tokens=2)


def test_an_end_token_is_counted_and_not_shown(model):
    stream = model.stream()

    given = stream.feed(TokenChunk((*ids(model, "a"), 0)))

    assert given == TextChunk(text="a", tokens=2)
    assert stream.tokens == 2


def test_a_stop_token_is_not_part_of_the_text(model):
    dot = ids(model, ".")
    stream = model.stream(stop_token_ids=dot)

    assert stream.feed(chunk(model, "a.")) == TextChunk(text="a", tokens=2)


def test_a_stop_text_ends_the_stream_and_what_follows_in_the_chunk_is_not_counted(model):
    stream = model.stream(["lo"])

    given = stream.feed(chunk(model, "hello world"))

    assert given == TextChunk(text="hel", tokens=5)
    assert stream.stopped
    assert stream.tokens == 5
    assert stream.feed(chunk(model, "more")) is None
    assert stream.flush() is None


def test_held_back_text_comes_out_at_the_end(model):
    stream = model.stream(["low"])

    assert stream.feed(chunk(model, "hello")) == TextChunk(text="hel", tokens=5)
    assert stream.flush() == TextChunk(text="lo", tokens=0)


def test_log_probabilities_come_with_the_text_of_their_tokens(model):
    stream = model.stream(["lo!"])

    first = stream.feed(chunk(model, "hello", logprobs=True))
    rest = stream.flush()

    assert [entry.token for entry in first.logprobs] == ids(model, "hel")
    assert [entry.token for entry in rest.logprobs] == ids(model, "lo")


def test_log_probabilities_of_a_cut_stop_are_dropped(model):
    stream = model.stream(["lo"])

    given = stream.feed(chunk(model, "hello", logprobs=True))

    assert [entry.token for entry in given.logprobs] == ids(model, "hel")


def test_log_probabilities_of_a_token_that_the_cut_went_through_are_kept(tmp_path):
    spm = load(write_model(tmp_path, sentencepiece()))
    stream = spm.stream(["a"], continues_text=True)
    entry = TokenLogprob(token=258, logprob=-1.0, top=())

    given = stream.feed(TokenChunk((258,), (entry,)))

    assert given == TextChunk(text=" ", tokens=1, logprobs=(entry,))


def test_the_parts_of_a_character_bring_their_log_probabilities_together(model):
    stream = model.stream()

    stream.feed(chunk(model, b"\xc3", logprobs=True))
    given = stream.feed(chunk(model, b"\xa9", logprobs=True))

    assert [entry.token for entry in given.logprobs] == ids(model, "é")


def test_an_unfinished_character_at_the_end_brings_its_log_probabilities(model):
    stream = model.stream()
    stream.feed(chunk(model, b"\xc3", logprobs=True))

    given = stream.flush()

    assert given.text == "\ufffd"
    assert [entry.token for entry in given.logprobs] == ids(model, b"\xc3")
