"""
The server under attack, one process: our edge (clear text, TLS, the PROXY protocol), or stock hypercorn.

Its answers are small, or as large as asked; /state tells what an attack has left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import uvloop

from transport.limits import BodyLimit, Verdict
from transport.server import EdgeServer, ServerParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

HEADERS: Final = [(b"content-type", b"text/plain")]
PIECE_BYTES: Final = 16 * 1024
STEP_S: Final = 0.05
"""Between two events of a long stream."""


class Application:
    """
    The ASGI application.

    Args:
        limit: Of request bodies.
        turns: Forgotten by /forget.
        state: What /state tells.
    """

    def __init__(self, limit: BodyLimit, turns: Turns, state: Callable[[], dict[str, Any]]) -> None:
        self._limit = limit
        self._turns = turns
        self._state = state
        self._paths = {
            "/hello": self._hello,
            "/big": self._big,
            "/steps": self._steps,
            "/upload": self._upload,
            "/unread": self._unread,
            "/state": self._tell,
            "/forget": self._forget,
        }

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        answer = self._paths.get(scope["path"])
        if answer is None:
            await _answer(send, 404, b"")
        else:
            await answer(scope, receive, send)

    async def _hello(self, _scope: Scope, _receive: Any, send: Any) -> None:
        await _answer(send, 200, b"hello")

    async def _big(self, scope: Scope, _receive: Any, send: Any) -> None:
        """Send `bytes` of zeros, through the direct stream where there is one."""
        left = int(parse_qs(scope["query_string"])[b"bytes"][0])
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        handle = scope["extensions"].get("wicketgate.stream")
        if handle is not None:
            await _Feeder(handle, left).done
            return
        while left > 0:
            left -= PIECE_BYTES
            await send({"type": "http.response.body", "body": _piece(), "more_body": left > 0})

    async def _steps(self, scope: Scope, _receive: Any, send: Any) -> None:
        """Send an event every STEP_S, `events` of them; end when the client has left."""
        handle = scope["extensions"].get("wicketgate.stream")
        events = int(parse_qs(scope["query_string"])[b"events"][0])
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        for number in range(events):
            body = b"data: %d\n\n" % number
            await send({"type": "http.response.body", "body": body, "more_body": number + 1 < events})
            await asyncio.sleep(STEP_S)
            if getattr(handle, "is_gone", False):
                return

    async def _upload(self, _scope: Scope, receive: Any, send: Any) -> None:
        """Read the body within the limits."""
        size = 0
        try:
            async with asyncio.timeout(self._limit.timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    size += len(message["body"])
                    if self._limit.judge(received_bytes=size, declared_bytes=None) is not Verdict.GO_ON:
                        await _answer(send, 413, b"")
                        return
                    if not message["more_body"]:
                        break
        except TimeoutError:
            await _answer(send, 408, b"")
            return
        await _answer(send, 200, b"%d" % size)

    async def _unread(self, _scope: Scope, _receive: Any, send: Any) -> None:
        """Answer slowly, and read nothing."""
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await asyncio.sleep(1)
        await send({"type": "http.response.body", "body": b"done"})

    async def _tell(self, _scope: Scope, _receive: Any, send: Any) -> None:
        await _answer(send, 200, json.dumps(self._state()).encode())

    async def _forget(self, _scope: Scope, _receive: Any, send: Any) -> None:
        self._turns.forget()
        await _answer(send, 200, b"")


class Turns:
    """
    The longest turn of the event loop, in CPU seconds: how long an attack kept others waiting.

    Wall time would count what other processes took.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._at_s = time.process_time()
        self._loop = asyncio.get_running_loop()
        self._note()

    def forget(self) -> None:
        """Look for the longest from now on."""
        self.longest_s = 0.0

    def _note(self) -> None:
        now_s = time.process_time()
        self.longest_s = max(self.longest_s, now_s - self._at_s)
        self._at_s = now_s
        self._loop.call_later(0.001, self._note)


class _Feeder:
    """Writes to a direct stream as long as it is not paused."""

    def __init__(self, handle: Any, size: int) -> None:
        self._handle = handle
        self._left = size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle.on_resume = self._feed
        handle.on_closed = self._stop
        self._feed()

    def _feed(self) -> None:
        while self._left > 0 and not self._handle.is_paused:
            self._handle.write(_piece())
            self._left -= PIECE_BYTES
        if self._left <= 0 and not self.done.done():
            self._handle.end()
            self._stop()

    def _stop(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _piece() -> bytes:
    """Make new bytes: of the same ones, held many times, no memory would tell."""
    return b"x" * PIECE_BYTES


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [*HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _serve_ours(args: argparse.Namespace) -> None:
    limit = BodyLimit(max_bytes=args.max_body_bytes, timeout_s=args.body_timeout_s)
    servers: list[EdgeServer] = []
    turns = Turns()
    application = Application(limit, turns, lambda: _state(servers[0], turns))
    common: dict[str, Any] = {
        "header_timeout_s": args.header_timeout_s,
        "handshake_timeout_s": args.header_timeout_s,
        "stall_s": args.stall_s,
        "max_streams_per_connection": args.max_streams,
    }
    folder = Path(args.certificates)
    tls = {"tls_certificate": folder / "chain.pem", "tls_key": folder / "key.pem"}
    proxy = {"proxy_protocol": True, "proxy_trusted": (ipaddress.ip_network("127.0.0.1"),)}
    for special in ({}, tls, proxy):
        params = ServerParams(**common, **special)
        servers.append(EdgeServer(application, params=params, accepts_h2=lambda _: True))
        await servers[-1].start()
    print(json.dumps([server.port for server in servers]), flush=True)
    await asyncio.Event().wait()


def _state(server: EdgeServer, turns: Turns) -> dict[str, Any]:
    live = server.connections()
    counters = server.counters()
    return {
        "tasks": len(asyncio.all_tasks()),
        "connections": live.h2 + live.h1,
        "streams": server.streams().h2 + server.streams().h1,
        "goaways": {str(reason): count for reason, count in counters.h2.goaways.items()},
        "resets_sent": counters.h2.resets_sent,
        "refused": counters.h2.streams_refused,
        "cpu_s": time.process_time(),
        "longest_turn_s": turns.longest_s,
    }


async def _serve_hypercorn(args: argparse.Namespace) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    limit = BodyLimit(max_bytes=args.max_body_bytes, timeout_s=args.body_timeout_s)
    turns = Turns()
    application = Application(
        limit, turns, lambda: {"cpu_s": time.process_time(), "longest_turn_s": turns.longest_s}
    )
    config = Config()
    config.bind = [f"127.0.0.1:{args.port}"]
    config.accesslog = config.errorlog = None
    asyncio.get_running_loop().call_later(0.5, lambda: print(json.dumps([args.port]), flush=True))
    await serve(application, config, shutdown_trigger=asyncio.Event().wait)  # type: ignore[arg-type]


def main() -> None:
    """Serve until killed; the ports are the first line that is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["ours", "hypercorn"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--certificates", default=".")
    parser.add_argument("--header-timeout-s", type=float, default=5.0)
    parser.add_argument("--stall-s", type=float, default=60.0)
    parser.add_argument("--max-streams", type=int, default=100)
    parser.add_argument("--max-body-bytes", type=int, default=8 * 1024 * 1024)
    parser.add_argument("--body-timeout-s", type=float, default=30.0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    uvloop.run(_serve_ours(args) if args.kind == "ours" else _serve_hypercorn(args))


if __name__ == "__main__":
    main()
