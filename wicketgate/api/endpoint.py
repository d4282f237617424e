"""What every endpoint shares: id, origin, method, key, limits, and an answer whatever goes wrong."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from transport.limits import BodyLimit
from wicketgate.api.envelopes import Family
from wicketgate.api.exchange import ClientGoneError, Exchange
from wicketgate.errors import (
    AuthenticationError,
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    WicketgateError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from wicketgate.api.cors import Cors
    from wicketgate.api.keys import Key, Keys
    from wicketgate.api.quotas import Quotas

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
    no_progress_timeout_s: float = 120.0
    """An answer whose engine brings no token for so long ends with an error."""
    slow_reader_timeout_s: float = 30.0
    """A stream whose client does not read for so long is cancelled."""
    refuses_unknown_fields: bool = False
    named_tool_finish: Literal["tool_calls", "stop"] = "tool_calls"
    """finish_reason of a chat whose tool_choice names one tool."""


def _nothing() -> None:
    """Stand for what is not configured."""


def _unnoticed(took_s: float) -> None:
    """Stand for nobody who wants to hear it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What endpoints are made with."""

    settings: Callable[[], ApiSettings]
    new_id: Callable[[], str]
    """Ids of requests: "req_" and 128 random bits in hexadecimal."""
    keys: Callable[[], Keys | None] = _nothing
    """Who may ask; while it gives None, no key is asked for."""
    quotas: Quotas | None = None
    """How much clients may ask; None asks nobody."""
    cors: Callable[[], Cors | None] = _nothing
    """Which pages may ask; while it gives None, those of no other origin."""
    probed: Callable[[float], None] = _unnoticed
    """Hears how long each plain probe of /health took."""


class Endpoint:
    """
    An ASGI application that answers one path.

    Args:
        handle: Answers an exchange, or raises what the client should hear.
        methods: Those allowed, None for all; GET brings HEAD.
        is_public: No key is asked for.
        is_exempt: No limit of a client holds here: probes, and what makes room (the cancelling of a request).
        family: Whose errors it gives; None where both kinds of clients call, and the request tells.
    """

    def __init__(
        self,
        edge: Edge,
        handle: Callable[[Exchange], Awaitable[None]],
        *,
        methods: tuple[str, ...] | None,
        is_public: bool = False,
        is_exempt: bool = False,
        family: Family | None = Family.OPENAI,
    ) -> None:
        self._edge = edge
        self._handle = handle
        self._methods = (*methods, "HEAD") if methods is not None and "GET" in methods else methods
        self._is_public = is_public
        self._is_exempt = is_exempt
        self._family = family

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        settings = self._edge.settings()
        limit = BodyLimit(max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
        exchange = Exchange(scope, receive, send, limit=limit, request_id=self._edge.new_id())
        exchange.family = self._family or _family_of(exchange)
        try:
            await self._answer(exchange)
        except ClientGoneError:
            return
        finally:
            if exchange.grant is not None:
                exchange.grant.leave()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            if await self._is_preflight(exchange):
                return
            self._check_method(exchange)
            self._admit(exchange)
            await self._handle(exchange)
        except WicketgateError as error:
            if exchange.grant is not None and (error.status < 500 or error.status == 503):
                exchange.grant.spend(0)  # nothing was computed: what was charged comes back
            await exchange.refuse(error)
        except ClientGoneError:
            raise
        except Exception:  # noqa: BLE001  (the top of a request)
            _log.exception("request_failed", extra={"request_id": exchange.request_id})
            await exchange.refuse(
                InternalError(f"internal error; the log has more under {exchange.request_id}")
            )

    async def _is_preflight(self, exchange: Exchange) -> bool:
        """Answer what a browser asks first, without a key; note what it must hear of any other answer."""
        cors = self._edge.cors()
        if cors is None:
            return False
        origin, wanted = exchange.header("origin"), exchange.header("access-control-request-method")
        if exchange.method == "OPTIONS" and origin is not None and wanted is not None:
            names = exchange.header("access-control-request-headers")
            await exchange.answer_empty(headers=cors.preflight(origin, names=names))
            return True
        exchange.extra_headers = cors.headers(origin)
        return False

    def _check_method(self, exchange: Exchange) -> None:
        if self._methods is not None and exchange.method not in self._methods:
            allowed = ", ".join(self._methods)
            raise MethodNotAllowedError(
                f"{exchange.path} takes {allowed}, got {exchange.method}", allowed=self._methods
            )

    def _admit(self, exchange: Exchange) -> None:
        """Let the client in, by its key and within its limits."""
        keys = None if self._is_public else self._edge.keys()
        key = None
        if keys is not None:
            try:
                key = keys.check(exchange.header("authorization"), exchange.header("x-api-key"))
            except AuthenticationError:
                # Whoever tries keys is slowed down by the limit of its address, on every path.
                self._enter(exchange, None)
                raise
            exchange.client = key.id
        if not self._is_exempt:
            self._enter(exchange, key)

    def _enter(self, exchange: Exchange, key: Key | None) -> None:
        if self._edge.quotas is None:
            return
        exchange.grant = self._edge.quotas.open(key, exchange.address)
        if exchange.grant is not None:
            exchange.grant.enter()


def _family_of(exchange: Exchange) -> Family:
    """Tell Anthropic's clients from OpenAI's, where both call."""
    is_anthropic = exchange.header("anthropic-version") is not None
    return Family.ANTHROPIC if is_anthropic else Family.OPENAI


async def not_found(exchange: Exchange) -> None:
    """Answer a path that nobody serves."""
    raise NotFoundError(f"no such path: {exchange.method} {exchange.path[:200]}")


def new_id() -> str:
    """Return the id of a request: 128 random bits, so that nobody can guess another's."""
    return f"req_{secrets.token_hex(16)}"
