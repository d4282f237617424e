"""
Requests that are answered in the very call that brought their bytes.

Where many connections ask at once, the event loop reads them all, then runs all applications, then writes all
answers, so that each waits for all. What needs no waiting, as a probe of health, is answered as it is read.

On HTTP/1.1 that holds for a whole request that comes alone on an idle connection. An h11 of its own says
whether it is one, and frames the answer, so that there is no second opinion on where a request ends. Whatever
is not plain goes the ordinary way with all its bytes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import h11

from transport.headers import list_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from starlette.types import Scope

    from transport.events import Headers

_log = logging.getLogger(__name__)

MOST_BYTES: Final = 4096
"""A longer request is not looked at: one of 60 KB in small headers takes h11 20 ms."""
BUSY_TEXT: Final = b"too many requests at once: try again later\n"
"""Of a 503, at once or not, for a request that has no place among those at once."""
BUSY_HEADER: Final = (b"retry-after", b"1")
_METHODS: Final = (b"GET", b"HEAD")
_UNUSUAL: Final = frozenset({b"content-length", b"expect", b"transfer-encoding", b"upgrade"})
"""A request with one of these has, or may have, a body or another protocol behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """An answer that is known already."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """With the body's length."""
    body: bytes


class Instants:
    """
    What an application answers at once.

    Args:
        paths: Other requests are not looked at.
        answer: Given the method, paths, headers and server of a scope; None leaves it to the application.
        took: Hears of each answer how long it took, from the reading of the request's bytes to its writing.
    """

    def __init__(
        self, paths: Collection[str], answer: Callable[[Scope], Instant | None], took: Callable[[float], None]
    ) -> None:
        self._paths = frozenset(path.encode() for path in paths)
        self._answer = answer
        self.took = took

    def find(self, scope: Scope) -> Instant | None:
        """Answer a request that has ended; None for one that goes the ordinary way."""
        if scope["raw_path"] not in self._paths or any(name in _UNUSUAL for name, _ in scope["headers"]):
            return None
        try:
            return self._answer(scope)
        except Exception:  # noqa: BLE001  (the top of a request: its fault must not touch another's)
            _log.exception("request_failed")
            return None

    def may_know(self, data: bytes) -> bool:
        """Say, without parsing them, whether bytes of HTTP/1.1 look like one whole request for a path."""
        if len(data) > MOST_BYTES or not data.endswith(b"\r\n\r\n"):
            return False
        method, _, rest = data.partition(b" ")
        return method in _METHODS and rest.partition(b" ")[0].partition(b"?")[0] in self._paths


class WholeRequest:
    """
    One request of HTTP/1.1 without a body, of which nothing is missing and after which nothing has come.

    Args:
        connection: h11's, which has read it.
        request: What it has read.
        server: This end.
    """

    def __init__(
        self, connection: h11.Connection, request: h11.Request, server: tuple[str, int | None] | None
    ) -> None:
        self._connection = connection
        self._is_head = request.method == b"HEAD"
        raw_path, _, query = request.target.partition(b"?")
        self.scope: Scope = {
            "type": "http",
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "path": raw_path.decode(),
            "raw_path": raw_path,
            "query_string": query,
            "headers": list(request.headers),
            "server": server,
        }
        """What `Instants.find` is given."""

    @classmethod
    def read(
        cls, data: bytes, *, server: tuple[str, int | None] | None, max_header_bytes: int
    ) -> Self | None:
        """Parse bytes; None where they are anything else, or break a rule."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=max_header_bytes)
        connection.receive_data(data)
        try:
            request, end = connection.next_event(), connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if not isinstance(request, h11.Request) or not isinstance(end, h11.EndOfMessage):
            return None
        headers: Headers = list(request.headers)
        if connection.trailing_data[0] or list_bytes(headers) > max_header_bytes:
            return None
        return cls(connection, request, server) if request.http_version in (b"1.0", b"1.1") else None

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with the answer, once that is made."""
        return self._connection.our_state is not h11.DONE

    def answered(self, answer: Instant, more_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the bytes of the answer."""
        headers = [*answer.headers, *more_headers]
        events = [h11.Response(status_code=answer.status, headers=headers), h11.EndOfMessage()]
        if not self._is_head:
            events.insert(1, h11.Data(data=answer.body))
        return b"".join(self._connection.send(event) or b"" for event in events)
