"""
Who asked, by the headers that trusted proxies add (pure).

Each proxy appends the address that it was called from, so that only the right end is to be believed: the
client is the right-most address that is no trusted proxy's. What stands left of it, the client may have
written itself. Only the one kind of header that the operator names is read: a proxy that writes one kind lets
the other through as it came, and the client could write that.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PARAMETER: Final = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))\s*(?:;|\Z)')
_ELEMENT: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+')
_WITH_PORT: Final = re.compile(r"\[(.+)\](?::\d+)?|([^:]+):\d+")
_SCHEMES: Final = ("http", "https")
MAX_VALUE_CHARS: Final = 1024
"""A longer header says nothing: to read one full of quotation marks costs the square of its length."""


class ForwardedKind(StrEnum):
    """Which headers say who asked."""

    X_FORWARDED = "x-forwarded"
    """X-Forwarded-For and X-Forwarded-Proto."""
    FORWARDED = "forwarded"
    """Forwarded, RFC 7239."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hop:
    host: str | None
    scheme: str | None


def is_trusted(host: str | None, trusted: Iterable[Network]) -> bool:
    """
    Say whether an address belongs to a trusted proxy.

    Args:
        host: None for a Unix socket, whose file says who may connect.
        trusted: Their networks.
    """
    if host is None:
        return True
    address = _address(host)
    return address is not None and any(address in network for network in trusted)


def forwarded_client(
    headers: Iterable[tuple[bytes, bytes]],
    peer: str | None,
    trusted: tuple[Network, ...],
    *,
    kind: ForwardedKind,
) -> tuple[str | None, str | None]:
    """
    Find the client behind trusted proxies.

    Args:
        headers: Of the request, their names in lower case.
        peer: The address that the connection came from; None for a Unix socket.
        trusted: Networks of our proxies.
        kind: The headers that they write.

    Returns:
        The client's address (`peer` where the headers say nothing to be believed), and the scheme that it
        used, None where nothing is said of it.
    """
    if not is_trusted(peer, trusted):
        return peer, None
    found, scheme = peer, None
    hops = _forwarded(headers) if kind is ForwardedKind.FORWARDED else _x_forwarded(headers)
    for hop in reversed(hops):
        if hop.host is None:
            break  # unknown or hidden: nobody can say who stands behind
        found, scheme = hop.host, hop.scheme
        if not is_trusted(found, trusted):
            break
    return found, scheme


def _x_forwarded(headers: Iterable[tuple[bytes, bytes]]) -> list[_Hop]:
    hosts: list[str] = []
    schemes: list[str] = []
    for name, value in headers:
        if name == b"x-forwarded-for":
            hosts += value.decode("latin-1").split(",")
        elif name == b"x-forwarded-proto":
            schemes += value.decode("latin-1").split(",")
    # Most proxies write one scheme, their own, however many addresses there are.
    each = schemes if len(schemes) == len(hosts) else schemes[-1:] * len(hosts)
    each = each or [""] * len(hosts)
    return [_Hop(host=_host(host), scheme=_scheme(scheme)) for host, scheme in zip(hosts, each, strict=True)]


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> list[_Hop]:
    values = [value.decode("latin-1") for name, value in headers if name == b"forwarded"]
    if sum(map(len, values)) > MAX_VALUE_CHARS:
        return []
    return [_hop(element) for value in values for element in _ELEMENT.findall(value)]


def _hop(element: str) -> _Hop:
    told: dict[str, str] = {}
    at = 0
    while at < len(element):
        found = _PARAMETER.match(element, at)
        if found is None:
            return _Hop(host=None, scheme=None)
        text = found[3] if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
        told.setdefault(found[1].lower(), text)
        at = found.end()
    return _Hop(host=_host(told.get("for", "")), scheme=_scheme(told.get("proto", "")))


def _host(text: str) -> str | None:
    text = text.strip()
    with_port = _WITH_PORT.fullmatch(text)
    if with_port is not None:
        text = with_port[1] or with_port[2]
    address = _address(text)
    return None if address is None else str(address)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A socket for both families gives IPv4 clients as ::ffff:192.0.2.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _scheme(text: str) -> str | None:
    text = text.strip().lower()
    return text if text in _SCHEMES else None
