"""Tiny tokenizers in Hugging Face form, one of each shape that the text code knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from wicketgate.inference import ChatPrompt, InferenceRequest, OutputForm, Sampling, TextPrompt
from wicketgate.pipeline.text import TextModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


def byte_level(*added: AddedToken) -> Tokenizer:
    """Every byte is a token, id 2 to 257; 0 ends, 1 begins a text; those added come after."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"</s>": 0, "<s>": 1} | {character: n for n, character in enumerate(alphabet, start=2)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in ("</s>", "<s>")]
    )
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """Llama 2's shape: bytes as <0xNN>, spaces as U+2581, one leading space dropped in decoding."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"\u2581": 256, "a": 257, "\u2581a": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("\u2581", "a")], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def write_model(folder: Path, tokenizer: Tokenizer, **files: object) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def load(folder: Path) -> TextModel:
    loaded = TextModel.load(folder)
    loaded.close()
    return loaded


def special(name: str) -> AddedToken:
    return AddedToken(name, special=True, normalized=False)


def added(name: str) -> AddedToken:
    return AddedToken(name, special=False, normalized=False)


def chat(
    content: str = "hi",
    *,
    tools: tuple[Mapping[str, object], ...] = (),
    continues: bool = False,
    **template_kwargs: object,
) -> ChatPrompt:
    """One message, of the user or, where the answer continues it, of the assistant."""
    message = {"role": "assistant" if continues else "user", "content": content}
    return ChatPrompt(messages=(message,), template_kwargs=template_kwargs, tools=tools, continues=continues)


def asking(
    *,
    prompt: ChatPrompt | TextPrompt | None = None,
    stop: tuple[str, ...] = (),
    output: OutputForm | None = None,
    **sampling: object,
) -> InferenceRequest:
    """A request for an answer to a chat."""
    return InferenceRequest(
        id="r1",
        model="m",
        prompt=chat() if prompt is None else prompt,
        sampling=Sampling(max_tokens=1000, seed=1, **sampling),
        arrived_s=0.0,
        key="r1",
        key_source="request",
        stop=stop,
        output=OutputForm() if output is None else output,
    )
