"""What stands in for a model's KV in tests of the disk tier: arrays of numpy, and entries made of them."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
import numpy as np

from wicketgate.engine.kv.file import Encoded, TensorSpec
from wicketgate.engine.kv.store import Entry, as_tokens, salt_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHECK_BYTES = 20


class ArrayCodec:
    """A payload is a list of float32 arrays, one row per token; with None at its end it cannot be stored."""

    def __init__(self, fingerprint: str = "00112233445566aa") -> None:
        self.fingerprint = fingerprint

    def is_trimmable(self, payload: object) -> bool:
        return True

    def encode(self, payload: list[np.ndarray]) -> Encoded | None:
        if payload[-1] is None:
            return None
        return Encoded(
            layout=msgspec.json.encode(len(payload)).decode(),
            specs=[TensorSpec(dtype="F32", shape=array.shape) for array in payload],
            buffers=lambda: (memoryview(array) for array in payload),
        )

    def decode(
        self, layout: str, specs: Sequence[TensorSpec], buffers: Iterator[memoryview], *, tokens: int
    ) -> tuple[list[np.ndarray], int]:
        if any(spec.shape[0] != tokens for spec in specs):
            raise ValueError("it has other arrays")
        arrays = [
            np.frombuffer(bytes(buffer), "<f4").reshape(spec.shape)
            for buffer, spec in zip(buffers, specs, strict=True)
        ]
        return arrays, sum(array.nbytes for array in arrays)


def arrays(held: Sequence[int], *, layers: int = 3, width: int = 8) -> list[np.ndarray]:
    """Return a payload that differs for different tokens."""
    column = np.asarray(held, dtype=np.float32)[:, None]
    return [np.repeat(column + layer, width, axis=1) for layer in range(layers)]


def entry_of(held: Sequence[int], *, salt: str = "", **fields: object) -> Entry[object]:
    """Return an entry with such a payload; `salt` as a request says it."""
    payload = arrays(held)
    return Entry(
        tokens=as_tokens(held),
        payload=payload,
        size_bytes=sum(array.nbytes for array in payload),
        salt=salt_id(salt),
        **fields,
    )


def signed(document: dict[str, Any], tokens: bytes, payload: bytes) -> bytes:
    """Return a file with correct checksums, whatever it says."""
    text = json.dumps(document).encode()
    head = struct.pack("<Q", len(text)) + text + tokens
    checks = hashlib.blake2b(head, digest_size=16).digest() + struct.pack("<I", crc32(payload))
    return head + payload + checks


def parts(data: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Return a file's header, tokens and payload."""
    (length,) = struct.unpack_from("<Q", data)
    document = json.loads(data[8 : 8 + length])
    tokens_end = 8 + length + document["tokens"]["data_offsets"][1]
    return document, data[8 + length : tokens_end], data[tokens_end:-_CHECK_BYTES]
