"""Header fields of HTTP/2 (pure): an application's, made fit to be sent, and the ASGI scope of a client's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from hpack import NeverIndexedHeaderTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from transport.events import Headers

_OF_THE_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_FORBIDDEN: Final = re.compile(rb"[\0\r\n]")
_SECRET: Final = frozenset({b"set-cookie"})
NO_BODY: Final = frozenset({204, 205, 304})
"""Statuses whose answers have no body."""


def outbound(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """
    Make an application's headers fit to be sent: lower case, nothing that belongs to a connection.

    Raises:
        ValueError: a name or a value that may not be sent; the value, which may be a secret, is not told.
    """
    fields: Headers = [(b":status", b"%d" % status)]
    for raw_name, raw_value in headers:
        name, value = bytes(raw_name).lower(), bytes(raw_value).strip(b" \t")
        if name in _OF_THE_CONNECTION:
            continue
        if _NAME.fullmatch(name) is None or _FORBIDDEN.search(value):
            raise ValueError(f"the header {name!r} or its value may not be sent")
        fields.append(NeverIndexedHeaderTuple(name, value) if name in _SECRET else (name, value))
    return fields


def list_bytes(headers: Headers) -> int:
    """Return the size of a header list as RFC 9113 section 6.5.2 counts it."""
    return sum(len(name) + len(value) + 32 for name, value in headers)


def scope_of(headers: Headers) -> dict[str, Any] | None:
    """
    Read a request: the part of an ASGI scope that its headers tell, None for one that has no path (CONNECT).

    Args:
        headers: Checked by h2: pseudo-header fields first, names in lower case.
    """
    method = path = authority = b""
    fields: Headers = []
    for name, value in headers:
        if name == b":method":
            method = value
        elif name == b":path":
            path = value
        elif name == b":authority":
            authority = value
        elif name not in {b":scheme", b"host"} or (name == b"host" and not authority):
            fields.append((name, value))
    if not (path.startswith(b"/") or path == b"*") or not path.isascii() or method == b"CONNECT":
        return None
    if authority:
        fields.insert(0, (b"host", authority))
    raw_path, _, query = path.partition(b"?")
    return {
        "method": method.decode("latin-1").upper(),
        "path": unquote(raw_path.decode()),
        "raw_path": raw_path,
        "query_string": query,
        "headers": fields,
    }
