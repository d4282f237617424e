"""
The admin application: metrics, health, the snapshot, rollouts, rollback and kill.

It is served twice. On the Unix socket (mode 0600) the caller is this machine's user. On TCP the `Host` must
be a name of this listener (421 otherwise: DNS rebinding), a foreign `Origin` gets 403, and what changes
anything needs the token of STATE/admin.token. No route raises a share: the CLI writes that to the ledger.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wicketgate.api.envelopes import envelope, error_headers
from wicketgate.api.keys import Role
from wicketgate.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidRequestError,
    MethodNotAllowedError,
    MisdirectedError,
    NotFoundError,
    UnavailableError,
    WicketgateError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from wicketgate.api.keys import Keys

MAX_BODY_BYTES = 64 * 1024
"""No admin request is longer."""
MAX_FIELD_CHARACTERS = 500
"""Longest reason or actor."""
SNAPSHOT_PERIOD_S = 1.0
"""A snapshot stream sends one this often."""
MAX_VIEWERS = 16
"""Snapshot streams at a time."""
EVALUATIONS = "/ofrep/v1/evaluate/"
"""What is posted below only reads."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Host names that are always this machine."""


class Operations(Protocol):
    """What the admin application asks of the runtime."""

    def snapshot(self) -> Mapping[str, object]:
        """Return what is true now."""

    def metrics(self) -> bytes:
        """Return the metrics page."""

    def features(self) -> Sequence[Mapping[str, object]]:
        """Return where every feature stands."""

    async def rollback(self, feature: str | None, *, actor: str, reason: str) -> Mapping[str, object]:
        """Take a feature, or all, to 0 %, latched."""

    async def kill(self, *, actor: str, reason: str) -> Mapping[str, object]:
        """Engage the kill switch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Who may reach the admin listener on TCP."""

    token: str
    """For what changes anything."""
    hosts: Callable[[], frozenset[str]]
    """Names that a Host header may carry, without port, beside those of loopback."""
    reads_need_token: bool
    """The listener is bound off loopback."""
    keys: Callable[[], Keys | None]
    """Those of now; one of role admin does as well as the token."""


def create_admin_app(
    operations: Operations, *, more_routes: Sequence[BaseRoute], guard: Guard | None
) -> ASGIApp:
    """
    Build the application.

    Args:
        operations: The runtime.
        more_routes: Health, as the API listener serves it, and what else operators ask.
        guard: None for the Unix socket, whose file mode is the guard.
    """
    viewers = asyncio.Semaphore(MAX_VIEWERS)

    async def snapshot(_: Request) -> Response:
        return JSONResponse(operations.snapshot())

    async def features(_: Request) -> Response:
        return JSONResponse({"schema": "wicketgate.rollout/1", "ok": True, "features": operations.features()})

    async def rollback(request: Request) -> Response:
        body = await read_body(request)
        refuse_unknown(body, ("feature", "actor", "reason"))  # a misspelt feature would be all of them
        done = await operations.rollback(
            text_field(body, "feature"),
            actor=text_field(body, "actor") or "admin",
            reason=text_field(body, "reason") or "",
        )
        return JSONResponse(done)

    async def kill(request: Request) -> Response:
        body = await read_body(request)
        done = await operations.kill(
            actor=text_field(body, "actor") or "admin", reason=text_field(body, "reason") or ""
        )
        return JSONResponse(done)

    routes: list[BaseRoute] = [
        metrics_route(operations.metrics),
        Route("/v1/snapshot", snapshot),
        Route("/v1/snapshots", _Snapshots(operations, viewers)),
        Route("/v1/rollout", features),
        Route("/v1/rollback", rollback, methods=["POST"]),
        Route("/v1/kill", kill, methods=["POST"]),
        *more_routes,
    ]
    app: ASGIApp = Starlette(
        routes=routes, exception_handlers={WicketgateError: _failed, HTTPException: _unserved}
    )
    return app if guard is None else _Guarded(app, guard)


def metrics_route(page: Callable[[], bytes]) -> Route:
    """Make the route that Prometheus scrapes."""

    async def metrics(_: Request) -> Response:
        return Response(page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Route("/metrics", metrics)


class _Snapshots:
    """`GET /v1/snapshots`: server-sent events, one snapshot at once and then one a second."""

    def __init__(self, operations: Operations, viewers: asyncio.Semaphore) -> None:
        self._operations = operations
        self._viewers = viewers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._viewers.locked():
            error = UnavailableError(f"{MAX_VIEWERS} viewers are the most", code="too_many_viewers")
            refusal = JSONResponse(envelope(error), status_code=error.status, headers={"retry-after": "5"})
            await refusal(scope, receive, send)
            return
        async with self._viewers:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/event-stream; charset=utf-8"),
                        (b"cache-control", b"no-cache, no-transform"),
                    ],
                }
            )
            gone = asyncio.ensure_future(_disconnect(receive))
            try:
                while not gone.done():
                    event = (
                        b"event: tick\ndata: " + json.dumps(self._operations.snapshot()).encode() + b"\n\n"
                    )
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    await asyncio.wait({gone}, timeout=SNAPSHOT_PERIOD_S)
            finally:
                gone.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Guarded:
    """Checks Host, Origin and token before anything else is looked at."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            error = self._refusal(scope)
            if error is not None:
                await _told(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> WicketgateError | None:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.lower() not in self._guard.hosts() | LOOPBACK:
            return MisdirectedError(
                f"the Host header names {name!r}, which is no name of this listener; add it to"
                " admin.allowed_hosts if it is yours"
            )
        origin = headers.get("origin")
        if origin is not None and origin.split("://", 1)[-1] != host:
            return ForbiddenError("requests of foreign pages are refused", code="foreign_origin")
        # An evaluation of flags has a body, and changes nothing.
        changes = scope["method"] not in {"GET", "HEAD"} and not scope["path"].startswith(EVALUATIONS)
        probes = scope["path"].startswith("/health/")
        if changes or (self._guard.reads_need_token and not probes):
            return self._check_token(headers.get("authorization"), headers.get("x-api-key"))
        return None

    def _check_token(self, authorization: str | None, api_key: str | None) -> WicketgateError | None:
        given = (authorization or "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), self._guard.token.encode()):
            return None
        keys = self._guard.keys()
        if keys is not None:
            try:
                keys.check(authorization, api_key, role=Role.ADMIN)
            except WicketgateError as error:
                return error
            return None
        return AuthenticationError(
            "this needs `Authorization: Bearer TOKEN` with the token in STATE/admin.token"
        )


def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, WicketgateError)
    return _told(error)


def _unserved(request: Request, error: Exception) -> Response:
    """Answer a path or a method that nobody serves; starlette's own answer is plain text."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:200], request.method
    allowed = (error.headers or {}).get("Allow")
    if allowed is None:
        return _told(NotFoundError(f"no such path: {method} {path}"))
    methods = tuple(allowed.split(", "))
    return _told(MethodNotAllowedError(f"{path} takes {allowed}, got {method}", allowed=methods))


def _told(error: WicketgateError) -> JSONResponse:
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return JSONResponse(envelope(error), status_code=error.status, headers=headers)


async def read_body(request: Request) -> Mapping[str, object]:
    """
    Read the JSON object of a request.

    Raises:
        InvalidRequestError: it is none, or too long.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise InvalidRequestError(f"the body is over {MAX_BODY_BYTES} bytes")
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("the body is no JSON", code="invalid_json") from error
    if not isinstance(value, dict):
        raise InvalidRequestError("the body must be a JSON object", code="invalid_json")
    return value


def refuse_unknown(body: Mapping[str, object], known: Sequence[str]) -> None:
    """
    Refuse fields that mean nothing.

    Raises:
        InvalidRequestError: there is one.
    """
    for name in body:
        if name not in known:
            fields = ", ".join(known)
            raise InvalidRequestError(f"unknown field {name}; known: {fields}. Nothing was done.", param=name)


def text_field(body: Mapping[str, object], field: str) -> str | None:
    """
    Return the text of a field; None where it is absent.

    Raises:
        InvalidRequestError: it is no text, or too long.
    """
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_FIELD_CHARACTERS:
        raise InvalidRequestError(
            f"{field} must be a string of at most {MAX_FIELD_CHARACTERS} characters", param=field
        )
    # No answer could carry a lone surrogate, and a strange reason must not stop a rollback.
    return value.encode("utf-8", "backslashreplace").decode()
