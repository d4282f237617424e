"""
Text to tokens and back, without mlx and transformers: template, tokenise, detokenise, stop texts.

Both directions read the model's own folder, as the engine host does. A token becomes bytes by a table made
once per model, bytes become characters by one incremental UTF-8 decoder per stream (0.25 us a token, exact;
research on the detokenisers of mlx_lm and tokenizers found each of them wrong somewhere).
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokenizers import Tokenizer

from wicketgate.errors import ConfigurationError, InvalidRequestError
from wicketgate.inference import ChatPrompt, TextPrompt, TokenPrompt
from wicketgate.pipeline.chat_template import ChatTemplate, read_json, token_content
from wicketgate.pipeline.stop_text import StopText

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wicketgate.inference import Prompt, TokenChunk, TokenLogprob

INLINE_CHARS: Final = 2000
"""Longer text is tokenised off the event loop: below this it takes less than 1 ms (Linux CPU)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextChunk:
    """Visible text of one stream that became certain since the last look; never empty."""

    text: str
    tokens: int
    """Tokens that arrived for it, those without visible text included."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Those of exactly the tokens that `text` is made of, when the request asked for them."""


class TextModel:
    """What one model's folder says about text. Made by `load`; `close` ends its worker thread."""

    def __init__(self, *, tokenizer: Tokenizer, template: ChatTemplate | None, facts: _Facts) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._facts = facts
        # Ids have holes in some models, so that the greatest says more than the count.
        ids = range(max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1)
        is_spm = facts.decoder == "spm"
        self._bytes = [_token_bytes(tokenizer.id_to_token(i) or "", is_spm=is_spm) for i in ids]
        added = tokenizer.get_added_tokens_decoder()
        self._visible = [b"" if i in added and added[i].special else b for i, b in enumerate(self._bytes)]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenise")

    @classmethod
    def load(cls, folder: Path) -> TextModel:
        """
        Read tokenizer and chat template of a model in Hugging Face form.

        Raises:
            ConfigurationError: the folder has no tokenizer.json, or one that we cannot read or stream.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigurationError(
                f"{folder} has no tokenizer.json; wicketgate needs a model with a fast tokenizer"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ConfigurationError(f"{path} cannot be read: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        facts = _Facts.read(folder, tokenizer)
        return cls(tokenizer=tokenizer, template=ChatTemplate.read(folder, tokenizer), facts=facts)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer: those of generation_config.json or config.json, and the tokenizer's own."""
        return self._facts.eos_ids

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together, where config.json says."""
        return self._facts.context_tokens

    @property
    def vocabulary_tokens(self) -> int:
        """Ids below this are known to the model."""
        return self._facts.vocabulary_tokens or len(self._bytes)

    @property
    def drops_leading_space(self) -> bool:
        """Whether decoding a whole text drops one space at its start."""
        return self._facts.drops_leading_space

    def close(self) -> None:
        """End the worker thread; what it is doing is finished first."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def render(self, messages: Sequence[Mapping[str, object]], template_kwargs: Mapping[str, object]) -> str:
        """
        Turn messages into the text that the model was trained on, up to where its answer begins.

        Raises:
            InvalidRequestError: the model has no chat template, or its template refuses these messages.
        """
        if self._template is None:
            raise InvalidRequestError(
                "the model has no chat template; use /v1/completions with a prompt", param="messages"
            )
        return self._template.render(messages, template_kwargs)

    async def encode(
        self, text: str, *, add_special_tokens: bool, inline_chars: int = INLINE_CHARS
    ) -> list[int]:
        """
        Tokenise; text longer than `inline_chars` on the worker thread.

        `encode_batch_fast` lets go of the interpreter lock, `encode` does not (5 against 44 ms of stall at
        32 k tokens, Linux CPU).
        """

        def ids() -> list[int]:
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return list(encoding.ids)

        if len(text) <= inline_chars:
            return ids()
        return await asyncio.get_running_loop().run_in_executor(self._thread, ids)

    async def encode_prompt(self, prompt: Prompt, *, inline_chars: int = INLINE_CHARS) -> list[int]:
        """
        Turn a prompt into tokens.

        A template writes its own special tokens, plain text gets the tokenizer's, ids stay as they are.

        Raises:
            InvalidRequestError: no tokens came out, an id is unknown, or the template refuses.
        """
        match prompt:
            case ChatPrompt():
                param = "messages"
                text = self.render(prompt.messages, prompt.template_kwargs)
                ids = await self.encode(text, add_special_tokens=False, inline_chars=inline_chars)
            case TextPrompt():
                param = "prompt"
                ids = await self.encode(prompt.text, add_special_tokens=True, inline_chars=inline_chars)
            case TokenPrompt():
                param = "prompt"
                ids = list(prompt.ids)
                self._check_ids(ids)
        if not ids:
            raise InvalidRequestError(
                f"{param} must give at least one token", param=param, code="empty_string"
            )
        return ids

    def _check_ids(self, ids: list[int]) -> None:
        for index, token in enumerate(ids):
            if not 0 <= token < self.vocabulary_tokens:
                bound = self.vocabulary_tokens - 1
                param = f"prompt[{index}]"
                raise InvalidRequestError(
                    f"{param} must be a token id from 0 to {bound}, got {token}", param=param
                )

    def stream(
        self, stops: Sequence[str] = (), *, stop_token_ids: Sequence[int] = (), continues_text: bool = False
    ) -> TextStream:
        """Begin the text of one answer; the arguments are TextStream's."""
        return TextStream(self, stops, stop_token_ids=stop_token_ids, continues_text=continues_text)

    def visible_bytes(self, token: int) -> bytes:
        """Bytes that a token adds to the text; special and unknown ones add none."""
        return self._visible[token] if 0 <= token < len(self._visible) else b""

    def token_bytes(self, token: int) -> bytes:
        """
        Bytes of one token by itself, part of a character perhaps.

        A special token gives its name, an unknown id nothing.
        """
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    eos_ids: frozenset[int]
    context_tokens: int | None
    vocabulary_tokens: int | None
    decoder: str
    drops_leading_space: bool

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer) -> _Facts:
        config = read_json(folder / "config.json")
        config = {**config, **config.get("text_config", {})}
        eos = read_json(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id"))
        ids = {eos} if isinstance(eos, int) else set(eos or ())
        name = token_content(read_json(folder / "tokenizer_config.json").get("eos_token"))
        own = None if name is None else tokenizer.token_to_id(name)
        decoder, drops = _decoder_kind(read_json(folder / "tokenizer.json").get("decoder"), folder)
        return cls(
            eos_ids=frozenset(ids if own is None else ids | {own}),
            context_tokens=config.get("max_position_embeddings"),
            vocabulary_tokens=config.get("vocab_size"),
            decoder=decoder,
            drops_leading_space=drops,
        )


def _decoder_kind(decoder: dict[str, Any] | None, folder: Path) -> tuple[str, bool]:
    """Which byte table a tokenizer.json asks for ("bytes" or "spm"), and whether it drops a leading space."""
    parts = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = {part["type"] for part in parts}
    if "ByteLevel" in kinds:
        return "bytes", False
    if kinds & {"Metaspace", "ByteFallback"}:
        strips = any(part["type"] == "Strip" and part.get("start", 0) > 0 for part in parts)
        prepends = any(
            part["type"] == "Metaspace" and part.get("prepend_scheme") != "never" for part in parts
        )
        return "spm", strips or prepends
    raise ConfigurationError(
        f"{folder}/tokenizer.json has a decoder that cannot be streamed "
        f"({', '.join(sorted(kinds)) or 'none'}); it must be ByteLevel, Metaspace or ByteFallback"
    )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF: Final = _byte_alphabet()
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


def _token_bytes(name: str, *, is_spm: bool) -> bytes:
    if is_spm:
        if byte := _BYTE_TOKEN.match(name):
            return bytes([int(byte[1], 16)])
        return name.replace("\u2581", " ").encode()
    try:
        return bytes([_BYTE_OF[character] for character in name])
    except KeyError:
        return name.encode()


class Detokenizer:
    """
    Ids of one stream to text. A character is given out when its last byte has come.

    Args:
        model: Whose tokens.
        continues_text: The text is appended to a prompt's, so that no leading space is dropped.
    """

    def __init__(self, model: TextModel, *, continues_text: bool) -> None:
        self._bytes_of = model.visible_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._drops_space = model.drops_leading_space and not continues_text

    def feed(self, ids: Sequence[int]) -> str:
        """Take the next ids; those beyond the vocabulary and special ones give nothing."""
        return self._without_space(self._decoder.decode(b"".join(map(self._bytes_of, ids))))

    def flush(self) -> str:
        """End the text: an unfinished character becomes U+FFFD."""
        return self._without_space(self._decoder.decode(b"", final=True))

    def _without_space(self, text: str) -> str:
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text


class TextStream:
    """
    The visible text of one answer, from its tokens.

    Args:
        model: Whose tokens.
        stops: Texts that end the answer.
        stop_token_ids: Ids that end it and are not text; the model's own end tokens are neither.
        continues_text: As for Detokenizer: true for completions, false for chat.
    """

    def __init__(
        self,
        model: TextModel,
        stops: Sequence[str] = (),
        *,
        stop_token_ids: Sequence[int] = (),
        continues_text: bool = False,
    ) -> None:
        self._ends = model.eos_ids.union(stop_token_ids)
        self._bytes_of = model.visible_bytes
        self._detokenizer = Detokenizer(model, continues_text=continues_text)
        self._stop = StopText(stops)
        self._unsent_tokens = 0
        self._entries: deque[tuple[int, int, TokenLogprob]] = deque()
        """Where each token's text begins and ends, for those whose text is not out yet."""
        self._open: list[TokenLogprob] = []
        """Tokens that are part of a character still unfinished."""
        self._decoded_chars = 0
        self._sent_chars = 0
        self.tokens = 0
        """Tokens taken, up to the one that completed a stop text: what usage counts."""

    @property
    def stopped(self) -> bool:
        """A stop text has completed: cancel the rest of the generation."""
        return self._stop.stopped

    def feed(self, chunk: TokenChunk) -> TextChunk | None:
        """Take the next tokens; None while nothing visible is certain. Tokens after the stop are dropped."""
        pieces = []
        for index, token in enumerate(chunk.tokens):
            if self.stopped:
                break
            self.tokens += 1
            self._unsent_tokens += 1
            if token in self._ends or not self._bytes_of(token):
                continue
            if chunk.logprobs is not None:
                self._open.append(chunk.logprobs[index])
            pieces.append(self._pass(self._detokenizer.feed((token,))))
        return self._chunk("".join(pieces), has_logprobs=chunk.logprobs is not None)

    def flush(self) -> TextChunk | None:
        """End the answer: what was held back comes out, unless a stop text has completed."""
        has_logprobs = bool(self._open or self._entries)
        text = self._pass(self._detokenizer.flush()) + self._stop.flush()
        return self._chunk(text, has_logprobs=has_logprobs)

    def _pass(self, text: str) -> str:
        begin, self._decoded_chars = self._decoded_chars, self._decoded_chars + len(text)
        if text:
            self._entries.extend((begin, self._decoded_chars, entry) for entry in self._open)
            self._open.clear()
        return self._stop.feed(text)

    def _chunk(self, text: str, *, has_logprobs: bool) -> TextChunk | None:
        self._sent_chars += len(text)
        if not text:
            return None
        logprobs = tuple(self._certain_entries()) if has_logprobs else None
        tokens, self._unsent_tokens = self._unsent_tokens, 0
        return TextChunk(text=text, tokens=tokens, logprobs=logprobs)

    def _certain_entries(self) -> list[TokenLogprob]:
        """Entries whose last character is out; at the stop also the one that the cut went through."""
        certain = []
        while self._entries:
            begin, end, entry = self._entries[0]
            if end > self._sent_chars and not (self.stopped and begin < self._sent_chars):
                break
            certain.append(entry)
            self._entries.popleft()
        return certain
