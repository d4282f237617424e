"""
What gateway and engine host say to each other: msgpack messages in frames.

Token ids only, never text. From the host one `Step` goes out per engine step and carries the news of all
streams. Times are CLOCK_MONOTONIC seconds, which both processes on one machine share.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from wicketgate.engine.frames import WireError, framed

PROTOCOL_VERSION: Final = 3
"""Sent in Ready; a gateway refuses a host of another version."""
SOCKET_BUFFER_BYTES: Final = 1024 * 1024
"""Of both ends, both ways; macOS would give 8 KiB."""


class Grammar(msgspec.Struct, frozen=True):
    """What the answer must look like."""

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    text: str = ""
    """The schema as JSON, the expression, or the grammar; empty for json_object."""
    starts_after: int | None = None
    """Token id after whose first appearance in the answer it holds; None: from the first token."""


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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    """Added to the logits of these token ids."""
    logprobs: int | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    min_tokens: int = 0
    """No end token is drawn before so many tokens of answer."""
    grammar: Grammar | None = None
    priority: int = 0
    """Class of service; lower ones go first, and the highest is the first to be preempted."""
    salt: str = ""
    """KV is shared only between requests of the same salt."""
    session: str = ""
    """Requests that share it are one conversation, in reports of the prefix store."""
    alone: bool = False
    """Run it with nobody beside it: it was there when hosts died."""


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Stop a stream or a warm job; unknown ids are ignored."""

    id: int


class Warm(msgspec.Struct, tag="warm", frozen=True, kw_only=True):
    """Compute the KV of these tokens in steps that nobody else needs, and keep it."""

    id: int
    prompt: list[int]
    salt: str = ""


class Score(msgspec.Struct, tag="score", frozen=True, kw_only=True):
    """
    Rate labels as continuations of a query with each of several items.

    Answered by one Scored and a Done of reason stop, or by a Done that says why not.
    """

    id: int
    query: list[int]
    """Tokens that all items share; computed once."""
    items: list[list[int]]
    """Tokens that follow the query, one list per item."""
    labels: list[list[int]]
    """Tokens of each label, at least one; longer ones are computed by teacher forcing."""
    priority: int = 2
    salt: str = ""


class Assess(msgspec.Struct, tag="assess", frozen=True, kw_only=True):
    """
    Tell how likely each token of a prompt is after those before it.

    Answered by Assessed parts, as it is computed, and a Done of reason stop; or by a Done that says why not.
    """

    id: int
    prompt: list[int]
    top: int = 0
    """How many of the likeliest tokens are told for each place."""
    priority: int = 2
    salt: str = ""
    """The KV that is computed is kept for requests of this salt."""


class Embed(msgspec.Struct, tag="embed", frozen=True, kw_only=True):
    """
    Pool the last hidden states of each of several prompts into one vector.

    Answered by one Embedded and a Done of reason stop, or by a Done that says why not.
    """

    id: int
    prompts: list[list[int]]
    pooling: Literal["mean", "last"] = "last"
    """Of all tokens, or that of the last one."""
    priority: int = 2


JobMessage = Score | Assess | Embed
"""What is computed beside the streams and answered."""


class Tune(msgspec.Struct, tag="tune", frozen=True, kw_only=True):
    """Change at once what the governor may move; None leaves a value as it is."""

    chunk_target_s: float | None = None
    warm_allowed: bool | None = None
    prefill_turn: bool | None = None
    """Whether this host may compute prompts now; hosts that share one GPU take turns."""


class CacheQuery(msgspec.Struct, tag="cache", frozen=True, kw_only=True):
    """Ask for what the prefix store holds, or clear it; answered by a CacheReport."""

    id: int
    clear: Literal["", "memory", "disk", "all"] = ""
    """Drop what is not pinned, before the report is made."""


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
    from_disk: bool = False
    """Whether those tokens were loaded from disk for it."""


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
    """
    stop, length, cancelled, refused (it can never run as it stands), memory (no room for it now), or error
    (the engine failed).
    """
    message: str | None = None
    """For refused and error: what is wrong, without prompt text."""


class Scored(msgspec.Struct, tag="scored", array_like=True, frozen=True):
    """The answer to a Score."""

    id: int
    logprobs: list[list[float]]
    """(items, labels): natural logarithm of each label's probability, summed over its tokens."""
    cached_tokens: int = 0
    """Of the query, found in the prefix store."""


class Assessed(msgspec.Struct, tag="assessed", array_like=True, frozen=True):
    """The next part of the answer to an Assess; the first one begins with the prompt's second token."""

    id: int
    logprobs: list[float]
    """Of each token, natural logarithm."""
    top: list[list[tuple[int, float]]]
    """Of each token's place, the likeliest, best first."""


class Embedded(msgspec.Struct, tag="embedded", array_like=True, frozen=True):
    """The answer to an Embed."""

    id: int
    vectors: list[bytes]
    """Of each prompt: little-endian float32, of length 1."""


Part = Scored | Assessed | Embedded
"""Of the answer to a job; all of it, but for Assessed."""


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
    pressure: int = 0
    """0 normal, 1 above the soft mark of memory, 2 above the hard mark."""
    disk_bytes: int = 0
    """KV on disk."""
    preempted: int = 0
    """Of those that wait: streams that had begun and gave way."""
    held_bytes: int = 0
    """Of `kv_bytes`, what cannot be evicted: of running streams, and in hand for those that wait."""
    kv_limit_bytes: int = 0
    """How much KV there may be at most, beside the weights and a step's work; 0 where nothing bounds it."""
    disk_is_failing: bool = False
    """The last KV file could not be written."""


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
    answers: list[Part] = []
    """Of jobs."""
    load: Load
    is_early: bool = False
    """Sent in the middle of a step: news that must not wait for the rows' next tokens."""


class Beat(msgspec.Struct, tag="beat", frozen=True, kw_only=True):
    """Sent from inside the step loop when nothing else was sent for half a second."""

    number: int
    at_s: float
    load: Load


class CacheEntry(msgspec.Struct, array_like=True, frozen=True):
    """One prefix that the store holds."""

    key: str
    """First hex digits of the hash of its tokens and salt."""
    tokens: int
    size_bytes: int
    tier: str
    """memory, disk or both."""
    is_pinned: bool
    session: str
    age_s: float
    """Since it was last used."""


class CacheReport(msgspec.Struct, tag="cache_report", frozen=True, kw_only=True):
    """What the prefix store holds; `id` is that of the CacheQuery."""

    id: int
    entries: list[CacheEntry]
    """Most recently used first, at most 1,000."""
    memory_bytes: int
    memory_limit_bytes: int
    disk_bytes: int
    disk_limit_bytes: int
    hits: int
    misses: int
    disk_hits: int
    rejected_files: int
    """Files that were damaged or made for something else."""
    kv_bytes_per_token: int
    rows: int
    """Streams that hold KV now."""
    rows_tokens: int
    """Their tokens together."""
    rows_bytes: int
    """What they hold, padding included; the formula says rows_tokens x kv_bytes_per_token."""


class Fatal(msgspec.Struct, tag="fatal", frozen=True):
    """The host cannot go on and exits; the last message it sends."""

    message: str


ToHost = Submit | Cancel | Warm | Score | Assess | Embed | Tune | CacheQuery | Stop
FromHost = Ready | Step | Beat | CacheReport | Fatal

_encoder = msgspec.msgpack.Encoder()
_to_host: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)
_from_host: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)


def encode(message: ToHost | FromHost) -> bytes:
    """Encode one message with its length in front."""
    return framed(_encoder.encode(message))


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
