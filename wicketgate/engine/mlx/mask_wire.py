"""What an engine host and its mask process say to each other: msgpack behind a 4-byte length."""

from __future__ import annotations

import msgspec

from wicketgate.engine.frames import framed
from wicketgate.engine.wire import Grammar  # noqa: TC001  msgspec looks it up when it makes a decoder


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """What tokens mean; on the command line, as JSON."""

    tokenizer: str
    """Path of a tokenizer.json."""
    size: int
    """Token ids of the model, which may be more than the tokenizer's."""
    eos_token_ids: list[int]


class Open(msgspec.Struct, tag="open", frozen=True, array_like=True):
    """Begin a grammar."""

    id: int
    grammar: Grammar
    tokens: list[int]
    """What was emitted under it already."""


class Consume(msgspec.Struct, tag="consume", frozen=True, array_like=True):
    """Go on by one token."""

    id: int
    token: int


class Close(msgspec.Struct, tag="close", frozen=True, array_like=True):
    """Forget a grammar; the only message that is not answered."""

    id: int


class State(msgspec.Struct, frozen=True, array_like=True):
    """What may come next under a grammar; the answers come in the order of the messages."""

    words: bytes = b""
    """A bit per token id, the lowest first, in little-endian words of 32."""
    is_over: bool = False
    """Nothing may come next; the grammar is forgotten."""
    error: str = ""
    """Why there is no next; the grammar is forgotten."""


ToMasks = Open | Consume | Close

_encoder = msgspec.msgpack.Encoder()
_to_masks: msgspec.msgpack.Decoder[ToMasks] = msgspec.msgpack.Decoder(ToMasks)
_state: msgspec.msgpack.Decoder[State] = msgspec.msgpack.Decoder(State)


def encode(message: ToMasks | State) -> bytes:
    """Encode one message with its length in front."""
    return framed(_encoder.encode(message))


def decode_to_masks(body: bytes) -> ToMasks:
    """Decode what a host sent."""
    return _to_masks.decode(body)


def decode_state(body: bytes) -> State:
    """Decode what a mask process sent."""
    return _state.decode(body)
