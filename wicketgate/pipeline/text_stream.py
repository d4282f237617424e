"""Tokens of one answer to what it is made of: text, reasoning, tool calls."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.pipeline.entries import Entries
from wicketgate.pipeline.output_reader import Said, Thought
from wicketgate.pipeline.phrases import Phrases, PhraseSearch
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk, TextChunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wicketgate.inference import InferenceRequest, TokenChunk, TokenLogprob
    from wicketgate.pipeline.output_reader import Event, OutputReader
    from wicketgate.pipeline.pieces import Piece

_NO_STOPS: Final = Phrases(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a stream has to know of its model's tokens."""

    shown: Sequence[bytes]
    """Bytes that each token adds to the text; none for those that are not to be seen."""
    drops_space: bool
    """One space at the very start is not part of the text."""
    eos_ids: frozenset[int]


class Detokenizer:
    """Bytes of one stream's tokens to text. A character is given out when its last byte has come."""

    __slots__ = ("_decoder", "_drops_space", "_has_part")

    def __init__(self, *, drops_space: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._drops_space = drops_space
        self._has_part = False
        """The decoder holds the first bytes of a character."""

    def feed(self, data: bytes) -> str:
        """Take the bytes of the next tokens."""
        text = self._in_parts(data) if self._has_part else self._whole(data)
        return self._without_space(text) if self._drops_space else text

    def flush(self) -> str:
        """End the text: an unfinished character becomes U+FFFD."""
        return self._without_space(self._decoder.decode(b"", final=True))

    def _whole(self, data: bytes) -> str:
        """Decode what most tokens are, whole characters, in a fifth of the decoder's time."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            return self._in_parts(data)

    def _in_parts(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        self._has_part = bool(self._decoder.getstate()[0])
        return text

    def _without_space(self, text: str) -> str:
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text


class TextStream:
    """
    Reads one answer: bytes, text, markers, and stop texts on what is visible, in this order.

    Args:
        vocabulary: Of its model.
        request: Says what ends the text, and whether log-probabilities are to come with it.
        reader: Takes reasoning and calls out; None: all is text.
    """

    __slots__ = (
        "_call",
        "_content_chars",
        "_detokenizer",
        "_ends",
        "_entries",
        "_is_plain",
        "_kind",
        "_min_tokens",
        "_pieces",
        "_reader",
        "_run",
        "_run_entries",
        "_search",
        "_shown",
        "_shows_stop",
        "_stop_ids",
        "_unsent_tokens",
        "reasoning_tokens",
        "stop",
        "tokens",
    )

    def __init__(
        self, vocabulary: Vocabulary, request: InferenceRequest, reader: OutputReader | None
    ) -> None:
        sampling, output = request.sampling, request.output
        self._shown = vocabulary.shown
        self._stop_ids = frozenset(sampling.stop_token_ids)
        self._ends = self._stop_ids if sampling.ignore_eos else self._stop_ids | vocabulary.eos_ids
        self._shows_stop = output.include_stop
        self._min_tokens = sampling.min_tokens
        self._detokenizer = Detokenizer(drops_space=vocabulary.drops_space)
        self._search = PhraseSearch(Phrases(request.stop) if request.stop else _NO_STOPS)
        self._reader = reader
        self._entries = Entries() if sampling.logprobs is not None else None
        self._is_plain = reader is None and not request.stop and self._entries is None
        self._pieces: list[Piece] = []
        self._run: list[str] = []
        """Text of one kind that is to become a piece."""
        self._run_entries: list[TokenLogprob] = []
        self._kind: type[Piece] = TextChunk
        """What the run is."""
        self._call = 0
        """Index of the call that began last."""
        self._unsent_tokens = 0
        self._content_chars = 0
        self.stop: str | int | None = None
        """The stop text, or the id of the stop token named by the client, that ended the answer."""
        self.tokens = 0
        """Tokens taken, up to the one that completed a stop text: what usage counts."""
        self.reasoning_tokens = 0
        """Of those the ones of reasoning, its markers included."""

    @property
    def stopped(self) -> bool:
        """The answer is over, whatever else may come: cancel the rest of the generation."""
        return self._search.found is not None or (self._reader is not None and self._reader.is_over)

    @property
    def calls(self) -> int:
        """Tool calls that have begun."""
        return 0 if self._reader is None else self._reader.calls

    def feed(self, chunk: TokenChunk) -> list[Piece]:
        """Take the next tokens, give what is certain. Tokens after the end are dropped."""
        if self._is_plain:
            return self._plain(chunk.tokens)
        for index, token in enumerate(chunk.tokens):
            if self.stopped:
                break
            self._take(token, None if chunk.logprobs is None else chunk.logprobs[index])
        return self._given()

    def flush(self) -> list[Piece]:
        """End the answer: what was held back comes out, unless a stop text has completed."""
        if not self.stopped:
            self._decoded(self._detokenizer.flush())
        if self._reader is not None and not self.stopped:
            self._events(self._reader.flush())
        if not self.stopped:
            self._say(self._search.flush())
        return self._given()

    def _plain(self, tokens: Sequence[int]) -> list[Piece]:
        """The way of a text in which nothing is looked for."""
        count = len(tokens)
        self.tokens += count
        self._unsent_tokens += count
        if not self._ends.isdisjoint(tokens):
            tokens = [token for token in tokens if not self._is_end(token)]
        text = self._detokenizer.feed(self._bytes(tokens))
        if not text:
            return []
        unsent, self._unsent_tokens = self._unsent_tokens, 0
        return [TextChunk(text=text, tokens=unsent)]

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        shown = self._shown
        try:
            return shown[tokens[0]] if len(tokens) == 1 else b"".join([shown[token] for token in tokens])
        except IndexError:
            return b"".join([shown[token] for token in tokens if token < len(shown)])

    def _is_end(self, token: int) -> bool:
        """Note an end token; whether it is not to be part of the text."""
        if token not in self._ends:
            return False
        if token in self._stop_ids:
            self.stop = token
        return not self._shows_stop

    def _take(self, token: int, entry: TokenLogprob | None) -> None:
        self.tokens += 1
        self._unsent_tokens += 1
        reader = self._reader
        is_reasoning = reader is not None and reader.is_thinking
        data = b"" if self._is_end(token) else self._bytes((token,))
        if data:
            if self._entries is not None and entry is not None:
                self._entries.arrived(entry)
            self._decoded(self._detokenizer.feed(data))
        if reader is not None:
            self.reasoning_tokens += is_reasoning or reader.is_thinking
            if is_reasoning and not reader.is_thinking:
                self._end_run()  # so that its last marker counts as its own

    def _decoded(self, text: str) -> None:
        if self._entries is not None:
            self._entries.decoded(len(text))
        if self._reader is not None:
            self._events(self._reader.feed(text))
        elif text:
            self._content(text, self._content_chars)

    def _events(self, events: Iterable[Event]) -> None:
        for event in events:
            if self._search.found is not None:
                return
            match event:
                case Said(text=text, begin=begin):
                    self._content(text, begin)
                case Thought(text=text):
                    self._say(self._search.flush())
                    self._add(ReasoningChunk, text)
                case CallOpened(index=index):
                    self._say(self._search.flush())
                    self._end_run()
                    self._unsent_tokens = 0
                    self._call = index
                    self._pieces.append(event)
                case arguments:
                    self._add(CallArguments, arguments.text)

    def _content(self, text: str, begin: int) -> None:
        """Take visible text, which stands at `begin` of the whole text."""
        if self._entries is not None:
            self._entries.kept(begin, len(text))
        self._content_chars += len(text)
        search = self._search
        text = search.feed(text, may_end=self.tokens > self._min_tokens)
        if search.found is not None:
            self.stop = search.found
            text += search.found if self._shows_stop else ""
        self._say(text)

    def _say(self, text: str) -> None:
        """Give visible text out."""
        if text:
            self._add(TextChunk, text)
            if self._entries is not None:
                self._run_entries += self._entries.out(len(text))

    def _add(self, kind: type[Piece], text: str) -> None:
        """Take text of one kind; what comes of it in one look is one piece."""
        if kind is not self._kind:
            self._end_run()
            self._kind = kind
        self._run.append(text)

    def _end_run(self) -> None:
        if not self._run:
            return
        text = "".join(self._run)
        self._run.clear()
        tokens, self._unsent_tokens = self._unsent_tokens, 0
        if self._kind is TextChunk:
            entries = None if self._entries is None else tuple(self._run_entries)
            self._run_entries.clear()
            self._pieces.append(TextChunk(text=text, tokens=tokens, logprobs=entries))
        elif self._kind is ReasoningChunk:
            self._pieces.append(ReasoningChunk(text=text, tokens=tokens))
        else:
            self._pieces.append(CallArguments(index=self._call, text=text))

    def _given(self) -> list[Piece]:
        self._end_run()
        pieces, self._pieces = self._pieces, []
        return pieces
