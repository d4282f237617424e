"""Pins how tokens become the visible text of an answer, with its stops, end tokens and log-probabilities."""

from __future__ import annotations

import pytest

from tests.text_models import asking, byte_level, chat, load, sentencepiece, write_model
from wicketgate.inference import OutputForm, TextPrompt, TokenChunk, TokenLogprob
from wicketgate.pipeline.pieces import TextChunk


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


def said(text: str, tokens: int) -> list[TextChunk]:
    return [TextChunk(text=text, tokens=tokens)]


def tokens_of(pieces) -> list[int]:
    """Of whose log-probabilities come with text."""
    return [entry.token for piece in pieces for entry in piece.logprobs]


def test_a_character_comes_out_with_its_last_byte(model):
    stream = model.stream(asking())

    assert [stream.feed(TokenChunk((token,))) for token in ids(model, "é!")] == [
        [],
        said("é", 2),
        said("!", 1),
    ]


def test_an_unfinished_character_becomes_a_replacement_at_the_end(model):
    stream = model.stream(asking())

    assert stream.feed(chunk(model, b"\xe4\xbd")) == []
    assert stream.flush() == said("\ufffd", 2)


def test_one_bad_byte_spoils_only_itself(model):
    stream = model.stream(asking())

    assert stream.feed(chunk(model, "你".encode() + b"\xff")) == said("你\ufffd", 4)


def test_special_and_unknown_ids_give_nothing(model):
    stream = model.stream(asking())

    assert stream.feed(TokenChunk((0, 1, 5000))) == []


def test_special_tokens_are_shown_by_name_where_that_is_asked_for(model):
    stream = model.stream(asking(output=OutputForm(skip_special_tokens=False)))

    assert stream.feed(TokenChunk((1, 5000, *ids(model, "a")))) == said("<s>a", 3)


@pytest.mark.parametrize(
    ("prompt", "text"), [(chat(), "a a"), (chat(continues=True), " a a"), (TextPrompt(text="x"), " a a")]
)
def test_one_leading_space_is_dropped_unless_the_text_goes_on_from_a_prompt(tmp_path, prompt, text):
    spm = load(write_model(tmp_path, sentencepiece()))
    stream = spm.stream(asking(prompt=prompt))

    assert stream.feed(TokenChunk((258, 258))) == said(text, 2)


def test_a_chunk_counts_the_tokens_that_arrived_for_its_text(model):
    stream = model.stream(asking())

    assert stream.feed(chunk(model, b"\xc3")) == []
    assert stream.feed(chunk(model, b"\xa9")) == said("é", 2)


def test_an_end_token_is_counted_and_not_shown(model):
    stream = model.stream(asking())

    given = stream.feed(TokenChunk((*ids(model, "a"), 0)))

    assert given == said("a", 2)
    assert stream.tokens == 2
    assert stream.stop is None


def test_an_end_token_that_does_not_end_is_a_token_like_others(tmp_path):
    model = load(write_model(tmp_path, byte_level(), config={"eos_token_id": 9}))
    stream = model.stream(asking(ignore_eos=True))

    assert stream.feed(TokenChunk((9,))) == said(model.token_bytes(9).decode(), 1)


def test_a_stop_token_is_not_part_of_the_text_and_is_named(model):
    (dot,) = ids(model, ".")
    stream = model.stream(asking(stop_token_ids=(dot,)))

    assert stream.feed(chunk(model, "a.")) == said("a", 2)
    assert stream.stop == dot
    assert not stream.stopped


def test_a_stop_token_is_part_of_the_text_where_stops_are_to_be_shown(model):
    stream = model.stream(asking(stop_token_ids=tuple(ids(model, ".")), output=OutputForm(include_stop=True)))

    assert stream.feed(chunk(model, "a.")) == said("a.", 2)


def test_a_stop_text_ends_the_stream_and_what_follows_in_the_chunk_is_not_counted(model):
    stream = model.stream(asking(stop=("lo",)))

    given = stream.feed(chunk(model, "hello world"))

    assert given == said("hel", 5)
    assert stream.stopped
    assert stream.stop == "lo"
    assert stream.tokens == 5
    assert stream.feed(chunk(model, "more")) == []
    assert stream.flush() == []


def test_a_stop_text_is_part_of_the_text_where_stops_are_to_be_shown(model):
    stream = model.stream(asking(stop=("lo",), output=OutputForm(include_stop=True)))

    assert stream.feed(chunk(model, "hello world")) == said("hello", 5)


def test_of_several_stops_the_one_that_completed_is_named(model):
    stream = model.stream(asking(stop=("world", "o", "lo")))

    stream.feed(chunk(model, "hello world"))

    assert stream.stop == "lo"


def test_a_stop_text_that_completes_before_min_tokens_is_text(model):
    stream = model.stream(asking(stop=("aa",), min_tokens=4))

    given = stream.feed(chunk(model, "aaaaaa"))

    assert given == said("aaa", 5)
    assert stream.tokens == 5


def test_an_unfinished_character_at_the_end_can_complete_a_stop(model):
    stream = model.stream(asking(stop=("a\ufffd",)))

    assert stream.feed(chunk(model, b"a\xe4")) == []
    assert stream.flush() == []
    assert stream.stop == "a\ufffd"


def test_held_back_text_comes_out_at_the_end(model):
    stream = model.stream(asking(stop=("low",)))

    assert stream.feed(chunk(model, "hello")) == said("hel", 5)
    assert stream.flush() == said("lo", 0)
    assert stream.stop is None


def test_log_probabilities_come_with_the_text_of_their_tokens(model):
    stream = model.stream(asking(stop=("lo!",), logprobs=0))

    first = stream.feed(chunk(model, "hello", logprobs=True))
    rest = stream.flush()

    assert tokens_of(first) == ids(model, "hel")
    assert tokens_of(rest) == ids(model, "lo")


def test_log_probabilities_of_a_cut_stop_are_dropped(model):
    stream = model.stream(asking(stop=("lo",), logprobs=0))

    given = stream.feed(chunk(model, "hello", logprobs=True))

    assert tokens_of(given) == ids(model, "hel")


def test_log_probabilities_of_an_end_token_are_dropped(model):
    stream = model.stream(asking(logprobs=0))
    end = TokenLogprob(token=0, logprob=-1.0, top=())
    tokens = chunk(model, "a", logprobs=True)

    given = stream.feed(TokenChunk((*tokens.tokens, 0), (*tokens.logprobs, end)))

    assert tokens_of(given) == ids(model, "a")


def test_log_probabilities_of_a_token_that_the_cut_went_through_are_kept(tmp_path):
    spm = load(write_model(tmp_path, sentencepiece()))
    stream = spm.stream(asking(prompt=TextPrompt(text="x"), stop=("a",), logprobs=0))
    entry = TokenLogprob(token=258, logprob=-1.0, top=())

    given = stream.feed(TokenChunk((258,), (entry,)))

    assert given == [TextChunk(text=" ", tokens=1, logprobs=(entry,))]


def test_log_probabilities_come_with_the_first_character_of_a_token_that_a_stop_may_begin_in(tmp_path):
    spm = load(write_model(tmp_path, sentencepiece()))
    stream = spm.stream(asking(prompt=TextPrompt(text="x"), stop=("aa",), logprobs=0))
    entries = tuple(TokenLogprob(token=token, logprob=-1.0, top=()) for token in (258, 257))

    first = stream.feed(TokenChunk((258,), entries[:1]))
    second = stream.feed(TokenChunk((257,), entries[1:]))

    assert first == [TextChunk(text=" ", tokens=1, logprobs=entries[:1])]
    assert second == []


def test_the_parts_of_a_character_bring_their_log_probabilities_together(model):
    stream = model.stream(asking(logprobs=0))

    stream.feed(chunk(model, b"\xc3", logprobs=True))
    given = stream.feed(chunk(model, b"\xa9", logprobs=True))

    assert tokens_of(given) == ids(model, "é")


def test_an_unfinished_character_at_the_end_brings_its_log_probabilities(model):
    stream = model.stream(asking(logprobs=0))
    stream.feed(chunk(model, b"\xc3", logprobs=True))

    given = stream.flush()

    assert given[0].text == "\ufffd"
    assert tokens_of(given) == ids(model, b"\xc3")
