"""What an API asks of the pipeline and how it writes what comes: the seam between APIs and `Generation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wicketgate.api.exchange import Headers
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Finished, InferenceRequest
    from wicketgate.pipeline.pieces import Piece


class Answer(Protocol):
    """A request that runs."""

    on_news: Callable[[], None] | None
    """Called, in the turn of the loop in which it happens, when tokens or the end have come."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Features that the request is on."""

    @property
    def prompt_ids(self) -> Sequence[int]:
        """Token ids of the prompt."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens whose KV existed; 0 until the first token."""

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer that were taken so far."""

    def take(self) -> list[Piece | Finished]:
        """Return all that there is, perhaps nothing, without waiting; Finished comes once, last."""

    async def next(self) -> list[Piece | Finished]:
        """
        Wait until there is something, and return all of it.

        Being cancelled while it waits loses nothing: the next call gives it.
        """

    def cancel(self, *, code: str = "cancelled") -> None:
        """
        Stop and give the ticket back, through no fault of ours; idempotent, and nothing after the end.

        Args:
            code: Why, for the log: cancelled, or slow_reader.
        """

    def fail(self, error: WicketgateError) -> None:
        """Stop as `cancel` does, because of a fault."""


class Answers(Protocol):
    """The pipeline, as the APIs see it."""

    async def open(self, request: InferenceRequest, *, client_request_id: str | None = None) -> Answer:
        """
        Wait until a request runs; being cancelled gives up its place.

        Args:
            request: What is asked for.
            client_request_id: The client's own name for it, for the log.

        Raises:
            WicketgateError: it is refused.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One whole answer."""

    answer: Answer
    pieces: Sequence[Piece]
    finished: Finished


class Form(Protocol):
    """How an API writes the answer to one call; made for each call, and keeps what its stream needs."""

    def opening(self, answers: Sequence[Answer]) -> bytes:
        """Write the events that a stream begins with, before any piece; empty where the API has none."""

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:
        """Write the events of pieces that came together."""

    def finished(self, choice: int, finished: Finished) -> bytes:
        """Write the events at the end of one choice, which has not failed."""

    def closing(self) -> bytes:
        """Write the last events, after every choice has finished; the body ends in the same write."""

    def failure(self, error: WicketgateError) -> bytes:
        """Write the last event of a stream that failed after its status was sent."""

    def whole(self, choices: Sequence[Choice]) -> Mapping[str, object]:
        """Return the answer to a call that does not stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a call asks for, and how its answer is to be written."""

    requests: tuple[InferenceRequest, ...]
    """One per choice, in the order of their index."""
    form: Form
    stream: bool
    headers: Headers = ()
