"""
The seam between the step loop and what computes: the real engine and the simulated one are both a `Batch`.

A stream is opened, its prompt is computed in chunks, with its last chunk it draws its first token and becomes
a row, and each decode step gives every row a token. All calls come from one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.kv.store import Hit, Prefix
    from wicketgate.engine.wire import JobMessage, Part, Submit, Token


SHORT_PROMPT_TOKENS: Final = 64
"""Whole prompts of at most so many tokens go through the device side by side, padded to the longest."""


class DeviceError(RuntimeError):
    """The device failed: whatever it computed is garbage, and the process must go."""


class RowError(RuntimeError):
    """
    One stream's own fault, found before anything was computed for the others.

    Args:
        key: Id of the stream.
        message: What is wrong, without prompt text.
    """

    def __init__(self, key: int, message: str) -> None:
        super().__init__(message)
        self.key = key


class Emitted(msgspec.Struct, frozen=True, kw_only=True):
    """One token that came out of a batch; a Struct because a dataclass costs 3 us more, for every token."""

    token: Token
    finish_reason: str | None = None
    """stop or length, with the last token; error where the row's own grammar failed."""
    message: str | None = None
    """What failed, for error."""
    prefix: Prefix | None = None
    """KV of the finished stream, where the batch was asked to hand it over."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """How many tokens of a prompt to compute now."""

    id: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """What the device has allocated."""

    active_bytes: int
    """Weights, KV and work."""
    pool_bytes: int
    """Freed buffers that are kept for reuse."""
    rows_bytes: int
    """KV of rows and prompts in progress, padding included; part of `active_bytes`."""


class Prefill(Protocol):
    """A prefix being computed for the prefix store, beside the streams."""

    @property
    def remaining_tokens(self) -> int:
        """How many tokens are still to be computed."""

    def advance(self, chunk_tokens: int) -> None:
        """Compute that many more."""

    def prefix(self) -> Prefix:
        """Return what is computed so far; what is computed later does not change it."""


class JobWork(Protocol):
    """A job being computed."""

    @property
    def remaining_tokens(self) -> int:
        """How many tokens are still to be computed, of all that the job is made of."""

    def advance(self, chunk_tokens: int) -> None:
        """Compute about that many more: a chunk of one text, or as many short ones as fit."""

    def parts(self) -> list[Part]:
        """Return what became certain of the answer since the last call."""

    def kept(self) -> Prefix | None:
        """Return KV that is worth keeping, once nothing remains; None where there is none."""


class Batch(Protocol):
    """The streams that have KV, by the ids of their requests."""

    @property
    def vocabulary_size(self) -> int:
        """How many token ids there are."""

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""

    @property
    def kv_bytes_per_token(self) -> int:
        """How much one token of one row takes."""

    def memory(self) -> MemoryUse:
        """Tell what is allocated."""

    def drain_pool(self) -> None:
        """Give freed buffers back to the system."""

    def groups(self) -> list[tuple[int, int]]:
        """Return (rows, tokens of the longest) of each group of rows that is decoded together."""

    def open(self, message: Submit, hit: Hit[object] | None) -> int:
        """
        Take a stream; returns how many tokens of its prompt came from the hit, always fewer than all.

        Raises:
            RowError: this stream cannot be run; nothing was taken.
        """

    def compute(self, chunks: Sequence[Chunk]) -> list[Emitted]:
        """
        Compute so many tokens of each of these prompts.

        A prompt that is done emits its first token, drawn from the forward pass of its last chunk, and is a
        row from then on.

        Raises:
            DeviceError: the device failed.
        """

    def decode(self) -> list[Emitted]:
        """
        Compute the next token of every row; one that speculates may give several.

        Raises:
            DeviceError: the device failed.
        """

    def progress(self, key: int) -> Prefix | None:
        """Return the KV of a prompt in progress as computed so far, to be kept; None where nothing can be."""

    def remove(self, ids: Sequence[int], *, keep: bool) -> dict[int, Prefix]:
        """Drop rows and prompts in progress, unknown ids ignored; `keep` returns the KV that they had."""

    def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> Prefill:
        """Begin to compute a prefix beside the streams."""

    def begin(self, message: JobMessage, hit: Hit[object] | None) -> JobWork:
        """
        Begin a job; a hit holds leading tokens of a Score's query.

        Raises:
            RowError: the model cannot do it.
        """

    def reset(self) -> None:
        """Forget all rows and prompts, and every trace of a failed step."""
