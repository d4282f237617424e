"""Asks an engine for one token when it has been silent: the shell around probe.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from wicketgate.engine.supervisor import EngineState
from wicketgate.inference import Sampling
from wicketgate.pipeline.probe import EngineProbe, ProbeEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.wire import Load, Step
    from wicketgate.pipeline.probe import ProbeParams, Pulse

PROMPT: Final = (0,)
"""Every vocabulary has a first token, and what follows it is of no interest."""
SAMPLING: Final = Sampling(max_tokens=1, seed=0, temperature=0.0, ignore_eos=True)
SALT: Final = "probe"
"""Its KV is shared with nobody's."""


class Probed(Protocol):
    """What is asked of a stream."""

    @property
    def id(self) -> int:
        """The engine's number of it."""

    def cancel(self) -> None:
        """Stop it; idempotent."""


class ProbedEngine(Protocol):
    """What is asked of an engine; EngineClient is one."""

    load: Load | None
    """Another one after each step and each beat."""

    @property
    def state(self) -> EngineState:
        """Where its host stands."""

    def submit(
        self, ids: Sequence[int], sampling: Sampling, *, priority: int = 0, salt: str = "", session: str = ""
    ) -> Probed:
        """Start a stream."""


class Prober:
    """
    Watches one engine, from its loading to its unloading; `poll` is called several times a second.

    Args:
        engine: Whom to ask.
        params: What the configuration says now.
        clock: Monotonic seconds.
    """

    def __init__(
        self, engine: ProbedEngine, params: Callable[[], ProbeParams], *, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._params = params
        self._clock = clock
        self._core = EngineProbe(params(), now_s=clock())
        self._load: Load | None = None
        self._asked: Probed | None = None

    def stepped(self, step: Step) -> int:
        """Take note of an engine step; returns how many of its tokens are of requests."""
        own = None if self._asked is None else self._asked.id
        tokens = sum(1 for token in step.tokens if token.id != own)
        now_s = self._clock()
        if step.tokens:
            self._core.token(now_s=now_s)
        if own is not None and any(done.id == own for done in step.done):
            self._asked = None
            self._core.failed(now_s=now_s)  # means nothing once its token has come
        return tokens

    def poll(self) -> None:
        """Look at the engine, and do what is due."""
        now_s = self._clock()
        self._core.reconfigure(self._params())
        is_up = self._engine.state is EngineState.READY
        if not is_up:
            self._take_back()
        self._core.up(is_up, now_s=now_s)
        load = self._engine.load
        if load is not None and load is not self._load:
            self._core.beat(now_s=now_s)
        self._load = load
        for event in self._core.advance(now_s=now_s):
            match event:
                case ProbeEvent.ASK:
                    self._take_back()  # another's token was the answer
                    self._asked = self._engine.submit(PROMPT, SAMPLING, salt=SALT)
                case ProbeEvent.GIVE_UP:
                    self._take_back()

    def pulse(self) -> Pulse:
        """Tell what is known of the engine."""
        return self._core.pulse(now_s=self._clock())

    def _take_back(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None
