"""Pins what a stream becomes when it leaves the batch before its end."""

from __future__ import annotations

from wicketgate.engine.kv.store import Prefix
from wicketgate.engine.streams import Stream
from wicketgate.engine.wire import Submit

MESSAGE = Submit(id=3, prompt=[1, 2, 3], max_tokens=10, seed=5, position=1, prompt_tokens=2, priority=2)


def held(tokens: list[int]) -> Prefix:
    return Prefix(tokens=tokens, payload="kv", size_bytes=len(tokens))


def test_a_stream_that_leaves_goes_on_as_its_prompt_and_what_it_emitted() -> None:
    stream = Stream(MESSAGE, 0.0, 0, emitted=[7, 8])

    stream.rewind(held([1, 2, 3, 7]))

    message = stream.message
    assert (message.prompt, message.position, message.max_tokens) == ([1, 2, 3, 7, 8], 3, 8)
    assert (message.prompt_tokens, message.seed, stream.emitted) == (2, 5, [])
    assert (stream.remaining_tokens, stream.context_tokens, stream.kv_tokens) == (1, 4, 4)


def test_the_last_token_is_computed_again_even_where_its_kv_is_held() -> None:
    stream = Stream(MESSAGE, 0.0, 0, emitted=[7])

    stream.rewind(held([1, 2, 3, 7, 9]))

    assert (stream.held_tokens, stream.remaining_tokens) == (3, 1)


def test_without_its_kv_a_stream_computes_everything_again() -> None:
    stream = Stream(MESSAGE, 0.0, 0, emitted=[7, 8])

    stream.rewind(None)

    assert (stream.held_tokens, stream.remaining_tokens, stream.saved_tokens) == (0, 5, 0)


def test_a_prompt_that_gives_way_keeps_its_request_and_what_was_computed() -> None:
    stream = Stream(MESSAGE, 0.0, 1)

    stream.rewind(held([1, 2]))

    assert stream.message is MESSAGE
    assert (stream.id, stream.priority, stream.remaining_tokens) == (3, 2, 1)
