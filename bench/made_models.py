"""
Models of the sizes that the bars name, with random weights: nothing is downloaded, and none makes sense.

Run as `python -m bench.made_models NAME FOLDER` in a process of its own, so that a load client never imports
mlx. The text side is a byte-level vocabulary filled up with made words, so that every token has text.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

END: Final = "<|end|>"
_BYTES: Final = 256
_ATTENTION_SCALE: Final = 4.0
"""Of the attention's weights: with 1 nobody looks back, and an answer repeats its last token for ever."""
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama's sizes."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context_tokens: int = 32_768


SHAPES: Final = {
    "small": Shape(hidden=256, layers=6, heads=8, kv_heads=4, intermediate=768, vocabulary=4096),
    "nano": Shape(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=192, vocabulary=1024),
}
"""small: 5.8 million parameters, nano: 0.16 million, a nearly free engine; both with tied embeddings."""


def make(name: str, folder: Path) -> None:
    """Write the model's folder, as mlx-lm loads it."""
    shape = SHAPES[name]
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context_tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "eos_token_id": shape.vocabulary - 1,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer(shape.vocabulary).save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    _save_weights(config, folder / "model.safetensors")


def tokenizer(vocabulary: int) -> Tokenizer:
    """Return a tokenizer of bytes, made words up to the size of the vocabulary, and an end token last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġw{number}" for number in range(vocabulary - _BYTES - 1)]
    pieces = {piece: number for number, piece in enumerate((*alphabet, *words, END))}
    made = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    return made


def _save_weights(config: dict[str, Any], file: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    mx.random.seed(1)
    arguments: Any = llama.ModelArgs
    model = llama.Model(arguments.from_dict(config))
    flat: Any = tree_flatten
    weights = dict(flat(model.parameters()))
    for name, array in weights.items():
        if "self_attn" in name:
            weights[name] = array * _ATTENTION_SCALE
    # Bytes alone are no text, and the end token would end an answer: their logits are 0, never the largest.
    embedding = weights["model.embed_tokens.weight"]
    embedding[:_BYTES] = 0.0
    embedding[-1] = 0.0
    weights["model.embed_tokens.weight"] = embedding
    mx.save_safetensors(str(file), weights, metadata={"format": "mlx"})


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
