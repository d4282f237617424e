"""
Train the demo model that ships, from the text in the tree to a folder in Hugging Face form.

A tool run by hand, never in CI. On Linux preload OpenBLAS, or it takes ten times as long:

    LD_PRELOAD=/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0 OPENBLAS_NUM_THREADS=1 \\
        python -m wicketgate.demo.train --out DIR --steps 260 --seed 7

The length is given in steps and not in minutes, since the learning rate follows the step: the same seed,
steps and versions then give the same weights on the same machine, however busy it is.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mlx.core as mx
import numpy as np
from mlx import optimizers
from mlx.nn import losses
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3

from wicketgate.demo import corpus, folder

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module
    from tokenizers import Tokenizer

TEXT = Path(__file__).parent / "text" / "python_topics.txt"
WINDOW_TOKENS = 512
"""Length of the windows that the loss over the text is measured in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What decides the weights, together with the text and the versions."""

    seed: int
    steps: int
    rows: int = 8
    """Rows of a batch."""
    row_tokens: int = 256
    long_every: int = 8
    """Each so many steps the batch is one row of rows * row_tokens, so that the model bears long prompts."""
    running_text_ratio: float = 0.5
    """Share of rows that are windows of the running text; the others are packed conversations."""
    muon_rate: float = 0.05
    """Peak learning rate of the matrices inside the layers."""
    adam_rate: float = 0.01
    """Peak learning rate of the embedding and the norms."""
    warmup_steps: int = 20


class Batches:
    """An endless draw of training rows."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, topics: list[corpus.Topic]) -> None:
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._topics = topics
        self._rng = np.random.default_rng(recipe.seed)
        self._running = np.array(tokenizer.encode(corpus.running_text(topics)).ids, dtype=np.int32)

    def draw(self, step: int) -> tuple[mx.array, mx.array, mx.array]:
        """
        Draw the batch of a step, counted from 1.

        Returns:
            Three arrays (rows, tokens of a row): inputs int32, targets int32, and weights float32, 1.0
            where the target is to be learned and 0.0 elsewhere.
        """
        count, length = self._recipe.rows, self._recipe.row_tokens
        if step % self._recipe.long_every == 0:
            count, length = 1, count * length
        rows = [self._row(length + 1) for _ in range(count)]
        ids, learned = (np.stack(column) for column in zip(*rows, strict=True))
        return mx.array(ids[:, :-1]), mx.array(ids[:, 1:]), mx.array(learned[:, 1:])

    def _row(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        if self._rng.random() < self._recipe.running_text_ratio:
            start = self._rng.integers(len(self._running) - length)
            return self._running[start : start + length], np.ones(length, dtype=np.float32)
        ids: list[int] = []
        mask: list[float] = []
        while len(ids) < length:
            for segment in corpus.conversation(self._topics, self._rng):
                more = self._tokenizer.encode(segment.text).ids
                ids += more
                mask += [float(segment.is_learned)] * len(more)
        return np.array(ids[:length], dtype=np.int32), np.array(mask[:length], dtype=np.float32)


def loss_nats(model: Module, inputs: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    """Mean cross entropy of the weighted targets, in nats a token."""
    nats = losses.cross_entropy(model(inputs), targets)
    return mx.sum(nats * weights) / mx.maximum(mx.sum(weights), 1.0)


def optimizer(recipe: Recipe) -> optimizers.Optimizer:
    """Muon for the matrices inside the layers, Adam for the rest; both warm up and fall linearly to zero."""

    def rate(peak: float) -> Any:
        rise = optimizers.linear_schedule(peak / recipe.warmup_steps, peak, recipe.warmup_steps)
        fall = optimizers.linear_schedule(peak, peak * 0.01, recipe.steps - recipe.warmup_steps)
        return optimizers.join_schedules([rise, fall], [recipe.warmup_steps])

    matrices = optimizers.Muon(rate(recipe.muon_rate), weight_decay=0.0)
    rest = optimizers.AdamW(rate(recipe.adam_rate), betas=[0.9, 0.98], weight_decay=0.0)
    return optimizers.MultiOptimizer([matrices, rest], [lambda path, w: "layers" in path and w.ndim == 2])


def train(model: Module, batches: Batches, recipe: Recipe) -> list[float]:
    """Take the steps of a recipe, print the progress, return the loss of every step in nats a token."""
    opt = optimizer(recipe)
    state = [model.state, opt.state]
    grad = value_and_grad(model, loss_nats)

    def step(inputs: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
        loss: mx.array
        loss, gradients = grad(model, inputs, targets, weights)
        opt.update(model, gradients)
        return loss

    taken: list[float] = []
    began_s = time.monotonic()
    for number in range(1, recipe.steps + 1):
        loss = step(*batches.draw(number))
        mx.eval(loss, *state)
        taken.append(number_of(loss))
        if number % 20 == 0 or number == recipe.steps:
            elapsed_s = time.monotonic() - began_s
            speed = number * recipe.rows * recipe.row_tokens / elapsed_s
            mean = sum(taken[-20:]) / len(taken[-20:])
            print(
                f"step {number}: {mean:.3f} nats/token, {speed:.0f} tokens/s, {elapsed_s:.0f} s", flush=True
            )
    return taken


def number_of(scalar: mx.array) -> float:
    """Read an array of one value; mlx types it as any kind of number."""
    return float(np.asarray(scalar))


def new_model(seed: int) -> Module:
    """Make the untrained model: normal weights of deviation 0.02, norms of one."""
    mx.random.seed(seed)
    arguments = {
        key: folder.CONFIG[key] for key in signature(qwen3.ModelArgs).parameters if key in folder.CONFIG
    }
    model = qwen3.Model(qwen3.ModelArgs(**arguments))
    drawn = [
        (name, mx.random.normal(weight.shape) * folder.CONFIG["initializer_range"])
        for name, weight in parameters(model).items()
        if weight.ndim == 2
    ]
    model.load_weights(drawn, strict=False)
    mx.eval(model.parameters())
    return model


def parameters(model: Module) -> dict[str, mx.array]:
    """List the weights by the names that Hugging Face gives them."""
    tree = model.parameters()  # type: ignore[no-untyped-call]  # mlx leaves it bare
    return cast("dict[str, mx.array]", tree_flatten(tree, destination={}))


def text_loss(model: Module, tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """Measure the loss of a text that was learned, in windows: nats a token and bits a byte."""
    ids = tokenizer.encode(text).ids
    means = []
    for start in range(0, len(ids) - WINDOW_TOKENS, WINDOW_TOKENS):
        window = mx.array([ids[start : start + WINDOW_TOKENS + 1]])
        inputs, targets = window[:, :-1], window[:, 1:]
        means.append(number_of(loss_nats(model, inputs, targets, mx.ones(targets.shape))))
    nats = sum(means) / len(means)
    bits = nats * len(ids) / len(text.encode()) / math.log(2)
    return {"text_nats_per_token": round(nats, 4), "text_bits_per_byte": round(bits, 4)}


def record(recipe: Recipe, *, wall_s: float, taken: list[float], loss: dict[str, float]) -> dict[str, Any]:
    """Say how the weights came to be: recipe, time, losses and versions."""
    packages = ("mlx", "mlx-lm", "numpy", "tokenizers")
    return {
        "recipe": asdict(recipe),
        "tokens": recipe.steps * recipe.rows * recipe.row_tokens,
        "wall_s": round(wall_s, 1),
        "measured_on": f"{platform.system()} CPU",
        "loss": {"last_50_steps_nats_per_token": round(sum(taken[-50:]) / len(taken[-50:]), 4), **loss},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def main() -> None:
    """Train and write the model."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=260)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    recipe = Recipe(seed=args.seed, steps=args.steps)
    began_s = time.monotonic()
    topics = corpus.read_topics(TEXT.read_text(encoding="utf-8"))
    tokenizer = folder.train_tokenizer("\n\n".join(topic.text for topic in topics))
    model = new_model(recipe.seed)
    taken = train(model, Batches(recipe, tokenizer, topics), recipe)
    wall_s = time.monotonic() - began_s

    args.out.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(args.out / "model.safetensors"), parameters(model), metadata={"format": "mlx"})
    tokenizer.save(str(args.out / "tokenizer.json"))
    folder.write_configuration(args.out)
    loss = text_loss(model, tokenizer, corpus.running_text(topics))
    made = record(recipe, wall_s=wall_s, taken=taken, loss=loss)
    made["sha256"] = folder.hashes([TEXT, *args.out.iterdir()])
    folder.write_json(args.out / folder.RECORD, made)
    print(json.dumps(made["loss"]))


if __name__ == "__main__":
    main()
