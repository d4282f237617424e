"""
What a token costs the gateway, from the engine host's frame to the socket, and where it goes.

Run as `python -m bench.gateway_cost [--streams N] [--pause-s S]`; exit code 8: the bar was missed. Streamed
chats go their whole way in this process, over a connected pair of sockets: frame, stream, text, events,
HTTP/2, recorder and governor, as the runtime has them, all features on. The engine host alone is played, by
the frames that it would send. Then each part is run alone on what went through the whole; what is left of the
whole is `the rest`.

With a pause between two steps, as a real engine takes one, others fill the caches: the same code then costs
two to three times as much. `bench.gateway_server` measures a real server.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
import operator
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import uvloop

from bench.gateway_played import CONTEXT_TOKENS, Client, Gateway
from bench.prompts import MODEL, TEXT
from bench.statistics import quantile
from transport.asgi_stream import EXTENSION
from transport.counters import Counters
from transport.protocol import ConnectionParams, H2Protocol
from transport.streams import StreamTable
from wicketgate.api.openai.chat_form import ChatForm
from wicketgate.api.openai.wire import About
from wicketgate.engine.in_flight import InFlight
from wicketgate.engine.line import HostLine
from wicketgate.engine.stream import Service
from wicketgate.engine.wire import Load, Started, Step, Token, encode
from wicketgate.errors import ExitCode
from wicketgate.inference import ChatPrompt, InferenceRequest, Sampling, TokenChunk
from wicketgate.pipeline.text import TextModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Receive, Scope, Send

    from wicketgate.api.stream_handle import StreamHandle
    from wicketgate.pipeline.pieces import Piece

BAR_S: Final = 15e-6
WHOLE: Final = "the whole"
STREAMS: Final = 32
STEPS: Final = 600
WARM_UP_STEPS: Final = 100
"""Not counted: the first tokens, whose headers and records are made."""
STEP_S: Final = 0.01
TURNS: Final = 4
"""Of the loop, in which what a step set off is done."""
BODY: Final = {
    "model": "demo",
    "stream": True,
    "max_tokens": CONTEXT_TOKENS - 1000,
    "messages": [{"role": "user", "content": "What is a list?"}],
}


async def connected(app: Any) -> tuple[H2Protocol, Client]:
    """Return a connection to an application, and its client."""
    server_end, client_end = socket.socketpair()
    client_end.settimeout(0.0)
    make = functools.partial(
        H2Protocol,
        app,
        params=ConnectionParams(),
        streams=StreamTable(max_streams=1024),
        counters=Counters(),
        client=("127.0.0.1", 1),
        server=("127.0.0.1", 2),
        scheme="http",
        on_closed=lambda _: None,
    )
    _, protocol = await asyncio.get_running_loop().connect_accepted_socket(make, server_end)
    return protocol, Client(client_end)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one step."""

    median_s: float
    quick_s: float
    """The quickest twentieth stays below it."""

    def __sub__(self, other: Cost) -> Cost:
        """Return what is left without another part."""
        return Cost(self.median_s - other.median_s, self.quick_s - other.quick_s)


@dataclass(frozen=True, slots=True)
class Timed:
    """Times steps."""

    pause_s: float
    """Before each."""

    async def __call__(
        self, act: Callable[[Any], None], inputs: Sequence[Any], client: Client | None = None
    ) -> Cost:
        """Time the steps, each with what it sets off in the loop where there is a client for it."""
        times_s = []
        for each in inputs:
            await asyncio.sleep(self.pause_s)
            began_s = time.thread_time()
            act(each)
            if client is not None:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            times_s.append(time.thread_time() - began_s)
            if client is not None:
                client.exchange()
        counted_s = times_s[WARM_UP_STEPS:]
        return Cost(statistics.median(counted_s), quantile(counted_s, 0.05))


async def measure(folder: Path, streams: int, text_ids: Sequence[int], timed: Timed) -> dict[str, Cost]:
    """Return what a step costs in all (first), and in its parts."""
    gateway = Gateway(folder)
    protocol, client = await connected(gateway.app)
    client.ask(streams, json.dumps(BODY).encode())
    while len(gateway.engine.submitted) < streams:
        await asyncio.sleep(0.001)
        client.exchange()
    steps = frames(gateway.engine.submitted, text_ids)
    gc.collect()
    gc.freeze()
    all_of_it = await timed(gateway.engine.line.data_received, steps, client)
    protocol.abort()
    await asyncio.sleep(0)
    found = await parts(gateway, steps, streams, timed)
    gateway.text.close()
    rest = functools.reduce(operator.sub, found.values(), all_of_it)
    return {WHOLE: all_of_it, **found, "the rest": rest}


def frames(streams: Sequence[int], text_ids: Sequence[int]) -> list[bytes]:
    """Return what the host would send: in each step one token of each stream."""
    load = Load(len(streams), 0, 0, 0, 1 << 20, 1 << 28)
    begun_s = time.monotonic()
    return [
        encode(
            Step(
                number=number,
                at_s=begun_s + number * STEP_S,
                step_s=STEP_S,
                tokens=[
                    Token(stream, text_ids[(97 * index + number) % len(text_ids)])
                    for index, stream in enumerate(streams)
                ],
                started=[] if number else [Started(stream, 0) for stream in streams],
                load=load,
            )
        )
        for number in range(STEPS)
    ]


_ABOUT: Final = About(
    request_id="req_" + "0" * 32,
    model="demo",
    created_unix_s=1_700_000_000,
    fingerprint="",
    has_usage=False,
)


def _request(sampling: Sampling) -> InferenceRequest:
    return InferenceRequest(
        id="r",
        model="demo",
        prompt=ChatPrompt(messages=(), template_kwargs={}),
        sampling=sampling,
        arrived_s=0.0,
        key="r",
        key_source="request",
    )


async def parts(gateway: Gateway, steps: list[bytes], streams: int, timed: Timed) -> dict[str, Cost]:
    """Return what a step costs in each part alone."""
    decoded: list[Step] = []
    line = HostLine(lambda _, message: decoded.append(cast("Step", message)))
    found = {"frame: split and decode": await timed(line.data_received, steps)}

    in_flight = InFlight(lambda _: None, refusal=lambda: None)
    keys = [token.id for token in decoded[0].tokens]
    sampling = Sampling(max_tokens=CONTEXT_TOKENS, seed=0)
    tokens = {key: in_flight.submit(key, [1], sampling, Service()) for key in keys}
    chunks: list[list[TokenChunk]] = []

    def hand_on(step: Step) -> None:
        in_flight.take(step)
        chunks.append([chunk for each in tokens.values() if (chunk := each.take()) is not None])

    found["streams: tokens to their consumers"] = await timed(hand_on, decoded)

    texts = [gateway.text.stream(_request(sampling)) for _ in keys]
    pieces: list[list[list[Piece]]] = []

    def read(step: list[TokenChunk]) -> None:
        pieces.append([text.feed(chunk) for text, chunk in zip(texts, step, strict=True)])

    found["text: tokens to pieces"] = await timed(read, chunks)

    form = ChatForm(_ABOUT, choices=1, token_bytes=gateway.text.token_bytes, has_logprobs=False)
    form.opening([cast("Any", None)])
    events: list[list[bytes]] = []

    def write(step: list[list[Piece]]) -> None:
        events.append([form.pieces(0, each) if each else b"" for each in step])

    found["events: pieces to SSE"] = await timed(write, pieces)
    found["HTTP/2 and socket"] = await sent(events, streams, timed)
    gateway.recorder.engine_lost("demo")  # else the first gap would reach back in time
    found["recorder and governor"] = await timed(gateway.stepped, decoded)
    return found


async def sent(events: list[list[bytes]], streams: int, timed: Timed) -> Cost:
    """Return what a step's events cost from the handles to the socket."""
    handles: list[StreamHandle] = []

    async def hold(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        handles.append(scope["extensions"][EXTENSION])
        await receive()

    protocol, client = await connected(hold)
    client.ask(streams, b"{}")
    while len(handles) < streams:
        await asyncio.sleep(0.001)
        client.exchange()

    def write(step: list[bytes]) -> None:
        for handle, data in zip(handles, step, strict=True):
            if data:
                handle.write(data)

    cost = await timed(write, events, client)
    protocol.abort()
    await asyncio.sleep(0.01)
    return cost


async def main() -> int:
    """Measure, print, and say whether the bar was met."""
    parser = argparse.ArgumentParser(prog="bench.gateway_cost")
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--pause-s", type=float, default=0.0)
    asked = parser.parse_args()
    text = TextModel.load(MODEL)
    text_ids = await text.encode(TEXT.read_text()[:40_000], add_special_tokens=False)
    text.close()
    with tempfile.TemporaryDirectory() as folder:
        found = await measure(Path(folder), asked.streams, text_ids, Timed(asked.pause_s))
    print(f"gateway, {asked.streams} streams, us of CPU a token, {STEPS - WARM_UP_STEPS} steps")
    print(f"{'':<36} median   quick")
    for name, cost in found.items():
        each_us = 1e6 / asked.streams
        print(f"{name:<36}{cost.median_s * each_us:7.2f} {cost.quick_s * each_us:7.2f}")
    met = found[WHOLE].median_s <= BAR_S * asked.streams
    print(f"bar: {BAR_S * 1e6:g} us in the median, {'met' if met else 'missed'}")
    return ExitCode.DONE if met else ExitCode.CHECK_FAILED


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main()))
