"""Pins the reading of PROXY headers: both versions, in any pieces, and everything that is none."""

from __future__ import annotations

import socket
import struct

import pytest

from transport.proxy_protocol import MAX_BYTES, SIGNATURE, ProxyHeader, ProxyHeaderError, parse

V4 = socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 51_000, 443)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack(">HH", 51_000, 443)
)


def binary(addresses: bytes, *, kind: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, kind, len(addresses)) + addresses


GOOD = [
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\r\n", ("203.0.113.7", 51_000)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n", ("2001:db8::7", 51_000)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (binary(V4), ("203.0.113.7", 51_000)),
    (binary(V6, kind=0x21), ("2001:db8::7", 51_000)),
    (binary(V4 + b"\x04\0\x01x"), ("203.0.113.7", 51_000)),  # with a TLV
    (binary(V4, command=0x20), None),  # LOCAL: the proxy asks for itself
    (binary(b"", command=0x20, kind=0), None),
    (binary(bytes(216), kind=0x31), None),  # Unix
    (binary(V4, kind=0x12), None),  # datagrams
]


@pytest.mark.parametrize(("header", "client"), GOOD)
def test_a_header_names_the_client_and_its_own_size(header: bytes, client: tuple[str, int] | None) -> None:
    assert parse(header + b"GET / HTTP/1.1\r\n") == ProxyHeader(client=client, size_bytes=len(header))


@pytest.mark.parametrize("header", [header for header, _ in GOOD])
def test_every_shorter_piece_of_a_header_waits_for_more(header: bytes) -> None:
    assert [parse(header[:size]) for size in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "does not begin with"),
        (b"PROXZ", "does not begin with"),
        (b"\r\n\r\n\r\n", "does not begin with"),
        (b"PROXY " + b"x" * 101, "at most 107 bytes"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 51000\r\n", "two addresses"),
        (b"PROXY UDP4 203.0.113.7 192.0.2.1 51000 443\r\n", "TCP4 or TCP6"),
        (b"PROXY TCP4 203.0.113.777 192.0.2.1 51000 443\r\n", "203.0.113.777"),
        (b"PROXY TCP4 203.0.113.7 \xff 51000 443\r\n", "names the address"),
        (b"PROXY TCP4 2001:db8::7 192.0.2.1 51000 443\r\n", "TCP4 names the address 2001:db8::7"),
        (b"PROXY TCP6 2001:db8::7 192.0.2.1 51000 443\r\n", "TCP6 names the address 192.0.2.1"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 443\r\n", "port b'-1'"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 65536\r\n", "port b'65536'"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 000443\r\n", "port b'000443'"),
        (binary(V4, command=0x11), "version and command 0x11"),
        (binary(V4, command=0x22), "version and command 0x22"),
        (binary(bytes(MAX_BYTES)), "at most 2048 bytes, got 2064"),
        (binary(V4[:11]), "has 11 bytes for addresses of 12"),
        (binary(V4, kind=0x21), "has 12 bytes for addresses of 36"),
    ],
)
def test_what_is_no_header_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ProxyHeaderError, match=reason):
        parse(data)
