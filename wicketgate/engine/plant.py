"""
A model of the engine's speed. Pure: how long computing takes, and which tokens come out.

The defaults are a 1B model on an M4 Max as research measured and scaled it (host and decode terms are
estimates).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantParams:
    """Costs in milliseconds; a term counts only when its kind of work is done."""

    host_ms: float = 1.0
    """Of any call."""
    decode_ms: float = 3.0
    """Of each group of rows."""
    row_ms: float = 0.14
    """Per row that decodes."""
    kv_token_ms: float = 7e-5
    """Per token of KV, padding included: rows x longest row."""
    prefill_ms: float = 3.0
    """Of each forward pass over prompts."""
    prompt_token_ms: float = 0.18
    """Per prompt token computed, padding included."""
    prompt_pair_ms: float = 0.0
    """Per prompt token computed and token before it: attention where it is not fused."""
    jitter_ratio: float = 0.0
    """Each call takes up to this share more or less, evenly distributed."""
    kv_bytes_per_token: float = 32_768.0
    weights_bytes: float = 0.0
    device_bytes: float = 0.0
    """Memory of the device, which fails when more is allocated; 0 is no bound."""

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

    def decode_s(self, groups: Sequence[tuple[int, int]]) -> float:
        """
        Draw how long the next token of every row takes.

        Args:
            groups: (rows, KV of the longest) of each group of rows.
        """
        params = self._params
        total_ms = params.host_ms
        for rows, longest_tokens in groups:
            total_ms += params.decode_ms + rows * (params.row_ms + params.kv_token_ms * longest_tokens)
        return self._jittered(total_ms) / 1000

    def prefill_s(self, passes: Sequence[tuple[int, int, int]]) -> float:
        """
        Draw how long chunks of prompts take.

        Args:
            passes: (prompts side by side, tokens of the longest chunk, tokens before it) of each forward
                pass; the other chunks of a pass are padded to the longest.
        """
        params = self._params
        total_ms = params.host_ms
        for prompts, tokens, context_tokens in passes:
            pair_ms = params.prompt_pair_ms * (context_tokens + tokens / 2)
            total_ms += params.prefill_ms + prompts * tokens * (params.prompt_token_ms + pair_ms)
        return self._jittered(total_ms) / 1000

    def _jittered(self, total_ms: float) -> float:
        if not self._params.jitter_ratio:
            return total_ms
        self._drawn += 1
        return total_ms * (1.0 + self._params.jitter_ratio * (2.0 * _unit(self._seed, self._drawn) - 1.0))


def drawn_token(*, seed: int, stream_seed: int, position: int, vocabulary_size: int) -> int:
    """Return token number `position` of a stream: the same alone, in any batch, and after a restart."""
    return int(_unit(seed, stream_seed, position) * vocabulary_size)


def drawn_logprob(*, seed: int, item: Sequence[int], label: Sequence[int]) -> float:
    """Return a log-probability between -10 and 0 for a label after an item: always the same one."""
    return -10.0 * _unit(seed, len(item), *item, len(label), *label)


def drawn_vector(*, seed: int, prompt: Sequence[int], size: int) -> list[float]:
    """Return a vector of length 1 for a prompt: always the same one."""
    numbers = [_unit(seed, place, len(prompt), *prompt) - 0.5 for place in range(size)]
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def _unit(*words: int) -> float:
    """Hash whole numbers to a float from 0 up to, not including, 1."""
    text = " ".join(map(str, words)).encode()
    # 53 bits, as many as a float holds exactly.
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 11) / 2.0**53
