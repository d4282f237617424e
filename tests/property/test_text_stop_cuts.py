"""Pins that stopping on the fly is the same as cutting the whole text afterwards, however it comes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from wicketgate.pipeline.stop_text import StopText

TEXT = st.text(alphabet="abc", max_size=40)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


def cut_afterwards(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: the first end at which a stop is complete, and there the longest."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - len(max(complete, key=len))], True
    return text, False


@settings(deadline=None)
@given(pieces=st.lists(TEXT, max_size=6), stops=STOPS)
def test_the_pieces_given_out_join_to_the_text_cut_afterwards(pieces, stops):
    stop = StopText(stops)

    given_out = "".join(stop.feed(piece) for piece in pieces) + stop.flush()

    assert (given_out, stop.stopped) == cut_afterwards("".join(pieces), stops)


@settings(deadline=None)
@given(text=TEXT, stops=STOPS)
def test_exactly_the_longest_beginning_of_a_stop_is_held_back(text, stops):
    stop = StopText(stops)

    given_out = stop.feed(text)

    if not stop.stopped:
        begun = [n for n in range(6) for s in stops if n < len(s) and text.endswith(s[:n])]
        assert len(text) - len(given_out) == max(begun)
