"""
A model of the engine's speed. Pure: how long a step takes, and which tokens come out.

One step is decode, then a chunk of each prompt in progress, as BatchGenerator does it. The defaults are a 1B
model on an M4 Max as research measured and scaled it (host and decode terms are estimates).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantParams:
    """Costs of one step in milliseconds; a term counts only when its kind of work is done."""

    host_ms: float = 1.0
    """Of any step."""
    decode_ms: float = 3.0
    row_ms: float = 0.14
    """Per row that decodes."""
    kv_token_ms: float = 7e-5
    """Per token of KV, padding included: rows x longest row."""
    prefill_ms: float = 3.0
    prompt_token_ms: float = 0.18
    """Per prompt token computed, padding included."""
    jitter_ratio: float = 0.0
    """Each step takes up to this share more or less, evenly distributed."""
    kv_bytes_per_token: float = 32_768.0

    def __post_init__(self) -> None:
        """Refuse costs that are no costs."""
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.jitter_ratio > 1:
            raise ValueError(f"jitter_ratio must be at most 1, got {self.jitter_ratio}")


class Plant:
    """Service times with seeded jitter."""

    def __init__(self, params: PlantParams, *, seed: int) -> None:
        self._params = params
        self._seed = seed
        self._drawn = 0

    def step_s(self, *, rows: int, longest_tokens: int, prompts: int, chunk_tokens: int) -> float:
        """
        Draw how long a step takes.

        Args:
            rows: Rows that decode.
            longest_tokens: KV of the longest of them.
            prompts: Prompts computed side by side.
            chunk_tokens: Tokens computed of the prompt with the longest chunk; the others are padded to it.
        """
        params = self._params
        total_ms = params.host_ms
        if rows:
            total_ms += params.decode_ms + params.row_ms * rows + params.kv_token_ms * rows * longest_tokens
        if prompts:
            total_ms += params.prefill_ms + params.prompt_token_ms * prompts * chunk_tokens
        if params.jitter_ratio:
            self._drawn += 1
            total_ms *= 1.0 + params.jitter_ratio * (2.0 * _unit(self._seed, self._drawn) - 1.0)
        return total_ms / 1000


def drawn_token(*, seed: int, stream_seed: int, position: int, vocabulary_size: int) -> int:
    """Return token number `position` of a stream: the same alone, in any batch, and after a restart."""
    return int(_unit(seed, stream_seed, position) * vocabulary_size)


def _unit(*words: int) -> float:
    """Hash whole numbers to a float from 0 up to, not including, 1."""
    text = " ".join(map(str, words)).encode()
    # 53 bits, as many as a float holds exactly.
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 11) / 2.0**53
