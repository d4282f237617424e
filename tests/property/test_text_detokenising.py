"""Pins that detokenising on the fly gives the text that was tokenised, however the tokens come."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.text_models import asking
from wicketgate.inference import TokenChunk, TokenLogprob
from wicketgate.pipeline.text import TextModel
from wicketgate.pipeline.text_stream import Detokenizer

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken("<|end|>", special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat, naïve 你好 你们 " * 20], trainer)
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory) -> TextModel:
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = TextModel.load(folder)
    loaded.close()
    return loaded


def split(ids: list[int], cuts: list[int]) -> list[list[int]]:
    edges = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    return [ids[begin:end] for begin, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(text=TEXT, cuts=st.lists(st.integers(0, 100), max_size=5))
def test_the_text_comes_back_whole_from_any_pieces_of_its_tokens(tokenizer, model, text, cuts):
    stream = model.stream(asking())

    pieces = [
        piece
        for ids in split(tokenizer.encode(text).ids, cuts)
        for piece in stream.feed(TokenChunk(tuple(ids)))
    ] + stream.flush()

    assert "".join(piece.text for piece in pieces) == text.replace("<|end|>", "")


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 450), max_size=40))
def test_any_ids_give_what_their_bytes_say(model, ids):
    detokenizer = Detokenizer(drops_space=False)

    given_out = "".join(detokenizer.feed(model.token_bytes(token)) for token in ids) + detokenizer.flush()

    assert given_out == b"".join(map(model.token_bytes, ids)).decode("utf-8", "replace")


@settings(deadline=None)
@given(
    text=TEXT, cuts=st.lists(st.integers(0, 100), max_size=5), stop=st.text("the a你", min_size=1, max_size=3)
)
def test_the_bytes_of_the_reported_tokens_join_to_the_text_unless_a_stop_cut_it(
    tokenizer, model, text, cuts, stop
):
    stream = model.stream(asking(stop=(stop,), logprobs=0))
    chunks = []

    for piece in split(tokenizer.encode(text).ids, cuts):
        entries = tuple(TokenLogprob(token=token, logprob=-1.0, top=()) for token in piece)
        chunks += stream.feed(TokenChunk(tuple(piece), entries))
    chunks += stream.flush()

    said = "".join(chunk.text for chunk in chunks)
    reported = b"".join(model.token_bytes(entry.token) for chunk in chunks for entry in chunk.logprobs)
    if stream.stopped:
        assert reported.startswith(said.encode())
        assert stop not in said
    else:
        assert reported.decode() == said
