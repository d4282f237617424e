"""
KV of this model as tensors for the disk tier, and back.

Four classes of mlx-lm's caches are known, the ones that it can batch; a file names one of them, and nothing
that a file says is ever looked up elsewhere. What a file brings is compared with the caches that the model
itself makes before a byte of its payload is read. All is computed on the CPU device: the disk tier's thread
shares no command queue with the engine's.
"""

from __future__ import annotations

import hashlib
from collections import deque
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal

import mlx.core as mx
import msgspec
import numpy as np
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
)

from wicketgate.engine.kv.file import Encoded, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PACKED_BITS: Final = 8
GROUPS: Final = (64, 32)
"""Values that share a scale and a bias; the first one that divides the size of a head."""
SAMPLES: Final = 16
SAMPLE_BYTES: Final = 1024 * 1024
"""Of each file of weights so many pieces are hashed, so that gigabytes need not be read."""

_IDENTITY_FILES: Final = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py")
_DTYPES: Final[dict[str, tuple[Any, str]]] = {
    "F32": (mx.float32, "<f4"),
    "F16": (mx.float16, "<f2"),
    "BF16": (mx.bfloat16, "<u2"),
    "U32": (mx.uint32, "<u4"),
    "I32": (mx.int32, "<i4"),
}
"""mlx's type, and numpy's of the same bytes."""
_NAMES: Final = {dtype: name for name, (dtype, _) in _DTYPES.items()}
_KINDS: Final = {kind.__name__: kind for kind in (KVCache, RotatingKVCache, ArraysCache, CacheList)}
_FLOATS: Final = frozenset({"F32", "F16", "BF16"})


class _Plain(msgspec.Struct, tag="plain", array_like=True, frozen=True):
    """One array as it is."""

    at: int
    """Number of its tensor."""


class _Packed(msgspec.Struct, tag="packed", array_like=True, frozen=True):
    """One array in 8 bits: three tensors, values, scales and biases."""

    at: int
    group: int


class _Layer(msgspec.Struct, forbid_unknown_fields=True):
    """One cache."""

    kind: str
    arrays: list[_Plain | _Packed | None] = []
    numbers: list[int] = []
    layers: list[_Layer] = []


_layers = msgspec.json.Decoder(list[_Layer])


class NotOurCacheError(ValueError):
    """The tensors cannot be KV of this model."""


class KvFiles:
    """The codec of one model's KV."""

    def __init__(self, model: Any, *, identity: str, bits: Literal[0, 8] = 0) -> None:
        """
        Compute one token to see what the model's caches look like; call it on the engine's thread.

        Args:
            model: As mlx-lm loads it.
            identity: What `model_identity` returned.
            bits: 8 packs floating-point values; 0 leaves them as they are.
        """
        self._bits = bits
        self._example: list[Any] = make_prompt_cache(model)
        model(mx.zeros((1, 1), dtype=mx.int32), cache=self._example)
        mx.eval([part.state for part in self._example])
        form = repr([_form(part) for part in self._example])
        versions = [version("mlx"), version("mlx-lm"), str(mx.default_device().type)]
        text = "\n".join([identity, form, str(bits), *versions])
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def is_trimmable(self, payload: Any) -> bool:
        """Tell whether a list of caches can be cut back to its first tokens."""
        return bool(can_trim_prompt_cache(payload))

    def encode(self, payload: Any) -> Encoded | None:
        """Return a list of caches as tensors; None where one has a form that is not known."""
        arrays: deque[Any] = deque()
        with mx.stream(mx.cpu):
            layers = [self._taken_apart(part, arrays) for part in payload]
        if any(layer is None for layer in layers):
            return None
        specs = [TensorSpec(dtype=_NAMES[array.dtype], shape=tuple(array.shape)) for array in arrays]
        layout = msgspec.json.encode(layers).decode()
        return Encoded(layout=layout, specs=specs, buffers=lambda: _buffers(arrays))

    def decode(
        self, layout: str, specs: Sequence[TensorSpec], buffers: Iterator[memoryview], *, tokens: int
    ) -> tuple[Any, int]:
        """
        Put a list of caches together.

        Raises:
            NotOurCacheError: the layout or the tensors are none that this model has for so many tokens.
        """
        try:
            layers = _layers.decode(layout)
        except msgspec.MsgspecError as error:
            raise NotOurCacheError("its layout is none of ours") from error
        _Checked(specs, tokens).layers(layers, self._example)
        with mx.stream(mx.cpu):
            arrays = [_array(buffer, spec) for buffer, spec in zip(buffers, specs, strict=True)]
            payload = [_put_together(layer, arrays) for layer in layers]
            mx.eval([part.state for part in payload])
        return payload, sum(part.nbytes for part in payload)

    def _taken_apart(self, part: Any, arrays: deque[Any]) -> _Layer | None:
        """Describe a cache, and append what it holds."""
        kind = type(part)
        if kind is CacheList:
            inner = [self._taken_apart(each, arrays) for each in part.caches]
            known = [layer for layer in inner if layer is not None]
            return _Layer(kind.__name__, layers=known) if len(known) == len(inner) else None
        if kind is ArraysCache:
            held, left_padding, lengths = part.state
            if left_padding is not None or lengths is not None:
                return None
            return _Layer(kind.__name__, [_stored(each, arrays, bits=0) for each in held])
        if kind in {KVCache, RotatingKVCache}:
            keys, values, *numbers = part.state
            used = numbers[0]
            halves = [None if half is None else half[..., :used, :] for half in (keys, values)]
            return _Layer(kind.__name__, [_stored(half, arrays, bits=self._bits) for half in halves], numbers)
        return None


def _stored(array: Any, arrays: deque[Any], *, bits: int) -> _Plain | _Packed | None:
    if array is None:
        return None
    at = len(arrays)
    group = next((size for size in GROUPS if array.shape[-1] % size == 0), 0)
    if bits and group and _NAMES.get(array.dtype) in _FLOATS:
        arrays.extend(mx.quantize(array, group_size=group, bits=bits))
        return _Packed(at, group)
    arrays.append(array)
    return _Plain(at)


def _buffers(arrays: deque[Any]) -> Iterator[memoryview]:
    """Compute one array at a time, and let go of it when the next is asked for."""
    while arrays:
        with mx.stream(mx.cpu):
            flat = mx.contiguous(arrays.popleft()).view(mx.uint8)
            mx.eval(flat)
        same_bytes: Any = flat
        yield memoryview(same_bytes)


def _array(buffer: memoryview, spec: TensorSpec) -> Any:
    dtype, same_bytes = _DTYPES[spec.dtype]
    array = mx.array(np.frombuffer(buffer, dtype=same_bytes).reshape(spec.shape))
    return array if array.dtype == dtype else array.view(dtype)


def _put_together(layer: _Layer, arrays: list[Any]) -> Any:
    kind: Any = _KINDS[layer.kind]
    if layer.layers:
        return kind(*(_put_together(inner, arrays) for inner in layer.layers))
    held = [_restored(each, arrays) for each in layer.arrays]
    # Plain caches and windows have numbers; what is left has its arrays as a list, and no padding.
    return kind.from_state((*held, *layer.numbers) if layer.numbers else (held, None, None))


def _restored(stored: _Plain | _Packed | None, arrays: list[Any]) -> Any:
    match stored:
        case None:
            return None
        case _Plain():
            return arrays[stored.at]
        case _Packed():
            values, scales, biases = arrays[stored.at : stored.at + 3]
            return mx.dequantize(values, scales, biases, group_size=stored.group, bits=PACKED_BITS)


def _form(part: Any) -> list[str]:
    """Return what all caches of one model have in common at one place, whatever they hold."""
    kind = type(part).__name__
    if isinstance(part, CacheList):
        return [kind, *(str(_form(each)) for each in part.caches)]
    if isinstance(part, ArraysCache):
        return [kind, *("" if each is None else f"{each.dtype} {each.shape}" for each in part.state[0])]
    keys, values, *numbers = part.state
    halves = [
        "" if half is None else f"{half.dtype} {half.shape[1]} {half.shape[3]}" for half in (keys, values)
    ]
    return [kind, *halves, str(numbers[1:3])]


class _Checked:
    """Compares what a file describes with the caches that the model makes, tensor after tensor."""

    def __init__(self, specs: Sequence[TensorSpec], tokens: int) -> None:
        self._specs = specs
        self._tokens = tokens
        self._at = 0

    def layers(self, layers: Sequence[_Layer], examples: Sequence[Any]) -> None:
        """Compare a list of caches, which must use up all tensors."""
        _require(len(layers) == len(examples), f"it has {len(layers)} layers")
        for layer, example in zip(layers, examples, strict=True):
            self._layer(layer, example)
        _require(self._at == len(self._specs), "it has tensors that nothing uses")

    def _layer(self, layer: _Layer, example: Any) -> None:
        _require(layer.kind == type(example).__name__, "a layer is of another kind")
        if isinstance(example, CacheList):
            _require(len(layer.layers) == len(example.caches), "a layer has other parts")
            for inner, each in zip(layer.layers, example.caches, strict=True):
                self._layer(inner, each)
        elif isinstance(example, ArraysCache):
            likes = [None if each is None else (each.dtype, tuple(each.shape)) for each in example.state[0]]
            self._arrays(layer, likes)
        else:
            self._halves(layer, example)

    def _halves(self, layer: _Layer, example: Any) -> None:
        """Compare keys and values; the length is the tokens, or what a window holds of them."""
        keys, values, *bounds = example.state
        length, numbers = self._tokens, layer.numbers
        if isinstance(example, RotatingKVCache):
            _require(len(numbers) == 4 and numbers[1:3] == bounds[1:3], "a window is of another size")
            length = self._length(layer)
            _require(length <= self._tokens and 0 <= numbers[3] <= length, "a window is out of place")
        else:
            _require(len(numbers) == 1, "a layer has other numbers")
        _require(numbers[0] == self._tokens, "a layer holds another number of tokens")
        likes = [
            half if half is None else (half.dtype, (1, half.shape[1], length, half.shape[3]))
            for half in (keys, values)
        ]
        self._arrays(layer, likes)

    def _length(self, layer: _Layer) -> int:
        shape = self._specs[self._at].shape if layer.arrays and self._at < len(self._specs) else ()
        _require(len(shape) == 4, "a window has another shape")
        return shape[2]

    def _arrays(self, layer: _Layer, likes: Sequence[tuple[Any, tuple[int, ...]] | None]) -> None:
        _require(len(layer.arrays) == len(likes), "a layer has another number of arrays")
        for stored, like in zip(layer.arrays, likes, strict=True):
            _require((stored is None) == (like is None), "an array is missing")
            if stored is not None and like is not None:
                self._array(stored, *like)

    def _array(self, stored: _Plain | _Packed, dtype: Any, shape: tuple[int, ...]) -> None:
        name = _NAMES[dtype]
        expected = [TensorSpec(dtype=name, shape=shape)]
        if isinstance(stored, _Packed):
            _require(stored.group in GROUPS and shape[-1] % stored.group == 0, "an array is packed otherwise")
            packed, scales = (*shape[:-1], shape[-1] // 4), (*shape[:-1], shape[-1] // stored.group)
            expected = [
                TensorSpec(dtype="U32", shape=packed),
                TensorSpec(dtype=name, shape=scales),
                TensorSpec(dtype=name, shape=scales),
            ]
        at = self._at
        self._at += len(expected)
        is_next = stored.at == at and list(self._specs[at : self._at]) == expected
        _require(is_next, "an array has another type or shape")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotOurCacheError(otherwise)


def model_identity(folder: Path) -> str:
    """
    Name a model by its files: configuration and tokenizer whole, weights by size, time and samples.

    Raises:
        OSError: a file cannot be read.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for file in sorted({file for pattern in _IDENTITY_FILES for file in folder.glob(pattern)}):
        status = file.stat()
        hashed.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
        pieces = max(1, -(-status.st_size // SAMPLE_BYTES))
        with file.open("rb") as opened:
            for piece in sorted({index * (pieces - 1) // (SAMPLES - 1) for index in range(SAMPLES)}):
                opened.seek(piece * SAMPLE_BYTES)
                hashed.update(opened.read(SAMPLE_BYTES))
    return hashed.hexdigest()
