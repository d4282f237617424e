"""
What gateway and engine host say to each other: msgpack messages behind a 4-byte little-endian length.

Token ids only, never text. From the host one `Step` goes out per engine step and carries the news of all
streams. Times are CLOCK_MONOTONIC seconds, which both processes on one machine share.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

import msgspec

PROTOCOL_VERSION: Final = 1
"""Sent in Ready; a gateway refuses a host of another version."""
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""A longer message is a broken peer."""
SOCKET_BUFFER_BYTES: Final = 1024 * 1024
"""Of both ends, both ways; macOS would give 8 KiB."""

_LENGTH = struct.Struct("<I")


class WireError(ValueError):
    """The peer sent what cannot be a message."""


class HostOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a host is started with, as JSON on its command line."""

    engine: Literal["mlx", "simulated"] = "mlx"
    model: str = ""
    """Local folder of the model; unused by the simulated engine."""
    max_batch_size: int = 128
    """Most streams that hold KV, prefilling and decoding together."""
    prefill_batch_size: int = 8
    """Most prompts that are computed side by side."""
    prefill_step_tokens: int = 512
    """Most prompt tokens computed between two decode steps, padding included."""
    prefix_cache_bytes: int = 512 * 1024 * 1024
    """Bound of the prefix store; 0 turns it off."""
    context_tokens: int | None = None
    """Most tokens of prompt and answer together; None takes the model's own bound."""
    seed: int = 0
    """Of the simulated engine: another seed answers with other tokens."""
    vocabulary_size: int = 1024
    """Of the simulated engine."""
    eos_token_ids: list[int] = []
    """Of the simulated engine; drawn as often as any other token."""
    plant: dict[str, float] = {}
    """Of the simulated engine: fields of plant.PlantParams that differ from their defaults."""


class Submit(msgspec.Struct, tag="submit", frozen=True, kw_only=True):
    """Start a stream, or continue one whose host died."""

    id: int
    prompt: list[int]
    """All tokens to condition on; on a resume the prompt and what was emitted."""
    max_tokens: int
    seed: int
    position: int = 0
    """Tokens emitted before this submit; the first token drawn is number `position`."""
    prompt_tokens: int = 0
    """How many of `prompt` are the original prompt (fewer than all on a resume)."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Stop a stream or a warm job; unknown ids are ignored."""

    id: int


class Warm(msgspec.Struct, tag="warm", frozen=True, kw_only=True):
    """Compute the KV of these tokens in steps that nobody else needs, and keep it."""

    id: int
    prompt: list[int]


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """Leave the step loop and exit with 0."""


class Ready(msgspec.Struct, tag="ready", frozen=True, kw_only=True):
    """The model is loaded and warmed up."""

    version: int
    pid: int
    engine: str
    """mlx or simulated."""
    device: str
    model_type: str
    vocabulary_size: int
    context_tokens: int
    eos_token_ids: list[int]
    kv_bytes_per_token: int
    weights_bytes: int
    load_s: float
    full_chunk_s: float
    """How long the largest prefill chunk took at warm-up: what a healthy step may last."""
    runtime: str
    """Versions, such as `mlx 0.32.4, mlx-lm 0.32.2`."""
    blas: str
    """openblas, accelerate, or reference."""


class Started(msgspec.Struct, array_like=True, frozen=True):
    """A stream left the host's queue and its prompt is being computed."""

    id: int
    cached_tokens: int


class Token(msgspec.Struct, array_like=True, frozen=True):
    """One new token of one stream."""

    id: int
    token: int
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None


class Done(msgspec.Struct, array_like=True, frozen=True):
    """A stream ended. The end token, if any, came as its last Token."""

    id: int
    reason: str
    """stop, length, cancelled, refused (it can never run as it stands) or error (the engine failed)."""
    message: str | None = None
    """For refused and error: what is wrong, without prompt text."""


class Load(msgspec.Struct, array_like=True, frozen=True):
    """How busy the host is after the step."""

    rows: int
    """Streams that decode."""
    waiting: int
    """Streams without a first token."""
    waiting_tokens: int
    """Prompt tokens still to compute."""
    warm_jobs: int
    kv_bytes: int
    """Of running streams and of kept prefixes."""
    memory_bytes: int
    """What the engine has allocated in all."""


class Step(msgspec.Struct, tag="step", frozen=True, kw_only=True):
    """One engine step: everything new about all streams."""

    number: int
    at_s: float
    """When the step's tokens were known."""
    step_s: float
    """How long the step took."""
    tokens: list[Token] = []
    started: list[Started] = []
    done: list[Done] = []
    warmed: list[int] = []
    """Warm jobs that ended, by id."""
    kept: list[int] = []
    """Ids of streams and warm jobs whose KV is now in the prefix store."""
    evicted: list[int] = []
    """Ids whose KV left the prefix store."""
    load: Load


class Beat(msgspec.Struct, tag="beat", frozen=True, kw_only=True):
    """Sent from inside the step loop when nothing else was sent for half a second."""

    number: int
    at_s: float
    load: Load


class Fatal(msgspec.Struct, tag="fatal", frozen=True):
    """The host cannot go on and exits; the last message it sends."""

    message: str


ToHost = Submit | Cancel | Warm | Stop
FromHost = Ready | Step | Beat | Fatal

_encoder = msgspec.msgpack.Encoder()
_to_host: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)
_from_host: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)


def encode(message: ToHost | FromHost) -> bytes:
    """Encode one message with its length in front."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Splitter:
    """Cuts a byte stream into message bodies; keeps the rest for the next call."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """
        Add received bytes and return the bodies that are complete.

        Raises:
            WireError: a length is over MAX_MESSAGE_BYTES.
        """
        self._buffer += data
        bodies = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > MAX_MESSAGE_BYTES:
                raise WireError(f"a message of {length} bytes is over the bound of {MAX_MESSAGE_BYTES}")
            end = at + _LENGTH.size + length
            if end > len(self._buffer):
                break
            bodies.append(bytes(self._buffer[at + _LENGTH.size : end]))
            at = end
        del self._buffer[:at]
        return bodies


def decode_to_host(body: bytes) -> ToHost:
    """
    Decode what a gateway sent.

    Raises:
        WireError: the body is no message for a host.
    """
    try:
        return _to_host.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from error


def decode_from_host(body: bytes) -> FromHost:
    """
    Decode what a host sent.

    Raises:
        WireError: the body is no message from a host.
    """
    try:
        return _from_host.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from error
