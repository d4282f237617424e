"""What the requests of one loaded model go through: its text, its engine, what is warmed for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.wire import Scored
    from wicketgate.errors import UnavailableError
    from wicketgate.inference import Finished, InferenceRequest, TokenChunk, TokenLogprob
    from wicketgate.pipeline.text import TextModel
    from wicketgate.pipeline.warm import Warmer


class TokenStream(Protocol):
    """One stream of an engine."""

    on_news: Callable[[], None] | None
    """Called once for all that a step brought, in that turn of the loop, and at an end but by `cancel`."""
    finished: Finished | None
    """Set at the end; what came before it may still have to be taken."""

    @property
    def id(self) -> int:
        """The engine's number of the stream."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the prefix store; known from the first token on."""

    def take(self) -> TokenChunk | None:
        """Return all tokens since the last call; None where none has come."""

    def cancel(self) -> None:
        """Stop the stream; idempotent."""


class Engine(Protocol):
    """What the pipeline asks of an engine."""

    def unavailable(self) -> UnavailableError | None:
        """Return why nothing can be started now, or None."""

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus answer."""

    def submit(self, ids: Sequence[int], request: InferenceRequest) -> TokenStream:
        """Start the stream of a request whose prompt is these tokens."""

    async def score(
        self,
        query: Sequence[int],
        items: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        request: InferenceRequest,
    ) -> Scored:
        """Rate labels as continuations of the query with each item, as EngineClient says."""

    async def assess(self, ids: Sequence[int], request: InferenceRequest, *, top: int) -> list[TokenLogprob]:
        """Tell how likely each token but the first is, as EngineClient says."""

    async def embed(
        self,
        prompts: Sequence[Sequence[int]],
        request: InferenceRequest,
        *,
        pooling: Literal["mean", "last"],
    ) -> list[bytes]:
        """Return a vector for each prompt, as EngineClient says."""


@dataclass(slots=True, kw_only=True, eq=False)
class Lane:
    """One loading of one model. After an unload and a load the model has another."""

    model: str
    """What clients call it."""
    text: TextModel
    engine: Engine
    warmer: Warmer
    holders: int = 0
    """Requests that entered and have not left."""


class Lanes(Protocol):
    """Where a request gets its lane from."""

    async def enter(self, model: str) -> Lane:
        """
        Hold the lane of a model, which is loaded first where it is not.

        Raises:
            NotFoundError: no such model.
            UnavailableError: it cannot be loaded, or not now.
            OverloadedError: too many wait for models to be loaded.
        """

    def leave(self, lane: Lane) -> None:
        """Give up the hold; once for each `enter`."""
