"""Pins the messages between gateway and engine host: framing, round trips, and what is refused."""

from __future__ import annotations

import struct

import pytest

from wicketgate.engine.frames import MAX_MESSAGE_BYTES, Splitter, WireError
from wicketgate.engine.wire import (
    Assess,
    Assessed,
    Beat,
    Cancel,
    Done,
    Embed,
    Embedded,
    Fatal,
    Grammar,
    JobMessage,
    Load,
    Ready,
    Score,
    Scored,
    Started,
    Step,
    Stop,
    Submit,
    Token,
    Warm,
    decode_from_host,
    decode_to_host,
    encode,
)

LOAD = Load(
    rows=1,
    waiting=2,
    waiting_tokens=3,
    warm_jobs=4,
    kv_bytes=5,
    memory_bytes=6,
    held_bytes=4,
    kv_limit_bytes=9,
)
STEP = Step(
    number=7,
    at_s=1.5,
    step_s=0.25,
    tokens=[Token(1, 42), Token(2, 43, -0.5, [(43, -0.5), (44, -1.5)])],
    started=[Started(3, 16)],
    done=[Done(1, "stop"), Done(4, "error", "why")],
    warmed=[9],
    kept=[1],
    evicted=[2],
    answers=[
        Scored(5, [[-0.5, -float("inf")]], 7),
        Assessed(6, [-0.25], [[(3, -0.25), (4, -2.0)]]),
        Embedded(7, [b"\x00\x00\x80?"]),
    ],
    load=LOAD,
)
READY = Ready(
    version=1,
    pid=2,
    engine="mlx",
    device="cpu",
    model_type="llama",
    vocabulary_size=3,
    context_tokens=4,
    eos_token_ids=[5],
    kv_bytes_per_token=6,
    weights_bytes=7,
    load_s=0.5,
    full_chunk_s=0.25,
    runtime="mlx 1",
    blas="openblas",
)


@pytest.mark.parametrize("message", [READY, STEP, Beat(number=1, at_s=2.0, load=LOAD), Fatal("why")])
def test_what_a_host_sends_arrives_unchanged(message: Ready | Step | Beat | Fatal) -> None:
    (body,) = Splitter().feed(encode(message))

    assert decode_from_host(body) == message


@pytest.mark.parametrize(
    "message",
    [
        Submit(id=1, prompt=[1, 2], max_tokens=3, seed=2**64 - 1, temperature=0.0, stop_token_ids=[7]),
        Cancel(1),
        Warm(id=2, prompt=[1]),
        Submit(id=1, prompt=[1], max_tokens=1, seed=0, grammar=Grammar("lark", "start: /a/", starts_after=3)),
        Score(id=3, query=[1], items=[[], [2]], labels=[[3, 4]]),
        Assess(id=4, prompt=[1, 2], top=5, salt="s"),
        Embed(id=5, prompts=[[1], [2, 3]], pooling="mean"),
        Stop(),
    ],
)
def test_what_a_gateway_sends_arrives_unchanged(message: Submit | Cancel | Warm | JobMessage | Stop) -> None:
    (body,) = Splitter().feed(encode(message))

    assert decode_to_host(body) == message


def test_a_message_in_pieces_arrives_once_it_is_whole() -> None:
    data = encode(Cancel(1)) + encode(Cancel(2))
    splitter = Splitter()

    bodies = [body for byte in data for body in splitter.feed(bytes([byte]))]

    assert [decode_to_host(body) for body in bodies] == [Cancel(1), Cancel(2)]


def test_a_message_over_the_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError, match="over the bound"):
        Splitter().feed(struct.pack("<I", MAX_MESSAGE_BYTES + 1))


def test_what_is_no_message_is_refused() -> None:
    (body,) = Splitter().feed(encode(Stop()))

    with pytest.raises(WireError):
        decode_from_host(body)
    with pytest.raises(WireError):
        decode_to_host(b"\xc1")
