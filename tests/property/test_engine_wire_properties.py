"""However the bytes are cut on their way, the same messages come out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from wicketgate.engine.frames import Splitter
from wicketgate.engine.wire import Cancel, Submit, decode_to_host, encode

messages = st.lists(
    st.one_of(
        st.builds(Cancel, st.integers(0, 2**63)),
        st.builds(
            Submit,
            id=st.integers(0, 2**63),
            prompt=st.lists(st.integers(0, 2**31 - 1), max_size=300),
            max_tokens=st.integers(1, 10**6),
            seed=st.integers(0, 2**64 - 1),
            temperature=st.floats(0, 2),
        ),
    ),
    max_size=8,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(messages, st.lists(st.integers(1, 400), max_size=40))
def test_messages_survive_any_cutting(sent: list[Cancel | Submit], cuts: list[int]) -> None:
    data = b"".join(map(encode, sent))
    splitter = Splitter()
    bodies: list[bytes] = []
    for cut in [*cuts, len(data)]:
        bodies += splitter.feed(data[:cut])
        data = data[cut:]

    assert [decode_to_host(body) for body in bodies] == sent
