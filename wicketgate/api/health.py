"""
Whether the runtime lives, has started, and can serve: a pure answer from facts, and its routes.

| reason              | /health/ready and /health | status   |
|---------------------|---------------------------|----------|
| `starting`          | 503                       | starting |
| `draining`          | 503                       | draining |
| `engine_restarting` | 503                       | degraded |
| `engine_stuck`      | 503                       | degraded |
| `memory`            | 503                       | degraded |
| `kv_pool_full`      | 503                       | degraded |
| `memory_short`      | 200                       | degraded |
| `kv_disk_full`      | 200                       | degraded |
| `model_down`        | 200                       | degraded |
| `slo_violated`      | 200                       | degraded |

503 is for what another gateway would do better: requests would be refused, or would wait for others to end.
What only costs speed, or one model of several, is told and no more; if it took a gateway out of the balance,
its load would fall upon the next. /health/live answers 200 while the event loop runs and asks nobody;
/health/startup is 503 until the engine was ready once. None of them asks for a key, or counts on a limit.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from transport.asgi_stream import RECEIVED
from transport.instant import Instant
from transport.sse import json_bytes
from wicketgate.api.described import Described
from wicketgate.api.endpoint import Endpoint
from wicketgate.pipeline.gate import HARD, SOFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from wicketgate.api.endpoint import Edge
    from wicketgate.api.exchange import Exchange, Headers

ROUTES: Final = (
    Described(
        path="/health", method="GET", body=None, summary="Tell whether requests can be served, and why not"
    ),
    Described(path="/health/live", method="GET", body=None, summary="Tell that the process answers"),
    Described(
        path="/health/ready", method="GET", body=None, summary="Tell whether to send requests here now"
    ),
    Described(path="/health/startup", method="GET", body=None, summary="Tell whether it could serve once"),
)
_TELLING: Final = frozenset({b"origin", b"x-request-id"})
"""What these headers say, the answer says too."""
FRESH_S: Final = 0.1
"""A page is made at most so often, whoever asks for it."""


class Probe(StrEnum):
    """What is asked."""

    LIVE = "live"
    """Does the process answer? If not, restart it."""
    STARTUP = "startup"
    """Has it been able to serve once?"""
    READY = "ready"
    """Can it serve now? If not, send requests elsewhere."""


class Reason(StrEnum):
    """What keeps the runtime from being well, the gravest first."""

    STARTING = "starting"
    DRAINING = "draining"
    ENGINE_RESTARTING = "engine_restarting"
    """No model's engine host runs."""
    ENGINE_STUCK = "engine_stuck"
    """Engine hosts run, were asked for one token, and none gave it."""
    MEMORY = "memory"
    """Above the hard mark: new requests are refused."""
    KV_POOL_FULL = "kv_pool_full"
    """Too much of the KV pool is held by what cannot be evicted, for too long."""
    MEMORY_SHORT = "memory_short"
    """Above the soft mark: new requests wait."""
    KV_DISK_FULL = "kv_disk_full"
    """Nothing more is saved."""
    MODEL_DOWN = "model_down"
    """One of several models, while others serve."""
    SLO_VIOLATED = "slo_violated"
    """A promise is not kept."""


PATHS: Final = {f"/health/{probe}": probe for probe in Probe} | {"/health": Probe.READY}
"""Where each is asked."""
GRAVE: Final = frozenset(
    {
        Reason.STARTING,
        Reason.DRAINING,
        Reason.ENGINE_RESTARTING,
        Reason.ENGINE_STUCK,
        Reason.MEMORY,
        Reason.KV_POOL_FULL,
    }
)
"""Not ready for these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The facts; None is unknown."""

    has_started: bool
    """The engine has been ready once."""
    engine_is_ready: bool
    """Some model is."""
    is_draining: bool
    retry_after_s: float = 1.0
    """When it makes sense to ask again."""
    is_stuck: bool = False
    """No engine that runs answered its probe."""
    pressure: int = 0
    """Of memory: 0, 1 above the soft mark, 2 above the hard one."""
    is_kv_full: bool = False
    """As a KvMark says."""
    is_kv_disk_full: bool = False
    models_down: tuple[str, ...] = ()
    violated: tuple[str, ...] = ()
    """Names of objectives."""
    kv_use_ratio: float | None = None
    """Of the KV pool, held by what cannot be evicted."""
    cache_hit_ratio: float | None = None
    """Prompt tokens found in the prefix cache, of all."""
    queue: int = 0
    in_flight: int = 0
    probe_age_s: float | None = None
    """Since the last token of any engine."""
    beat_age_s: float | None = None
    """Since the last sign of its step loop."""


class KvMark:
    """
    Whether the use of the KV pool has been above a mark for so long; one moment below it ends that.

    Time comes in as an argument.
    """

    def __init__(self) -> None:
        self._above_since_s: float | None = None

    def observe(self, ratio: float | None, *, mark_ratio: float, for_s: float, now_s: float) -> bool:
        """
        Take note of the use, and say whether the pool counts as full.

        Args:
            ratio: Of the pool, held by what cannot be evicted; None where nothing bounds it.
            mark_ratio: Above it counts.
            for_s: How long it must last.
            now_s: Monotonic seconds.
        """
        if ratio is None or ratio <= mark_ratio:
            self._above_since_s = None
            return False
        if self._above_since_s is None:
            self._above_since_s = now_s
        return now_s - self._above_since_s >= for_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to a probe."""

    status: int
    """200 or 503."""
    word: str
    """ok, starting, degraded or draining."""
    reasons: tuple[Reason, ...] = ()
    """The gravest first."""
    retry_after_s: float | None = None


_WELL: Final = Verdict(status=200, word="ok")


def judge(probe: Probe, health: Health) -> Verdict:
    """Answer a probe; LIVE is well whatever the facts are."""
    if probe is Probe.LIVE or (probe is Probe.STARTUP and health.has_started):
        return _WELL
    reasons = _reasons(health)
    if not reasons:
        return _WELL
    is_grave = bool(GRAVE & set(reasons))
    word = str(reasons[0]) if reasons[0] in (Reason.STARTING, Reason.DRAINING) else "degraded"
    return Verdict(
        status=503 if is_grave else 200,
        word=word,
        reasons=reasons,
        retry_after_s=health.retry_after_s if is_grave else None,
    )


def _reasons(health: Health) -> tuple[Reason, ...]:
    if not health.has_started:
        # Before the first start there is no engine that could be missed.
        return (Reason.STARTING, Reason.DRAINING) if health.is_draining else (Reason.STARTING,)
    held = {
        Reason.DRAINING: health.is_draining,
        Reason.ENGINE_RESTARTING: not health.engine_is_ready,
        Reason.ENGINE_STUCK: health.is_stuck,
        Reason.MEMORY: health.pressure >= HARD,
        Reason.KV_POOL_FULL: health.is_kv_full,
        Reason.MEMORY_SHORT: health.pressure == SOFT,
        Reason.KV_DISK_FULL: health.is_kv_disk_full,
        Reason.MODEL_DOWN: bool(health.models_down),
        Reason.SLO_VIOLATED: bool(health.violated),
    }
    return tuple(reason for reason, holds in held.items() if holds)


def page(verdict: Verdict, health: Health) -> dict[str, object]:
    """Return what a client reads of a verdict, with the figures that it rests on."""
    after_s = verdict.retry_after_s
    return {
        "status": verdict.word,
        "reason": str(verdict.reasons[0]) if verdict.reasons else "ok",
        "reasons": [str(reason) for reason in verdict.reasons],
        "retry_after": None if after_s is None else max(1, math.ceil(after_s)),
        "kv_use_ratio": _rounded(health.kv_use_ratio),
        "cache_hit_ratio": _rounded(health.cache_hit_ratio),
        "queue": health.queue,
        "in_flight": health.in_flight,
        "probe_age_s": _rounded(health.probe_age_s),
        "beat_age_s": _rounded(health.beat_age_s),
        "models_down": list(health.models_down),
        "violated": list(health.violated),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """An answer, as it is and as it goes out."""

    value: dict[str, object]
    status: int
    headers: Headers
    body: bytes


class _Pages:
    """The pages of the probes, each made anew when it is too old."""

    def __init__(self, health: Callable[[], Health], clock: Callable[[], float]) -> None:
        self._health = health
        self._clock = clock
        self._read_s: float | None = None
        self._facts: Health | None = None
        self._made = {Probe.LIVE: _made({"status": "ok", "reason": "ok", "reasons": []}, 200)}

    def get(self, probe: Probe) -> _Page:
        """Return a page of now."""
        if probe is Probe.LIVE:
            return self._made[probe]
        now_s = self._clock()
        if self._facts is None or self._read_s is None or now_s - self._read_s >= FRESH_S:
            self._read_s, self._facts = now_s, self._health()
            self._made = {Probe.LIVE: self._made[Probe.LIVE]}
        if probe not in self._made:
            verdict = judge(probe, self._facts)
            self._made[probe] = _made(page(verdict, self._facts), verdict.status)
        return self._made[probe]


def _made(value: dict[str, object], status: int) -> _Page:
    after = value.get("retry_after")
    headers = () if after is None else ((b"retry-after", str(after).encode()),)
    return _Page(value=value, status=status, headers=headers, body=json_bytes(value))


class Probes:
    """
    The probes of a listener.

    One that is plain, as orchestrators send it, is answered without an exchange, and by the clients' listener
    as soon as the request's bytes are read.

    Args:
        edge: What endpoints are made with.
        health: The facts.
        clock: Monotonic seconds.
    """

    def __init__(
        self, edge: Edge, health: Callable[[], Health], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.edge = edge
        self._pages = _Pages(health, clock)

    def page(self, probe: Probe) -> _Page:
        """Return what a probe says now."""
        return self._pages.get(probe)

    def find(self, scope: Scope) -> Instant | None:
        """Return the answer to a plain request without a body; None where it is no plain probe."""
        probe = PATHS.get(scope["path"])
        is_plain = scope["method"] in ("GET", "HEAD") and all(
            name not in _TELLING for name, _ in scope["headers"]
        )
        if probe is None or not is_plain:
            return None
        made, name, cors = self.page(probe), self.edge.new_id().encode(), self.edge.cors()
        headers = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(made.body)),
            *made.headers,
            (b"x-request-id", name),
            (b"request-id", name),
            *(() if cors is None else cors.headers(None)),
        )
        return Instant(status=made.status, headers=headers, body=made.body)

    def routes(self) -> list[BaseRoute]:
        """Make the routes /health/live, /health/ready, /health/startup, and /health, which is ready's."""
        return [Route(path, _Route(self, probe)) for path, probe in PATHS.items()]


class _Route:
    """Answers one probe where that was not done at once."""

    def __init__(self, probes: Probes, probe: Probe) -> None:
        self._probes = probes
        self._probe = probe
        self._endpoint = Endpoint(probes.edge, self._handle, methods=("GET",), is_public=True, is_exempt=True)

    async def _handle(self, exchange: Exchange) -> None:
        made = self._probes.page(self._probe)
        await exchange.answer(made.value, status=made.status, headers=made.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = self._probes.find(scope)
        if found is None or (await receive()).get("more_body", False):
            await self._endpoint(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": found.status, "headers": found.headers})
        await send({"type": "http.response.body", "body": found.body, "more_body": False})
        received_s = scope.get(RECEIVED)
        if received_s is not None:
            # What was sent is written at the end of this turn of the loop, by a call made before this one.
            asyncio.get_running_loop().call_soon(self._written, received_s)

    def _written(self, received_s: float) -> None:
        # Not by the loop's time: uvloop's stands still within a turn.
        self._probes.edge.probed(time.monotonic() - received_s)
