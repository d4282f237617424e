"""What each token of a vocabulary is in bytes, by the kind of its tokenizer (pure)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DecoderKind = Literal["bytes", "spm"]
"""Whether tokens are written in GPT-2's byte alphabet, or as SentencePiece writes them."""


def decoder_kind(decoder: Mapping[str, object] | None) -> tuple[DecoderKind, bool]:
    """
    Return which byte table the `decoder` of a tokenizer.json asks for, and whether it drops a leading space.

    Raises:
        ValueError: its text cannot be streamed; the message names its parts.
    """
    parts = _parts(decoder)
    kinds = {str(part.get("type")) for part in parts}
    if "ByteLevel" in kinds:
        return "bytes", False
    if not kinds & {"Metaspace", "ByteFallback"}:
        raise ValueError(", ".join(sorted(kinds)) or "none")
    drops = any(
        (part.get("type") == "Strip" and part.get("start", 0) != 0)
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never")
        for part in parts
    )
    return "spm", drops


def _parts(decoder: Mapping[str, object] | None) -> list[Mapping[str, object]]:
    if decoder is None:
        return []
    parts = decoder.get("decoders")
    return list(parts) if isinstance(parts, list) else [decoder]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF: Final = _byte_alphabet()
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


def token_bytes(names: Iterable[str | None], *, kind: DecoderKind) -> list[bytes]:
    """Return the bytes of each token, by its name in the vocabulary; ids without a name have none."""
    of = _spm if kind == "spm" else _byte_level
    return [of(name or "") for name in names]


def _spm(name: str) -> bytes:
    if byte := _BYTE_TOKEN.match(name):
        return bytes([int(byte[1], 16)])
    return name.replace("\u2581", " ").encode()


def _byte_level(name: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in name])
    except KeyError:
        return name.encode()
