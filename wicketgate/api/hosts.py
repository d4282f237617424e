"""
Which names a listener answers to while it asks for no key: a defence against DNS rebinding.

A page of evil.example may have its own name lead to 127.0.0.1; then it reads whatever listens here, as its
own origin, and only the Host header still says evil.example. So without keys, whoever asks by a name must
know one of ours. An address cannot be led elsewhere, `localhost` and all below it are this machine's in every
browser (RFC 6761 section 6.3), and every browser sends a Host. A Unix socket no page can reach.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from wicketgate.errors import MisdirectedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from starlette.types import ASGIApp, Receive, Scope, Send

    from wicketgate.api.exchange import Exchange
    from wicketgate.api.keys import Keys


class HostCheck:
    """
    An ASGI application in front of another.

    Args:
        app: Asked where the host is one of ours.
        misdirected: Asked where it is not.
        keys: While it gives None, no key is asked for, and the host is looked at.
        names: Ours, besides localhost.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        misdirected: ASGIApp,
        keys: Callable[[], Keys | None],
        names: Callable[[], Collection[str]],
    ) -> None:
        self._app = app
        self._misdirected = misdirected
        self._keys = keys
        self._names = names

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request on."""
        is_ours = scope["type"] != "http" or is_asked_for(scope, keys=self._keys(), names=self._names)
        return (self._app if is_ours else self._misdirected)(scope, receive, send)


def is_asked_for(scope: Scope, *, keys: Keys | None, names: Callable[[], Collection[str]]) -> bool:
    """
    Say whether a request is for this listener.

    Args:
        scope: Of the request.
        keys: None while no key is asked for.
        names: Ours, besides localhost.
    """
    if keys is not None or _is_local(scope):
        return True
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return all(is_known(value.decode("latin-1"), names()) for value in hosts)


def _is_local(scope: Scope) -> bool:
    """Say whether it came over a Unix socket, which has no port."""
    server = scope.get("server")
    return server is not None and server[1] is None


def is_known(host: str, names: Collection[str]) -> bool:
    """
    Say whether a Host header names this machine.

    Args:
        host: As it was sent; empty is known: no browser leaves it out.
        names: Ours, besides localhost.
    """
    name = _name_of(host)
    if not name or name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name.removeprefix("[").removesuffix("]")) or name in map(_name_of, names)


def _name_of(host: str) -> str:
    """Return a host without its port and the dot of the root; names of ours may have both, too."""
    return (host if host.endswith("]") else host.rpartition(":")[0] or host).lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def misdirected(exchange: Exchange) -> None:
    """Answer a request that was meant for another."""
    host = (exchange.header("host") or "")[:200]
    raise MisdirectedError(
        f"the Host header names {host!r}, which is no name of this listener: ask by localhost or an address,"
        " add the name to security.hosts, or set security.api_keys_file, with which any name will do"
    )
