"""
The models of one gateway: a lane for each that is loaded, and one engine host behind each lane.

A model is loaded at the start, by `load`, or by the first request that names it, which waits for it. What
must go for that `residency` decides. An unload takes nothing new into the lane, waits for those that are in
it, and ends that host; the other models' hosts and streams are not touched.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Literal

from wicketgate import parameters, residency
from wicketgate.errors import NotFoundError, OverloadedError, RefusedError, UnavailableError, WicketgateError
from wicketgate.model import Model, ModelState, ModelView, News
from wicketgate.pipeline.gate import RETRY_AFTER_S
from wicketgate.pipeline.pins import pinned_prefixes
from wicketgate.pipeline.text import TextModel
from wicketgate.shared_gpu import SharedGpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.api.requests import ModelCard
    from wicketgate.config import RuntimeConfig
    from wicketgate.engine.wire import CacheReport, Ready
    from wicketgate.model import Means
    from wicketgate.pipeline.lane import Lane
    from wicketgate.served import ServedModel

log = logging.getLogger(__name__)

LONGEST_START_S: Final = 86_400.0
"""An engine client gives up on hosts that cannot start by itself, and earlier."""
CACHE_ANSWER_S: Final = 5.0
"""How long a host may take to tell what its prefix store holds."""


class Fleet:
    """
    All configured models.

    Args:
        config: What runtime.yaml says.
        served: The models, the first one being the default.
        means: What lanes are made with.
    """

    def __init__(self, config: RuntimeConfig, served: Sequence[ServedModel], *, means: Means) -> None:
        self._config = config
        self._means = means
        self._clock = means.clock
        self._chunk_target_s = config.engine.chunk_target_s
        self.gpu = SharedGpu(clock=means.clock, chunk_target_s=lambda: self._chunk_target_s)
        """The turn to compute prompts, where hosts share a GPU."""
        self._news = News()
        self._stopping = False
        self._starts: list[asyncio.Task[WicketgateError | None]] = []
        self._models = {
            each.name: Model(
                served=each,
                text=TextModel.load(each.folder),
                used_s=self._clock(),
                is_starting=each.loads_at_start,
            )
            for each in served
        }

    # What the pipeline asks

    async def enter(self, model: str) -> Lane:
        """
        Hold the lane of a model, which is loaded first where it is not.

        Raises:
            NotFoundError: no such model.
            UnavailableError: it cannot be loaded, or not now.
            OverloadedError: too many wait for models to be loaded.
        """
        found = self._find(model)
        lane = found.lane
        while lane is None:
            await self._wait_for(found)
            lane = found.lane
        lane.holders += 1
        found.used_s = self._clock()
        return lane

    def leave(self, lane: Lane) -> None:
        """Give up the hold; once for each `enter`."""
        lane.holders -= 1
        self._models[lane.model].used_s = self._clock()
        if lane.holders == 0:
            self._news.tell()

    async def _wait_for(self, model: Model) -> None:
        """Wait until a model is loaded, and begin to load it where nobody has."""
        name, limit_s = model.name, self._config.engine.start_timeout_s
        self._require_loadable(model)
        model.waiting += 1
        try:
            async with asyncio.timeout(limit_s):
                task = self._begin_load(model, may_wait=True)
                await asyncio.wait({task})
        except TimeoutError:
            raise UnavailableError(
                f"the model {name} was not loaded within {limit_s:g} s (engine.start_timeout_s)",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        finally:
            model.waiting -= 1
            self._news.tell()
        error = _outcome(task)
        if error is not None:
            raise error

    def _require_running(self) -> None:
        if self._stopping:
            raise UnavailableError("the server is stopping", code="draining")

    def _require_loadable(self, model: Model) -> None:
        self._require_running()
        if model.is_starting:
            raise UnavailableError(
                f"the model is being loaded; try again in {RETRY_AFTER_S:g} s", retry_after_s=RETRY_AFTER_S
            )
        if model.state is ModelState.FAILED and model.engine is not None:
            raise UnavailableError(f"the engine does not run: {model.engine.last_exit}", code="engine_down")
        if sum(each.waiting for each in self._models.values()) >= self._config.governor.queue.max_requests:
            raise OverloadedError(
                f"too many requests wait for models to be loaded; try again in {RETRY_AFTER_S:g} s",
                retry_after_s=RETRY_AFTER_S,
            )

    # What operators ask

    def views(self) -> list[ModelView]:
        """Tell what is true of every model, in the order of the configuration."""
        now_s = self._clock()
        return [model.view(now_s=now_s) for model in self._models.values()]

    def load(self, name: str) -> ModelView:
        """
        Begin to load a model; one that failed is tried again, one that is being unloaded once it is.

        Raises:
            NotFoundError: no such model.
            RefusedError: it does not fit beside those that are pinned or in use.
            UnavailableError: everything is being ended.
        """
        self._require_running()
        model = self._find(name)
        if model.state in (ModelState.UNLOADED, ModelState.FAILED, ModelState.UNLOADING):
            verdict = self._room_for(model)
            if isinstance(verdict, residency.NoRoom):
                raise RefusedError(f"{name} does not fit now: {verdict}")
            self._begin_load(model, may_wait=False)
        return model.view(now_s=self._clock())

    def unload(self, name: str) -> ModelView:
        """
        Begin to unload a model: nothing new, what is in flight ends by itself or at the drain deadline.

        Raises:
            NotFoundError: no such model.
        """
        model = self._find(name)
        if model.unloading is not None:
            model.give_up_loading()  # asked for since
        elif model.state is not ModelState.UNLOADED:
            self._begin_unload(model)
        return model.view(now_s=self._clock())

    async def cache(
        self, name: str | None, *, clear: Literal["", "memory", "disk", "all"] = ""
    ) -> dict[str, CacheReport]:
        """
        Ask loaded hosts what their prefix stores hold, and clear them first where asked.

        Args:
            name: Which model; None is all that are loaded.
            clear: memory, disk, all, or nothing.

        Raises:
            NotFoundError: no such model.
            RefusedError: it is not loaded.
            UnavailableError: a host did not answer.
        """
        wanted = list(self._models.values()) if name is None else [self._find(name)]
        engines = {each.name: each.engine for each in wanted if each.state is ModelState.READY}
        if name is not None and name not in engines:
            raise RefusedError(f"{name} is {wanted[0].state}; its cache can be looked at once it is ready")
        reports = {}
        for each, engine in engines.items():
            assert engine is not None
            reports[each] = await engine.cache(clear, timeout_s=CACHE_ANSWER_S)
        return reports

    def tune(self, *, chunk_target_s: float | None = None, warm_allowed: bool | None = None) -> None:
        """Change in all hosts what may move while they run; None leaves a value as it is."""
        self._chunk_target_s = chunk_target_s or self._chunk_target_s
        for model in self._models.values():
            if (engine := model.engine) is not None:
                engine.tune(chunk_target_s=self.gpu.chunk_target_s(engine), warm_allowed=warm_allowed)

    # What the runtime asks

    def cards(self, *, created_unix_s: int) -> list[ModelCard]:
        """Tell the APIs what may be asked for: all models, loaded or not."""
        return [model.card(self._config, created_unix_s=created_unix_s) for model in self._models.values()]

    def facts(self, name: str) -> Ready | None:
        """Return what a model's host said when it was ready; None before one was."""
        return self._models[name].facts

    @property
    def can_serve(self) -> bool:
        """Whether some model is ready, or none is about to be again and a request would load one."""
        up = {each.state for each in self._models.values() if not each.is_down}
        down = {each.state for each in self._models.values() if each.is_down}
        return bool(up - {ModelState.UNLOADED}) or (bool(up) and down <= {ModelState.FAILED})

    def text(self, name: str) -> TextModel:
        """Return what a model's folder says about text, as `enter` finds it."""
        return self._find(name).text

    def poll(self) -> None:
        """Look whether the engines compute; call it several times a second."""
        for prober in (model.prober for model in self._models.values() if model.prober is not None):
            prober.poll()

    def start(self) -> None:
        """Begin to load the models that are loaded with the server."""
        starting = [model for model in self._models.values() if model.is_starting]
        self._starts = [self._begin_load(model, may_wait=False) for model in starting]

    async def wait_started(self) -> None:
        """
        Wait until the models that are loaded with the server are ready, but for those unloaded meanwhile.

        Raises:
            UnavailableError: one cannot be.
        """
        for task in self._starts:
            await asyncio.wait({task})
            error = None if task.cancelled() else task.result()
            if error is not None:
                raise error

    def reconfigure(self, config: RuntimeConfig) -> None:
        """Put the hot keys of a configuration in force; later hosts start as the first ones did."""
        engine = self._config.engine
        moved = config.engine.chunk_target_s != engine.chunk_target_s
        hot = {
            "engine": engine.model_copy(update={"chunk_target_s": config.engine.chunk_target_s}),
            "governor": config.governor,
            "pipeline": config.pipeline,
            "server": config.server,
        }
        self._config = self._config.model_copy(update=hot)
        for model in self._models.values():
            if model.lane is not None:
                model.lane.warmer.params = parameters.warm_params(config)
        if moved:
            self.tune(chunk_target_s=config.engine.chunk_target_s)

    async def stop(self) -> None:
        """End every host; streams that still run end as unavailable."""
        self._stopping = True
        for model in self._models.values():
            if model.loading is not None:
                model.loading.cancel()
        engines = [model.engine for model in self._models.values() if model.engine is not None]
        await asyncio.gather(*(engine.stop() for engine in engines))

    def close(self) -> None:
        """End the worker threads of the texts."""
        for model in self._models.values():
            model.text.close()

    # Loading

    def _begin_load(self, model: Model, *, may_wait: bool) -> asyncio.Task[WicketgateError | None]:
        if model.loading is None:
            model.lane = None  # of a host that was given up
            model.loading = self._means.spawn(self._load(model, may_wait=may_wait))
        return model.loading

    async def _load(self, model: Model, *, may_wait: bool) -> WicketgateError | None:
        """Load a model; returns what went wrong, because in a task of the runtime an error ends it all."""
        name = model.name
        began_s = self._clock()
        try:
            while model.unloading is not None:
                await asyncio.wait({model.unloading})
            await model.close()
            pins = await pinned_prefixes(model.text, self._config.engine.pinned_prompts)
            await self._make_room(model, may_wait=may_wait)
            engine, lane = model.open(self._config, pins, means=self._means, gpu=self.gpu)
            engine.tune(chunk_target_s=self._chunk_target_s)
            self._means.spawn(engine.run())
            model.facts = await engine.wait_ready(LONGEST_START_S)
        except WicketgateError as error:
            log.warning("model_not_loaded", extra={"model": name, "reason": error.message})
            return error
        finally:
            if model.loading is asyncio.current_task():
                model.loading = None
            model.is_starting = False
            self._news.tell()
        model.lane = lane
        model.used_s = self._clock()
        log.info("model_loaded", extra={"model": name, "load_s": round(model.used_s - began_s, 3)})
        return None

    def _room_for(self, model: Model) -> residency.Room | residency.NoRoom:
        residents = [
            residency.Resident(
                name=each.name,
                weights_bytes=each.served.weights_bytes,
                is_pinned=each.served.is_pinned and each.unloading is None,
                is_busy=(each.in_use > 0 or each.loading is not None) and each.unloading is None,
                used_s=each.used_s,
            )
            for each in self._models.values()
            if each.is_resident and each is not model
        ]
        return residency.make_room(
            residents,
            wanted_bytes=model.served.weights_bytes,
            max_bytes=self._config.engine.models_max_bytes,
        )

    async def _make_room(self, model: Model, *, may_wait: bool) -> None:
        """Unload what must go; `may_wait` is for models in use to become idle, until the waiters give up."""
        while True:
            match self._room_for(model):
                case residency.Room(unload=()):
                    return
                case residency.Room(unload=names):
                    await asyncio.wait({self._begin_unload(self._models[name]) for name in names})
                case residency.NoRoom() as verdict:
                    if not (may_wait and verdict.may_wait and model.waiting):
                        raise UnavailableError(
                            f"the model {model.name} does not fit now: {verdict}",
                            code="memory",
                            retry_after_s=RETRY_AFTER_S,
                        )
                    await self._news.wait()

    # Unloading

    def _begin_unload(self, model: Model) -> asyncio.Task[None]:
        if model.unloading is None:
            lane, model.lane = model.lane, None
            model.unloading = self._means.spawn(self._unload(model, lane, model.give_up_loading()))
        return model.unloading

    async def _unload(
        self, model: Model, lane: Lane | None, loading: asyncio.Task[WicketgateError | None] | None
    ) -> None:
        began_s = self._clock()
        try:
            if loading is not None:
                await asyncio.wait({loading})
            if lane is not None:
                await self._drain(lane)
            await model.close()
        finally:
            model.unloading = None
            self._news.tell()
        log.info("model_unloaded", extra={"model": model.name, "took_s": round(self._clock() - began_s, 3)})

    async def _drain(self, lane: Lane) -> None:
        try:
            async with asyncio.timeout(self._config.server.drain_timeout_s):
                while lane.holders:
                    await self._news.wait()
        except TimeoutError:
            log.warning("model_drain_cut", extra={"model": lane.model, "in_flight": lane.holders})

    def _find(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            raise NotFoundError(
                f"no model {name[:80]!r} is configured; GET /v1/models lists those that are",
                param="model",
                code="model_not_found",
            )
        return model


def _outcome(task: asyncio.Task[WicketgateError | None]) -> WicketgateError | None:
    if task.cancelled():
        return UnavailableError(
            f"the model is being unloaded; try again in {RETRY_AFTER_S:g} s", retry_after_s=RETRY_AFTER_S
        )
    return task.result()
