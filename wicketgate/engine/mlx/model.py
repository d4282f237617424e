"""Loads a model folder with mlx-lm, warms it up, and says what it is."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_config, load_model

from wicketgate.engine.batch import Chunk
from wicketgate.engine.memory import cache_limit, recommended_bytes
from wicketgate.engine.mlx.adapter import MlxBatch
from wicketgate.engine.mlx.drafting import open_speculation
from wicketgate.engine.mlx.masks import Grammars
from wicketgate.engine.mlx.step_cost import measured_cost
from wicketgate.engine.wire import PROTOCOL_VERSION, Ready, Submit
from wicketgate.engine.wiring import Wiring, wired_bytes_for
from wicketgate.platform import blas_in_use, macos_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.engine.options import HostOptions

DEFAULT_CONTEXT_TOKENS: Final = 4096
"""For a configuration that does not tell."""
FIRST_PROMPT_TOKENS: Final = 8
"""Of the synthetic request that pays for what the first call of each operation costs."""


class ForeignCodeError(ValueError):
    """
    The model brings Python code of its own, and nobody said that it may run.

    Args:
        folder: Of the model.
        module: What would be run.
    """

    def __init__(self, folder: Path, module: str) -> None:
        super().__init__(
            f"the model in {folder} runs Python code of its own, {module}: set engine.trust_model_code"
            " to true if you trust whoever made it"
        )
        self.module = module


def open_mlx(options: HostOptions, *, clock: Callable[[], float]) -> tuple[MlxBatch, Ready, Wiring]:
    """
    Load the model, wire what should be, and unless prewarm is off compute a request and a full chunk.

    Later nothing is new.

    Raises:
        ForeignCodeError: the model needs `trust_model_code`.
    """
    began_s = clock()
    model, config = _load(options)
    flat: Any = tree_flatten
    weights_bytes = sum(array.nbytes for _, array in flat(model.parameters()))
    mx.set_cache_limit(cache_limit(weights_bytes))
    text = config.get("text_config", config)
    vocabulary_size = int(text["vocab_size"])
    eos_token_ids = _ids(config.get("eos_token_id", text.get("eos_token_id")))
    batch = MlxBatch(
        model,
        options,
        vocabulary_size=vocabulary_size,
        context_tokens=_context_tokens(text, options),
        eos_token_ids=eos_token_ids,
        grammars=Grammars(Path(options.model), vocabulary_size=vocabulary_size, eos_token_ids=eos_token_ids),
        speculation=open_speculation(options, vocabulary_size=vocabulary_size, clock=clock),
    )
    wiring = Wiring(mx.set_wired_limit, _wired_bytes(options, weights_bytes))
    full_chunk_s = 0.0
    if options.prewarm:
        full_chunk_s = _warm_up(batch, options, clock=clock)
        batch.cost = measured_cost(batch.network, context_tokens=batch.context_tokens, clock=clock)
        mx.clear_cache()
    ready = Ready(
        version=PROTOCOL_VERSION,
        pid=os.getpid(),
        engine="mlx",
        device=f"{mx.default_device().type.name} {mx.device_info().get('device_name', '')}".strip(),
        model_type=str(config.get("model_type", "")),
        vocabulary_size=vocabulary_size,
        context_tokens=_promised_tokens(batch.context_tokens, options),
        eos_token_ids=eos_token_ids,
        kv_bytes_per_token=batch.kv_bytes_per_token,
        weights_bytes=weights_bytes,
        load_s=clock() - began_s,
        full_chunk_s=full_chunk_s,
        runtime=f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}",
        blas=blas_in_use(),
    )
    return batch, ready, wiring


def _load(options: HostOptions) -> tuple[Any, dict[str, Any]]:
    folder = Path(options.model)
    module = load_config(folder).get("model_file")
    if module is not None and not options.trust_model_code:
        raise ForeignCodeError(folder, str(module))
    loaded: tuple[Any, dict[str, Any]] = load_model(folder, trust_remote_code=options.trust_model_code)
    return loaded


def _wired_bytes(options: HostOptions, weights_bytes: int) -> int:
    return wired_bytes_for(
        options.wired_bytes,
        weights_bytes=weights_bytes,
        recommended=recommended_bytes(mx.device_info()),
        macos=macos_version(),
        safe_mode=options.safe_mode,
    )


def _context_tokens(text: dict[str, Any], options: HostOptions) -> int:
    return options.context_tokens or int(text.get("max_position_embeddings") or DEFAULT_CONTEXT_TOKENS)


def _promised_tokens(context_tokens: int, options: HostOptions) -> int:
    """In safe mode new requests get half; those that come from a host that died keep what they had."""
    return max(1, context_tokens // 2) if options.safe_mode else context_tokens


def _ids(value: object) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [int(each) for each in value] if isinstance(value, list) else []


def _warm_up(batch: MlxBatch, options: HostOptions, *, clock: Callable[[], float]) -> float:
    """Compute a short request, so that the time of the full chunk after it is that of the chunk alone."""
    most = max(1, batch.context_tokens - 2)
    _compute(batch, [min(FIRST_PROMPT_TOKENS, most)], clock=clock)
    chunk_tokens = min(options.prefill_step_tokens, most)
    return _compute(batch, [chunk_tokens, 1][: most - chunk_tokens + 1], clock=clock)


def _compute(batch: MlxBatch, chunks: list[int], *, clock: Callable[[], float]) -> float:
    """Run one request through these chunks and to its end; returns how long the first chunk took."""
    batch.open(Submit(id=0, prompt=[0] * sum(chunks), max_tokens=2, seed=0, ignore_eos=True), None)
    began_s = clock()
    batch.compute([Chunk(0, chunks[0])])
    elapsed_s = clock() - began_s
    for tokens in chunks[1:]:
        batch.compute([Chunk(0, tokens)])
    while batch.groups():
        batch.decode()
    return elapsed_s
