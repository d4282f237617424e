"""What a model's folder says about its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wicketgate.errors import ConfigurationError
from wicketgate.pipeline.chat_template import read_json, token_content
from wicketgate.pipeline.token_bytes import DecoderKind, decoder_kind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tokenizers import Tokenizer

_SHRINKS: Final = {None: 1, "NFC": 4}
"""Of normalisers, how many characters, at most, may become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """What the files beside tokenizer and template say."""

    eos_ids: frozenset[int]
    context_tokens: int | None
    vocabulary_tokens: int | None
    kind: DecoderKind
    drops_leading_space: bool
    byte_chars: int | None
    """Characters of a prompt that one byte of its tokens stands for at most; None: no bound is known."""
    tool_parser: object
    """`tool_parser_type` of tokenizer_config.json."""

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer) -> TextFacts:
        """
        Read them.

        Raises:
            ConfigurationError: a file is broken, or the tokenizer's text cannot be streamed.
        """
        config = read_json(folder / "config.json")
        config = {**config, **config.get("text_config", {})}
        eos = read_json(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id"))
        ids = {eos} if isinstance(eos, int) else set(eos or ())
        says = read_json(folder / "tokenizer_config.json")
        name = token_content(says.get("eos_token"))
        own = None if name is None else tokenizer.token_to_id(name)
        try:
            tokens = read_json(folder / "tokenizer.json")
            kind, drops = decoder_kind(tokens.get("decoder"))
        except ValueError as error:
            raise ConfigurationError(
                f"{folder}/tokenizer.json has a decoder that cannot be streamed ({error});"
                " it must be ByteLevel, Metaspace or ByteFallback"
            ) from None
        return cls(
            eos_ids=frozenset(ids if own is None else ids | {own}),
            context_tokens=config.get("max_position_embeddings"),
            vocabulary_tokens=config.get("vocab_size"),
            kind=kind,
            drops_leading_space=drops,
            byte_chars=_byte_chars(tokens) if kind == "bytes" else None,
            tool_parser=says.get("tool_parser_type"),
        )


def _byte_chars(tokenizer: Mapping[str, Any]) -> int | None:
    """Return `TextFacts.byte_chars` of a tokenizer.json; added tokens may take spaces with them."""
    if any(token.get("lstrip") or token.get("rstrip") for token in tokenizer.get("added_tokens") or ()):
        return None
    return _SHRINKS.get((tokenizer.get("normalizer") or {}).get("type"))
