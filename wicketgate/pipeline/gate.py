"""The engine as the pipeline sees it: the client, and whether anything may be started now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from wicketgate.engine.client import EngineState
from wicketgate.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.client import EngineClient
    from wicketgate.engine.stream import TokenStream
    from wicketgate.engine.wire import Scored
    from wicketgate.inference import InferenceRequest, TokenLogprob

RESTART_GRACE_S = 5.0
"""While the engine host has been down for less, requests wait for its return."""
RETRY_AFTER_S = 2.0
"""Advice while the engine starts, or is short of memory."""
SOFT, HARD = 1, 2
"""Levels of memory pressure that a host reports: above the soft mark, above the hard one."""


class GatedEngine:
    """
    The engine client as the pipeline sees it: it says when nothing may be started.

    Args:
        client: Of one host.
        clock: Monotonic seconds.
        before_prompt: Called before a prompt goes to the host.
    """

    def __init__(
        self,
        client: EngineClient,
        *,
        clock: Callable[[], float],
        before_prompt: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._before_prompt = before_prompt
        self._down_since_s: float | None = None

    def note(self, state: EngineState) -> None:
        """Remember since when there has been no host that is ready."""
        if state is EngineState.READY:
            self._down_since_s = None
        elif self._down_since_s is None:
            self._down_since_s = self._clock()

    def unavailable(self) -> UnavailableError | None:
        """Return why nothing can be started now; a host that is just being restarted is waited for."""
        match self._client.state:
            case EngineState.READY:
                return _short_of_memory() if self.pressure >= HARD else None
            # A start that is being repeated, before any host was ready, is a start like the first.
            case EngineState.RESTARTING if self._client.facts is not None:
                if self._down_s() < RESTART_GRACE_S:
                    return None
                return UnavailableError(
                    f"the engine is being restarted; try again in {RETRY_AFTER_S:g} s",
                    code="engine_restarting",
                    retry_after_s=RETRY_AFTER_S,
                )
            case EngineState.STARTING | EngineState.RESTARTING:
                return UnavailableError(
                    f"the model is being loaded; try again in {RETRY_AFTER_S:g} s",
                    retry_after_s=RETRY_AFTER_S,
                )
            case EngineState.FAILED:
                return UnavailableError(
                    f"the engine does not run: {self._client.last_exit}", code="engine_down"
                )
            case EngineState.STOPPED:
                return UnavailableError("the server is stopping", code="draining")

    def _down_s(self) -> float:
        return 0.0 if self._down_since_s is None else self._clock() - self._down_since_s

    @property
    def pressure(self) -> int:
        """Memory pressure of the host: 0, SOFT or HARD; 0 while there is none."""
        return self._client.load.pressure if self._client.load else 0

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus answer; 0 before the first host was ready."""
        return self._client.facts.context_tokens if self._client.facts else 0

    def submit(self, ids: Sequence[int], request: InferenceRequest) -> TokenStream:
        """Start the stream of a request whose prompt is these tokens."""
        self._before_prompt()
        return self._client.submit(
            ids, request.sampling, priority=request.priority, salt=request.salt, session=request.session
        )

    async def score(
        self,
        query: Sequence[int],
        items: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        request: InferenceRequest,
    ) -> Scored:
        """Rate labels as continuations of the query with each item, as EngineClient says."""
        self._before_prompt()
        return await self._client.score(query, items, labels, priority=request.priority, salt=request.salt)

    async def assess(self, ids: Sequence[int], request: InferenceRequest, *, top: int) -> list[TokenLogprob]:
        """Tell how likely each token but the first is, as EngineClient says."""
        self._before_prompt()
        return await self._client.assess(ids, top=top, priority=request.priority, salt=request.salt)

    async def embed(
        self,
        prompts: Sequence[Sequence[int]],
        request: InferenceRequest,
        *,
        pooling: Literal["mean", "last"],
    ) -> list[bytes]:
        """Return a vector for each prompt, as EngineClient says."""
        self._before_prompt()
        return await self._client.embed(prompts, pooling=pooling, priority=request.priority)

    def warm(self, ids: Sequence[int], *, salt: str) -> int | None:
        """Offer tokens to compute in idle steps; None while there is no host to take them."""
        return self._client.warm(ids, salt=salt) if self._client.state is EngineState.READY else None

    def cancel_warm(self, job: int) -> None:
        """Stop a warm job."""
        self._client.cancel_warm(job)


def _short_of_memory() -> UnavailableError:
    return UnavailableError(
        "the engine's memory is above its hard mark (95 % of engine.memory.max_bytes); try again in"
        f" {RETRY_AFTER_S:g} s",
        code="memory",
        retry_after_s=RETRY_AFTER_S,
    )
