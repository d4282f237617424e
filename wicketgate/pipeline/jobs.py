"""
What is asked of a model besides answers: tokens of text, log-probabilities of prompts, scores, vectors.

What is computed holds a ticket, as an answer does, and is recorded as one; tokenising needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

from wicketgate.errors import InvalidRequestError
from wicketgate.inference import TextPrompt, TokenPrompt
from wicketgate.pipeline.score_plan import grouped, rated_items

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from wicketgate.inference import InferenceRequest, Prompt, TokenLogprob
    from wicketgate.pipeline.lane import Lane
    from wicketgate.pipeline.score_plan import Rated, ScoreSpec
    from wicketgate.pipeline.text import TextModel

EMBEDDED_TOGETHER: Final = 128
"""Prompts in one question to the engine: between two of them others of the same class have their turn."""

T = TypeVar("T")


class Desk(Protocol):
    """The dispatcher, as jobs see it."""

    async def job(
        self, request: InferenceRequest, work: Callable[[Lane], Awaitable[T]], *, prompt_tokens: int = 0
    ) -> T:
        """
        Get a request its ticket, do its work on its model's lane, and give the ticket back.

        Args:
            request: What is recorded of it.
            work: What is done.
            prompt_tokens: Of all its prompts, for the record.

        Raises:
            WicketgateError: it is refused, or the work failed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """What a score found."""

    logprobs: list[list[float]]
    """(items, labels): natural logarithm of each label's probability, summed over its tokens."""
    cached_tokens: int
    """Of the prompts, those whose KV existed."""


class Jobs:
    """
    Asks models for what is no answer.

    Args:
        desk: Gives tickets.
        text_of: Finds the text of a model by its name, loaded or not.
    """

    def __init__(self, desk: Desk, *, text_of: Callable[[str], TextModel]) -> None:
        self._desk = desk
        self._text_of = text_of

    async def tokenize(self, model: str, prompt: Prompt, *, add_special_tokens: bool = True) -> list[int]:
        """
        Return the tokens of a prompt, as the model would get them.

        Args:
            model: Its name.
            prompt: What to tokenise; no tokens may come of it where `add_special_tokens` is false.
            add_special_tokens: Whether text gets those of the tokeniser; templates write their own.

        Raises:
            InvalidRequestError: the prompt gives no tokens, or the model's template refuses it.
        """
        text = self._text_of(model)
        if isinstance(prompt, TextPrompt) and not add_special_tokens:
            return await text.encode(prompt.text, add_special_tokens=False)
        return await text.encode_prompt(prompt)

    async def encode(self, model: str, text: str) -> list[int]:
        """Return the tokens of a text, special ones in front, off the event loop."""
        return await self._text_of(model).encode(text, add_special_tokens=True, inline_chars=0)

    def detokenize(self, model: str, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._text_of(model).decode(ids)

    async def prompt_logprobs(self, request: InferenceRequest, *, top: int) -> list[TokenLogprob | None]:
        """
        Tell how likely each token of a request's prompt is; nothing comes before the first, which is None.

        Args:
            request: Its prompt is what is asked about.
            top: How many of the likeliest tokens are told for each place, 0 to 20.

        Raises:
            WicketgateError: refused or failed.
        """

        async def work(lane: Lane) -> list[TokenLogprob | None]:
            ids = await lane.text.encode_prompt(request.prompt, most_tokens=lane.engine.context_tokens)
            return [None, *await lane.engine.assess(ids, request, top=top)]

        tokens = len(request.prompt.ids) if isinstance(request.prompt, TokenPrompt) else 0
        return await self._desk.job(request, work, prompt_tokens=tokens)

    async def rated(self, model: str, spec: ScoreSpec, *, context_tokens: int) -> list[Rated]:
        """
        Turn what is to be scored into tokens, off the event loop.

        Raises:
            InvalidRequestError: an item or a label cannot be used as it stands.
        """
        model_text = self._text_of(model)

        async def encode(text: str, *, has_special_tokens: bool) -> list[int]:
            return await model_text.encode(text, add_special_tokens=has_special_tokens, inline_chars=0)

        return await rated_items(spec, encode, context_tokens=context_tokens)

    async def score(self, request: InferenceRequest, rated: Sequence[Rated]) -> ScoreResult:
        """
        Tell how likely each label is behind each item.

        Raises:
            WicketgateError: refused or failed.
        """

        async def work(lane: Lane) -> ScoreResult:
            logprobs: list[list[float]] = [[] for _ in rated]
            cached_tokens = 0
            for group in grouped(rated):
                scored = await lane.engine.score(group.query, group.items, group.labels, request)
                cached_tokens += scored.cached_tokens
                for place, found in zip(group.places, scored.logprobs, strict=True):
                    logprobs[place] = found
            return ScoreResult(logprobs=logprobs, cached_tokens=cached_tokens)

        tokens = sum(len(each.prompt) for each in rated)
        return await self._desk.job(request, work, prompt_tokens=tokens)

    async def embed(
        self,
        request: InferenceRequest,
        prompts: Sequence[Sequence[int]],
        *,
        pooling: Literal["mean", "last"],
    ) -> list[bytes]:
        """
        Return a vector for each prompt: little-endian float32, of length 1.

        Raises:
            InvalidRequestError: the model has no vectors to give.
            WicketgateError: refused or failed.
        """

        async def work(lane: Lane) -> list[bytes]:
            vectors: list[bytes] = []
            for at in range(0, len(prompts), EMBEDDED_TOGETHER):
                together = prompts[at : at + EMBEDDED_TOGETHER]
                vectors += await lane.engine.embed(together, request, pooling=pooling)
            return vectors

        try:
            return await self._desk.job(request, work, prompt_tokens=sum(map(len, prompts)))
        except InvalidRequestError as error:
            if error.message.startswith("embeddings: "):
                raise InvalidRequestError(
                    f"the model {request.model} makes no embeddings: it gives no hidden states",
                    param="model",
                    code="unsupported_value",
                ) from None
            raise
