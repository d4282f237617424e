"""One HTTP request and its answer, on raw ASGI: body in, JSON or events out, errors in the API's envelope."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from transport import sse
from transport.asgi_stream import EXTENSION
from transport.limits import Verdict
from wicketgate.api.envelopes import Family, envelope, error_headers, status_of
from wicketgate.api.stream_handle import AsgiHandle
from wicketgate.errors import BodyTimeoutError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from starlette.types import Receive, Scope, Send

    from transport.limits import BodyLimit
    from wicketgate.api.quotas import Grant
    from wicketgate.api.stream_handle import StreamHandle
    from wicketgate.errors import WicketgateError

LAST_WRITE_S: Final = 1.0
"""How long the end of an answer may take once the client seems gone, or the answer has failed."""
_ECHOED: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")

Headers = tuple[tuple[bytes, bytes], ...]


class ClientGoneError(Exception):
    """The client has closed its stream or connection: nobody is left to answer."""


class Exchange:
    """
    A request and its answer.

    Args:
        limit: What its body may cost.
        request_id: Ours; every answer names it.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, limit: BodyLimit, request_id: str
    ) -> None:
        self.request_id = request_id
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.path_params: dict[str, str] = scope.get("path_params", {})
        self.address: str | None = None
        """The client's, where it has any."""
        self.connection: str | None = None
        """Address and port of the client, where it has any."""
        if scope.get("client") is not None:
            self.address, port = scope["client"][:2]
            host = f"[{self.address}]" if ":" in self.address else self.address
            self.connection = f"{host}:{port}"
        self.client: str | None = None
        """Id of the API key, once it was checked."""
        self.family = Family.OPENAI
        """Whose errors it gets."""
        self.grant: Grant | None = None
        """What the client's limits hold for it."""
        self.extra_headers: Headers = ()
        """Of every answer to it."""
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        theirs = self.header("x-request-id")
        self.client_request_id = theirs if theirs is not None and _ECHOED.match(theirs) else None
        """The client's own name for it, where it is one that can be logged and echoed."""
        self.limit = limit
        self._handle: StreamHandle | None = (scope.get("extensions") or {}).get(EXTENSION)
        self._receive = receive
        self._send = send
        self._body_is_read = False
        self._is_started = False
        self._is_ending = False

    def header(self, name: str) -> str | None:
        """Return a request header's value, of several the last."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    # What the client sends

    async def read_body(self) -> bytes:
        """
        Read the request's body to its end.

        Raises:
            PayloadTooLargeError: it is over the limit; most of it was read and thrown away.
            BodyTimeoutError: it came too slowly.
            ClientGoneError: it broke off.
        """
        return await self._receive_body(keeps=True)

    async def _receive_body(self, *, keeps: bool) -> bytes:
        """Read it, and keep nothing of what nobody will look at."""
        declared = self.header("content-length")
        declared_bytes = (
            int(declared) if declared is not None and declared.isascii() and declared.isdigit() else None
        )
        self._body_is_read = True
        parts: list[bytes] = []
        verdict, received_bytes, more = Verdict.GO_ON, 0, True
        try:
            async with asyncio.timeout(self.limit.timeout_s):
                while more and verdict is not Verdict.STOP:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    more = message.get("more_body", False)
                    received_bytes += len(part)
                    if keeps:
                        parts.append(part)
                    verdict = self.limit.judge(received_bytes=received_bytes, declared_bytes=declared_bytes)
                    if verdict is not Verdict.GO_ON:
                        parts.clear()
        except TimeoutError:
            raise BodyTimeoutError(
                f"the body must come within {self.limit.timeout_s:g} s (server.body_timeout_s)"
            ) from None
        if verdict is not Verdict.GO_ON:
            raise PayloadTooLargeError(
                f"the body must be at most {self.limit.max_bytes} bytes (server.max_body_bytes),"
                f" got {max(received_bytes, declared_bytes or 0)}"
            )
        return b"".join(parts)

    @contextlib.contextmanager
    def watched(self, gone: Callable[[], None]) -> Iterator[None]:
        """
        Call `gone`, once, when the client goes away meanwhile. The body must have been read.

        Raises:
            ClientGoneError: it has gone already.
        """
        if self._handle is not None:
            if self._handle.is_gone:
                raise ClientGoneError
            self._handle.on_closed = gone
            try:
                yield
            finally:
                self._handle.on_closed = None
            return
        watching = asyncio.create_task(self._watch(gone))
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self, gone: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._is_ending:
            # The server says "disconnect" at the regular end too, before its last send has returned.
            await asyncio.sleep(LAST_WRITE_S)
        gone()

    # What it gets

    async def answer(self, value: object, *, status: int = 200, headers: Headers = ()) -> None:
        """Answer with JSON, once and whole."""
        # Numbers in a twentieth of the time of `json`, which holds up the loop for 1 us each (Linux CPU).
        body = msgspec.json.encode(value)
        about = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
        await self._answer(status, (*about, *headers), body)

    async def answer_empty(self, *, status: int = 204, headers: Headers = ()) -> None:
        """Answer without a body."""
        await self._answer(status, headers, b"")

    async def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        if not self._body_is_read:
            with contextlib.suppress(PayloadTooLargeError, BodyTimeoutError):
                # A client that is refused must not make us hold what it sends.
                await self._receive_body(keeps=False)
        await self._start(status, headers)
        self._is_ending = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start_events(self, headers: Headers) -> StreamHandle:
        """Begin an answer of server-sent events, whose status is 200; return what takes them."""
        await self._start(200, (*sse.HEADERS, *headers))
        return AsgiHandle(self._send) if self._handle is None else self._handle

    def ending(self) -> None:
        """Tell that the last event was written: from here on the client may well be gone."""
        self._is_ending = True

    async def refuse(self, error: WicketgateError, *, headers: Headers = ()) -> None:
        """Answer with an error; does nothing once a status has been sent."""
        if self._is_started:
            return
        await self.answer(
            envelope(error, self.family, request_id=self.request_id),
            status=status_of(error, self.family),
            headers=(*error_headers(error, request_id=self.request_id), *headers),
        )

    async def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        name = self.request_id.encode()
        ours = [(b"x-request-id", name), (b"request-id", name), *self.extra_headers]
        if self.grant is not None:
            ours += self.grant.headers(self.family)
        if self.client_request_id is not None:
            ours.append((b"x-client-request-id", self.client_request_id.encode()))
        self._is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *ours]})
