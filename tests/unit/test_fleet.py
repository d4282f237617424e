"""Models that come and go: by the first request, by the operator, to make room; streams of others stay."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.fakes import Clock
from wicketgate import demo
from wicketgate.config import RuntimeConfig
from wicketgate.config_keys import keys_of
from wicketgate.engine.client import EngineState
from wicketgate.errors import NotFoundError, OverloadedError, RefusedError, UnavailableError
from wicketgate.fleet import Fleet
from wicketgate.model import Means, ModelState
from wicketgate.served import ServedModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from wicketgate.engine.client import EngineParams

pytestmark = pytest.mark.anyio

FOLDER = Path(demo.__path__[0]) / "model"


class FakeHost:
    """An engine client whose host comes up when the test says so."""

    def __init__(self, params: EngineParams, *, on_step: object, on_state: Callable[..., None], **_: object):
        self.params = params
        self.on_step = on_step
        self._on_state = on_state
        self.state = EngineState.STARTING
        self.facts: SimpleNamespace | None = None
        self.load: SimpleNamespace | None = None
        self.pid: int | None = None
        self.restarts = 0
        self.last_exit = ""
        self.safe_mode = ""
        self.tuned: list[dict[str, object]] = []
        self.cleared: list[str] = []
        self._settled = asyncio.Event()
        self._over = asyncio.Event()

    async def run(self) -> None:
        await self._over.wait()

    def come_up(self) -> None:
        self.pid, self.facts = 7, SimpleNamespace(context_tokens=64, device="cpu")
        self.load = SimpleNamespace(pressure=0)
        self.move(EngineState.READY)

    def move(self, state: EngineState, why: str = "") -> None:
        self.state, self.last_exit = state, why
        self._settled.set()
        self._on_state(state, why)

    async def wait_ready(self, _: float) -> SimpleNamespace:
        await self._settled.wait()
        if self.facts is None or self.state is not EngineState.READY:
            raise UnavailableError(f"the engine does not run: {self.last_exit}", code="engine_down")
        return self.facts

    async def stop(self) -> None:
        self.move(EngineState.STOPPED)
        self._over.set()

    def tune(self, **changes: object) -> None:
        self.tuned.append(changes)

    async def cache(self, clear: str, *, timeout_s: float) -> str:
        self.cleared.append(clear)
        return f"report of {self.params.options.model}"


@dataclass
class Yard:
    """A fleet, and the hosts that it has started, oldest first."""

    fleet: Fleet
    clock: Clock
    hosts: list[FakeHost] = field(default_factory=list)
    moves: list[tuple[str, EngineState]] = field(default_factory=list)

    def state(self, name: str) -> ModelState:
        return next(view.state for view in self.fleet.views() if view.name == name)

    async def loaded(self, *names: str) -> None:
        """Load models, one after the other."""
        for name in names:
            self.clock.advance(1.0)
            self.fleet.load(name)
            await settle()
            self.hosts[-1].come_up()
            await settle()


@asynccontextmanager
async def yard(*models: ServedModel, max_bytes: int | None = None, **engine: object) -> AsyncIterator[Yard]:
    config = RuntimeConfig.model_validate({"governor": {"queue": {"max_requests": 2}}})
    engine["models_max_bytes"] = max_bytes
    config = config.model_copy(update={"engine": config.engine.model_copy(update=engine)})
    clock = Clock()
    hosts: list[FakeHost] = []
    moves: list[tuple[str, EngineState]] = []

    def make(params: EngineParams, **more: object) -> FakeHost:
        hosts.append(FakeHost(params, **more))
        return hosts[-1]

    async with asyncio.TaskGroup() as tasks:
        means = Means(
            state_dir=Path("state"),
            stepped=lambda *_: None,
            moved=lambda name, state, _: moves.append((name, state)),
            spawn=tasks.create_task,
            clock=clock,
            make_engine=make,
        )
        fleet = Fleet(config, models, means=means)
        try:
            yield Yard(fleet, clock, hosts, moves)
        finally:
            await fleet.stop()
            fleet.close()


def model(name: str, mib: int = 10, *, pinned: bool = False, at_start: bool = False) -> ServedModel:
    return ServedModel(
        name=name, folder=FOLDER, weights_bytes=mib << 20, is_pinned=pinned, loads_at_start=at_start
    )


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_model_of_the_start_refuses_requests_until_it_is_ready() -> None:
    async with yard(model("a", at_start=True)) as it:
        with pytest.raises(UnavailableError) as before:
            await it.fleet.enter("a")
        it.fleet.start()
        await settle()
        with pytest.raises(UnavailableError) as meanwhile:
            await it.fleet.enter("a")
        it.hosts[0].come_up()
        await it.fleet.wait_started()

        lane = await it.fleet.enter("a")

        assert (before.value.code, meanwhile.value.code) == ("starting", "starting")
        assert lane.model == "a"


async def test_a_start_that_fails_is_told_whichever_model_it_is() -> None:
    async with yard(model("a", at_start=True), model("b", at_start=True)) as it:
        it.fleet.start()
        await settle()
        it.hosts[1].move(EngineState.FAILED, "no such tensor")
        await settle()
        it.hosts[0].come_up()

        with pytest.raises(UnavailableError, match="no such tensor"):
            await it.fleet.wait_started()


async def test_a_model_on_demand_is_loaded_by_the_first_request_and_once() -> None:
    async with yard(model("a", at_start=True), model("b")) as it:
        first, second = asyncio.create_task(it.fleet.enter("b")), asyncio.create_task(it.fleet.enter("b"))
        await settle()
        waited = not first.done() and not second.done()
        it.hosts[0].come_up()

        assert await first is await second
        assert waited
        assert len(it.hosts) == 1


async def test_an_unknown_model_is_not_found() -> None:
    async with yard(model("a")) as it:
        for ask in (it.fleet.load, it.fleet.unload):
            with pytest.raises(NotFoundError):
                ask("b")
        with pytest.raises(NotFoundError) as caught:
            await it.fleet.enter("b")

        assert caught.value.code == "model_not_found"


async def test_more_than_the_queues_bound_do_not_wait_for_models() -> None:
    async with yard(model("a"), model("b")) as it:
        waiting = [asyncio.create_task(it.fleet.enter(name)) for name in ("a", "b")]
        await settle()

        with pytest.raises(OverloadedError):
            await it.fleet.enter("a")

        for task in waiting:
            task.cancel()


async def test_a_host_that_cannot_start_is_told_to_those_that_wait_and_later() -> None:
    async with yard(model("a")) as it:
        waiting = asyncio.create_task(it.fleet.enter("a"))
        await settle()
        it.hosts[0].move(EngineState.FAILED, "no such tensor")

        with pytest.raises(UnavailableError, match="no such tensor"):
            await waiting
        with pytest.raises(UnavailableError, match="no such tensor"):
            await it.fleet.enter("a")
        assert it.state("a") is ModelState.FAILED


async def test_a_model_that_failed_is_loaded_again_by_the_operator() -> None:
    async with yard(model("a")) as it:
        await it.loaded("a")
        it.hosts[0].restarts = 3
        it.hosts[0].move(EngineState.FAILED, "killed")

        await it.loaded("a")

        assert it.state("a") is ModelState.READY
        assert it.fleet.views()[0].restarts == 3
        assert (await it.fleet.enter("a")).holders == 1


async def test_a_load_that_takes_too_long_ends_the_wait_and_goes_on() -> None:
    async with yard(model("a"), start_timeout_s=0.01) as it:
        with pytest.raises(UnavailableError, match=r"not loaded within 0\.01 s"):
            await it.fleet.enter("a")
        it.hosts[0].come_up()
        await settle()

        assert it.state("a") is ModelState.READY


async def test_the_least_recently_used_model_makes_room() -> None:
    async with yard(model("a"), model("b"), model("c"), max_bytes=20 << 20) as it:
        await it.loaded("a", "b")
        it.clock.advance(1.0)
        it.fleet.leave(await it.fleet.enter("a"))

        await it.loaded("c")

        assert [it.state(name) for name in "abc"] == ["ready", "unloaded", "ready"]


async def test_an_unload_to_make_room_leaves_a_stream_of_another_model_alone() -> None:
    async with yard(model("a"), model("b"), model("c"), max_bytes=20 << 20) as it:
        await it.loaded("a", "b")
        lane = await it.fleet.enter("a")

        await it.loaded("c")

        assert lane.engine.unavailable() is None
        assert it.state("b") is ModelState.UNLOADED


async def test_a_request_waits_for_a_model_in_use_to_become_idle() -> None:
    async with yard(model("a"), model("b"), max_bytes=15 << 20) as it:
        await it.loaded("a")
        lane = await it.fleet.enter("a")
        waiting = asyncio.create_task(it.fleet.enter("b"))
        await settle()
        hosts = len(it.hosts)

        it.fleet.leave(lane)
        await settle()
        it.hosts[1].come_up()

        assert hosts == 1
        assert (await waiting).model == "b"
        assert it.state("a") is ModelState.UNLOADED


async def test_an_operators_load_does_not_wait_for_models_in_use() -> None:
    async with yard(model("a"), model("b"), max_bytes=15 << 20) as it:
        await it.loaded("a")
        await it.fleet.enter("a")

        with pytest.raises(RefusedError, match=r"models in use 10\.0 MiB"):
            it.fleet.load("b")


async def test_a_pinned_model_makes_no_room_and_nobody_waits_for_it() -> None:
    async with yard(model("a", pinned=True), model("b"), max_bytes=15 << 20) as it:
        await it.loaded("a")

        with pytest.raises(UnavailableError, match="pinned models hold") as caught:
            await it.fleet.enter("b")

        assert caught.value.code == "memory"


async def test_when_nobody_waits_any_more_a_load_without_room_is_given_up() -> None:
    async with yard(model("a"), model("b"), max_bytes=15 << 20) as it:
        await it.loaded("a")
        await it.fleet.enter("a")
        waiting = asyncio.create_task(it.fleet.enter("b"))
        await settle()

        waiting.cancel()
        await settle()

        assert it.state("b") is ModelState.UNLOADED


async def test_an_unload_waits_for_the_models_own_requests_and_then_ends_its_host() -> None:
    async with yard(model("a"), model("b")) as it:
        await it.loaded("a", "b")
        mine, other = await it.fleet.enter("a"), await it.fleet.enter("b")
        it.fleet.unload("a")
        await settle()
        meanwhile = it.state("a")

        it.fleet.leave(mine)
        await settle()

        assert (meanwhile, it.state("a")) == ("unloading", "unloaded")
        assert it.hosts[0].state is EngineState.STOPPED
        assert (it.hosts[1].state, other.holders) == (EngineState.READY, 1)


async def test_a_request_for_a_model_that_is_being_unloaded_loads_it_again() -> None:
    async with yard(model("a")) as it:
        await it.loaded("a")
        old = await it.fleet.enter("a")
        it.fleet.unload("a")
        waiting = asyncio.create_task(it.fleet.enter("a"))
        await settle()
        hosts = len(it.hosts)

        it.fleet.leave(old)
        await settle()
        it.hosts[1].come_up()

        assert hosts == 1
        assert await waiting is not old


async def test_an_unload_of_a_model_that_loads_tells_those_that_wait() -> None:
    async with yard(model("a")) as it:
        waiting = asyncio.create_task(it.fleet.enter("a"))
        await settle()

        it.fleet.unload("a")

        with pytest.raises(UnavailableError, match="being unloaded"):
            await waiting
        await settle()
        assert it.state("a") is ModelState.UNLOADED


async def test_an_unload_at_the_start_is_no_failure_of_the_start() -> None:
    async with yard(model("a", at_start=True), model("b", at_start=True)) as it:
        it.fleet.start()
        await settle()
        it.fleet.unload("a")
        await settle()
        it.hosts[1].come_up()

        await it.fleet.wait_started()

        assert [it.state(name) for name in ("a", "b")] == [ModelState.UNLOADED, ModelState.READY]


async def test_a_load_asked_for_during_an_unload_follows_it() -> None:
    async with yard(model("a")) as it:
        await it.loaded("a")
        held = await it.fleet.enter("a")
        it.fleet.unload("a")

        it.fleet.load("a")

        await settle()
        meanwhile = it.state("a")
        it.fleet.leave(held)
        await settle()
        it.hosts[-1].come_up()
        await settle()
        assert (meanwhile, it.state("a")) == (ModelState.UNLOADING, ModelState.READY)


async def test_of_load_and_unload_during_an_unload_the_last_one_counts() -> None:
    async with yard(model("a")) as it:
        await it.loaded("a")
        held = await it.fleet.enter("a")
        it.fleet.unload("a")
        it.fleet.load("a")
        it.fleet.unload("a")

        it.fleet.leave(held)
        await settle()

        assert it.state("a") is ModelState.UNLOADED
        assert len(it.hosts) == 1


async def test_a_request_waits_while_a_model_that_failed_is_loaded_again() -> None:
    async with yard(model("a")) as it:
        await it.loaded("a")
        it.hosts[0].move(EngineState.FAILED, "too many deaths")
        it.fleet.load("a")
        await settle()

        waiting = asyncio.create_task(it.fleet.enter("a"))

        await settle()
        it.hosts[1].come_up()
        lane = await waiting
        assert lane.engine.unavailable() is None


async def test_loading_what_is_loaded_and_unloading_what_is_not_changes_nothing() -> None:
    async with yard(model("a")) as it:
        it.fleet.unload("a")
        await it.loaded("a")
        it.fleet.load("a")
        await settle()

        assert len(it.hosts) == 1


async def test_the_cache_of_every_loaded_model_is_asked_and_cleared() -> None:
    async with yard(model("a"), model("b")) as it:
        await it.loaded("a")

        reports = await it.fleet.cache(None, clear="disk")

        assert list(reports) == ["a"]
        assert it.hosts[0].cleared == ["disk"]
        with pytest.raises(RefusedError, match="b is unloaded"):
            await it.fleet.cache("b")


async def test_a_chunk_target_that_a_reload_moves_reaches_the_hosts_that_run_and_later_ones() -> None:
    async with yard(model("a"), model("b")) as it:
        await it.loaded("a")
        changed = RuntimeConfig.model_validate({"engine": {"chunk_target_s": 0.05}})

        it.fleet.reconfigure(changed)
        it.fleet.reconfigure(changed)
        it.fleet.load("b")
        await settle()

        assert [each["chunk_target_s"] for each in it.hosts[0].tuned] == [0.1, 0.05]
        assert [each["chunk_target_s"] for each in it.hosts[1].tuned] == [0.05]


async def test_a_later_loading_follows_hot_keys_only() -> None:
    async with yard(model("a")) as it:
        changed = RuntimeConfig.model_validate({"engine": {"chunk_target_s": 0.05, "max_batch_size": 7}})

        it.fleet.reconfigure(changed)

        await it.loaded("a")
        options = it.hosts[0].params.options
        assert (options.chunk_target_s, options.max_batch_size) == (0.05, 128)


def test_of_the_engines_keys_only_the_chunk_target_is_hot() -> None:
    hot = [key.name for key in keys_of(RuntimeConfig) if key.hot and key.name.startswith("engine.")]

    assert hot == ["engine.chunk_target_s"]  # Fleet.reconfigure takes no other


@pytest.mark.parametrize(
    ("states", "can_serve"),
    [
        ((None, None), True),
        ((EngineState.READY, None), True),
        ((EngineState.READY, EngineState.FAILED), True),
        ((EngineState.RESTARTING, None), False),
        ((EngineState.FAILED, None), True),
        ((EngineState.FAILED, EngineState.FAILED), False),
        ((EngineState.FAILED, EngineState.RESTARTING), False),
    ],
)
async def test_it_can_serve_while_one_model_is_ready_or_none_comes_back_and_one_could_be_loaded(
    states: tuple[EngineState | None, ...], can_serve: bool
) -> None:
    async with yard(model("a"), model("b")) as it:
        for name, state in zip("ab", states, strict=True):
            if state is not None:
                await it.loaded(name)
                it.hosts[-1].move(state)

        assert it.fleet.can_serve is can_serve


async def test_all_models_are_listed_with_what_may_be_asked_of_them() -> None:
    async with yard(model("a"), model("b"), context_tokens=100) as it:
        await it.loaded("b")

        cards = it.fleet.cards(created_unix_s=5)

        assert [(card.id, card.context_tokens) for card in cards] == [("a", 100), ("b", 64)]


async def test_once_it_stops_nothing_is_loaded_any_more() -> None:
    async with yard(model("a")) as it:
        waiting = asyncio.create_task(it.fleet.enter("a"))
        await settle()

        await it.fleet.stop()

        with pytest.raises(UnavailableError):
            await waiting
        with pytest.raises(UnavailableError) as caught:
            await it.fleet.enter("a")
        assert caught.value.code == "draining"


async def test_once_it_stops_no_operator_starts_a_host_that_nobody_would_end() -> None:
    async with yard(model("a")) as it:
        await it.fleet.stop()

        with pytest.raises(UnavailableError, match="stopping"):
            it.fleet.load("a")
        await settle()

        assert it.hosts == []
