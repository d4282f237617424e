"""Pins that stopping on the fly is the same as cutting the whole text afterwards, however it comes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from tests.text_models import added, asking, byte_level, load, write_model
from wicketgate.inference import TokenChunk
from wicketgate.pipeline.phrases import Phrases, PhraseSearch

TEXT = st.text(alphabet="abc", max_size=40)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)
CASES = 5000


def cut_afterwards(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition: the first end at which a stop is complete, and there the longest."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(deadline=None)
@given(pieces=st.lists(TEXT, max_size=6), stops=STOPS)
def test_the_pieces_given_out_join_to_the_text_cut_afterwards(pieces, stops):
    search = PhraseSearch(Phrases(stops))

    given_out = "".join(search.feed(piece) for piece in pieces) + search.flush()

    assert (given_out, search.found) == cut_afterwards("".join(pieces), stops)


@settings(deadline=None)
@given(text=TEXT, stops=STOPS)
def test_exactly_the_longest_beginning_of_a_stop_is_held_back(text, stops):
    search = PhraseSearch(Phrases(stops))

    given_out = search.feed(text)

    if search.found is None:
        begun = [n for n in range(6) for s in stops if n < len(s) and text.endswith(s[:n])]
        assert len(text) - len(given_out) == max(begun)


@settings(deadline=None)
@given(text=TEXT, passed=st.integers(0, 40), stops=STOPS)
def test_a_stop_that_completes_too_early_is_text_and_a_later_one_still_ends_it(text, passed, stops):
    search = PhraseSearch(Phrases(stops))

    given_out = "".join(search.feed(c, may_end=i >= passed) for i, c in enumerate(text)) + search.flush()

    ends = [
        (end, -len(stop))
        for end in range(passed + 1, len(text) + 1)
        for stop in stops
        if text[:end].endswith(stop)
    ]
    cut = sum(min(ends)) if ends else len(text)
    assert given_out == text[:cut]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Tokens of one to four characters of `abé🙂`, many ways to write each text."""
    letters = "abé🙂"
    longer = [a + b for a in letters for b in letters] + ["aba", "bé🙂a", "🙂🙂b"]
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    names = [alphabet.pre_tokenize_str(text)[0][0] for text in longer]
    tokenizer = byte_level(*map(added, names))
    return load(write_model(tmp_path_factory.mktemp("model"), tokenizer, config={"eos_token_id": 0}))


def test_random_answers_end_as_if_they_were_cut_afterwards(model):
    """Stops span two to five tokens, overlap, begin inside of tokens and of characters' bytes."""
    rng = random.Random(20)
    first, last = 258, 258 + 19
    letters = [
        [next(i for i in range(2, 258) if model.token_bytes(i) == bytes([b])) for b in c.encode()]
        for c in "abé🙂"
    ]
    stopped = spanning = 0

    for case in range(CASES):
        written = [
            rng.choice([[rng.randrange(first, last)], rng.choice(letters)])
            for _ in range(rng.randrange(1, 24))
        ]
        ids = [token for part in written for token in part]
        text = b"".join(map(model.token_bytes, ids)).decode()
        stops = [
            text[at : at + rng.randrange(2, 11)] if rng.random() < 0.7 else "".join(rng.choices("abé🙂", k=3))
            for at in (rng.randrange(len(text)) for _ in range(rng.randrange(1, 5)))
        ]
        stream = model.stream(asking(stop=tuple(stops)))

        pieces = []
        while ids and not stream.stopped:
            size = rng.choice((1, 1, 1, 2, 5))
            pieces += stream.feed(TokenChunk(tuple(ids[:size])))
            ids = ids[size:]
        pieces += stream.flush()

        kept, stop = cut_afterwards(text, stops)
        assert ("".join(piece.text for piece in pieces), stream.stop) == (kept, stop), (case, text, stops)
        stopped += stop is not None
        spanning += stop is not None and len(stop) > 4

    assert stopped > CASES / 4
    assert spanning > CASES / 20
