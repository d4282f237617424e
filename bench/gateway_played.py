"""A gateway without an engine host and without listeners, and a client of it, for gateway_cost.py."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any, Final, cast

from prometheus_client import CollectorRegistry
from starlette.routing import Router

from bench.h2_streams import Streams
from bench.prompts import MODEL
from bench.rollout_cost import NAMES, rollouts
from governor.admission import Admission, AdmissionParams
from governor.limit import Limit
from qos.figures import Figures
from qos.policy import Monitor
from qos.window import WindowParams
from wicketgate.api.backend import Backend
from wicketgate.api.endpoint import ApiSettings, Edge, new_id
from wicketgate.api.generation import Generation
from wicketgate.api.openai.routes import chat_routes
from wicketgate.api.requests import ModelCard
from wicketgate.config_schema import RuntimeConfig
from wicketgate.engine.in_flight import InFlight
from wicketgate.engine.line import HostLine
from wicketgate.engine.stream import Service
from wicketgate.engine.wire import Step, Submit
from wicketgate.metrics import Metrics
from wicketgate.pipeline.dispatch import Dispatcher, Parts
from wicketgate.pipeline.lane import Lane
from wicketgate.pipeline.queue import QueueParams, WaitQueue
from wicketgate.pipeline.text import TextModel
from wicketgate.pipeline.warm import Warmer, WarmParams
from wicketgate.recorder import Recorder, Sink

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wicketgate.engine.stream import TokenStream
    from wicketgate.engine.wire import FromHost, ToHost
    from wicketgate.inference import InferenceRequest

CONTEXT_TOKENS: Final = 100_000
"""More than any answer has."""
_PLACES: Final = 512


class PlayedEngine:
    """The gateway's end of an engine: everything but the host and its supervision."""

    context_tokens = CONTEXT_TOKENS

    def __init__(self, on_step: Callable[[Step], None]) -> None:
        self._on_step = on_step
        self.submitted: list[int] = []
        self.in_flight = InFlight(self._sent, refusal=lambda: None)
        self.in_flight.host_ready()
        self.line = HostLine(self._said)
        self._ids = itertools.count(1)

    def unavailable(self) -> None:
        """Say that everything can be started."""

    def submit(self, ids: Sequence[int], request: InferenceRequest) -> TokenStream:
        """Start a stream."""
        return self.in_flight.submit(next(self._ids), ids, request.sampling, Service())

    def warm(self, ids: Sequence[int], *, salt: str) -> None:
        """Take no warm job."""

    def cancel_warm(self, job: int) -> None:
        """Know of none."""

    def _sent(self, message: ToHost) -> None:
        if isinstance(message, Submit):
            self.submitted.append(message.id)

    def _said(self, _: HostLine, message: FromHost) -> None:
        if isinstance(message, Step):
            self.in_flight.take(message)
            self._on_step(message)


class Lanes:
    """The one lane, always open."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    async def enter(self, model: str) -> Lane:  # noqa: ARG002  the pipeline's signature
        """Return it."""
        return self.lane

    def leave(self, lane: Lane) -> None:
        """Do nothing."""


class Gateway:
    """The parts of a gateway between an engine host's frames and a client's socket."""

    def __init__(self, folder: Path) -> None:
        config, clock = RuntimeConfig(), time.monotonic
        self.text = TextModel.load(MODEL)
        metrics = Metrics(CollectorRegistry(), models=("demo",), features=NAMES)
        sink = Sink(
            figures=Figures(WindowParams(), now_s=clock()),
            monitor=Monitor(config.qos.params(), now_s=clock()),
            metrics=metrics,
            rollouts=rollouts(folder, {}),
        )
        self.recorder = Recorder(sink, clock=clock)
        self.limit = Limit(config.governor.limit_params(), now_s=clock())
        self._admission = Admission(AdmissionParams(fixed_limit=_PLACES), now_s=clock())
        self._admission.set_limit(_PLACES)
        self.engine = PlayedEngine(self.stepped)
        engine = cast("Any", self.engine)
        warmer = Warmer(WarmParams(), text=self.text, engine=engine, spawn=asyncio.create_task)
        parts = Parts(
            assign=sink.rollouts.assign,
            admission=self._admission,
            queue=WaitQueue(QueueParams()),
            recorder=self.recorder,
            lanes=Lanes(Lane(model="demo", text=self.text, engine=engine, warmer=warmer)),
            inline_chars=lambda: 2000,
            clock=clock,
        )
        dispatcher = Dispatcher(parts, request_timeout_s=600.0)
        card = ModelCard(
            id="demo",
            created_unix_s=0,
            context_tokens=CONTEXT_TOKENS,
            vocabulary_tokens=self.text.vocabulary_tokens,
            token_bytes=self.text.token_bytes,
        )
        settings = ApiSettings()
        backend = Backend(
            edge=Edge(settings=lambda: settings, new_id=new_id),
            generation=Generation(dispatcher, settings=lambda: settings),
            jobs=cast("Any", None),
            models=lambda: [card],
            clock=clock,
            unix_clock=time.time,
        )
        self.app = Router(chat_routes(backend))

    def stepped(self, step: Step) -> None:
        """Do what the runtime does with each step."""
        seen = self.recorder.step("demo", at_s=step.at_s, tokens=len(step.tokens), rows=step.load.rows)
        if seen is not None:
            self.limit.observe_load(in_flight=self._admission.in_flight, queued=self._admission.queued)
            self.limit.observe_step(gap_s=seen.gap_s, streams=seen.streams, now_s=time.monotonic())


class Client:
    """Reads all that comes, when it is told to."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._streams = Streams("bench")
        self.received_bytes = 0

    def ask(self, streams: int, body: bytes) -> None:
        """Ask for so many streams."""
        for _ in range(streams):
            self._streams.post("/v1/chat/completions", body)
        self.exchange()

    def exchange(self) -> None:
        """Read what is there, and answer it."""
        while True:
            try:
                data = self._end.recv(1 << 20)
            except BlockingIOError:
                break
            self.received_bytes += len(data)
            self._streams.receive(data, now_s=time.monotonic())
        self._streams.release()
        self._end.send(self._streams.out)
        self._streams.out.clear()
