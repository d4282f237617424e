"""How many bytes a model's weights are, read from the headers of its files and before anything is loaded."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

from wicketgate.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

PATTERN: Final = "model*.safetensors"
"""The files that mlx-lm loads."""
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
