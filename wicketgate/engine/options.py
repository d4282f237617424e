"""What an engine host is started with."""

from __future__ import annotations

from typing import Literal

import msgspec


class HostOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a host is started with, as JSON on its command line."""

    engine: Literal["mlx", "simulated"] = "mlx"
    model: str = ""
    """Local folder of the model; unused by the simulated engine."""
    trust_model_code: bool = False
    """Whether a model may bring Python code of its own."""
    max_batch_size: int = 128
    """Most streams that hold KV, prefilling and decoding together."""
    prefill_batch_size: int = 8
    """Most short prompts that are computed in one padded forward pass."""
    prefill_step_tokens: int = 512
    """Most prompt tokens computed between two looks for new work."""
    chunk_target_s: float = 0.1
    """Longest gap that computing prompts should make between two tokens of a running stream."""
    decode_share_ratio: float = 0.25
    """Share of the time that decoding keeps while prompts are computed."""
    context_tokens: int | None = None
    """Most tokens of prompt and answer together; None takes the model's own bound."""
    prewarm: bool = True
    """Compute one synthetic request and the pinned prefixes before Ready."""
    pins: list[list[int]] = []
    """Prefixes that are computed at the start and never leave the prefix store."""
    prefix_cache_bytes: int = 512 * 1024 * 1024
    """Bound of the prefix store in memory; 0 turns it off, on disk too."""
    kv_dir: str = ""
    """Folder for KV on disk; empty is none."""
    kv_disk_bytes: int = 0
    """Bound of that folder; 0 turns it off."""
    kv_disk_bits: Literal[0, 8] = 0
    """8 writes KV quantised to 8 bits; 0 as it is."""
    speculation: Literal["off", "auto"] = "auto"
    """Whether tokens may be drafted and verified several at a time, where that is measured to be faster."""
    draft_model: str = ""
    """Local folder of a small model that drafts; empty drafts from repeated text only."""
    draft_tokens: int = 6
    """Most tokens drafted ahead."""
    memory_bytes: int | None = None
    """What weights, KV and work may use together; None takes what the device recommends."""
    wired_bytes: int | None = None
    """macOS: memory that the GPU keeps resident; None decides by the weights, 0 is none."""
    safe_mode: bool = False
    """After repeated failures of the GPU: nothing wired, one stream at a time, half the context."""
    seed: int = 0
    """Of the simulated engine: another seed answers with other tokens."""
    vocabulary_size: int = 1024
    """Of the simulated engine."""
    eos_token_ids: list[int] = []
    """Of the simulated engine; drawn as often as any other token."""
    plant: dict[str, float] = {}
    """Of the simulated engine: fields of plant.PlantParams that differ from their defaults."""
