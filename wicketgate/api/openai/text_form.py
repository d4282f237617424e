"""Answers of /v1/completions as clients read them, whole and in chunks (pure)."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate.api.openai.wire import (
    HOLE,
    Chunks,
    ending,
    failure,
    is_text,
    json_logprob,
    token_text,
    usage,
)
from wicketgate.inference import TextPrompt, TokenPrompt
from wicketgate.pipeline.pieces import TextChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from transport import sse
    from wicketgate.api.openai.wire import About
    from wicketgate.api.order import Answer, Choice
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Finished, Prompt, TokenLogprob
    from wicketgate.pipeline.pieces import Piece

_ID_PREFIX: Final = "cmpl-"
_NAME: Final = "text_completion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A prompt, as its answers go on from it."""

    text: str
    ids: tuple[int, ...] = ()
    entries: tuple[TokenLogprob | None, ...] = ()
    """Log-probabilities of `ids`, where they are to be echoed; the first has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """What a completion asks of the form of its answer."""

    samples: int = 1
    """Drawn to each prompt."""
    sent: int = 1
    """The best of them that are sent."""
    echoes: bool = False
    """Each answer begins with its prompt."""
    has_logprobs: bool = False


class TextForm:
    """
    The answer to one completion.

    Args:
        about: What the answer says of itself.
        prompts: In the order of the request; sample j of prompt i is choice i * samples + j.
        token_bytes: Bytes of one token by itself.
        options: The rest.
    """

    def __init__(
        self,
        about: About,
        prompts: Sequence[Begun],
        *,
        token_bytes: Callable[[int], bytes],
        options: TextOptions,
    ) -> None:
        self._head = about.head(prefix=_ID_PREFIX, name=_NAME)
        self._chunks = Chunks(self._head, has_usage=about.has_usage)
        self._options = options
        self._begun = [begun for begun in prompts for _ in range(options.samples)]
        self._logprobs = [Logprobs(begun, token_bytes=token_bytes) for begun in self._begun]
        """By choice, as the prompts are."""
        self._ends: list[Finished | None] = [None] * len(self._begun)
        self._texts: list[sse.ChunkEncoder] = []

    def opening(self, answers: Sequence[Answer]) -> bytes:
        """Write the prompts where they are echoed."""
        indices = range(len(answers))
        self._texts = [self._chunks.encoder(_chunk(index, HOLE)) for index in indices]
        if not self._options.echoes:
            return b""
        return b"".join(
            self._chunks.event(_chunk(index, self._begun[index].text, self._echoed(index)))
            for index in indices
        )

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:
        """Write what came of one choice."""
        return b"".join([self._piece(choice, piece) for piece in pieces if isinstance(piece, TextChunk)])

    def finished(self, choice: int, finished: Finished) -> bytes:
        """Write how a choice has ended."""
        self._ends[choice] = finished
        return self._chunks.event(_chunk(choice, "") | ending(finished))

    def closing(self) -> bytes:
        """Write usage where it was asked for, and the end."""
        ends = [end for end in self._ends if end is not None]
        return self._chunks.closing(usage(ends, per_prompt=self._options.samples))

    def failure(self, error: WicketgateError) -> bytes:
        """Write what went wrong, and no end: a stream that ends well has one."""
        return failure(error)

    def whole(self, choices: Sequence[Choice]) -> Mapping[str, object]:
        """Return an answer that does not stream."""
        return self._whole([(choice.pieces, choice.finished) for choice in choices])

    def unanswered(self, ends: Sequence[Finished]) -> Mapping[str, object]:
        """Return an answer for which nothing was to be generated."""
        return self._whole([((), end) for end in ends])

    def _whole(self, choices: Sequence[tuple[Sequence[Piece], Finished]]) -> Mapping[str, object]:
        samples, sent = self._options.samples, self._options.sent
        chosen: list[int] = []
        for first in range(0, len(choices), samples):
            places = range(first, first + samples)
            best = places if sent == samples else sorted(places, key=lambda at: -_likeliness(choices[at][0]))
            chosen += best[:sent]
        return {
            **self._head,
            "choices": [self._choice(index, place, *choices[place]) for index, place in enumerate(chosen)],
            "usage": usage([finished for _, finished in choices], per_prompt=samples),
        }

    def _choice(
        self, index: int, place: int, pieces: Sequence[Piece], finished: Finished
    ) -> dict[str, object]:
        chunks = [piece for piece in pieces if isinstance(piece, TextChunk)]
        text = "".join(chunk.text for chunk in chunks)
        logprobs = None
        if self._options.has_logprobs:
            echoed = self._echoed(place) if self._options.echoes else None
            logprobs = _joined(echoed, self._logprobs[place].of(_entries(chunks)))
        text = self._begun[place].text + text if self._options.echoes else text
        return {"text": text, "index": index, "logprobs": logprobs, **ending(finished)}

    def _piece(self, choice: int, chunk: TextChunk) -> bytes:
        if chunk.logprobs is None or not self._options.has_logprobs:
            return self._texts[choice].encode(chunk.text)
        return self._chunks.event(_chunk(choice, chunk.text, self._logprobs[choice].of(chunk.logprobs)))

    def _echoed(self, choice: int) -> dict[str, list[object]] | None:
        return self._logprobs[choice].of_prompt() if self._options.has_logprobs else None


class Logprobs:
    """
    Log-probabilities of one choice in the old form: four lists of equal length.

    Args:
        begun: Its prompt; text offsets count from the start of it, whether it is echoed or not.
        token_bytes: Bytes of one token by itself.
    """

    def __init__(self, begun: Begun, *, token_bytes: Callable[[int], bytes]) -> None:
        self._begun = begun
        self._token_bytes = token_bytes
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = len(begun.text)

    def of_prompt(self) -> dict[str, list[object]]:
        """Write those of the prompt; nothing comes before its first token, so that this has none."""
        begun = self._begun
        offsets = prompt_offsets(begun.ids, begun.text, self._token_bytes)
        return self._lists(list(zip(begun.ids, begun.entries, offsets, strict=True)))

    def of(self, entries: Iterable[TokenLogprob]) -> dict[str, list[object]]:
        """Write those of the next tokens of the answer."""
        rows = []
        for entry in entries:
            rows.append((entry.token, entry, self._offset))
            self._offset += len(self._characters.decode(self._token_bytes(entry.token)))
        return self._lists(rows)

    def _lists(self, rows: Sequence[tuple[int, TokenLogprob | None, int]]) -> dict[str, list[object]]:
        return {
            "tokens": [self._name(token) for token, _, _ in rows],
            "token_logprobs": [
                None if entry is None else json_logprob(entry.logprob) for _, entry, _ in rows
            ],
            "top_logprobs": [None if entry is None else self._top(entry) for _, entry, _ in rows],
            "text_offset": [offset for _, _, offset in rows],
        }

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        # Different tokens can look the same: of those the likeliest stays, but the chosen one always, as the
        # very number that token_logprobs has.
        top = {self._name(token): json_logprob(value) for token, value in reversed(entry.top)}
        top[self._name(entry.token)] = json_logprob(entry.logprob)
        return top

    def _name(self, token: int) -> str:
        data = self._token_bytes(token)
        return token_text(data) if is_text(data) else f"bytes:{token_text(data)}"


def prompt_text(prompt: Prompt, token_bytes: Callable[[int], bytes]) -> str:
    """Return the text of a completion's prompt."""
    if isinstance(prompt, TextPrompt):
        return prompt.text
    assert isinstance(prompt, TokenPrompt), "a completion has no messages"
    return b"".join(map(token_bytes, prompt.ids)).decode("utf-8", "replace")


def prompt_offsets(ids: Sequence[int], text: str, token_bytes: Callable[[int], bytes]) -> list[int]:
    """
    Find where the tokens of a prompt begin in its text, in characters.

    A special token that the tokenizer has put in front takes no room in the text, nor does the space that
    some tokenizers put there.
    """
    return list(_prompt_offsets(ids, text.encode("utf-8", "replace"), token_bytes))


def _prompt_offsets(ids: Sequence[int], data: bytes, token_bytes: Callable[[int], bytes]) -> Iterator[int]:
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    at, offset = 0, 0
    for token in ids:
        yield offset
        own = token_bytes(token)
        for part in (own, own.removeprefix(b" ")):
            if data.startswith(part, at):
                at += len(part)
                offset += len(characters.decode(part))
                break


def _chunk(index: int, text: str, logprobs: object = None) -> dict[str, object]:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": None}


def _entries(chunks: Iterable[TextChunk]) -> list[TokenLogprob]:
    return [entry for chunk in chunks for entry in chunk.logprobs or ()]


def _likeliness(pieces: Sequence[Piece]) -> float:
    """Return the mean log-probability of a choice's tokens, by which the best are found."""
    entries = _entries(piece for piece in pieces if isinstance(piece, TextChunk))
    return sum(entry.logprob for entry in entries) / len(entries) if entries else float("-inf")


def _joined(first: dict[str, list[object]] | None, then: dict[str, list[object]]) -> dict[str, list[object]]:
    return then if first is None else {name: first[name] + then[name] for name in then}
