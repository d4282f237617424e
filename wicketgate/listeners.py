"""The three listeners: clients on TCP, operators on TCP, and this machine's user on a Unix socket."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

from transport.server import EdgeServer, ServerParams
from transport.sockets import activated_sockets
from wicketgate import parameters
from wicketgate.api.admin.app import Guard
from wicketgate.api.keys import require_keys
from wicketgate.config_fields import is_loopback, split_bind
from wicketgate.errors import ConfigurationError
from wicketgate.platform import launchd_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from transport.instant import Instants
    from transport.server import Connections, EdgeCounters
    from wicketgate.api.keys import Keys
    from wicketgate.config import RuntimeConfig
    from wicketgate.state_folder import StateFolder

log = logging.getLogger(__name__)


class Listeners:
    """
    Opens, drains and closes them together.

    Args:
        config: Where to listen.
        api: The clients' application.
        instants: What it answers at once.
        admin: Makes the operators' application; without a guard for the Unix socket.
        state: Holds the token and the socket.
        keys: Those of now; an admin key does as well as the token.
        allowed_hosts: Names that a Host header may carry besides this machine's own.
        accepts_h2: May the connection from this peer speak HTTP/2?
    """

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        api: ASGIApp,
        instants: Instants,
        admin: Callable[[Guard | None], ASGIApp],
        state: StateFolder,
        keys: Callable[[], Keys | None],
        allowed_hosts: Callable[[], tuple[str, ...]],
        accepts_h2: Callable[[str], bool],
    ) -> None:
        host = split_bind(config.admin.bind)[0]
        guard = Guard(
            token=state.admin_token(),
            hosts=lambda: frozenset({host, socket.gethostname(), *allowed_hosts()}),
            reads_need_token=not is_loopback(host),
            keys=keys,
        )
        unix = ServerParams(unix_path=state.control_socket)
        self._tls = config.server.tls_certificate is not None
        params = parameters.api_listener(config, sockets=_activated(config.server.activated_socket, keys()))
        self._api = EdgeServer(api, params=params, accepts_h2=accepts_h2, instants=instants)
        # HTTP/1.1 only: it is for scrapers and commands, a connection a request.
        self._admin = EdgeServer(
            admin(guard), params=parameters.admin_listener(config), accepts_h2=lambda _: False
        )
        self._control = EdgeServer(admin(None), params=unix, accepts_h2=lambda _: False)

    @property
    def api_port(self) -> int:
        """The clients' port, as bound."""
        return self._api.port

    def connections(self) -> Connections:
        """Count the clients' connections."""
        return self._api.connections()

    def counters(self) -> EdgeCounters:
        """Return what the clients' listener has done since the start."""
        return self._api.counters()

    def poll_certificate(self) -> bool | None:
        """
        Take up changed files of the certificate, for new connections; bad ones change nothing.

        Returns:
            Whether they could be used; None where they are those of before.
        """
        if not self._api.tls_changed():
            return None
        try:
            self._api.reload_tls()
        except OSError as error:
            log.error("certificate_refused", extra={"reason": error.strerror or str(error)})
            return False
        log.info("certificate_loaded")
        return True

    async def start(self) -> tuple[str, str]:
        """
        Listen.

        Returns:
            The URLs of the API and of the admin listener.

        Raises:
            ConfigurationError: an address cannot be used; says which.
        """
        try:
            api = await self._api.start()
            admin = await self._admin.start()
            await self._control.start()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise ConfigurationError(
                error.strerror or str(error),
                fix="--port, --admin-port, or stop the other program" if taken else None,
            ) from None
        return f"{'https' if self._tls else 'http'}://{api}", f"http://{admin}"

    async def drain(self, *, timeout_s: float, hurry: asyncio.Event, on_deadline: Callable[[], None]) -> bool:
        """
        Take no more clients and wait for their streams.

        Args:
            timeout_s: How long they may take.
            hurry: Set when nothing is waited for any more.
            on_deadline: Ends the streams that are left at time or hurry.

        Returns:
            Whether all had ended by then.
        """
        draining = asyncio.ensure_future(self._api.drain(timeout_s, on_deadline=on_deadline))
        hurried = asyncio.ensure_future(hurry.wait())
        try:
            await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
            if draining.done():
                return draining.result()
            left = self._api.streams()
            if left.h1 + left.h2:
                on_deadline()
            return not left.h1 + left.h2
        finally:
            draining.cancel()
            hurried.cancel()

    async def close(self) -> None:
        """End everything that is still open."""
        for server in (self._api, self._admin, self._control):
            await server.close()


def _activated(name: str | None, keys: Keys | None) -> tuple[socket.socket, ...]:
    """
    Take the sockets that systemd or launchd opened under a name.

    Raises:
        ConfigurationError: there are none, or others can reach one and there are no keys.
    """
    if name is None:
        return ()
    found = [each for label, each in activated_sockets(os.environ, pid=os.getpid()) if label == name]
    found += [socket.socket(fileno=descriptor) for descriptor in launchd_sockets(name)]
    for each in found:
        if each.family != socket.AF_UNIX:
            require_keys(each.getsockname()[0], keys, key="server.activated_socket")
    if not found:
        raise ConfigurationError(
            f"server.activated_socket is {name}, and neither systemd nor launchd opened a socket so named",
            param="server.activated_socket",
            fix="name it in FileDescriptorName= (systemd) or under Sockets (launchd), or remove the key",
        )
    return tuple(found)
