"""One HTTP request and its answer, on raw ASGI: body in, JSON or events out, errors in OpenAI's envelope."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from typing import TYPE_CHECKING, Any, Final

from transport import sse
from transport.limits import Verdict
from wicketgate.errors import BodyTimeoutError, PayloadTooLargeError, WicketgateError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from starlette.types import Receive, Scope, Send

    from transport.limits import BodyLimit

LAST_WRITE_S: Final = 1.0
"""How long the end of an answer may take once the client seems gone, or the answer has failed."""
MAX_RETRY_AFTER_S: Final = 59
"""The AI SDK takes no wait of 60 s or more; jitter is the client's."""
_ECHOED: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")

Headers = tuple[tuple[bytes, bytes], ...]


class ClientGoneError(Exception):
    """The client has closed its stream or connection: nobody is left to answer."""


def envelope(error: WicketgateError) -> dict[str, object]:
    """Return an error as OpenAI's API writes it, always with the four keys."""
    return {
        "error": {
            "message": error.message,
            "type": error.api_type,
            "param": error.param,
            "code": error.code,
        }
    }


class Exchange:
    """
    A request and its answer.

    Args:
        limit: What its body may cost.
        heartbeat_s: Events that are silent for so long get a comment line.
        request_id: Ours; every answer names it.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        limit: BodyLimit,
        heartbeat_s: float,
        request_id: str,
    ) -> None:
        self.request_id = request_id
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.path_params: dict[str, str] = scope.get("path_params", {})
        self.connection: str | None = None
        """Address and port of the client, where it has any."""
        if scope.get("client") is not None:
            host, port = scope["client"][:2]
            self.connection = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.client: str | None = None
        """Id of the API key, once it was checked."""
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send
        self._limit = limit
        self._heartbeat_s = heartbeat_s
        self._silent_since_s: float | None = None
        """When the last event went out; None while none may be sent."""
        self._body_is_read = False
        self._is_started = False
        self._is_ending = False

    def header(self, name: str) -> str | None:
        """Return a request header's value, of several the last."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def read_body(self) -> bytes:
        """
        Read the request's body to its end.

        Raises:
            PayloadTooLargeError: it is over the limit; most of it was read and thrown away.
            BodyTimeoutError: it came too slowly.
            ClientGoneError: it broke off.
        """
        declared = self.header("content-length")
        declared_bytes = (
            int(declared) if declared is not None and declared.isascii() and declared.isdigit() else None
        )
        self._body_is_read = True
        parts: list[bytes] = []
        verdict, received_bytes, more = Verdict.GO_ON, 0, True
        try:
            async with asyncio.timeout(self._limit.timeout_s):
                while more and verdict is not Verdict.STOP:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    received_bytes += len(parts[-1])
                    verdict = self._limit.judge(received_bytes=received_bytes, declared_bytes=declared_bytes)
                    if verdict is not Verdict.GO_ON:
                        parts.clear()
        except TimeoutError:
            raise BodyTimeoutError(
                f"the body must come within {self._limit.timeout_s:g} s (server.body_timeout_s)"
            ) from None
        if verdict is not Verdict.GO_ON:
            raise PayloadTooLargeError(
                f"the body must be at most {self._limit.max_bytes} bytes (server.max_body_bytes),"
                f" got {max(received_bytes, declared_bytes or 0)}"
            )
        return b"".join(parts)

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """
        Run `work`, and cancel it when the client goes away. The body must have been read.

        Raises:
            ClientGoneError: it went away.
        """
        # The work runs in this very task and begins at once: in a task of its own it would stand behind
        # all requests that arrived in the same turn of the loop, and the first refusal wait for the last.
        current = asyncio.current_task()
        assert current is not None
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            await self._gone()
            is_gone = True
            current.cancel()

        watching = asyncio.create_task(watch())
        try:
            await work
        except asyncio.CancelledError:
            if is_gone and current.uncancel() == 0:
                raise ClientGoneError from None
            raise
        finally:
            watching.cancel()

    async def _gone(self) -> None:
        """Wait for the client to go away, and show it meanwhile that we have not."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = (self._silent_since_s or loop.time()) + self._heartbeat_s
            try:
                async with asyncio.timeout_at(due_s):
                    if (await self._receive())["type"] == "http.disconnect":
                        break
            except TimeoutError:
                await self._beat(due_s)
        if self._is_ending:
            # The server says "disconnect" at the regular end too, before its last send has returned.
            await asyncio.sleep(LAST_WRITE_S)

    async def _beat(self, due_s: float) -> None:
        if self._silent_since_s is None or self._silent_since_s + self._heartbeat_s > due_s:
            return
        # Held up by a full buffer, this would never hear of the disconnect.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_S):
                await self.write(sse.HEARTBEAT)

    async def answer(self, value: object, *, status: int = 200, headers: Headers = ()) -> None:
        """Answer with JSON, once and whole."""
        if not self._body_is_read:
            await self._discard_body()
        body = sse.json_bytes(value)
        about = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
        await self._start(status, (*about, *headers))
        await self.end(body)

    async def start_events(self, headers: Headers) -> None:
        """Begin an answer of server-sent events; its status is 200."""
        await self._start(200, (*sse.HEADERS, *headers))
        self._silent_since_s = asyncio.get_running_loop().time()

    async def write(self, data: bytes) -> None:
        """Send a part of the answer; a client that does not read holds it up."""
        self._silent_since_s = None
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._silent_since_s = asyncio.get_running_loop().time()

    async def end(self, data: bytes) -> None:
        """Send the last part of the answer, and its end in the same write."""
        self._is_ending = True
        self._silent_since_s = None
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def refuse(self, error: WicketgateError, *, headers: Headers = ()) -> None:
        """Answer with an error; in a stream that has begun, end it with an error event and no [DONE]."""
        if not self._is_started:
            await self.answer(
                envelope(error), status=error.status, headers=(*_error_headers(error), *headers)
            )
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_S):
                await self.end(sse.event(envelope(error)))

    async def _discard_body(self) -> None:
        with contextlib.suppress(PayloadTooLargeError, BodyTimeoutError):
            await self.read_body()

    async def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        ours = [(b"x-request-id", self.request_id.encode())]
        theirs = self.header("x-request-id")
        if theirs is not None and _ECHOED.match(theirs):
            ours.append((b"x-client-request-id", theirs.encode()))
        self._is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *ours]})


def _error_headers(error: WicketgateError) -> Headers:
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_s is not None:
        whole = min(max(math.ceil(error.retry_after_s), 1), MAX_RETRY_AFTER_S)
        headers.append((b"retry-after", b"%d" % whole))
        headers.append((b"retry-after-ms", b"%d" % max(math.ceil(error.retry_after_s * 1000), 1)))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 504:
        # It would take as long again; SDKs retry every 5xx otherwise.
        headers.append((b"x-should-retry", b"false"))
    return tuple(headers)
