"""
A server with a synthetic producer, for bench/edge.py: our HTTP/2 edge, stock hypercorn, or uvicorn, in one
process.

Every PERIOD all streams get one event at the same moment, as a decode step has it. An event says when it was
made (the monotonic clock is one for all processes of a machine) and which it is of its stream. Only what the
chosen server needs is imported, so that another interpreter can run it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    Sink = Callable[[bytes], bool]

EVENT_BYTES = 200
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
]


def event(made_ns: int, number: str) -> bytes:
    """Write an event of about EVENT_BYTES."""
    head = b'data: {"t":%d,"n":"%b","x":"' % (made_ns, number.encode())
    return head.ljust(EVENT_BYTES - 4, b"x") + b'"}\n\n'


class Steps:
    """All streams, and the step that gives each its event."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._sinks: dict[Sink, int] = {}

    async def run(self) -> None:
        """Step for ever."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            due_s = max(due_s + self._period_s, loop.time())
            await asyncio.sleep(due_s - loop.time())
            made_ns = time.monotonic_ns()
            for sink, number in list(self._sinks.items()):
                if sink(event(made_ns, str(number))):
                    self._sinks[sink] = number + 1
                else:
                    del self._sinks[sink]

    def add(self, sink: Sink) -> None:
        """Give a stream its events, until it says that it wants no more."""
        self._sinks[sink] = 0


class Application:
    """
    The ASGI application: /steps?events=N, /hold, /cpu (seconds used), /rss (bytes), /hello.

    Args:
        period_s: Time between two steps.
        is_direct: Write through the stream's handle.
    """

    def __init__(self, *, period_s: float, is_direct: bool) -> None:
        self._steps = Steps(period_s)
        self._is_direct = is_direct
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._steps.run())
        path = scope["path"]
        while (await receive()).get("more_body"):
            pass
        if path in {"/steps", "/hold"}:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            if path == "/hold":
                await send({"type": "http.response.body", "body": b": held\n", "more_body": True})
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
            events = int(parse_qs(scope["query_string"].decode())["events"][0])
            if self._is_direct:
                await self._direct(scope["extensions"]["wicketgate.stream"], events)
            else:
                await self._plain(send, events)
            return
        text = {"/cpu": _cpu, "/rss": _rss}.get(path, _hello)()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
        )
        await send({"type": "http.response.body", "body": text.encode()})

    async def _direct(self, handle: Any, events: int) -> None:
        done = asyncio.get_running_loop().create_future()
        writer = _Merging(handle, events, done)
        handle.on_resume = writer.resume
        handle.on_closed = writer.stop
        self._steps.add(writer.sink)
        await done

    async def _plain(self, send: Any, events: int) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        left = events

        def sink(data: bytes) -> bool:
            nonlocal left
            left -= 1
            queue.put_nowait(data)
            return left > 0

        self._steps.add(sink)
        for number in range(events):
            await send(
                {"type": "http.response.body", "body": await queue.get(), "more_body": number + 1 < events}
            )


class _Merging:
    """Writes events through a handle; while it is paused their numbers are kept, and written as one."""

    def __init__(self, handle: Any, events: int, done: asyncio.Future[None]) -> None:
        self._handle = handle
        self._left = events
        self._done = done
        self._kept: list[str] = []
        self._number = 0

    def sink(self, data: bytes) -> bool:
        if self._done.done():
            return False
        self._left -= 1
        if self._handle.is_paused or self._kept:
            self._kept.append(str(self._number))
        elif self._left:
            self._handle.write(data)
        else:
            self._finish(data)
        self._number += 1
        return self._left > 0

    def resume(self) -> None:
        if self._kept:
            merged = event(time.monotonic_ns(), ",".join(self._kept))
            self._kept.clear()
            if self._left:
                self._handle.write(merged)
            else:
                self._finish(merged)

    def stop(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _finish(self, data: bytes) -> None:
        self._handle.end(data)
        self.stop()


def _hello() -> str:
    return "hello"


def _cpu() -> str:
    return repr(time.process_time())


def _rss() -> str:
    from wicketgate.platform import process_memory_bytes

    gc.collect()
    return str(process_memory_bytes(os.getpid()) or 0)


async def _serve_ours(application: Application, args: argparse.Namespace) -> None:
    import ssl

    from transport.counters import Counters
    from transport.protocol import ConnectionParams, H2Protocol
    from transport.streams import StreamTable

    tls = None
    if args.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(args.certificate, args.key)
        tls.set_alpn_protocols(["h2"])
    streams, counters = StreamTable(max_streams=8192), Counters()

    def protocol() -> H2Protocol:
        return H2Protocol(
            application,
            params=ConnectionParams(),
            streams=streams,
            counters=counters,
            client=None,
            server=None,
            scheme="https" if tls else "http",
            on_closed=lambda _: None,
        )

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", args.port, ssl=tls)
    async with server:
        await server.serve_forever()


async def _serve_hypercorn(application: Application, args: argparse.Namespace) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{args.port}"]
    config.h2_max_concurrent_streams = 256
    config.accesslog = config.errorlog = None
    config.certfile, config.keyfile = args.certificate, args.key
    config.alpn_protocols = ["h2", "http/1.1"]
    await serve(application, config, shutdown_trigger=asyncio.Event().wait)  # type: ignore[arg-type]


async def _serve_uvicorn(application: Application, args: argparse.Namespace) -> None:
    import uvicorn  # type: ignore[import-not-found, unused-ignore]

    config = uvicorn.Config(
        application,
        port=args.port,
        log_level="error",
        access_log=False,
        ssl_certfile=args.certificate,
        ssl_keyfile=args.key,
    )
    await uvicorn.Server(config).serve()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["direct", "ours", "hypercorn", "uvicorn"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--period-s", type=float, default=0.025)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    args = parser.parse_args()
    application = Application(period_s=args.period_s, is_direct=args.kind == "direct")
    serve = {"hypercorn": _serve_hypercorn, "uvicorn": _serve_uvicorn}.get(args.kind, _serve_ours)
    try:
        import uvloop
    except ImportError:
        sys.exit("uvloop is needed")
    uvloop.run(serve(application, args))


if __name__ == "__main__":
    main()
