"""Pins how HTTP/2 is told from HTTP/1.1 in clear text, and what is said where it may not be spoken."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes

from transport.preface import CLIENT_PREFACE, HTTP_1_1_REQUIRED, speaks_h2


def test_the_preface_is_known_at_its_last_byte() -> None:
    told = [speaks_h2(CLIENT_PREFACE[:size]) for size in range(len(CLIENT_PREFACE) + 1)]

    assert told == [None] * 24 + [True]


def test_what_follows_the_preface_does_not_matter() -> None:
    assert speaks_h2(CLIENT_PREFACE + b"\0\0\0\4") is True


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"P0", b"POST / ", b"PRI * HTTP/1.1\r\n", b"\0"])
def test_all_else_is_http_1(data: bytes) -> None:
    assert speaks_h2(data) is False


def test_a_client_is_told_to_use_http_1() -> None:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()

    settings, end = client.receive_data(HTTP_1_1_REQUIRED)

    assert isinstance(settings, h2.events.RemoteSettingsChanged)
    assert isinstance(end, h2.events.ConnectionTerminated)
    assert (end.error_code, end.last_stream_id) == (ErrorCodes.HTTP_1_1_REQUIRED, 0)
