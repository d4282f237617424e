"""Attacks by HTTP/1.1, on TLS, and by the PROXY protocol."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from bench.attacks.http2 import GRACE_S, unfinished_s
from bench.attacks.seen import Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.attacks.scene import Target
    from bench.attacks.seen import Attack, Scale

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3})")
GET: Final = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
_POST: Final = b"POST /upload HTTP/1.1\r\nhost: x\r\n"
_HELLO: Final = bytes.fromhex("16030100c8010000c40303")
"""How a ClientHello of TLS begins."""


def _whole_hello() -> bytes:
    """Make a ClientHello: the server answers with all that it has, and holds what it has begun."""
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="x").do_handshake()
    return sent.read()


class Talk:
    """
    A connection as plain bytes.

    Args:
        port: Of the server.
        buffer_bytes: Of the socket, for one who never reads.
    """

    def __init__(self, port: int, *, buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(0)
        self.received = b""
        self.is_closed = False

    def __enter__(self) -> Talk:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.socket.close()

    def send(self, data: bytes, *, limit_s: float = 5.0, reads: bool = True) -> bool:
        """Send everything; returns whether it went in time."""
        rest = memoryview(data)
        end_s = time.monotonic() + limit_s
        while rest and not self.is_closed and time.monotonic() < end_s:
            readable, writable, _ = select.select([self.socket] if reads else [], [self.socket], (), 0.1)
            if readable:
                self._receive()
            if writable and not self.is_closed:
                try:
                    rest = rest[self.socket.send(rest) :]
                except BlockingIOError:
                    continue
                except OSError:
                    self.is_closed = True
        return not rest

    def read(self, until: Callable[[bytes], bool] = lambda _: False, *, limit_s: float = 5.0) -> None:
        """Read until something is so, the server closes, or the time is over."""
        end_s = time.monotonic() + limit_s
        while not self.is_closed and not until(self.received) and time.monotonic() < end_s:
            if select.select([self.socket], (), (), max(0.0, end_s - time.monotonic()))[0]:
                self._receive()

    def _receive(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.is_closed = not data
        self.received += data

    @property
    def statuses(self) -> list[int]:
        """Of all answers that have come."""
        return [int(found) for found in _STATUS.findall(self.received)]


def _unfinished(beginning: bytes, port: Callable[[Target], int], drip: bytes = b"") -> Attack:
    """Make the attack of many connections that begin so and go no further, but for a few bytes."""

    def hold(target: Target, scale: Scale) -> Seen:
        with ExitStack() as stack:
            talks = [stack.enter_context(Talk(port(target))) for _ in range(scale.connections)]
            for talk in talks:
                talk.send(beginning)
            end_s = time.monotonic() + unfinished_s(target, scale.connections)
            while time.monotonic() < end_s and not all(talk.is_closed for talk in talks):
                for talk in [each for each in talks if not each.is_closed]:
                    talk.send(drip)
                    talk.read(limit_s=0.001)
            closed = sum(talk.is_closed for talk in talks)
        return Seen(text=f"{closed} of {scale.connections} closed", is_fine=closed == scale.connections)

    return hold


def _refused(shapes: dict[str, bytes], port: Callable[[Target], int], statuses: frozenset[int]) -> Attack:
    """Make the attack of requests that are each answered by one error, or not at all, and closed."""

    def send(target: Target, scale: Scale) -> Seen:
        wrong = []
        for name, data in shapes.items():
            with Talk(port(target)) as talk:
                talk.send(data, limit_s=scale.limit_s)
                talk.read(limit_s=GRACE_S)
                answered = talk.statuses
                is_fine = talk.is_closed and len(answered) <= 1 and statuses.issuperset(answered)
                if not is_fine or (statuses and not answered):
                    wrong.append(f"{name}: {answered}, {'closed' if talk.is_closed else 'open'}")
        return Seen(text="; ".join(wrong) or f"{len(shapes)} shapes refused and closed", is_fine=not wrong)

    return send


def never_reading(target: Target, scale: Scale) -> Seen:
    """Ask for 100 MB and read nothing."""
    with ExitStack() as stack:
        talks = [stack.enter_context(Talk(target.port, buffer_bytes=4096)) for _ in range(20)]
        for talk in talks:
            talk.send(b"GET /big?bytes=100000000 HTTP/1.1\r\nhost: x\r\n\r\n")
        end_s = time.monotonic() + min(scale.limit_s, target.stall_s + GRACE_S)
        while time.monotonic() < end_s and not all(talk.is_closed for talk in talks):
            time.sleep(0.1)
            for talk in talks:
                talk.send(b"x", reads=False)
        closed = sum(talk.is_closed for talk in talks)
    is_time_over = target.stall_s + GRACE_S <= scale.limit_s
    return Seen(text=f"{closed} of 20 closed", is_fine=closed == 20 or not is_time_over)


def pipelining(target: Target, scale: Scale) -> Seen:
    """Send thousands of requests in one go: they are answered one by one."""
    count = min(scale.frames // 6, 3000)
    with Talk(target.port) as talk:
        talk.send(GET * count, limit_s=30)
        talk.read(lambda data: data.count(b"hello") >= count, limit_s=30)
        answered = talk.statuses.count(200)
    return Seen(text=f"{answered} of {count} answered", is_fine=answered == count)


def pipelining_never_reading(target: Target, scale: Scale) -> Seen:
    """Send requests without end, and read no answer: the server stops reading, and lets the client go."""
    asked = b"GET /big?bytes=100000 HTTP/1.1\r\nhost: x\r\n\r\n" * 500_000
    with Talk(target.port, buffer_bytes=4096) as talk:
        went = talk.send(asked, limit_s=min(scale.limit_s, target.stall_s + GRACE_S), reads=False)
    is_time_over = target.stall_s + GRACE_S <= scale.limit_s
    text = "all taken" if went else "closed" if talk.is_closed else "held up"
    return Seen(text=text, is_fine=not went and (talk.is_closed or not is_time_over))


def tiny_chunks(target: Target, scale: Scale) -> Seen:
    """Send a body of one byte in each chunk: legitimate, if silly; it must be taken or refused."""
    count = scale.frames
    with Talk(target.port) as talk:
        talk.send(
            _POST + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * count + b"0\r\n\r\n", limit_s=30
        )
        talk.read(lambda data: b"\r\n\r\n" in data, limit_s=30)
        return Seen(text=f"{talk.statuses}", is_fine=talk.statuses in ([200], [400], [408], [413]))


def _cleartext(target: Target) -> int:
    return target.port


def _tls(target: Target) -> int:
    return target.tls_port


def _proxy(target: Target) -> int:
    return target.proxy_port


_CHUNKED: Final = _POST + b"transfer-encoding: chunked\r\n"
SMUGGLING: Final[dict[str, bytes]] = {
    "both lengths": _CHUNKED + b"content-length: 6\r\n\r\n0\r\n\r\n" + GET,
    "both lengths, the other way round": _POST
    + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    + GET,
    "two lengths": _POST + b"content-length: 0\r\ncontent-length: 3\r\n\r\n" + GET,
    "two lengths in one": _POST + b"content-length: 0, 3\r\n\r\n" + GET,
    "a length with a sign": _POST + b"content-length: +0\r\n\r\n" + GET,
    "a length in hexadecimal": _POST + b"content-length: 0x0\r\n\r\n" + GET,
    "a negative length": _POST + b"content-length: -1\r\n\r\n" + GET,
    "a length of too many digits": _POST + b"content-length: " + b"9" * 400 + b"\r\n\r\n" + GET,
    "an unknown coding": _POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + GET,
    "chunked twice": _POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + GET,
    "chunked and identity": _POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + GET,
    "two codings": _CHUNKED + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n" + GET,
    "chunked in HTTP/1.0": b"POST /upload HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    + GET,
    "a blank before the colon": _POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + GET,
    "a folded header": _POST + b"transfer-encoding:\r\n chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + GET,
    "a folded first header": b"GET /hello HTTP/1.1\r\n x: y\r\nhost: x\r\n\r\n" + GET,
    "a NUL in a value": b"GET /hello HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n" + GET,
    "a CR in a value": b"GET /hello HTTP/1.1\r\nhost: x\r\na: b\rc\r\n\r\n" + GET,
    "two hosts": b"GET /hello HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n" + GET,
    "no host": b"GET /hello HTTP/1.1\r\n\r\n" + GET,
    "a blank in the target": b"GET /hello /hello HTTP/1.1\r\nhost: x\r\n\r\n" + GET,
    "a header without a name": b"GET /hello HTTP/1.1\r\nhost: x\r\n: y\r\n\r\n" + GET,
}
"""Requests that proxies and servers have read in different ways; a second request stands behind each."""
CHUNKS: Final[dict[str, bytes]] = {
    "no number": _CHUNKED + b"\r\nxyz\r\n",
    "a negative number": _CHUNKED + b"\r\n-1\r\nx\r\n",
    "a number without end": _CHUNKED + b"\r\n" + b"f" * 50_000,
    "an enormous number": _CHUNKED + b"\r\nffffffffffffffffffffffff\r\nx",
    "a number with a prefix": _CHUNKED + b"\r\n0x1\r\nx\r\n",
    "an extension without end": _CHUNKED + b"\r\n1;" + b"e" * 50_000,
    "no line end behind the data": _CHUNKED + b"\r\n1\r\nxy\r\n0\r\n\r\n",
    "trailers without end": _CHUNKED + b"\r\n0\r\n" + b"a: b\r\n" * 10_000,
}
LARGE: Final[dict[str, bytes]] = {
    "one header": b"GET /hello HTTP/1.1\r\nhost: x\r\na: " + b"x" * 100_000,
    "many headers": b"GET /hello HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000,
    "small headers that end": b"GET /hello HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n" + GET,
    "the target": b"GET /" + b"x" * 100_000,
}
PROXY: Final[dict[str, bytes]] = {
    "no header": GET,
    "an unknown family": b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n" + GET,
    "no address": b"PROXY TCP4 one two 1 2\r\n" + GET,
    "a port too large": b"PROXY TCP4 1.1.1.1 2.2.2.2 70000 2\r\n" + GET,
    "a line without end": b"PROXY " + b"x" * 10_000,
    "an unknown version": b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c" + bytes(12) + GET,
    "a length too large": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + bytes(65_535),
    "addresses too short": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04" + bytes(4) + GET,
}
_ERRORS: Final = frozenset({400, 413, 414, 431, 501, 505})

ATTACKS: Final[dict[str, Attack]] = {
    "HTTP/1.1: slowloris": _unfinished(b"GET / HTTP/1.1\r\nhost: x\r\n", _cleartext, b"a: b\r\n"),
    "HTTP/1.1: request smuggling": _refused(SMUGGLING, _cleartext, _ERRORS),
    "HTTP/1.1: chunked rubbish": _refused(CHUNKS, _cleartext, _ERRORS),
    "HTTP/1.1: headers too large": _refused(LARGE, _cleartext, _ERRORS),
    "HTTP/1.1: tiny chunks": tiny_chunks,
    "HTTP/1.1: pipelining flood": pipelining,
    "HTTP/1.1: pipelining flood, never reading": pipelining_never_reading,
    "HTTP/1.1: 20 big answers, never reading": never_reading,
    "TLS: handshake never finished": _unfinished(_HELLO, _tls),
    "TLS: handshake half done": _unfinished(_whole_hello(), _tls),
    "TLS: rubbish": _refused({"a request": GET, "zeros": bytes(1000)}, _tls, frozenset()),
    "PROXY: rubbish": _refused(PROXY, _proxy, frozenset()),
    "PROXY: header never finished": _unfinished(b"PROXY TCP4 1.1.1.1", _proxy),
}
