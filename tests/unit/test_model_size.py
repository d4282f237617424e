"""Pins how large a model is found to be from its configuration and the headers of its weights."""

from __future__ import annotations

from typing import Any

import pytest

from wicketgate.model_size import kv_bytes_per_token, model_size

LLAMA_1B = {
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
}


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 1]}


def test_plain_weights_are_counted_one_by_one() -> None:
    headers = [
        {"__metadata__": {"format": "mlx"}, "a.weight": tensor("BF16", 10, 20)},
        {"b.weight": tensor("F32", 5), "c.bias": tensor("U8", 7)},
    ]

    size = model_size(LLAMA_1B, headers)

    assert size.parameters == 212
    assert size.active_parameters == 212
    assert size.weights_bytes == 200 * 2 + 5 * 4 + 7
    assert size.context_tokens == 131_072
    assert not size.is_sparse


@pytest.mark.parametrize(("bits", "packed"), [(4, 8), (8, 16)])
def test_packed_weights_count_as_what_they_hold(bits: int, packed: int) -> None:
    headers = [
        {
            "q.weight": tensor("U32", 10, packed),
            "q.scales": tensor("BF16", 10, 1),
            "q.biases": tensor("BF16", 10, 1),
            "norm.weight": tensor("BF16", 64),
        }
    ]

    size = model_size(LLAMA_1B | {"quantization": {"bits": bits, "group_size": 64}}, headers)

    assert size.parameters == 10 * 64 + 64
    assert size.weights_bytes == 10 * packed * 4 + 20 + 20 + 128


def test_of_a_mixture_of_experts_only_the_chosen_ones_compute() -> None:
    config = {"text_config": LLAMA_1B | {"num_experts": 128, "num_experts_per_tok": 8}}
    headers = [
        {"layers.0.mlp.switch_mlp.up_proj.weight": tensor("BF16", 1280), "embed.weight": tensor("BF16", 100)}
    ]

    size = model_size(config, headers)

    assert size.parameters == 1380
    assert size.active_parameters == 180
    assert size.is_sparse


def test_a_mixture_that_does_not_say_how_many_it_chooses_counts_in_full() -> None:
    headers = [{"layers.0.mlp.experts.0.up_proj.weight": tensor("BF16", 1280)}]

    assert not model_size(LLAMA_1B | {"num_local_experts": 8}, headers).is_sparse


@pytest.mark.parametrize(
    ("model", "config", "kib"),
    [
        ("Llama-3.2-1B", LLAMA_1B, 32),
        ("Llama-3.1-8B", LLAMA_1B | {"num_hidden_layers": 32, "head_dim": 128}, 128),
        ("Qwen3-4B", LLAMA_1B | {"num_hidden_layers": 36, "head_dim": 128}, 144),
        (
            "gpt-oss-20b",
            LLAMA_1B | {"layer_types": ["sliding_attention", "full_attention"] * 12},
            24,
        ),
        (
            "Gemma-3-12B",
            LLAMA_1B | {"num_hidden_layers": 48, "head_dim": 256, "sliding_window_pattern": 6},
            64,
        ),
        ("in float32", LLAMA_1B | {"dtype": "float32"}, 64),
        (
            "without a width",
            {"num_hidden_layers": 16, "num_attention_heads": 8, "hidden_size": 512},
            32,
        ),
        ("without anything", {}, 0),
    ],
)
def test_kv_is_counted_for_the_layers_that_see_the_whole_context(
    model: str, config: dict[str, Any], kib: int
) -> None:
    assert kv_bytes_per_token(config) == kib * 1024
