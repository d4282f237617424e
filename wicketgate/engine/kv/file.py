"""
One file of KV: a safetensors file whose first tensor is the tokens and whose last one is the checksums.

Theory of operation. Layout: 8 bytes length of the header, the header (JSON), the tokens, the tensors of the
payload in order, then 20 bytes: BLAKE2b-128 of header and tokens, CRC-32 of the payload. The header and the
tokens are verified whenever they are read, which needs no more than a few kilobytes of the file; the payload
is verified while it is read. Every length is checked against the file's size before anything is allocated.

Knows nothing of mlx: a payload is described by a `layout` that its codec understands, and by tensors.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

FORMAT: Final = "wicketgate-kv/1"
MAX_HEADER_BYTES: Final = 1024 * 1024
ITEM_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
"""Sizes of the dtypes that a payload may have, by their names in safetensors."""
READ_BYTES: Final = 4 * 1024 * 1024
"""Read, hashed and written at once; the interpreter is free meanwhile."""

_LENGTH = struct.Struct("<Q")
_CHECK = struct.Struct("<16sI")
_HEAD_BYTES: Final = 64 * 1024
"""Read at first: header and tokens of most files."""


class KvFileError(ValueError):
    """A file that cannot be used; the message says why, without a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """What one tensor is."""

    dtype: str
    """As in safetensors, such as BF16."""
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """How much it takes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A payload as tensors."""

    layout: str
    """How the codec puts the tensors together again."""
    specs: Sequence[TensorSpec]
    buffers: Callable[[], Iterator[memoryview]]
    """Makes the bytes of each tensor in order, one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvHeader:
    """What a file says of itself."""

    fingerprint: str
    """16 hex digits: model, tokenizer, versions and form of the payload."""
    salt: str
    """Hash of the salt, empty for none."""
    session: str
    is_trimmable: bool
    layout: str
    tokens: NDArray[np.int32]
    """(n,) int32, n >= 1."""
    specs: Sequence[TensorSpec]
    """Of the payload."""


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    """Strings only, as safetensors asks."""

    format: str
    fingerprint: str
    salt: str
    session: str
    trimmable: str
    layout: str


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_tensors = msgspec.json.Decoder(dict[str, msgspec.Raw])
_metadata = msgspec.json.Decoder(_Metadata)
_tensor = msgspec.json.Decoder(_Tensor)


def file_bytes(header: KvHeader) -> int:
    """Tell how large a file with that header is."""
    return len(_head(header)) + sum(spec.size_bytes for spec in header.specs) + _CHECK.size


def write_file(descriptor: int, header: KvHeader, buffers: Iterator[memoryview]) -> Iterator[None]:
    """
    Write a file; yields between tensors, so that the caller may do something more urgent.

    Raises:
        OSError: there is no room, or no right to write.
    """
    head = _head(header)
    _write(descriptor, memoryview(head))
    checksum = 0
    for buffer in buffers:
        flat = buffer.cast("B")
        for at in range(0, len(flat), READ_BYTES):
            part = flat[at : at + READ_BYTES]
            checksum = zlib.crc32(part, checksum)
            _write(descriptor, part)
        yield
    _write(descriptor, memoryview(_CHECK.pack(_head_check(head), checksum)))


def read_header(descriptor: int, *, max_bytes: int) -> tuple[KvHeader, int]:
    """
    Read and verify all but the payload; returns also where that begins.

    Raises:
        KvFileError: the file is damaged, or no file of ours.
        OSError: it cannot be read.
    """
    size_bytes = _size(descriptor, max_bytes)
    start = os.pread(descriptor, min(_HEAD_BYTES, size_bytes), 0)
    if len(start) < _LENGTH.size + _CHECK.size:
        raise KvFileError("it is too short")
    (header_bytes,) = _LENGTH.unpack_from(start)
    if header_bytes > min(MAX_HEADER_BYTES, size_bytes - _LENGTH.size):
        raise KvFileError(f"its header claims {header_bytes} bytes")
    tokens_at = _LENGTH.size + header_bytes
    text = _exactly(descriptor, start, _LENGTH.size, tokens_at)
    metadata, specs = _parsed(text, size_bytes - tokens_at)
    tokens_end = tokens_at + specs[0].size_bytes
    tokens = _exactly(descriptor, start, tokens_at, tokens_end)
    check, _ = _CHECK.unpack(os.pread(descriptor, _CHECK.size, size_bytes - _CHECK.size))
    if check != _head_check(start[: _LENGTH.size] + text + tokens):
        raise KvFileError("the checksum of its header is wrong")
    header = KvHeader(
        fingerprint=metadata.fingerprint,
        salt=metadata.salt,
        session=metadata.session,
        is_trimmable=metadata.trimmable == "1",
        layout=metadata.layout,
        tokens=np.frombuffer(tokens, dtype="<i4").astype(np.int32, copy=False),
        specs=specs[1:-1],
    )
    return header, tokens_end


class PayloadReader:
    """Reads the tensors of a file in order, from where they begin, then verifies what it has read."""

    def __init__(self, descriptor: int, specs: Sequence[TensorSpec], *, begin: int) -> None:
        self._file = io.FileIO(descriptor, closefd=False)
        self._file.seek(begin)
        self._specs = specs
        self._checksum = 0

    def buffers(self) -> Iterator[memoryview]:
        """
        Yield the bytes of each tensor; each is overwritten by the next.

        Raises:
            KvFileError: the file ends early.
        """
        room = memoryview(bytearray(max((spec.size_bytes for spec in self._specs), default=0)))
        for spec in self._specs:
            buffer = room[: spec.size_bytes]
            for at in range(0, len(buffer), READ_BYTES):
                self._read(buffer[at : at + READ_BYTES])
            yield buffer

    def verify(self) -> None:
        """
        Compare the checksum, once all tensors were read.

        Raises:
            KvFileError: the payload is damaged.
        """
        check = self._file.read(_CHECK.size)
        if len(check) < _CHECK.size or _CHECK.unpack(check)[1] != self._checksum:
            raise KvFileError("the checksum of its payload is wrong")

    def _read(self, part: memoryview) -> None:
        got = 0
        while got < len(part):
            count = self._file.readinto(part[got:])
            if not count:
                raise KvFileError("it ends early")
            got += count
        self._checksum = zlib.crc32(part, self._checksum)


def _head(header: KvHeader) -> bytes:
    """Return the length, the header and the tokens as they stand in the file."""
    metadata = _Metadata(
        format=FORMAT,
        fingerprint=header.fingerprint,
        salt=header.salt,
        session=header.session,
        trimmable="1" if header.is_trimmable else "0",
        layout=header.layout,
    )
    tokens = TensorSpec(dtype="I32", shape=header.tokens.shape)
    check = TensorSpec(dtype="U8", shape=(_CHECK.size,))
    names = ["tokens", *(str(number) for number in range(len(header.specs))), "check"]
    document: dict[str, _Metadata | _Tensor] = {"__metadata__": metadata}
    at = 0
    for name, spec in zip(names, [tokens, *header.specs, check], strict=True):
        document[name] = _Tensor(spec.dtype, list(spec.shape), (at, at + spec.size_bytes))
        at += spec.size_bytes
    text = msgspec.json.encode(document)
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text + header.tokens.astype("<i4", copy=False).tobytes()


def _head_check(head: bytes) -> bytes:
    return hashlib.blake2b(head, digest_size=16).digest()


def _size(descriptor: int, max_bytes: int) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise KvFileError("it is no regular file")
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o600:
        raise KvFileError("others own it or may use it, or its owner may not read it")
    if status.st_size > max_bytes:
        raise KvFileError(f"it takes {status.st_size} bytes")
    return status.st_size


def _parsed(text: bytes, data_bytes: int) -> tuple[_Metadata, list[TensorSpec]]:
    """Return the metadata and what the tensors are: tokens, payload, checksums."""
    try:
        document = _tensors.decode(text)
        metadata = _metadata.decode(document.pop("__metadata__"))
        tensors = [_tensor.decode(raw) for raw in document.values()]
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise KvFileError("its header is none of ours") from error
    if metadata.format != FORMAT:
        raise KvFileError("it has another format")
    payload_names = [str(number) for number in range(len(tensors) - 2)]
    if list(document) != ["tokens", *payload_names, "check"]:
        raise KvFileError("its tensors are none of ours")
    at = 0
    for tensor in tensors:
        at = _end(tensor, at)
    specs = [TensorSpec(dtype=tensor.dtype, shape=tuple(tensor.shape)) for tensor in tensors]
    is_ours = specs[0].dtype == "I32" and len(specs[0].shape) == 1 and specs[0].size_bytes
    if at != data_bytes or not is_ours or specs[-1] != TensorSpec(dtype="U8", shape=(_CHECK.size,)):
        raise KvFileError("its tensors do not add up")
    return metadata, specs


def _end(tensor: _Tensor, at: int) -> int:
    """Return where a tensor that begins at `at` ends."""
    if tensor.dtype not in ITEM_BYTES or any(size < 0 for size in tensor.shape):
        raise KvFileError("a tensor has a type or a shape that cannot be")
    end = at + math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
    if tensor.data_offsets != (at, end):
        raise KvFileError("a tensor is not where it belongs")
    return end


def _exactly(descriptor: int, start: bytes, begin: int, end: int) -> bytes:
    """Return bytes of the file, from its start that was read already where that holds them."""
    if end <= len(start):
        return start[begin:end]
    data = os.pread(descriptor, end - begin, begin)
    if len(data) != end - begin:
        raise KvFileError("it ends early")
    return data


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
