"""Pins which requests are answered as their bytes are read, and what the answers look like on HTTP/1.1."""

from __future__ import annotations

import pytest

from transport.instant import MOST_BYTES, Instant, Instants, WholeRequest

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
WELL = Instant(status=200, headers=((b"content-length", b"2"), (b"x-a", b"b")), body=b"ok")
DATE = (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT")


def read(data, *, most=1000):
    return WholeRequest.read(data, server=("127.0.0.1", 1), max_header_bytes=most)


def instants(answer=lambda _: WELL):
    return Instants({"/health", "/health/live"}, answer, lambda _: None)


@pytest.mark.parametrize(
    "data",
    [
        GET,
        b"HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health/live?a=b HTTP/1.0\r\n\r\n",
    ],
)
def test_a_whole_request_for_a_known_path_is_looked_at(data):
    assert instants().may_know(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GET[:-1],
        b"POST /health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /healthy HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models?/health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET  /health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://x/health HTTP/1.1\r\nhost: x\r\n\r\n",
        GET[:-2] + b"a: " + b"b" * MOST_BYTES + b"\r\n\r\n",
    ],
)
def test_other_bytes_are_not_looked_at(data):
    assert not instants().may_know(data)


def test_a_request_is_read_as_the_application_would_be_told_of_it():
    asked = read(b"GET /health?a=b HTTP/1.1\r\nHost: x\r\nX-A: b\r\n\r\n")

    assert asked.scope == {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/health",
        "raw_path": b"/health",
        "query_string": b"a=b",
        "headers": [(b"host", b"x"), (b"x-a", b"b")],
        "server": ("127.0.0.1", 1),
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GET[:-2],
        GET + GET,
        GET[:-4] + b"\n\n" + GET,
        GET[:-2] + b"content-length: 1\r\n\r\n",
        GET[:-2] + b"content-length: 4\r\n\r\n\r\n\r\n",
        GET[:-2] + b"transfer-encoding: chunked\r\n\r\n",
        GET[:-2] + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
        GET[:-2] + b"content-length: 0\r\ncontent-length: 1\r\n\r\n",
        GET[:-2] + b"host: y\r\n\r\n",
        GET[:-2] + b"a b: c\r\n\r\n",
        GET[:-2] + b"a: b\rc\r\n\r\n",
        GET[:-2] + b"a: " + b"b" * 1000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/2.0\r\nhost: x\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /he\x00alth HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_what_is_not_one_whole_request_is_left_alone(data):
    assert read(data) is None


@pytest.mark.parametrize(
    ("data", "line", "body", "is_last"),
    [
        (GET, b"", b"ok", False),
        (GET[:-2] + b"connection: close\r\n\r\n", b"connection: close\r\n", b"ok", True),
        (b"GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", b"connection: close\r\n", b"ok", True),
        (b"HEAD" + GET[3:], b"", b"", False),
    ],
    ids=["keeps", "closes", "old", "head"],
)
def test_an_answer_is_framed_as_its_request_asks(data, line, body, is_last):
    asked = read(data)
    answered = asked.answered(WELL, [DATE])

    head = b"HTTP/1.1 200 \r\ncontent-length: 2\r\nx-a: b\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert answered.lower() == (head + line + b"\r\n" + body).lower()
    assert asked.is_last is is_last


def test_a_request_for_a_known_path_is_given_to_the_application():
    seen = []

    assert instants(seen.append).find(read(GET).scope) is None
    assert instants().find(read(GET).scope) is WELL
    assert [scope["path"] for scope in seen] == ["/health"]


@pytest.mark.parametrize(
    "header",
    ["content-length: 0", "Expect: 100-continue", "upgrade: websocket"],
)
def test_a_request_behind_which_something_may_come_is_left_to_the_application(header):
    asked = read(GET[:-2] + header.encode() + b"\r\n\r\n")

    assert asked is not None
    assert instants().find(asked.scope) is None


def test_a_path_that_only_decodes_to_a_known_one_is_left_to_the_application():
    scope = {**read(GET).scope, "raw_path": b"/he%61lth"}

    assert instants().find(scope) is None


def test_a_fault_leaves_the_request_to_the_application_and_is_logged(caplog):
    def fail(_):
        raise RuntimeError

    assert instants(fail).find(read(GET).scope) is None
    assert [record.message for record in caplog.records] == ["request_failed"]
