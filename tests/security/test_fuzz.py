"""Pins that no bytes of a client end the server, fail in it, or stay in it, whatever is spoken."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.attacks import attacker
from bench.attacks.attacker import Attacker, frame
from bench.attacks.http1 import GET, Talk

SLOW = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
IDS = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 2**31 - 1, 2**32 - 1])
BLOCKS = st.sampled_from(
    [
        attacker.block(),
        attacker.block("/upload", method="POST"),
        attacker.block("/steps?events=3"),
        attacker.block("/big?bytes=100000"),
        attacker.block("*", method="OPTIONS"),
        attacker.block("/hello", method="CONNECT"),
        attacker.block(more=[("content-length", "3")]),
        attacker.block(more=[("expect", "100-continue")]),
    ]
)
WORDS = st.sampled_from([0, 1, 8, 65_535, 2**31 - 1, 2**32 - 1]).map(attacker.word)
PAYLOADS = st.one_of(BLOCKS, WORDS, st.binary(max_size=40), st.lists(WORDS, max_size=3).map(b"".join))
FRAMES = st.builds(
    frame, st.integers(0, 12), st.sampled_from([0, 1, 4, 5, 8, 0x24, 0x25, 0x2D, 0xFF]), IDS, PAYLOADS
)
REQUESTS = st.builds(attacker.headers, st.sampled_from([1, 3, 5, 7, 9]), BLOCKS, ends=st.booleans())
FRAGMENTS = st.sampled_from(
    [
        GET,
        b"POST /upload HTTP/1.1\r\nhost: x\r\n",
        b"GET /big?bytes=100000 HTTP/1.1\r\nhost: x\r\n",
        b"content-length: 3\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"expect: 100-continue\r\n",
        b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n",
        b"upgrade: h2c\r\nconnection: upgrade\r\n",
        b"\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ]
)


def talk(port, data):
    with Talk(port) as client:
        client.send(data)
        client.read(bool, limit_s=0.01)


@SLOW
@given(parts=st.lists(st.one_of(FRAMES, REQUESTS, REQUESTS), max_size=15), cut=st.integers(0, 8))
def test_no_frames_of_http2_harm_the_server(scene, parts, cut):
    data = b"".join(parts)
    with Attacker(scene.target.port) as client:
        client.send(data[: len(data) - cut])
        client.read(lambda each: bool(each.statuses), limit_s=0.01)

    assert scene.target.is_alive


@SLOW
@given(parts=st.lists(st.one_of(FRAGMENTS, st.binary(max_size=20)), min_size=1, max_size=10))
def test_no_bytes_of_http_1_harm_the_server(scene, parts):
    talk(scene.target.port, b"".join(parts))

    assert scene.target.is_alive


@SLOW
@given(data=st.binary(max_size=300), kind=st.sampled_from([b"\x16\x03\x01", b"\x17\x03\x03", b""]))
def test_no_bytes_on_tls_harm_the_server(scene, data, kind):
    talk(scene.target.tls_port, kind + data)

    assert scene.target.is_alive


@SLOW
@given(
    start=st.sampled_from([b"PROXY TCP4 ", b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11", b""]),
    data=st.binary(max_size=60),
)
def test_no_bytes_of_a_proxy_harm_the_server(scene, start, data):
    talk(scene.target.proxy_port, start + data)

    assert scene.target.is_alive


def test_nothing_of_all_that_is_left_or_was_logged(scene):
    scene.check()
