"""
The folder of the demo model in Hugging Face form: configuration, tokenizer, and the record of its making.

No mlx in here; `train.py` adds the weights.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from wicketgate.demo import corpus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RECORD = "PROVENANCE.json"

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": [2, 0],
    "pad_token_id": 0,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 384,
    "max_position_embeddings": 8192,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "dtype": "float32",
    "use_cache": True,
    "vocab_size": 1536,
}
"""Every width is a multiple of 64, so that the model can be quantised and split in two like a large one."""

GENERATION: dict[str, Any] = {
    "do_sample": True,
    "eos_token_id": [2, 0],
    "pad_token_id": 0,
    "temperature": 0.8,
    "top_p": 0.95,
}

TOKENIZER: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "add_bos_token": False,
    "bos_token": None,
    "eos_token": corpus.TURN_END,
    "pad_token": corpus.DOCUMENT_END,
    "unk_token": None,
    "clean_up_tokenization_spaces": False,
    "model_max_length": CONFIG["max_position_embeddings"],
    "chat_template": corpus.CHAT_TEMPLATE,
}


def train_tokenizer(text: str) -> Tokenizer:
    """
    Learn a byte-level BPE vocabulary of CONFIG's size: any text is encoded without loss, nothing is added.

    Args:
        text: Without special tokens; too little of it gives a smaller vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(name, special=True, normalized=False) for name in corpus.SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def write_configuration(out: Path) -> None:
    """Write what `mlx_lm.load` reads besides the weights and the vocabulary; the folder must exist."""
    write_json(out / "config.json", CONFIG)
    write_json(out / "generation_config.json", GENERATION)
    write_json(out / "tokenizer_config.json", TOKENIZER)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a value in the form that people read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def hashes(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file by its bare name, the record itself left out since it holds them."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files) if p.name != RECORD}
