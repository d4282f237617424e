"""An engine that answers jobs at once, with numbers that tell what they were made of."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from wicketgate.engine.plant import drawn_logprob, drawn_vector
from wicketgate.engine.wire import Scored
from wicketgate.inference import TokenLogprob
from wicketgate.pipeline.jobs import Jobs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from wicketgate.inference import InferenceRequest
    from wicketgate.pipeline.text import TextModel

VECTOR_SIZE = 4


def logprob(prompt: Sequence[int], label: Sequence[int]) -> float:
    """How likely a label is behind a prompt."""
    return drawn_logprob(seed=0, item=prompt, label=label)


def vector(prompt: Sequence[int]) -> list[float]:
    numbers = drawn_vector(seed=0, prompt=prompt, size=VECTOR_SIZE)
    return list(struct.unpack(f"<{VECTOR_SIZE}f", struct.pack(f"<{VECTOR_SIZE}f", *numbers)))


@dataclass
class FakeEngine:
    """Keeps what it was asked."""

    asked: list[Any] = field(default_factory=list)
    error: Exception | None = None
    context_tokens: int = 64

    def _hear(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    async def assess(self, ids: Sequence[int], request: InferenceRequest, *, top: int) -> list[TokenLogprob]:
        self._hear("assess", list(ids), top)
        return [
            TokenLogprob(token, logprob([before], [token]), ((token, -0.5),) * top)
            for before, token in itertools.pairwise(ids)
        ]

    async def score(
        self,
        query: Sequence[int],
        items: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        request: InferenceRequest,
    ) -> Scored:
        self._hear("score", list(query), [list(item) for item in items], [list(label) for label in labels])
        return Scored(
            1, [[logprob([*query, *item], label) for label in labels] for item in items], len(query) - 1
        )

    async def embed(
        self, prompts: Sequence[Sequence[int]], request: InferenceRequest, *, pooling: str
    ) -> list[bytes]:
        self._hear("embed", [list(prompt) for prompt in prompts], pooling)
        return [struct.pack(f"<{VECTOR_SIZE}f", *vector(prompt)) for prompt in prompts]


@dataclass
class FakeDesk:
    """A dispatcher with a ticket for everybody, or an error."""

    text: TextModel
    engine: FakeEngine = field(default_factory=FakeEngine)
    error: Exception | None = None
    requests: list[InferenceRequest] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)

    async def job(
        self, request: InferenceRequest, work: Callable[[Any], Awaitable[Any]], *, prompt_tokens: int = 0
    ) -> Any:
        self.requests.append(request)
        self.prompt_tokens.append(prompt_tokens)
        if self.error is not None:
            raise self.error
        return await work(SimpleNamespace(text=self.text, engine=self.engine))

    def jobs(self) -> Jobs:
        return Jobs(self, text_of=lambda _: self.text)
