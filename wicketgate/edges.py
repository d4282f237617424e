"""
The gateway's edges: the clients' and the operators' applications, who may use them, and where they listen.

A running gateway follows the file of keys and the certificate's files, whatever the configuration does.
"""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wicketgate import parameters
from wicketgate.api.admin.app import create_admin_app, metrics_route
from wicketgate.api.admin.drain import drain_route
from wicketgate.api.admin.models import model_routes
from wicketgate.api.app import create_app, create_instants
from wicketgate.api.backend import Backend
from wicketgate.api.endpoint import Edge, new_id
from wicketgate.api.generation import Generation
from wicketgate.api.health import Probes
from wicketgate.api.key_file import KeyFile
from wicketgate.api.keys import require_keys
from wicketgate.api.ofrep import ofrep_routes
from wicketgate.api.quotas import Quotas
from wicketgate.config_fields import split_bind
from wicketgate.errors import UnavailableError
from wicketgate.listeners import Listeners
from wicketgate.pipeline.jobs import Jobs

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from prometheus_client import Counter
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from rollout.assignment import FlagSnapshot
    from transport.server import Connections, EdgeCounters
    from wicketgate.api.keys import Keys
    from wicketgate.api.requests import ModelCard
    from wicketgate.condition import Condition
    from wicketgate.config import RuntimeConfig
    from wicketgate.fleet import Fleet
    from wicketgate.pipeline.dispatch import Dispatcher
    from wicketgate.state_folder import StateFolder
    from wicketgate.status import Status

log = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 1.0
"""Advice to those who are cut off: another gateway, or this one once it runs again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What the applications are in front of."""

    state: StateFolder
    dispatcher: Dispatcher
    fleet: Fleet
    cards: Callable[[], Sequence[ModelCard]]
    """What may be asked for."""
    status: Status
    condition: Condition
    flags: Callable[[], FlagSnapshot]
    accepts_h2: Callable[[str], bool]
    drain: Callable[[bool], Mapping[str, object]]
    """Begins to drain, or where its argument says so ends at once; tells what is in flight."""
    clock: Callable[[], float]


class Edges:
    """
    Builds, opens, follows, drains and closes them.

    Args:
        config: What runtime.yaml says.
        inside: What they are in front of.
        reloads: Counts changed files that were taken up or refused.

    Raises:
        ConfigurationError: bound off loopback without keys, or the file of keys cannot be used.
    """

    def __init__(self, config: RuntimeConfig, inside: Inside, *, reloads: Counter) -> None:
        self._inside = inside
        self._reloads = reloads
        file = config.security.api_keys_file
        self._key_file = None if file is None else KeyFile(file)
        for key, bind in (("server.bind", config.server.bind), ("admin.bind", config.admin.bind)):
            require_keys(split_bind(bind)[0], self._keys(), key=key)
        self.reconfigure(config)
        self._edge = Edge(
            settings=lambda: self._settings,
            new_id=new_id,
            keys=self._keys,
            quotas=Quotas(lambda: self._limits, clock=inside.clock),
            cors=lambda: self._cors,
            probed=inside.status.probes.observe,
        )
        self._probes = Probes(self._edge, inside.condition.health, clock=inside.clock)
        self._generation = Generation(inside.dispatcher, settings=lambda: self._settings)
        self._listeners = Listeners(
            config,
            api=self._api(config),
            instants=create_instants(self._probes, hosts=lambda: self._hosts),
            admin=lambda guard: create_admin_app(
                inside.status, more_routes=self._admin_routes(), guard=guard
            ),
            state=inside.state,
            keys=self._keys,
            allowed_hosts=lambda: self._allowed_hosts,
            accepts_h2=inside.accepts_h2,
        )

    def _keys(self) -> Keys | None:
        return None if self._key_file is None else self._key_file.keys

    def _api(self, config: RuntimeConfig) -> ASGIApp:
        inside = self._inside
        backend = Backend(
            edge=self._edge,
            generation=self._generation,
            jobs=Jobs(inside.dispatcher, text_of=inside.fleet.text),
            models=inside.cards,
            clock=inside.clock,
            unix_clock=time.time,
        )
        return create_app(
            backend,
            probes=self._probes,
            stored=parameters.stored_responses(config),
            more_routes=[metrics_route(inside.status.metrics)] if config.metrics.public else [],
            hosts=lambda: self._hosts,
        )

    def _admin_routes(self) -> list[BaseRoute]:
        inside = self._inside
        return [
            *self._probes.routes(),
            *model_routes(inside.fleet, rows=inside.status.models),
            *ofrep_routes(inside.flags),
            drain_route(inside.drain),
        ]

    def reconfigure(self, config: RuntimeConfig) -> None:
        """Put the hot keys of a configuration in force."""
        self._settings = parameters.api_settings(config)
        self._limits = parameters.limits(config)
        self._cors = parameters.cors(config)
        self._allowed_hosts = config.admin.allowed_hosts
        self._hosts = (split_bind(config.server.bind)[0], socket.gethostname(), *config.security.hosts)

    def poll(self) -> None:
        """Look for other keys and another certificate; call it about once a second."""
        keys = None if self._key_file is None else self._key_file.poll()
        for what, is_taken in (("keys", keys), ("certificate", self._listeners.poll_certificate())):
            if is_taken is not None:
                self._reloads.labels(what, "applied" if is_taken else "refused").inc()

    async def start(self) -> tuple[str, str]:
        """Listen; returns the URLs of the API and of the admin listener."""
        return await self._listeners.start()

    async def drain(self, *, timeout_s: float, hurry: asyncio.Event) -> bool:
        """Take no more clients and wait for their streams; returns whether all ended before time or hurry."""
        return await self._listeners.drain(timeout_s=timeout_s, hurry=hurry, on_deadline=self._cut)

    def _cut(self) -> None:
        """End what is still being served, each with a word about why."""
        error = UnavailableError(
            "the server is stopping; send the request to another",
            code="draining",
            retry_after_s=RETRY_AFTER_S,
        )
        count = self._generation.live.stop_all(error)
        log.warning("drain_cut", extra={"requests": count})

    async def close(self) -> None:
        """End everything that is still open."""
        await self._listeners.close()

    def connections(self) -> Connections:
        """Count the clients' connections."""
        return self._listeners.connections()

    def counters(self) -> EdgeCounters:
        """Return what the clients' listener has done since the start."""
        return self._listeners.counters()

    @property
    def api_port(self) -> int:
        """The clients' port, as bound."""
        return self._listeners.api_port
