"""
The PROXY protocol, versions 1 and 2 (pure): who stands behind a proxy that passes bytes on.

Source: "The PROXY protocol", versions 1 and 2, haproxy's doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""How a header of version 2 begins."""
MAX_BYTES: Final = 2048
"""The longest header taken; addresses need 232 bytes, and those who add certificates are not among ours."""
MAX_LINE_BYTES: Final = 107
"""The longest header of version 1, with its end."""

_START: Final = b"PROXY "
_FIXED: Final = struct.Struct(">12sBBH")
_ADDRESSES: Final = {0x11: struct.Struct(">4s4sHH"), 0x21: struct.Struct(">16s16sHH")}
"""TCP over IPv4 and over IPv6. All else (Unix sockets, datagrams, unspecified) names nobody we could use."""


class ProxyHeaderError(ValueError):
    """The bytes are no header of the PROXY protocol; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """What a proxy says of a connection."""

    client: tuple[str, int] | None
    """Address and port of the client; None where the proxy speaks for itself, or the client has none."""
    size_bytes: int
    """How many of the bytes were the header."""


def parse(data: bytes) -> ProxyHeader | None:
    """
    Read the header at the beginning of a connection.

    Returns:
        None when it is not complete yet; at most `MAX_BYTES` are ever needed.

    Raises:
        ProxyHeaderError: there is none, or it breaks the rules.
    """
    if data.startswith(SIGNATURE):
        return _parse_binary(data)
    if data.startswith(_START):
        return _parse_line(data)
    if SIGNATURE.startswith(data) or _START.startswith(data):
        return None
    raise ProxyHeaderError("the connection does not begin with a PROXY header")


def _parse_line(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:MAX_LINE_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_LINE_BYTES:
            raise ProxyHeaderError(f"a PROXY line must be at most {MAX_LINE_BYTES} bytes")
        return None
    client: tuple[str, int] | None = None
    match line.split(b" "):
        case [_, b"UNKNOWN", *_]:
            pass
        case [_, (b"TCP4" | b"TCP6") as kind, source, destination, source_port, destination_port]:
            version = 4 if kind == b"TCP4" else 6
            client = _address(source, version), _port(source_port)
            _address(destination, version), _port(destination_port)
        case _:
            raise ProxyHeaderError("a PROXY line names TCP4 or TCP6, two addresses and two ports, or UNKNOWN")
    return ProxyHeader(client=client, size_bytes=len(line) + 2)


def _address(text: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        raise ProxyHeaderError(f"a PROXY line names the address {text!r}") from None
    if address.version != version:
        raise ProxyHeaderError(f"a PROXY line of TCP{version} names the address {address}")
    return str(address)


def _port(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or int(text) > 65_535:
        raise ProxyHeaderError(f"a PROXY line names the port {text!r}")
    return int(text)


def _parse_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED.size:
        return None
    _, version_and_command, kind, length = _FIXED.unpack_from(data)
    if version_and_command not in (0x20, 0x21):
        raise ProxyHeaderError(f"a PROXY header has version and command 0x{version_and_command:02x}")
    size_bytes = _FIXED.size + length
    if size_bytes > MAX_BYTES:
        raise ProxyHeaderError(f"a PROXY header must be at most {MAX_BYTES} bytes, got {size_bytes}")
    if len(data) < size_bytes:
        return None
    is_local = version_and_command == 0x20
    addresses = _ADDRESSES.get(kind)
    if is_local or addresses is None:
        return ProxyHeader(client=None, size_bytes=size_bytes)
    if length < addresses.size:
        raise ProxyHeaderError(f"a PROXY header has {length} bytes for addresses of {addresses.size}")
    source, _, source_port, _ = addresses.unpack_from(data, _FIXED.size)
    return ProxyHeader(client=(str(ipaddress.ip_address(source)), source_port), size_bytes=size_bytes)
