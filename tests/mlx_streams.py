"""Drives the real batch as a host would, and says what mlx-lm alone answers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from wicketgate.engine.batch import Chunk
from wicketgate.engine.kv.store import Entry, Hit
from wicketgate.engine.mlx.adapter import MlxBatch
from wicketgate.engine.options import HostOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wicketgate.engine.batch import Emitted
    from wicketgate.engine.kv.store import Prefix
    from wicketgate.engine.wire import Submit, Token

MOST_STEPS = 2000


def open_batch(
    model: Any, *, eos_token_ids: Sequence[int] = (), vocabulary_size: int = 1536, **options: Any
) -> MlxBatch:
    return MlxBatch(
        model,
        HostOptions(**options),
        vocabulary_size=vocabulary_size,
        context_tokens=8192,
        eos_token_ids=eos_token_ids,
    )


def greedy_alone(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """Return mlx-lm's own answer: the whole prompt in one pass of the model, then token by token."""
    cache = make_prompt_cache(model)
    inputs, answer = mx.array([list(prompt)]), []
    for _ in range(count):
        token = mx.argmax(model(inputs, cache=cache)[:, -1], axis=-1)
        answer.append(token.item())
        inputs = token[:, None]
    return answer


def hit_of(prefix: Prefix, shared_tokens: int) -> Hit[object]:
    tokens = np.asarray(prefix.tokens, dtype=np.int32)
    entry = Entry(tokens=tokens, payload=prefix.payload, size_bytes=prefix.size_bytes)
    return Hit(entry=entry, shared_tokens=shared_tokens)


@dataclass
class Driver:
    """Opens streams at the steps asked for, computes their prompts in chunks of chance, and decodes."""

    batch: MlxBatch
    seed: int = 0
    most_chunk_tokens: int = 100
    tokens: dict[int, list[Token]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    prefixes: dict[int, Prefix | None] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def open(self, message: Submit, hit: Hit[object] | None = None) -> int:
        cached = self.batch.open(message, hit)
        self.left[message.id] = len(message.prompt) - cached
        self.tokens.setdefault(message.id, [])
        return cached

    def step(self) -> None:
        chunks = []
        for key, tokens in list(self.left.items()):
            if self._chance.random() < 0.7:
                chunk = min(tokens, self._chance.randint(1, self.most_chunk_tokens))
                chunks.append(Chunk(key, chunk))
                self.left[key] -= chunk
                if not self.left[key]:
                    del self.left[key]
        if chunks:
            self.take(self.batch.compute(chunks))
        self.take(self.batch.decode())

    def take(self, emitted: Iterable[Emitted]) -> None:
        for each in emitted:
            key = each.token.id
            assert key not in self.reasons
            self.tokens[key].append(each.token)
            if each.finish_reason is not None:
                self.reasons[key] = each.finish_reason
                self.prefixes[key] = each.prefix

    def run(self, arrivals: Mapping[int, Sequence[Submit]] | None = None) -> dict[int, list[int]]:
        """Step until all streams have ended; `arrivals` are opened at their steps."""
        arrivals = arrivals or {}
        step = 0
        while step <= max(arrivals, default=0) or self.tokens.keys() - self.reasons.keys():
            for message in arrivals.get(step, ()):
                self.open(message)
            self.step()
            step += 1
            assert step < MOST_STEPS
        return self.answers()

    def answers(self) -> dict[int, list[int]]:
        return {key: [token.token for token in tokens] for key, tokens in self.tokens.items()}


def alone(model: Any, message: Submit, **options: Any) -> list[int]:
    """Return a stream's answer with nobody beside it and its prompt in one chunk."""
    driver = Driver(open_batch(model, **options), most_chunk_tokens=10_000)
    driver.open(message)
    return driver.run()[message.id]


def small_model_of(kind: str) -> Any:
    """Build a tiny model with random weights whose caches are of a kind: sliding, recurrent or mixed."""
    from mlx_lm.models import baichuan_m1, lfm2, llama

    mx.random.seed(1)
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    model: Any
    if kind == "sliding":
        layers = ["full_attention", "sliding_attention", "sliding_attention"]
        arguments = llama.ModelArgs(
            model_type="llama", intermediate_size=96, rms_norm_eps=1e-5, vocab_size=300,
            tie_word_embeddings=False, layer_types=layers, sliding_window=24, **sizes,
        )  # fmt: skip
        model = llama.Model(arguments)
    elif kind == "recurrent":
        model = lfm2.Model(
            lfm2.ModelArgs(
                model_type="lfm2", vocab_size=300, max_position_embeddings=512, norm_eps=1e-5,
                conv_bias=False, conv_L_cache=3, block_dim=64, block_multiple_of=8,
                block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=False, block_ff_dim=96,
                full_attn_idxs=[1], **sizes,
            )
        )  # fmt: skip
    else:
        model = baichuan_m1.Model(
            baichuan_m1.ModelArgs(
                vocab_size=300, intermediate_size=96, rope_theta=10000.0, sliding_window=24,
                sliding_window_layers=[1], conv_window=2, rms_norm_eps=1e-5, **sizes,
            )
        )  # fmt: skip
        for layer in model.layers:
            layer.self_attn.conv_k = mx.random.normal(layer.self_attn.conv_k.shape)
            layer.self_attn.conv_v = mx.random.normal(layer.self_attn.conv_v.shape)
    mx.eval(model.parameters())
    return model
