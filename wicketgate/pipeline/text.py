"""
Text to tokens and back, without mlx and transformers: template, tokenise, detokenise, read the answer.

Both directions read the model's own folder, as the engine host does. A token becomes bytes by a table made
once per model, bytes become characters by one incremental UTF-8 decoder per stream (0.25 us a token, exact;
research on the detokenisers of mlx_lm and tokenizers found each of them wrong somewhere).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tokenizers import Tokenizer

from wicketgate.errors import ConfigurationError, InvalidRequestError
from wicketgate.inference import CallSyntax, ChatPrompt, TextPrompt, TokenPrompt
from wicketgate.pipeline.chat_template import ChatTemplate
from wicketgate.pipeline.output_reader import Markers, OutputReader
from wicketgate.pipeline.text_facts import TextFacts
from wicketgate.pipeline.text_stream import Detokenizer, TextStream, Vocabulary
from wicketgate.pipeline.thinking import XTML_FRAME, XTML_TOKENS, is_open, think_pair
from wicketgate.pipeline.token_bytes import token_bytes
from wicketgate.pipeline.tools.formats import FORCED, JSON_TOOLS, tool_format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tokenizers import Encoding

    from wicketgate.inference import InferenceRequest, Prompt
    from wicketgate.pipeline.tools.body import ToolFormat, Tools

__all__ = ["Detokenizer", "TextModel", "TextStream"]

LONG_CHARS: Final = 1 << 18
"""Longer text takes seconds: on a thread of its own, so that no other prompt waits for it."""
INLINE_MESSAGES: Final = 32
"""More of them, and tools, are templated off the event loop: a template takes about 10 us for each."""
INLINE_CHARS: Final = 2000
"""Longer text is tokenised off the event loop: below this it takes less than 1 ms (Linux CPU)."""


class TextModel:
    """What one model's folder says about text. Made by `load`; `close` ends its worker thread."""

    def __init__(self, *, tokenizer: Tokenizer, template: ChatTemplate | None, facts: TextFacts) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._facts = facts
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        # Ids have holes in some models, so that the greatest says more than the count.
        ids = range(max(vocabulary.values()) + 1)
        self._bytes = token_bytes(map(tokenizer.id_to_token, ids), kind=facts.kind)
        added = tokenizer.get_added_tokens_decoder()
        self._special = {added[i].content: i for i in ids if i in added and added[i].special}
        self._visible = list(self._bytes)
        for token in self._special.values():
            self._visible[token] = b""
        self._think = None if template is None else think_pair(vocabulary)
        self._is_xtml = all(token in vocabulary for token in XTML_TOKENS)
        self._format = None
        if template is not None:
            self._format = tool_format(
                template=template.source, vocabulary=vocabulary, named=facts.tool_parser
            )
        self._readings = {
            CallSyntax.NONE: self._reading(None),
            CallSyntax.NATIVE: self._reading(self._format or JSON_TOOLS),
            CallSyntax.FORCED: self._reading(FORCED),
        }
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenise")
        self._long_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenise-long")
        self._token_chars = None
        if facts.byte_chars is not None:
            self._token_chars = facts.byte_chars * max(map(len, self._bytes))

    def _reading(self, calls: ToolFormat | None) -> tuple[Markers, list[bytes]]:
        """Return what to look for, and the bytes of tokens in which it can be found."""
        names = [] if calls is None else [calls.start, calls.end or "", *calls.tokens]
        names += [] if self._think is None else self._think.tokens
        hidden = [name for name in names if name in self._special]
        markers = Markers(
            think=self._think, tools=calls, frame=XTML_FRAME if self._is_xtml else (), hidden=hidden
        )
        if not hidden:
            return markers, self._visible
        shown = list(self._visible)
        for name in hidden:
            shown[self._special[name]] = name.encode()
        return markers, shown

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
        facts = TextFacts.read(folder, tokenizer)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        return cls(tokenizer=tokenizer, template=ChatTemplate.read(folder, vocabulary), facts=facts)

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

    @property
    def tool_format(self) -> str | None:
        """
        Name of the form in which the model was taught to write tool calls.

        None: in none that we know. Tools are told to such a model in a system message, with a form to call
        them in, so that it may be given tools too.
        """
        return None if self._format is None else self._format.name

    @property
    def tool_start_id(self) -> int | None:
        """The token that a call begins with, not to be drawn where none is wanted; None: none, or several."""
        return None if self._format is None else self._tokenizer.token_to_id(self._format.start)

    @property
    def call_marks_are_tokens(self) -> bool | None:
        """Whether the marks around calls written as JSON are tokens; None: another form is written."""
        form = self._format or JSON_TOOLS
        if form is not JSON_TOOLS:
            return None
        return all(self._tokenizer.token_to_id(mark) is not None for mark in (form.start, form.end or ""))

    @property
    def thinks(self) -> bool:
        """Whether the model marks reasoning before its answers."""
        return self._think is not None

    @property
    def think_end_id(self) -> int | None:
        """The token that ends reasoning; None: none does, or several together."""
        return None if self._think is None else self._tokenizer.token_to_id(self._think.end)

    @property
    def can_stop_thinking(self) -> bool:
        """Whether the template's variable `enable_thinking` changes where an answer begins."""
        if self._think is None or self._template is None:
            return False
        on, off = (
            self._template.ending((), {"enable_thinking": value}, has_tools=False) for value in (True, False)
        )
        return on != off

    def opens_reasoning(self, prompt: ChatPrompt) -> bool:
        """Whether the answer to a prompt begins inside of reasoning that the prompt has opened."""
        if self._think is None or self._template is None:
            return False
        if prompt.continues:
            return is_open(str(prompt.messages[-1].get("content")), self._think)
        ending = self._template.ending(
            prompt.messages, prompt.template_kwargs, has_tools=self._renders_tools(prompt)
        )
        return is_open(ending, self._think)

    def _renders_tools(self, prompt: ChatPrompt) -> bool:
        return self._format is not None and bool(prompt.tools)

    def close(self) -> None:
        """End the worker threads; what they are doing is finished first."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._long_thread.shutdown(wait=True, cancel_futures=True)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        template_kwargs: Mapping[str, object],
        *,
        tools: Sequence[Mapping[str, object]] = (),
        continues: bool = False,
    ) -> str:
        """
        Turn messages into the text that the model was trained on, up to where its answer begins.

        Raises:
            InvalidRequestError: the model has no chat template, or its template refuses these messages.
        """
        if self._template is None:
            raise InvalidRequestError(
                "the model has no chat template; use /v1/completions with a prompt", param="messages"
            )
        return self._template.render(
            messages, template_kwargs, tools=tools, continues=continues, tells=self._format is None
        )

    async def encode(
        self, text: str, *, add_special_tokens: bool, inline_chars: int = INLINE_CHARS
    ) -> list[int]:
        """
        Tokenise; text longer than `inline_chars` on the worker thread.

        `encode_batch_fast` lets go of the interpreter lock, `encode` does not (5 against 44 ms of stall at
        32 k tokens, Linux CPU).
        """

        return (await self._encoding(text, has_special=add_special_tokens, inline_chars=inline_chars)).ids

    async def _encoding(self, text: str, *, has_special: bool, inline_chars: int) -> Encoding:
        def encoding() -> Encoding:
            return self._tokenizer.encode_batch_fast([text], add_special_tokens=has_special)[0]

        if len(text) <= inline_chars:
            return encoding()
        return await asyncio.get_running_loop().run_in_executor(self._thread_for(len(text)), encoding)

    def _thread_for(self, chars: int) -> ThreadPoolExecutor:
        return self._thread if chars <= LONG_CHARS else self._long_thread

    async def _rendered(self, prompt: ChatPrompt, *, inline_chars: int) -> str:
        """Render a chat, on the worker thread unless it is short."""

        def render() -> str:
            return self.render(
                prompt.messages, prompt.template_kwargs, tools=prompt.tools, continues=prompt.continues
            )

        if _is_short(prompt, inline_chars):
            return render()
        return await asyncio.get_running_loop().run_in_executor(self._thread, render)

    async def encode_prompt(
        self,
        prompt: Prompt,
        *,
        inline_chars: int = INLINE_CHARS,
        most_tokens: int | None = None,
        field: str | None = None,
    ) -> list[int]:
        """
        Turn a prompt into tokens.

        A template writes its own special tokens, plain text gets the tokenizer's, ids stay as they are.

        Args:
            prompt: What is to be tokenised, once: from then on it knows its tokens, which stay as they are.
            inline_chars: Longer text is tokenised off the event loop.
            most_tokens: Text that gives more is refused, as soon as its length tells.
            field: What the API calls the prompt, for errors; None takes the prompt's own kind.

        Raises:
            InvalidRequestError: no tokens came out, or too many must, an id is unknown, or the template
                refuses.
        """
        if prompt.known.ids is not None:
            return prompt.known.ids
        match prompt:
            case ChatPrompt():
                param = field or "messages"
                text = await self._rendered(prompt, inline_chars=inline_chars)
                ids = await self._within(
                    text, param, most_tokens, has_special=False, inline_chars=inline_chars
                )
            case TextPrompt():
                param = field or "prompt"
                text = prompt.text
                ids = await self._within(
                    text, param, most_tokens, has_special=True, inline_chars=inline_chars
                )
            case TokenPrompt():
                param = field or "prompt"
                ids = list(prompt.ids)
                self._check_ids(ids)
        if not ids:
            raise InvalidRequestError(
                f"{param} must give at least one token", param=param, code="empty_string"
            )
        prompt.known.ids = ids
        return ids

    async def _within(
        self, text: str, param: str, most_tokens: int | None, *, has_special: bool, inline_chars: int
    ) -> list[int]:
        """Tokenise text that may give so many tokens; of more no list is made."""
        if most_tokens is not None and self._token_chars is not None:
            least = len(text) // self._token_chars
            if len(text) > most_tokens * self._token_chars:
                raise _too_long(param, f"more than {least}", most_tokens)
        encoding = await self._encoding(text, has_special=has_special, inline_chars=inline_chars)
        if most_tokens is not None and len(encoding) > most_tokens:
            raise _too_long(param, str(len(encoding)), most_tokens)
        return encoding.ids

    def _check_ids(self, ids: list[int]) -> None:
        if not ids or (min(ids) >= 0 and max(ids) < self.vocabulary_tokens):
            return
        for index, token in enumerate(ids):
            if not 0 <= token < self.vocabulary_tokens:
                bound = self.vocabulary_tokens - 1
                param = f"prompt[{index}]"
                raise InvalidRequestError(
                    f"{param} must be a token id from 0 to {bound}, got {token}", param=param
                )

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones with their names: what was tokenised to them."""
        decoder = Detokenizer(drops_space=self.drops_leading_space)
        return decoder.feed(b"".join(map(self.token_bytes, ids))) + decoder.flush()

    def stream(self, request: InferenceRequest) -> TextStream:
        """Begin the text of the answer to a request."""
        prompt, output = request.prompt, request.output
        chat = prompt if isinstance(prompt, ChatPrompt) else None
        markers, shown = self._readings[CallSyntax.NONE if output.is_raw else output.calls]
        reader = None
        if output.is_raw or chat is None or not markers.is_needed:
            shown = self._visible
        else:
            reader = OutputReader(
                markers,
                tools=_declared(chat, output.tools),
                max_calls=output.max_calls,
                is_thinking=self.opens_reasoning(chat),
                is_call=output.calls is CallSyntax.FORCED,
            )
        vocabulary = Vocabulary(
            shown=shown if output.skip_special_tokens else self._bytes,
            # What goes on from a prompt's text begins with the space that is its own.
            drops_space=self.drops_leading_space and chat is not None and not chat.continues,
            eos_ids=self.eos_ids,
        )
        return TextStream(vocabulary, request, reader)

    def token_bytes(self, token: int) -> bytes:
        """
        Bytes of one token by itself, part of a character perhaps.

        A special token gives its name, an unknown id nothing.
        """
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""


def _is_short(prompt: ChatPrompt, chars: int) -> bool:
    """Tell whether a chat is a few texts; how long tools and calls are written, nobody knows yet."""
    messages = prompt.messages
    if prompt.tools or len(messages) > INLINE_MESSAGES or any("tool_calls" in each for each in messages):
        return False
    return sum(len(str(each.get("content"))) for each in messages) <= chars


def _too_long(param: str, tokens: str, most_tokens: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"{param} has {tokens} tokens; the model's context is {most_tokens}. Shorten it.",
        param=param,
        code="context_length_exceeded",
    )


def _declared(prompt: ChatPrompt, names: Sequence[str]) -> Tools:
    """The tools that an answer may call, with the schemas of their parameters."""
    declared: dict[str, Mapping[str, object]] = {name: {} for name in names}
    for tool in prompt.tools:
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        parameters = function.get("parameters") if isinstance(function, dict) else None
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        if name in declared and isinstance(properties, dict):
            declared[name] = properties
    return declared
