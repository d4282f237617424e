"""Pins who is taken for the client behind proxies: only what a trusted proxy wrote is believed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from transport.forwarded import MAX_VALUE_CHARS, ForwardedKind, forwarded_client, is_trusted

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
PROXY = "10.0.0.1"


def x_forwarded(
    addresses: str, proto: str | None = None, *, peer: str | None = PROXY
) -> tuple[str | None, str | None]:
    headers = [(b"host", b"x"), (b"x-forwarded-for", addresses.encode())]
    if proto is not None:
        headers.append((b"x-forwarded-proto", proto.encode()))
    return forwarded_client(headers, peer, TRUSTED, kind=ForwardedKind.X_FORWARDED)


def forwarded(*values: str, peer: str | None = PROXY) -> tuple[str | None, str | None]:
    headers = [(b"forwarded", value.encode()) for value in values]
    return forwarded_client(headers, peer, TRUSTED, kind=ForwardedKind.FORWARDED)


def test_a_stranger_is_not_believed() -> None:
    assert x_forwarded("198.51.100.1", "https", peer="203.0.113.9") == ("203.0.113.9", None)


def test_one_on_a_unix_socket_is_believed() -> None:
    assert x_forwarded("198.51.100.1", "https", peer=None) == ("198.51.100.1", "https")


def test_without_headers_the_client_is_the_peer() -> None:
    assert forwarded_client([], PROXY, TRUSTED, kind=ForwardedKind.X_FORWARDED) == (PROXY, None)


def test_headers_of_the_other_kind_are_not_read() -> None:
    headers = [(b"forwarded", b"for=198.51.100.1"), (b"x-forwarded-for", b"198.51.100.2")]

    assert forwarded_client(headers, PROXY, TRUSTED, kind=ForwardedKind.X_FORWARDED)[0] == "198.51.100.2"
    assert forwarded_client(headers, PROXY, TRUSTED, kind=ForwardedKind.FORWARDED)[0] == "198.51.100.1"


@pytest.mark.parametrize(
    ("addresses", "client"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("6.6.6.6, 198.51.100.1, 10.0.0.7, fd00::7", "198.51.100.1"),
        ("10.0.0.9, 10.0.0.7", "10.0.0.9"),
        ("198.51.100.1:4711", "198.51.100.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("198.51.100.1, ::ffff:10.0.0.7", "198.51.100.1"),
        ("198.51.100.1, unknown", PROXY),
        ("198.51.100.1, rubbish, 10.0.0.7", "10.0.0.7"),
        ("198.51.100.1,", PROXY),
        ("", PROXY),
    ],
)
def test_the_client_is_the_right_most_address_that_is_no_proxy(addresses: str, client: str) -> None:
    assert x_forwarded(addresses)[0] == client


@pytest.mark.parametrize(
    ("addresses", "proto", "scheme"),
    [
        ("198.51.100.1", "https", "https"),
        ("198.51.100.1", " HTTPS ", "https"),
        ("6.6.6.6, 198.51.100.1", "http, https", "https"),
        ("6.6.6.6, 198.51.100.1, 10.0.0.7", "https, http, https", "http"),
        ("6.6.6.6, 198.51.100.1", "https", "https"),
        ("198.51.100.1", "javascript", None),
        ("198.51.100.1", None, None),
    ],
)
def test_the_scheme_is_what_the_client_used(addresses: str, proto: str | None, scheme: str | None) -> None:
    assert x_forwarded(addresses, proto) == ("198.51.100.1", scheme)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["for=198.51.100.1"], ("198.51.100.1", None)),
        (["For=198.51.100.1;Proto=https;by=10.0.0.1"], ("198.51.100.1", "https")),
        (['for="[2001:db8::1]:4711" ; proto="https"'], ("2001:db8::1", "https")),
        (['for="198\\.51.100.1"'], ("198.51.100.1", None)),
        (["for=6.6.6.6;proto=https, for=198.51.100.1;proto=http"], ("198.51.100.1", "http")),
        (["for=6.6.6.6", "for=198.51.100.1, for=10.0.0.7"], ("198.51.100.1", None)),
        (['for=6.6.6.6;host="a,b", for=198.51.100.1'], ("198.51.100.1", None)),
        (["for=198.51.100.1, for=_hidden"], (PROXY, None)),
        (["for=198.51.100.1, for=unknown, for=10.0.0.7"], ("10.0.0.7", None)),
        (["for=198.51.100.1 rubbish"], (PROXY, None)),
        (["proto=https"], (PROXY, None)),
        (["for=198.51.100.1;for=6.6.6.6"], ("198.51.100.1", None)),
        (['for=6.6.6.6;a=", for="[2001:db8::1]"'], (PROXY, None)),
        ([""], (PROXY, None)),
    ],
)
def test_forwarded_says_it_in_elements(values: list[str], found: tuple[str, str | None]) -> None:
    assert forwarded(*values) == found


def test_a_header_that_is_expensive_to_read_is_not_read() -> None:
    assert forwarded('"\\' * (MAX_VALUE_CHARS // 2) + ", for=198.51.100.1") == (PROXY, None)


@pytest.mark.parametrize(
    ("host", "answer"),
    [("10.1.2.3", True), ("fd00::1", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("x", False)],
)
def test_who_is_trusted_is_told_by_networks(host: str, answer: bool) -> None:
    assert is_trusted(host, TRUSTED) is answer
