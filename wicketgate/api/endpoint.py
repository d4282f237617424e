"""What every endpoint shares: the request's id, its method, its key, and an answer whatever goes wrong."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transport.limits import BodyLimit
from wicketgate.api.exchange import ClientGoneError, Exchange
from wicketgate.errors import MethodNotAllowedError, NotFoundError, WicketgateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from wicketgate.api.keys import Keys

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What `server` of runtime.yaml says about requests; read anew for each."""

    max_body_bytes: int = 8 * 1024 * 1024
    body_timeout_s: float = 30.0
    hold_headers_s: float = 1.0
    """So long the status of a stream waits for the first text, in order to tell a failure from a success."""
    request_timeout_s: float = 300.0
    heartbeat_s: float = 10.0
    """A stream without events for so long gets a comment line."""
    refuses_unknown_fields: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What endpoints are made with."""

    settings: Callable[[], ApiSettings]
    new_id: Callable[[], str]
    """Ids of requests: "req_" and 128 random bits in hexadecimal."""
    keys: Keys | None = None
    """None: no key is asked for."""


class Endpoint:
    """
    An ASGI application that answers one path.

    Args:
        handle: Answers an exchange, or raises what the client should hear.
        methods: Those allowed, None for all; GET brings HEAD.
        is_public: No key is asked for.
    """

    def __init__(
        self,
        edge: Edge,
        handle: Callable[[Exchange], Awaitable[None]],
        *,
        methods: tuple[str, ...] | None,
        is_public: bool = False,
    ) -> None:
        self._edge = edge
        self._handle = handle
        self._methods = (*methods, "HEAD") if methods is not None and "GET" in methods else methods
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        settings = self._edge.settings()
        limit = BodyLimit(max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
        exchange = Exchange(
            scope,
            receive,
            send,
            limit=limit,
            heartbeat_s=settings.heartbeat_s,
            request_id=self._edge.new_id(),
        )
        try:
            await self._answer(exchange)
        except ClientGoneError:
            return

    async def _answer(self, exchange: Exchange) -> None:
        if self._methods is not None and exchange.method not in self._methods:
            allowed = ", ".join(self._methods)
            error = MethodNotAllowedError(f"{exchange.path} takes {allowed}, got {exchange.method}")
            await exchange.refuse(error, headers=((b"allow", allowed.encode()),))
            return
        try:
            if self._edge.keys is not None and not self._is_public:
                key = self._edge.keys.check(exchange.header("authorization"), exchange.header("x-api-key"))
                exchange.client = key.id
            await self._handle(exchange)
        except WicketgateError as error:
            await exchange.refuse(error)
        except ClientGoneError:
            raise
        except Exception:  # noqa: BLE001  (the top of a request)
            _log.exception("request_failed", extra={"request_id": exchange.request_id})
            await exchange.refuse(
                WicketgateError(f"internal error; the log has more under {exchange.request_id}")
            )


async def not_found(exchange: Exchange) -> None:
    """Answer a path that nobody serves."""
    raise NotFoundError(f"no such path: {exchange.method} {exchange.path[:200]}")


def new_id() -> str:
    """Return the id of a request: 128 random bits, so that nobody can guess another's."""
    return f"req_{secrets.token_hex(16)}"
