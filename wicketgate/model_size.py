"""What a model takes, from its configuration and the headers of its weights; computes nothing. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "U16": 2}
_KV_BYTES: Final = {"float32": 4}
"""Of one number of KV; 2 in bfloat16 and float16."""
_WORD_BITS: Final = 32
"""Quantised weights are packed into words of so many bits."""
_EXPERTS: Final = re.compile(r"\b(experts|switch_mlp|switch_glu)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """How large a model is."""

    weights_bytes: int
    parameters: float
    """All of them."""
    active_parameters: float
    """Those that computing one token uses."""
    kv_bytes_per_token: int
    """Of layers that look at the whole context."""
    context_tokens: int | None

    @property
    def is_sparse(self) -> bool:
        """Whether it is a mixture of experts."""
        return self.active_parameters < self.parameters


def model_size(config: Mapping[str, Any], headers: Sequence[Mapping[str, Any]]) -> ModelSize:
    """
    Measure a model.

    Args:
        config: Its config.json.
        headers: The JSON header of each of its safetensors files.
    """
    text = config.get("text_config") or config
    tensors = {name: tensor for header in headers for name, tensor in header.items() if "shape" in tensor}
    bits = int((config.get("quantization") or {}).get("bits") or 4)
    parameters, expert_parameters = 0.0, 0.0
    for name, tensor in tensors.items():
        count = _parameters(name, tensor, tensors, bits=bits)
        parameters += count
        expert_parameters += count if _EXPERTS.search(name) else 0
    experts = _first(text, "num_experts", "num_local_experts", "n_routed_experts") or 0
    chosen = _first(text, "num_experts_per_tok", "experts_per_token") or experts
    share = chosen / experts if experts else 1.0
    return ModelSize(
        weights_bytes=sum(_size(tensor) for tensor in tensors.values()),
        parameters=parameters,
        active_parameters=parameters - expert_parameters * (1.0 - share),
        kv_bytes_per_token=kv_bytes_per_token(text),
        context_tokens=_first(text, "max_position_embeddings"),
    )


def kv_bytes_per_token(text: Mapping[str, Any]) -> int:
    """Return what each token of a row takes; sliding windows and recurrent states are constants per row."""
    heads = _first(text, "num_attention_heads") or 0
    kv_heads = _first(text, "num_key_value_heads") or heads
    width = _first(text, "head_dim") or (int(text.get("hidden_size") or 0) // heads if heads else 0)
    number_bytes = _KV_BYTES.get(str(text.get("dtype") or text.get("torch_dtype")), 2)
    return 2 * _full_layers(text) * kv_heads * width * number_bytes


def _full_layers(text: Mapping[str, Any]) -> int:
    layers = _first(text, "num_hidden_layers") or 0
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        return sum(kind == "full_attention" for kind in kinds)
    # One layer in so many looks at the whole context; where the first applies, the second is not there.
    every = _first(text, "full_attention_interval") or _first(text, "sliding_window_pattern") or 1
    return layers // every


def _parameters(name: str, tensor: Mapping[str, Any], tensors: Mapping[str, Any], *, bits: int) -> float:
    stem, _, kind = name.rpartition(".")
    count = float(prod(tensor["shape"]))
    if f"{stem}.scales" not in tensors:
        return count
    # What belongs to a quantised matrix: the packed weights count, what they are scaled by does not.
    return count * _WORD_BITS / bits if kind == "weight" else 0


def _size(tensor: Mapping[str, Any]) -> int:
    return int(prod(tensor["shape"]) * _BYTES.get(str(tensor.get("dtype")), 1))


def _first(text: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = text.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None
