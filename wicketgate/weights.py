"""A model's weights before anything is loaded: how many bytes they are, and whether they are the same."""

from __future__ import annotations

import hashlib
import json
import struct
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from wicketgate.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

PATTERN: Final = "model*.safetensors"
"""The files that mlx-lm loads."""
_PROGRAMS: Final = ("wicketgate", "mlx", "mlx-lm")
_SETTINGS: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_END_BYTES: Final = 64 * 1024
_LENGTH: Final = struct.Struct("<Q")
_MAX_HEADER_BYTES: Final = 100_000_000
"""What the format allows."""


def weights_bytes(folder: Path) -> int:
    """
    Add up the tensors of a model; 0 for a folder without weights.

    Raises:
        ConfigurationError: a file is cut short, or is none.
    """
    sizes = 0
    for file in sorted(folder.glob(PATTERN)):
        header = read_header(file)
        spans = (entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
        sizes += sum(end - begin for begin, end in spans)
    return sizes


def read_header(file: Path) -> dict[str, Any]:
    """
    Read what a safetensors file says of its tensors, and see that all of their bytes are there.

    Raises:
        ConfigurationError: it is cut short, or is none.

    Source:
        The safetensors format: 8 bytes of length, a JSON header with `data_offsets`, the data.
    """
    try:
        with file.open("rb") as stream:
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(stream.read(length))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        whole = _LENGTH.size + length + max(ends, default=0)
        if (missing := whole - file.stat().st_size) > 0:
            raise ValueError(f"{missing} bytes are missing at its end")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (struct.error, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigurationError(f"{file} is damaged ({error}); fetch the model again") from error
    return header


def fingerprint(folder: Path) -> str:
    """
    Name a model so that another name means other answers: other weights, settings, template or programs.

    Of each file of weights its size and its two ends count, since to read all would take as long as loading.
    """
    digest = hashlib.sha256()
    for package in _PROGRAMS:
        try:
            digest.update(f"{package} {version(package)}\n".encode())
        except PackageNotFoundError:
            continue
    for name in _SETTINGS:
        if (file := folder / name).is_file():
            digest.update(f"{name}\n".encode() + file.read_bytes())
    for file in sorted(folder.glob(PATTERN)):
        size = file.stat().st_size
        with file.open("rb") as stream:
            begin = stream.read(_END_BYTES)
            stream.seek(max(0, size - _END_BYTES))
            digest.update(f"{file.name} {size}\n".encode() + begin + stream.read(_END_BYTES))
    return f"fp_{digest.hexdigest()[:12]}"
