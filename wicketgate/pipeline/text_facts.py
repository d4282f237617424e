"""What a model's folder says about its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wicketgate.errors import ConfigurationError
from wicketgate.pipeline.chat_template import read_json, token_content
from wicketgate.pipeline.token_bytes import DecoderKind, decoder_kind

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """What the files beside tokenizer and template say."""

    eos_ids: frozenset[int]
    context_tokens: int | None
    vocabulary_tokens: int | None
    kind: DecoderKind
    drops_leading_space: bool
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
            kind, drops = decoder_kind(read_json(folder / "tokenizer.json").get("decoder"))
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
            tool_parser=says.get("tool_parser_type"),
        )
