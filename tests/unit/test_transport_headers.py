"""Pins which header fields of an application are sent, and how a request's become an ASGI scope."""

from __future__ import annotations

import pytest
from hpack import NeverIndexedHeaderTuple

from transport.headers import list_bytes, outbound, scope_of


def request(*fields: tuple[bytes, bytes], path: bytes = b"/", method: bytes = b"GET"):
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"h:1")]
    return scope_of([*pseudo, *fields])


def test_names_go_in_lower_case_and_values_without_space_around_them():
    assert outbound(200, [(b"X-A", b" b ")]) == [(b":status", b"200"), (b"x-a", b"b")]


def test_what_belongs_to_a_connection_is_left_out():
    names = [b"Connection", b"keep-alive", b"proxy-connection", b"Transfer-Encoding", b"upgrade"]

    assert outbound(204, [(name, b"x") for name in names]) == [(b":status", b"204")]


@pytest.mark.parametrize(
    "field", [(b"a b", b"x"), (b":path", b"x"), (b"", b"x"), (b"x", b"a\r\nb"), (b"x", b"a\0")]
)
def test_what_could_split_a_message_is_an_error_that_keeps_the_value(field):
    with pytest.raises(ValueError, match="may not be sent") as caught:
        outbound(200, [field])

    assert "secret" not in str(caught.value)


def test_cookies_stay_out_of_the_compression_table():
    fields = outbound(200, [(b"set-cookie", b"secret"), (b"vary", b"*")])

    assert [isinstance(field, NeverIndexedHeaderTuple) for field in fields] == [False, True, False]


def test_a_header_list_is_measured_as_the_standard_says():
    assert list_bytes([(b"ab", b"c"), (b"d", b"")]) == 3 + 32 + 1 + 32


def test_a_request_becomes_a_scope():
    scope = request((b"x-a", b"1"), (b"x-a", b"2"), path=b"/a%20b/%C3%A9?q=%20", method=b"post")

    assert scope == {
        "method": "POST",
        "path": "/a b/é",
        "raw_path": b"/a%20b/%C3%A9",
        "query_string": b"q=%20",
        "headers": [(b"host", b"h:1"), (b"x-a", b"1"), (b"x-a", b"2")],
    }


def test_the_authority_stands_for_the_host():
    assert request((b"host", b"other"))["headers"] == [(b"host", b"h:1")]


def test_without_an_authority_the_host_stays():
    assert scope_of([(b":path", b"*"), (b":method", b"OPTIONS"), (b"host", b"h")])["headers"] == [
        (b"host", b"h")
    ]


@pytest.mark.parametrize(
    ("path", "method"), [(b"", b"GET"), (b"a", b"GET"), ("/é".encode(), b"GET"), (b"/", b"CONNECT")]
)
def test_a_request_without_a_usable_path_has_no_scope(path, method):
    assert request(path=path, method=method) is None
