"""Whether the runtime lives, has started, and can serve: a pure answer from facts, and its routes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from starlette.routing import Route

from wicketgate.api.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from wicketgate.api.endpoint import Edge
    from wicketgate.api.exchange import Exchange


class Probe(StrEnum):
    """What is asked."""

    LIVE = "live"
    """Does the process answer? If not, restart it."""
    STARTUP = "startup"
    """Has it been able to serve once?"""
    READY = "ready"
    """Can it serve now? If not, send requests elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The facts."""

    has_started: bool
    """The engine has been ready once."""
    engine_is_ready: bool
    is_draining: bool
    retry_after_s: float = 1.0
    """When it makes sense to ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to a probe."""

    status: int
    """200 or 503."""
    reason: str
    """ok, starting, draining or engine_restarting."""
    retry_after_s: float | None = None

    def body(self) -> dict[str, object]:
        """Return what the client reads."""
        word = "ok" if self.status == 200 else "unavailable"
        after = None if self.retry_after_s is None else math.ceil(self.retry_after_s)
        return {"status": word, "reason": self.reason, "retry_after": after}


def judge(probe: Probe, health: Health) -> Verdict:
    """Answer a probe."""
    if probe is Probe.LIVE:
        return Verdict(status=200, reason="ok")
    if not health.has_started:
        return Verdict(status=503, reason="starting", retry_after_s=health.retry_after_s)
    if probe is Probe.STARTUP:
        return Verdict(status=200, reason="ok")
    if health.is_draining:
        return Verdict(status=503, reason="draining", retry_after_s=health.retry_after_s)
    if not health.engine_is_ready:
        return Verdict(status=503, reason="engine_restarting", retry_after_s=health.retry_after_s)
    return Verdict(status=200, reason="ok")


def health_routes(edge: Edge, health: Callable[[], Health]) -> list[Route]:
    """Make the routes /health/live, /health/ready and /health/startup; no key is asked for."""

    def handler(probe: Probe) -> Callable[[Exchange], Awaitable[None]]:
        async def handle(exchange: Exchange) -> None:
            verdict = judge(probe, health())
            body = verdict.body()
            after = body["retry_after"]
            headers = () if after is None else ((b"retry-after", str(after).encode()),)
            await exchange.answer(body, status=verdict.status, headers=headers)

        return handle

    return [
        Route(f"/health/{probe}", Endpoint(edge, handler(probe), methods=("GET",), is_public=True))
        for probe in Probe
    ]
