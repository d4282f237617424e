"""Loads a model folder with mlx-lm, warms it up, and says what it is."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from wicketgate.engine.mlx.adapter import MlxBatch
from wicketgate.engine.wire import PROTOCOL_VERSION, HostOptions, Ready, Submit
from wicketgate.platform import blas_in_use

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_CONTEXT_TOKENS: Final = 4096
"""For a configuration that does not tell."""
LEAST_POOL_BYTES: Final = 64 * 1024 * 1024
POOL_SHARE: Final = 8
"""
Freed buffers that mlx may hold on to: an eighth of the weights, and at least 64 MiB.

Without a bound they pile up to its memory limit. At 1 GiB the demo's host grew from 200 to 424 MB between its
100th and its 300th request, at 64 MiB it stays at 216 MB for 12,000 at the same speed (Linux CPU).
"""


def open_mlx(options: HostOptions, *, clock: Callable[[], float]) -> tuple[MlxBatch, Ready]:
    """Load the model and compute one full prefill chunk and two tokens, so that nothing is compiled later."""
    began_s = clock()
    model, config = load_model(Path(options.model))
    flat: Any = tree_flatten
    weights_bytes = sum(array.nbytes for _, array in flat(model.parameters()))
    mx.set_cache_limit(max(LEAST_POOL_BYTES, weights_bytes // POOL_SHARE))
    text = config.get("text_config", config)
    vocabulary_size = int(text["vocab_size"])
    context_tokens = options.context_tokens or int(
        text.get("max_position_embeddings") or DEFAULT_CONTEXT_TOKENS
    )
    eos_token_ids = _ids(config.get("eos_token_id", text.get("eos_token_id")))
    batch = MlxBatch(
        model,
        options,
        vocabulary_size=vocabulary_size,
        context_tokens=context_tokens,
        eos_token_ids=eos_token_ids,
    )
    full_chunk_s = _warm_up(batch, options, clock=clock)
    ready = Ready(
        version=PROTOCOL_VERSION,
        pid=os.getpid(),
        engine="mlx",
        device=f"{mx.default_device().type.name} {mx.device_info().get('device_name', '')}".strip(),
        model_type=str(config.get("model_type", "")),
        vocabulary_size=vocabulary_size,
        context_tokens=context_tokens,
        eos_token_ids=eos_token_ids,
        kv_bytes_per_token=_kv_bytes_per_token(model),
        weights_bytes=weights_bytes,
        load_s=clock() - began_s,
        full_chunk_s=full_chunk_s,
        runtime=f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}",
        blas=blas_in_use(),
    )
    return batch, ready


def _ids(value: object) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [int(each) for each in value] if isinstance(value, list) else []


def _warm_up(batch: MlxBatch, options: HostOptions, *, clock: Callable[[], float]) -> float:
    length = max(1, min(options.prefill_step_tokens + 1, batch.context_tokens - 2))
    batch.insert(Submit(id=0, prompt=[0] * length, max_tokens=2, seed=0, ignore_eos=True), None)
    longest_s = 0.0
    finished = False
    while not finished:
        began_s = clock()
        _, emitted = batch.next(options.prefill_step_tokens)
        longest_s = max(longest_s, clock() - began_s)
        finished = any(each.finish_reason for each in emitted)
    mx.clear_cache()
    return longest_s


def _kv_bytes_per_token(model: Any) -> int:
    """Measure how the caches grow; sliding windows and recurrent states are constants per row."""
    sizes: list[int] = []
    for length in (1, 1 + _GROWTH_TOKENS):
        cache = make_prompt_cache(model)
        model(mx.zeros((1, length), dtype=mx.int32), cache=cache)
        mx.eval([part.state for part in cache])
        sizes.append(sum(part.nbytes for part in cache))
    return (sizes[1] - sizes[0]) // _GROWTH_TOKENS


_GROWTH_TOKENS: Final = 256
"""A multiple of the steps in which mlx-lm's caches grow."""
