"""Bytes of weights from the headers of safetensors files, and files that are cut short or are none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from wicketgate.errors import ConfigurationError
from wicketgate.weights import weights_bytes

if TYPE_CHECKING:
    from pathlib import Path


def write(file: Path, sizes: dict[str, int], *, cut: int = 0) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(at)
    file.write_bytes(data[: len(data) - cut])


def test_the_tensors_of_all_files_are_added_up(tmp_path: Path) -> None:
    write(tmp_path / "model-00001-of-00002.safetensors", {"a": 100, "b": 20})
    write(tmp_path / "model-00002-of-00002.safetensors", {"c": 3})

    assert weights_bytes(tmp_path) == 123


def test_files_that_mlx_lm_does_not_load_are_not_counted(tmp_path: Path) -> None:
    write(tmp_path / "consolidated.safetensors", {"a": 100})

    assert weights_bytes(tmp_path) == 0


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"a": 100}, cut=7)

    with pytest.raises(ConfigurationError, match="7 bytes are missing at its end"):
        weights_bytes(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        (1 << 40).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (9).to_bytes(8, "little") + b'{"a": 12}',
        (4).to_bytes(8, "little") + b"{,,}",
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(ConfigurationError, match="damaged"):
        weights_bytes(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()

    with pytest.raises(ConfigurationError, match=r"model\.safetensors cannot be read"):
        weights_bytes(tmp_path)
