"""
A loaded model as what the engine computes with it: the KV of tokens, and logits where somebody wants them.

Most models of mlx-lm have a body that gives hidden states and a head that makes logits of them. Where a probe
shows that the two together are the whole model, the head runs on the wanted positions only: on all rows of a
chunk of 128 to 1,024 tokens it costs 1.2 to 1.6 times the chunk (5.8 M parameters, Linux CPU).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from wicketgate.engine.batch import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FAILURES: Final = ("[METAL]", "Insufficient Memory")
"""What mlx's messages about a failed command buffer contain, whoever caught them first."""

BODIES: Final = ("model", "transformer", "backbone")
"""What mlx-lm's models call the part of them that gives hidden states."""
GROWTH_TOKENS: Final = 256
"""A multiple of the steps in which mlx-lm's caches grow."""


class Network:
    """
    One model on one device; what is computed runs on the calling thread's own stream.

    Nothing here is evaluated: arrays come back as they are built, and KV in `cache` likewise.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._stream = mx.new_thread_local_stream(mx.default_device())
        with self.computing():
            self._seam = _seam(model)
            self._body = _body(model)
        parts = self.new_cache()
        self.has_plain_cache = all(type(part) is KVCache for part in parts)
        """Whether KV is nothing but one entry a token: it can be cut anywhere, and padded on the right."""
        self.can_batch = all(hasattr(part, "merge") for part in parts)
        """Whether rows can be decoded together."""
        with self.computing():
            self.kv_bytes_per_token = self._measured_kv_bytes()
        """How much one token of one row takes; recurrent states are constants, windows are taken as full."""

    @property
    def model(self) -> Any:
        """The model as mlx-lm loaded it."""
        return self._model

    @property
    def device(self) -> dict[str, str | int]:
        """What the device says about itself; on Linux little more than its name."""
        return dict(mx.device_info())

    @property
    def has_seam(self) -> bool:
        """Whether the head can be run on some positions only."""
        return self._seam is not None

    @property
    def has_states(self) -> bool:
        """Whether the model's last hidden states can be had."""
        return self._body is not None

    def _measured_kv_bytes(self) -> int:
        sizes: list[int] = []
        for length in (1, 1 + GROWTH_TOKENS):
            cache = self.new_cache()
            self.extend(mx.zeros((1, length), dtype=mx.int32), cache)
            # Sizes are those of the arrays' shapes: nothing is computed for them.
            sizes.append(sum(part.nbytes for part in cache))
        return (sizes[1] - sizes[0]) // GROWTH_TOKENS

    @contextmanager
    def computing(self) -> Iterator[None]:
        """
        Enter the stream that everything of this model is computed on.

        Raises:
            DeviceError: the device failed inside.
        """
        try:
            with mx.stream(self._stream):
                yield
        except RuntimeError as error:
            if any(words in str(error) for words in FAILURES):
                raise DeviceError(str(error)) from error
            raise

    def new_cache(self) -> list[Any]:
        """Return an empty cache for one row, a part per layer."""
        parts: list[Any] = make_prompt_cache(self._model)
        return parts

    def extend(self, tokens: Any, cache: list[Any]) -> None:
        """Add the KV of (rows, n) tokens to a cache."""
        # The logits that the whole model returns are never evaluated, so they cost nothing.
        run = self._model if self._seam is None else self._seam[0]
        run(tokens, cache=cache)

    def logits(self, tokens: Any, cache: list[Any]) -> Any:
        """Add the KV of (rows, n) tokens and return (rows, n, vocabulary) logits."""
        return self._model(tokens, cache=cache)

    def states(self, tokens: Any, cache: list[Any]) -> Any:
        """Add the KV of (rows, n) tokens and return their (rows, n, size) last hidden states."""
        assert self._body is not None
        return self._body(tokens, cache=cache)

    def logit_slices(self, tokens: Any, cache: list[Any], *, places: int) -> Iterator[Any]:
        """
        Add the KV of (1, n) tokens, and give their logits a few places at a time.

        Yields:
            (at most `places`, vocabulary) logits for the tokens after them, in order; none of them before the
            one before was taken.
        """
        count = tokens.shape[1]
        if self._seam is None:
            for at in range(0, count, places):
                yield self._model(tokens[:, at : at + places], cache=cache)[0]
            return
        body, head = self._seam
        states = body(tokens, cache=cache)
        for at in range(0, count, places):
            yield head(states[:, at : at + places])[0]

    def last_logits(self, tokens: Any, cache: list[Any]) -> Any:
        """Add the KV of (rows, n) tokens and return the (rows, vocabulary) logits after the last of them."""
        if self._seam is not None:
            body, head = self._seam
            return head(body(tokens, cache=cache)[:, -1:])[:, -1]
        if tokens.shape[1] > 1:
            self._model(tokens[:, :-1], cache=cache)
        return self._model(tokens[:, -1:], cache=cache)[:, -1]

    def logits_at(
        self, tokens: Any, cache: list[Any], *, rows: Sequence[int], positions: Sequence[int]
    ) -> Any:
        """
        Add the KV of (rows, n) tokens and return logits at some places.

        Args:
            tokens: (rows, n) token ids.
            cache: Of as many rows.
            rows: Which rows, one entry per place.
            positions: Which tokens of those rows, 0 to n - 1, one entry per place.

        Returns:
            (places, vocabulary) logits for the token after each place.
        """
        places = (mx.array(list(rows)), mx.array(list(positions)))
        if self._seam is None:
            return self._model(tokens, cache=cache)[places]
        body, head = self._seam
        return head(body(tokens, cache=cache)[places][None])[0]


def _seam(model: Any) -> tuple[Callable[..., Any], Callable[[Any], Any]] | None:
    body = getattr(model, "model", None)
    heads = [getattr(model, "lm_head", None), getattr(getattr(body, "embed_tokens", None), "as_linear", None)]
    if not callable(body):
        return None
    probe = mx.array([[0, 1]])
    whole = model(probe, cache=make_prompt_cache(model))
    for head in filter(callable, heads):
        try:
            parts: Any = head(body(probe, cache=make_prompt_cache(model)))
        except (TypeError, ValueError, AttributeError):
            continue
        # The same operations give the same bits; a scale or a cap after the head does not.
        if mx.array_equal(parts, whole).item():
            return body, head
    return None


def _body(model: Any) -> Callable[..., Any] | None:
    """Return what gives the last hidden states of a model, as mlx-lm's models are made."""
    probe = mx.array([[0, 1]])
    whole = model(probe, cache=make_prompt_cache(model))
    owners = (model, getattr(model, "language_model", None))
    for body in (getattr(owner, name, None) for owner in owners for name in BODIES):
        if not callable(body):
            continue
        try:
            states: Any = body(probe, cache=make_prompt_cache(model))
        except (TypeError, ValueError, AttributeError):
            continue
        shape: tuple[int, ...] = getattr(states, "shape", ())
        # Some wrappers call their whole model "model": what it gives are logits.
        if len(shape) == 3 and shape[:2] == whole.shape[:2] and shape[2] != whole.shape[2]:
            return cast("Callable[..., Any]", body)
    return None


def begin(arrays: Any) -> None:
    """Have arrays computed without waiting for them; takes lists of arrays, nested or not."""
    # mlx annotates it in no stub.
    launch: Callable[..., None] = mx.async_eval
    launch(arrays)
