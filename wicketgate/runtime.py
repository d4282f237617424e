"""
The composition root: builds every part from the configuration, runs them in one task group, shuts them down.

Only this module knows all the others. What it builds decides nothing by itself; it connects facts to cores
and events to effects.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from governor.admission import Admission
from governor.limit import Limit
from qos.figures import Figures
from qos.policy import Monitor
from qos.window import WindowParams
from rollout.spec import Trouble
from wicketgate import parameters
from wicketgate.condition import Condition, Witnesses, pressure
from wicketgate.config import ConfigurationFaultsError
from wicketgate.config_fields import split_bind
from wicketgate.edges import Edges, Inside
from wicketgate.engine.client import EngineState
from wicketgate.engine.supervisor import wait
from wicketgate.errors import ExitCode, WicketgateError
from wicketgate.flags import FlagBoard
from wicketgate.fleet import Fleet
from wicketgate.ledger import Ledger
from wicketgate.loops import LoopLag, drive, every
from wicketgate.metrics import Metrics, process_registry
from wicketgate.model import Means
from wicketgate.pipeline.dispatch import Dispatcher, Parts
from wicketgate.pipeline.gate import SOFT
from wicketgate.pipeline.queue import WaitQueue
from wicketgate.platform import raise_open_files_limit, sqlite_needs_fullfsync
from wicketgate.recorder import Recorder, Sink
from wicketgate.rollouts import TICK_S, Rollouts
from wicketgate.status import Sources, Status, identify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from governor.limit import LimitChanged
    from wicketgate.api.requests import ModelCard
    from wicketgate.config import RuntimeConfig, Watcher
    from wicketgate.engine.wire import Ready, Step
    from wicketgate.served import ServedModel
    from wicketgate.state_folder import StateFolder

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How often the hosts are looked at."""
EDGES_POLL_S = 1.0
"""How often the files of keys and of the certificate are looked at."""
RELOAD_POLL_S = 0.05
"""How often the configuration file is looked at; a change is taken up at the second look that finds it."""


class Runtime:
    """
    One gateway: everything between its sockets and its engine hosts.

    Args:
        config: What runtime.yaml says.
        state: The open state folder.
        served: The models, the first one being the default.
        watcher: Follows the file that `config` came from; None when there is none.
        on_ready: Called once, when the listeners accept and the models of the start are loaded.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        state: StateFolder,
        served: Sequence[ServedModel],
        watcher: Watcher | None = None,
        on_ready: Callable[[Runtime], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = self._started_with = config
        self._state = state
        self._watcher = watcher
        self._on_ready = on_ready
        self._clock = clock
        self._served = tuple(served)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._was_signalled = False
        self._tasks = asyncio.TaskGroup()
        self._began_unix_s = int(time.time())
        self._build_cores()
        self._build_pipeline()
        self._build_edges()
        self._follow(config)

    def _build_cores(self) -> None:
        config, now_s = self.config, self._clock()
        features = tuple(config.rollout.features)
        self._metrics = Metrics(process_registry(), models=self.models, features=features)
        ledger = Ledger(self._state.ledger, fullfsync=sqlite_needs_fullfsync())
        self._flags = FlagBoard(
            config.rollout,
            ledger,
            on_change=lambda snapshot: log.info("flags_changed", extra={"revision": snapshot.revision}),
            on_unsaved=self._metrics.persist_failures.inc,
        )
        self._rollouts = Rollouts(
            self._flags,
            ledger,
            params=config.phase4_rollout.guard.params(),
            metrics=self._metrics,
            offload=lambda work: asyncio.get_running_loop().run_in_executor(None, work),
            clock=self._clock,
        )
        self._figures = Figures(WindowParams(), now_s=now_s)
        self._monitor = Monitor(config.qos.params(), now_s=now_s)
        sink = Sink(
            figures=self._figures, monitor=self._monitor, metrics=self._metrics, rollouts=self._rollouts
        )
        self._recorder = Recorder(sink, models=self.models, clock=self._clock)
        self._limit = Limit(config.governor.limit_params(), now_s=now_s)
        self._admission = Admission(config.governor.admission_params(), now_s=now_s)
        self._admission.set_limit(self._limit.value)
        self._lag = LoopLag(clock=self._clock)

    def _build_pipeline(self) -> None:
        config = self.config
        means = Means(
            state_dir=self._state.path,
            stepped=self._stepped,
            moved=self._engine_moved,
            spawn=self._tasks.create_task,
            clock=self._clock,
            probe=lambda: parameters.probe_params(self.config),
        )
        self._fleet = Fleet(config, self._served, means=means)
        self._queue = WaitQueue(parameters.queue_params(config))
        parts = Parts(
            assign=self._rollouts.assign,
            admission=self._admission,
            queue=self._queue,
            recorder=self._recorder,
            lanes=self._fleet,
            inline_chars=lambda: self.config.pipeline.text.inline_chars,
            clock=self._clock,
        )
        self._dispatcher = Dispatcher(parts, request_timeout_s=config.server.request_timeout_s)

    def _build_edges(self) -> None:
        config = self.config
        file = None if self._watcher is None else self._watcher.path
        identity = identify(config, state_dir=self._state.path, file=file)
        self._status = Status(self._sources(), identity)
        self._metrics.read(self._status.facts)
        witnesses = Witnesses(
            fleet=self._fleet,
            admission=self._admission,
            monitor=self._monitor,
            recorder=self._recorder,
            status=self._status,
            params=lambda: self.config.health,
            clock=self._clock,
        )
        self._condition = Condition(witnesses)
        inside = Inside(
            state=self._state,
            dispatcher=self._dispatcher,
            fleet=self._fleet,
            cards=self._cards,
            status=self._status,
            condition=self._condition,
            flags=lambda: self._flags.snapshot,
            accepts_h2=self._flags.accepts_h2,
            drain=self._asked_to_drain,
            clock=self._clock,
        )
        self._edges = Edges(config, inside, reloads=self._metrics.edge_reloads)

    def _sources(self) -> Sources:
        return Sources(
            recorder=self._recorder,
            figures=self._figures,
            monitor=self._monitor,
            admission=self._admission,
            limit=self._limit,
            flags=self._flags,
            rollouts=self._rollouts,
            drill=lambda: self._dispatcher.drill.params,
            fleet=self._fleet,
            connections=lambda: self._edges.connections(),  # noqa: PLW0108  made later than this
            edge=lambda: self._edges.counters(),  # noqa: PLW0108
            metrics=self._metrics,
            lag=self._lag,
            clock=self._clock,
        )

    async def run(self) -> ExitCode:
        """
        Serve until a signal or `stop`.

        Returns:
            DONE when every stream in flight could finish, TIMED_OUT when the drain deadline cut some.

        Raises:
            WicketgateError: the model could not be loaded, or an address cannot be listened on.
        """
        raise_open_files_limit()
        loop = asyncio.get_running_loop()
        work = {signal.SIGINT: self.stop, signal.SIGTERM: self.stop, signal.SIGHUP: self._reload}
        for number, act in work.items():
            loop.add_signal_handler(number, act)
        self._flags.start()
        failure: Exception | None = None
        drained = False
        try:
            async with self._tasks:
                timers = self._start_timers()
                await self._listen()
                self._fleet.start()
                ready = self._tasks.create_task(self._announce())
                await self._stopping.wait()
                ready.cancel()
                drained = await self._drain()
                for timer in timers:
                    timer.cancel()
        except* WicketgateError as failures:
            failure = failures.exceptions[0]
        finally:
            await self._edges.close()
            await asyncio.to_thread(self._rollouts.save)
            self._flags.stop()
            self._fleet.close()
        if failure is not None:
            raise failure
        return ExitCode.DONE if drained else ExitCode.TIMED_OUT

    def stop(self) -> None:
        """Drain and end; called again, end at once."""
        # `wicketgate drain` before the first signal, as in a preStop hook, does not count.
        (self._hurry if self._was_signalled else self._stopping).set()
        self._was_signalled = True

    def _asked_to_drain(self, now: bool) -> dict[str, object]:
        self._stopping.set()
        if now:
            self._hurry.set()
        return {**self._unfinished(), "drain_timeout_s": self.config.server.drain_timeout_s}

    def _unfinished(self) -> dict[str, int]:
        return {"in_flight": self._admission.in_flight, "queued": self._admission.queued}

    def _start_timers(self) -> list[asyncio.Task[None]]:
        work = [
            drive(self._dispatcher, lambda event: event, clock=self._clock, wake=self._dispatcher.changed),
            drive(self._fleet.gpu, lambda event: event, clock=self._clock, wake=self._fleet.gpu.changed),
            drive(self._monitor, self._status.judged, clock=self._clock),
            drive(self._limit, self._limit_moved, clock=self._clock),
            every(RELOAD_POLL_S, self._reload),
            every(POLL_S, self._watch_engines),
            every(EDGES_POLL_S, self._edges.poll),
            every(TICK_S, self._judge_rollouts),
            self._lag.run(),
        ]
        return [self._tasks.create_task(each) for each in work]

    async def _listen(self) -> None:
        self.api_url, self.admin_url = await self._edges.start()
        self._status.identity = replace(self._status.identity, api=self.api_url, admin=self.admin_url)
        log.info("listening", extra={"api": self.api_url, "admin": self.admin_url})

    async def _announce(self) -> None:
        await self._fleet.wait_started()
        self._condition.has_started = True
        if self._on_ready is not None:
            self._on_ready(self)

    async def _drain(self) -> bool:
        """Fail readiness, take nothing new, let streams in flight finish, then end the engine hosts."""
        server = self.config.server
        log.info("draining", extra={**self._unfinished(), "delay_s": server.drain_delay_s})
        self._status.draining = True
        await wait(self._hurry, server.drain_delay_s)
        # What a client sent before it could know is served too: the edges refuse the rest, and say so safely.
        drained = await self._edges.drain(timeout_s=server.drain_timeout_s, hurry=self._hurry)
        self._admission.drain()
        await self._fleet.stop()
        return drained

    @property
    def models(self) -> tuple[str, ...]:
        """What clients call the models, the default one first."""
        return tuple(each.name for each in self._served)

    @property
    def engine_facts(self) -> Ready:
        """What the default model's engine host said when it was ready."""
        facts = self._fleet.facts(self.models[0])
        assert facts is not None
        return facts

    @property
    def api_address(self) -> tuple[str, int]:
        """Where clients connect to, as bound."""
        return split_bind(self.config.server.bind)[0], self._edges.api_port

    # Facts in

    def _stepped(self, model: str, step: Step, tokens: int) -> None:
        """Fan one engine step out: to the recorder and the governor."""
        seen = self._recorder.step(
            model, at_s=step.at_s, tokens=tokens, rows=step.load.rows, is_early=step.is_early
        )
        if seen is not None:
            self._limit.observe_load(in_flight=self._admission.in_flight, queued=self._admission.queued)
            self._limit.observe_step(gap_s=seen.gap_s, streams=seen.streams, now_s=self._clock())

    def _engine_moved(self, model: str, state: EngineState, reason: str) -> None:
        log.info("engine_state_changed", extra={"model": model, "state": str(state), "reason": reason})
        if state is EngineState.READY:
            self._recorder.engine_ready(model)
        else:
            self._recorder.engine_lost(model)
        if state in (EngineState.RESTARTING, EngineState.FAILED):
            self._rollouts.trouble(Trouble.INCIDENT)

    def _watch_engines(self) -> None:
        """Ask silent ones for a token; above the soft mark of memory arrivals queue, and the others go on."""
        self._fleet.poll()
        models = self._fleet.views()
        self._condition.poll(models)
        if (is_short := pressure(models) >= SOFT) != self._admission.is_held:
            if is_short:
                log.warning("memory_pressure")
            else:
                log.info("memory_recovered")
            self._admission.hold(is_short)
            self._dispatcher.pump()

    # Events out

    def _limit_moved(self, event: LimitChanged) -> None:
        self._admission.set_limit(event.limit)
        self._dispatcher.pump()
        log.debug("limit_changed", extra={"limit": event.limit, "reason": str(event.reason)})

    def _judge_rollouts(self) -> None:
        deadline_s = self.config.phase4_rollout.guard.first_token_deadline_s
        self._recorder.check_first_tokens(deadline_s=deadline_s)
        for trouble in self._status.troubles():
            self._rollouts.trouble(trouble)
        self._rollouts.tick()

    # Configuration

    def _reload(self) -> None:
        """Take the configuration's hot keys when its file has changed; a bad file changes nothing."""
        match self._watcher.poll() if self._watcher is not None else None:
            case None:
                return
            case ConfigurationFaultsError() as error:
                self._status.config_error = error.message
                self._metrics.reloads.labels("refused").inc()
                log.error("configuration_refused", extra={"faults": error.message})
            case config:
                hot, _ = self.config.changed(config)
                _, restart = self._started_with.changed(config)
                self._status.config_error = None
                self._metrics.reloads.labels("applied").inc()
                log.info("configuration_applied", extra={"changed": hot, "needs_restart": restart})
                self._follow(config)

    def _follow(self, config: RuntimeConfig) -> None:
        """Put the hot keys in force; the others stay as they were at the start."""
        self.config = config
        self._edges.reconfigure(config)
        self._flags.replace_spec(config.rollout)
        self._rollouts.reconfigure(config.phase4_rollout.guard.params())
        self._limit.reconfigure(config.governor.limit_params())
        self._admission.set_limit(self._limit.value)
        self._admission.reconfigure(config.governor.admission_params())
        self._queue.replace_params(parameters.queue_params(config))
        self._fleet.reconfigure(config)
        drill = parameters.drill_params(config)
        self._dispatcher.reconfigured(request_timeout_s=config.server.request_timeout_s, drill=drill)
        self._recorder.itl_sample_rate = config.phase4_rollout.qos_monitoring.sample_rate
        self._recorder.log_requests = config.logs.requests
        logging.getLogger().setLevel(config.logs.level.upper())

    # What the API asks

    def _cards(self) -> list[ModelCard]:
        return self._fleet.cards(created_unix_s=self._began_unix_s)
