"""
Pins the end of a gateway under load: what runs is finished, what comes is sent elsewhere, and KV is kept.

75 streams of three kinds of client run when SIGTERM comes: openai-python, anthropic-python, and a client of
HTTP/2 that follows GOAWAY to another gateway.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Final

import anthropic
import httpx2
import openai
import pytest

from bench.h2_client import Connection, finish, wait
from bench.load import PATH, burst
from bench.prompts import completion
from bench.server import HOST
from tests.load.facts import CONFIG, STREAMS
from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from bench.h2_streams import Stream
    from bench.prompts import Prompts
    from bench.server import Server

TOKENS: Final = 128
EACH: Final = STREAMS // 3
LATE: Final = 5
TOLD_S: Final = 0.1
EXIT_S: Final = 0.5
MOST_S: Final = 60.0
CUT: Final = 7
"""Exit code of a gateway that could not let all streams finish."""
REFUSED_STREAM: Final = 7
GOAWAY: Final = 7
GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
DISK: Final = {"engine": {"kv_disk": {"enabled": True}}}


class Idle:
    """A connection of HTTP/2 on which nothing was asked."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=MOST_S)
        self._socket.sendall(GREETING)
        self._file = self._socket.makefile("rb")
        self._frame()

    def told_s(self) -> float:
        """Wait for a GOAWAY; returns when it came."""
        with closing(self._file), closing(self._socket):
            while self._frame() != GOAWAY:
                pass
            return time.monotonic()

    def _frame(self) -> int:
        head = self._file.read(9)
        assert head, "closed without a word"
        self._file.read(int.from_bytes(head[:3], "big"))
        return head[3]


class Following:
    """A client that goes to another gateway with what was refused, as it was not begun here."""

    def __init__(self, old: Server, new: Server, prompts: list[list[int]]) -> None:
        self._old, self._new = old.connect(), new
        self._bodies = [completion(prompt, max_tokens=TOKENS) for prompt in prompts]
        self._streams = self._post(self._old, self._bodies[: -2 * LATE])
        self.last_s = 0.0
        """When the last stream of the old one ended."""

    def begin(self) -> None:
        """Wait until all of the first have brought text."""
        assert wait([self._old], until=lambda: all(s.chunks for s in self._streams), timeout_s=MOST_S)

    def go_on(self) -> list[str]:
        """
        Ask for more where all is ending, at once and once told; returns all texts.

        What leaves before the second GOAWAY has come is served; the rest is asked for elsewhere.
        """
        on_the_way = self._post(self._old, self._bodies[-2 * LATE : -LATE])
        assert wait([self._old], until=lambda: all(s.chunks for s in on_the_way), timeout_s=MOST_S)
        refused = self._post(self._old, self._bodies[-LATE:])
        assert finish([self._old], timeout_s=MOST_S)
        self.last_s = time.monotonic()
        assert [stream.reset for stream in refused] == [REFUSED_STREAM] * LATE
        self._old.close()
        with self._new.connect() as new:
            again = self._post(new, self._bodies[-LATE:])
            assert finish([new], timeout_s=MOST_S)
        return [stream.answer().text for stream in self._streams + on_the_way + again]

    def _post(self, connection: Connection, bodies: list[bytes]) -> list[Stream]:
        return [connection.post(PATH, body) for body in bodies]


class Sdks:
    """Streams of the official SDKs: openai's over HTTP/2, where it breaks at a GOAWAY, anthropic's by 1.1."""

    def __init__(self, server: Server) -> None:
        url = f"http://{HOST}:{server.port}"
        http = httpx2.AsyncClient(http1=False, http2=True, timeout=MOST_S)
        self._openai = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http
        )
        self._anthropic = anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0)
        self.begun = 0
        self.last_s = 0.0
        """When the last of them ended."""

    async def read(self, prompts: list[list[int]]) -> list[str]:
        """Read the texts of all, and of as many questions to the other API."""
        async with self._openai, self._anthropic:
            completions, messages = map(self._completion, prompts), map(self._message, range(len(prompts)))
            return await asyncio.gather(*completions, *messages)

    async def _completion(self, prompt: list[int]) -> str:
        stream = await self._openai.completions.create(
            model="demo",
            prompt=prompt,
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        return await self._joined(chunk.choices[0].text async for chunk in stream)

    async def _message(self, number: int) -> str:
        stream = await self._anthropic.messages.create(
            model="demo",
            messages=[{"role": "user", "content": f"What are {number} lists?"}],
            max_tokens=TOKENS,
            stream=True,
            extra_body={"temperature": 0},
        )
        return await self._joined(
            event.delta.text async for event in stream if event.type == "content_block_delta"
        )

    async def _joined(self, pieces: AsyncIterator[str]) -> str:
        texts: list[str] = []
        async for piece in pieces:
            self.begun += not texts
            texts.append(piece)
        self.last_s = time.monotonic()
        return "".join(texts)


def end(server: Gateway) -> tuple[int, float]:
    """Wait until it has ended; returns its exit code, and when."""
    return server.ended(MOST_S), time.monotonic()


@pytest.mark.anyio
async def test_75_streams_lose_no_token_and_none_that_follows_goaway_fails(
    server: Server, prompts: Prompts, tmp_path: Path, record_property: Callable[[str, object], None]
):
    asked = [prompts.take(32) for _ in range(2 * EACH)]
    with server.connect() as connection:
        bodies = [completion(prompt, max_tokens=TOKENS) for prompt in asked[EACH:]]
        whole = await asyncio.to_thread(burst, [connection], bodies, tokens_each=TOKENS)
    expected = await Sdks(server).read(asked[:EACH])
    with Gateway(tmp_path, CONFIG) as draining:
        sdks = Sdks(draining)
        following = Following(draining, server, asked[EACH:])
        idle = Idle(draining.port)
        reading = asyncio.create_task(sdks.read(asked[:EACH]))
        await asyncio.to_thread(following.begin)
        async with asyncio.timeout(MOST_S):
            while sdks.begun < 2 * EACH:
                await asyncio.sleep(0.005)

        draining.tell(signal.SIGTERM)
        signalled_s = time.monotonic()
        told_s = await asyncio.to_thread(idle.told_s)
        texts, followed, (code, ended_s) = await asyncio.gather(
            reading, asyncio.to_thread(following.go_on), asyncio.to_thread(end, draining)
        )
        exit_s = ended_s - max(following.last_s, sdks.last_s)

    record_property("told_ms", 1000 * (told_s - signalled_s))
    record_property("exit_s", exit_s)
    assert texts == expected
    assert followed == [answer.text for answer in whole.answers]
    assert code == 0
    assert told_s - signalled_s < TOLD_S
    assert exit_s <= EXIT_S


def test_a_drain_by_command_saves_kv_and_a_restart_finds_it(tmp_path: Path, prompts: Prompts):
    asked = [prompts.take(64) for _ in range(8)]
    with (
        Gateway(tmp_path, {**CONFIG, **DISK}) as draining,
        draining.connect() as connection,
        ThreadPoolExecutor() as beside,
    ):
        streams = [connection.post(PATH, completion(prompt, max_tokens=TOKENS)) for prompt in asked]
        assert wait([connection], until=lambda: all(s.chunks for s in streams), timeout_s=MOST_S)
        commanded = beside.submit(draining.command, "drain", "--wait", "30")
        assert finish([connection], timeout_s=MOST_S)
        said = json.loads(commanded.result().out)
        code = draining.ended(MOST_S)
    with Gateway(tmp_path, {**CONFIG, **DISK}) as restarted:
        body = json.loads(completion(asked[0], max_tokens=1, stream=False))
        usage = json.loads(restarted.post(PATH, body)[2])["usage"]

    assert [stream.answer().completion_tokens for stream in streams] == [TOKENS] * len(asked)
    assert (code, said["ended"], said["in_flight"]) == (0, True, len(asked))
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0


SLOW: Final = {"engine": {"kind": "simulated"}}
"""Streams that have not ended when they are cut."""
ENDLESS: Final = {"model": "demo", "stream": True}
MESSAGES: Final = [{"role": "user", "content": "Tell me about water."}]
CHAT: Final = ("/v1/chat/completions", {**ENDLESS, "messages": MESSAGES, "max_tokens": 4000})
APIS: Final = (
    CHAT,
    ("/v1/messages", {**ENDLESS, "messages": MESSAGES, "max_tokens": 4000}),
    ("/v1/responses", {**ENDLESS, "input": "Tell me about water.", "max_output_tokens": 4000}),
)


def test_readiness_fails_first_and_the_deadline_cuts_with_an_error_event_in_each_api(
    tmp_path: Path, eventually: Callable[[str, Callable[[], bool], float], None]
):
    times = {"drain_delay_s": 1, "drain_timeout_s": 1}
    with Gateway(tmp_path, {**CONFIG, **SLOW, "server": times}) as draining, draining.connect() as connection:
        streams = [connection.post(path, json.dumps(body).encode()) for path, body in APIS]
        assert wait([connection], until=lambda: all(s.chunks for s in streams), timeout_s=MOST_S)

        draining.tell(signal.SIGTERM)
        eventually("readiness fails", lambda: draining.readiness() == 503, 1)
        late = connection.post(CHAT[0], json.dumps(CHAT[1]).encode())
        assert finish([connection], timeout_s=MOST_S)
        code = draining.ended(MOST_S)

    last = [b"".join(data for _, data in stream.chunks).split(b"\n\n")[-3:] for stream in (*streams, late)]
    assert late.status == 200
    assert all(b"the server is stopping" in b"".join(events) for events in last), last
    assert b"event: error" in last[1][-2]
    assert b"response.failed" in last[2][-2]
    assert code == CUT


def test_a_second_signal_ends_at_once(tmp_path: Path):
    with Gateway(tmp_path, {**CONFIG, **SLOW}) as ending, ending.connect() as connection:
        stream = connection.post(CHAT[0], json.dumps(CHAT[1]).encode())
        assert wait([connection], until=lambda: bool(stream.chunks), timeout_s=MOST_S)
        idle = Idle(ending.port)
        ending.tell(signal.SIGTERM)
        idle.told_s()  # so that it has heard the first

        ending.tell(signal.SIGTERM)
        began_s = time.monotonic()
        code = ending.ended(MOST_S)

    assert code == CUT
    assert time.monotonic() - began_s < 5
