"""One configured model: where it stands, and the lane that leads to its engine host while it is loaded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from wicketgate import parameters
from wicketgate.api.requests import ModelCard
from wicketgate.engine.client import EngineClient, EngineState
from wicketgate.pipeline.gate import GatedEngine
from wicketgate.pipeline.lane import Lane
from wicketgate.pipeline.probe import ProbeParams
from wicketgate.pipeline.prober import Prober
from wicketgate.pipeline.warm import Warmer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from wicketgate.config import RuntimeConfig
    from wicketgate.engine.client import EngineParams
    from wicketgate.engine.wire import Load, Ready, Step
    from wicketgate.errors import WicketgateError
    from wicketgate.pipeline.probe import Pulse
    from wicketgate.pipeline.text import TextModel
    from wicketgate.served import ServedModel
    from wicketgate.shared_gpu import SharedGpu


class ModelState(StrEnum):
    """Where a model stands."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    UNLOADING = "unloading"
    FAILED = "failed"


UNKNOWN_CONTEXT_TOKENS: Final = 1 << 20
"""Let through for a model whose files name no context, until its host has told it."""
_OF_ENGINE: Final = {
    EngineState.STARTING: ModelState.LOADING,
    EngineState.READY: ModelState.READY,
    EngineState.RESTARTING: ModelState.RESTARTING,
    EngineState.FAILED: ModelState.FAILED,
    EngineState.STOPPED: ModelState.UNLOADED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """What is true of a model at one moment."""

    name: str
    state: ModelState
    is_down: bool
    """It should serve and does not: its host is being replaced, was given up, or starts with the gateway."""
    is_pinned: bool
    loads_at_start: bool
    weights_bytes: int
    context_tokens: int
    """As its host said; 0 before one was ready."""
    pid: int | None
    restarts: int
    last_exit: str
    """Why its last host ended, in words; empty while none has."""
    safe_mode: str
    """Why its host runs in safe mode; empty when it does not."""
    in_use: int
    """Requests that go through it or wait for it to be loaded."""
    idle_s: float
    """Since a request last began or ended with it."""
    load: Load | None
    """What its host reported last; None while there is none."""
    pulse: Pulse | None
    """Whether its engine computes; None while it is not loaded."""


class MakeEngine(Protocol):
    """How an engine client is made; EngineClient itself is one."""

    def __call__(
        self,
        params: EngineParams,
        *,
        on_step: Callable[[Step], None],
        on_state: Callable[[EngineState, str], None],
        clock: Callable[[], float],
    ) -> EngineClient:
        """Make one that does not run yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What lanes are made with."""

    state_dir: Path
    """Of the runtime; KV on disk is kept under it, where nothing else says."""
    stepped: Callable[[str, Step, int], None]
    """Hears the model's name, a step of its host, and how many of the step's tokens are of requests."""
    moved: Callable[[str, EngineState, str], None]
    """Hears when a host's state has changed, and why."""
    spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    """Starts a task in the runtime's task group."""
    clock: Callable[[], float]
    probe: Callable[[], ProbeParams] = ProbeParams
    """When engines are asked for a token, by the configuration of now."""
    make_engine: MakeEngine = EngineClient


@dataclass(slots=True)
class News:
    """Wakes everybody who waits for a change of the models, once for each change."""

    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake those who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()


@dataclass(slots=True, kw_only=True, eq=False)
class Model:
    """One configured model, loaded or not; the fleet moves it."""

    served: ServedModel
    text: TextModel
    used_s: float
    """When a request last began or ended with it, monotonic."""
    engine: EngineClient | None = None
    prober: Prober | None = None
    """Watches the engine; made and left with it."""
    lane: Lane | None = None
    """Where requests go; None while there is no host that was ready once."""
    facts: Ready | None = None
    """Of the host that runs, or ran last."""
    loading: asyncio.Task[WicketgateError | None] | None = None
    unloading: asyncio.Task[None] | None = None
    is_starting: bool = False
    """Loaded because the gateway starts: until it is, requests are refused and do not wait."""
    waiting: int = 0
    """Requests that wait for it to be loaded."""
    past_restarts: int = 0
    """Of its hosts before this loading."""

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.served.name

    @property
    def is_resident(self) -> bool:
        """Whether its weights are in memory, or about to be."""
        return self.engine is not None and self.engine.state not in (EngineState.FAILED, EngineState.STOPPED)

    @property
    def is_down(self) -> bool:
        """Whether it should serve and does not."""
        return self.is_starting or self.state in (ModelState.RESTARTING, ModelState.FAILED)

    @property
    def in_use(self) -> int:
        """Requests that go through it or wait for it to be loaded."""
        return self.waiting + (self.lane.holders if self.lane else 0)

    @property
    def state(self) -> ModelState:
        """Where it stands."""
        if self.unloading is not None:
            return ModelState.UNLOADING
        if self.loading is not None:
            return ModelState.LOADING
        return ModelState.UNLOADED if self.engine is None else _OF_ENGINE[self.engine.state]

    def view(self, *, now_s: float) -> ModelView:
        """Tell what is true of it now."""
        engine, served = self.engine, self.served
        return ModelView(
            name=served.name,
            state=self.state,
            is_down=self.is_down,
            is_pinned=served.is_pinned,
            loads_at_start=served.loads_at_start,
            weights_bytes=served.weights_bytes,
            context_tokens=self.facts.context_tokens if self.facts else 0,
            pid=engine.pid if engine else None,
            restarts=self.past_restarts + (engine.restarts if engine else 0),
            last_exit=engine.last_exit if engine else "",
            safe_mode=engine.safe_mode if engine else "",
            in_use=self.in_use,
            idle_s=now_s - self.used_s,
            load=engine.load if engine else None,
            pulse=self.prober.pulse() if self.prober else None,
        )

    def open(
        self, config: RuntimeConfig, pins: list[list[int]], *, means: Means, gpu: SharedGpu
    ) -> tuple[EngineClient, Lane]:
        """Make the engine client and the lane of a new loading; the client is still to be run."""
        params = parameters.engine_params(
            config,
            self.served,
            state_dir=means.state_dir,
            vocabulary_size=self.text.vocabulary_tokens,
            pins=pins,
        )

        def moved(state: EngineState, reason: str) -> None:
            gate.note(state)
            if state is not EngineState.READY:
                warmer.engine_lost()
            gpu.moved(engine, state)
            means.moved(self.name, state, reason)

        def stepped(step: Step) -> None:
            if step.kept or step.evicted or step.warmed:
                warmer.news(kept=step.kept, evicted=step.evicted, warmed=step.warmed)
            gpu.stepped(engine, step)
            means.stepped(self.name, step, prober.stepped(step))

        engine = means.make_engine(params, on_step=stepped, on_state=moved, clock=means.clock)
        gate = GatedEngine(engine, clock=means.clock, before_prompt=lambda: gpu.asks(engine))
        prober = Prober(engine, means.probe, clock=means.clock)
        warmer = Warmer(parameters.warm_params(config), text=self.text, engine=gate, spawn=means.spawn)
        self.engine, self.prober = engine, prober
        return engine, Lane(model=self.name, text=self.text, engine=gate, warmer=warmer)

    def card(self, config: RuntimeConfig, *, created_unix_s: int) -> ModelCard:
        """Tell the APIs what may be asked of it; before its host has told its context, what the files say."""
        bounds = (config.engine.context_tokens, self.text.context_tokens)
        expected = min((each for each in bounds if each is not None), default=UNKNOWN_CONTEXT_TOKENS)
        return ModelCard(
            id=self.name,
            created_unix_s=created_unix_s,
            context_tokens=self.facts.context_tokens if self.facts else expected,
            vocabulary_tokens=self.text.vocabulary_tokens,
            token_bytes=self.text.token_bytes,
            tool_format=self.text.tool_format,
            call_marks_are_tokens=self.text.call_marks_are_tokens,
            thinks=self.text.thinks,
            can_stop_thinking=self.text.can_stop_thinking,
            fingerprint=self.served.fingerprint,
        )

    def give_up_loading(self) -> asyncio.Task[WicketgateError | None] | None:
        """Cancel the loading, whose waiters are told, and return it."""
        loading, self.loading = self.loading, None
        self.is_starting = False
        if loading is not None:
            loading.cancel()
        return loading

    async def close(self) -> None:
        """End the engine host; streams that still run end as unavailable."""
        engine = self.engine
        if engine is not None:
            await engine.stop()
            self.past_restarts += engine.restarts
            self.engine = self.prober = None
