"""
Pins that no request, however bad, ends the engine or changes a token of anybody else's answer.

The corpus is tests/poison.py. Its messages go to a real engine host, alone and beside 15 others; its bodies
go to a real gateway over HTTP.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest

from tests.poison import BODIES, CONTEXT, FRAMES, STREAM, TEXT
from wicketgate.engine.frames import Splitter
from wicketgate.engine.options import HostOptions
from wicketgate.engine.wire import (
    Beat,
    Done,
    Fatal,
    Ready,
    Score,
    Step,
    Submit,
    Warm,
    decode_from_host,
    encode,
)
from wicketgate.platform import engine_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from tests.poison import Body, Frame
    from tests.server import Gateway

WAIT_S = 60.0
KINDS = sorted({frame.kind for frame in FRAMES})


@dataclass
class Heard:
    """What a host said about its streams."""

    texts: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[int, Done] = field(default_factory=dict)
    scored: set[int] = field(default_factory=set)
    warmed: set[int] = field(default_factory=set)


class Host:
    """An engine host of our own, spoken to in frames."""

    def __init__(self, model: Path) -> None:
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(WAIT_S)
        options = HostOptions(model=str(model), context_tokens=CONTEXT, prewarm=False)
        with tempfile.TemporaryFile() as told:
            told.write(msgspec.json.encode(options))
            told.seek(0)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "wicketgate.engine.host"),
                    f"--fd={theirs.fileno()}",
                    f"--options-fd={told.fileno()}",
                ],
                pass_fds=[theirs.fileno(), told.fileno()],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **engine_environment()},
            )
        theirs.close()
        self._splitter = Splitter()
        self.heard = Heard()
        self.is_ready = False
        self._listen_until(lambda: self.is_ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(WAIT_S)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def serve(self, *messages: Submit | Score | Warm) -> Heard:
        """Send messages at once and return what was said until all of them had ended."""
        self.heard = heard = Heard()
        self._sock.sendall(b"".join(map(encode, messages)))
        ids = {message.id for message in messages}
        self._listen_until(lambda: ids <= heard.ends.keys() | heard.scored | heard.warmed)
        return heard

    def _listen_until(self, condition: Any) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, "the host did not end what it was asked for"
            data = self._sock.recv(65536)
            assert data, "the host is gone"
            for body in self._splitter.feed(data):
                self._hear(decode_from_host(body))

    def _hear(self, message: Any) -> None:
        match message:
            case Ready():
                self.is_ready = True
            case Step():
                for token in message.tokens:
                    self.heard.texts.setdefault(token.id, []).append(token.token)
                self.heard.ends |= {done.id: done for done in message.done}
                self.heard.scored |= {part.id for part in message.answers}
                self.heard.warmed |= set(message.warmed)
            case Beat():
                pass
            case Fatal():
                pytest.fail(f"the host gave up: {message.message}")


@pytest.fixture(scope="module")
def host(demo_model: Path) -> Iterator[Host]:
    with Host(demo_model) as host:
        yield host


WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.2, "min_p": 0.05, "presence_penalty": 1.0},
]


def neighbour(index: int) -> Submit:
    prompt = [(index * 37 + offset * 5) % 1400 + 10 for offset in range(12 + 3 * index)]
    usual: dict[str, Any] = {"max_tokens": 24, "seed": index, "ignore_eos": True}
    return Submit(id=index, prompt=prompt, **(usual | WAYS[index % len(WAYS)]))


NEIGHBOURS = [neighbour(index) for index in range(15)]


@pytest.fixture(scope="module")
def alone(host: Host) -> dict[int, list[int]]:
    """Return what each of 15 requests is answered with nobody beside it."""
    return {message.id: host.serve(message).texts[message.id] for message in NEIGHBOURS}


def fate(frame: Frame, heard: Heard) -> str:
    key = frame.message.id
    if isinstance(frame.message, Warm):
        return "refused" if key in heard.warmed else "lost"
    if key in heard.scored:
        return "served"
    done = heard.ends[key]
    if done.reason in ("stop", "length"):
        return "served"
    assert done.message, "a refusal says why"
    assert len(done.message) < 500
    return done.reason


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(FRAMES) >= 40
    assert len(BODIES) >= 40
    assert len(KINDS) >= 12


@pytest.mark.parametrize("kind", KINDS)
def test_a_poisoned_request_alone_is_answered_for_what_it_is(
    host: Host, alone: dict[int, list[int]], kind: str
) -> None:
    frames = [frame for frame in FRAMES if frame.kind == kind]

    found = {frame.name: fate(frame, host.serve(frame.message)) for frame in frames}

    assert found == {frame.name: frame.fate for frame in frames}
    assert host.is_alive
    assert host.serve(NEIGHBOURS[1]).texts[1] == alone[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_poisoned_request_changes_no_token_of_15_others(
    host: Host, alone: dict[int, list[int]], kind: str
) -> None:
    for frame in (frame for frame in FRAMES if frame.kind == kind):
        heard = host.serve(*NEIGHBOURS[:8], frame.message, *NEIGHBOURS[8:])

        assert fate(frame, heard) == frame.fate, frame.name
        assert {key: text for key, text in heard.texts.items() if key != STREAM} == alone, frame.name


def test_two_streams_of_one_id_are_not_mixed_up(host: Host, alone: dict[int, list[int]]) -> None:
    other = msgspec.structs.replace(NEIGHBOURS[2], id=0)

    heard = host.serve(NEIGHBOURS[0], other, *NEIGHBOURS[1:])

    assert {key: text for key, text in heard.texts.items() if key} == {
        key: text for key, text in alone.items() if key
    }
    assert host.serve(NEIGHBOURS[0]).texts[0] == alone[0]


# The gateway


CONTROL = {"model": "demo", "prompt": "The value of", "max_tokens": 12, "temperature": 0, "seed": 1}


@pytest.fixture(scope="module")
def answer(server: Gateway) -> object:
    return text_of(server)


def text_of(server: Gateway) -> object:
    status, _, body = server.post(TEXT, CONTROL)
    assert status == 200
    return json.loads(body)["choices"][0]["text"]


@pytest.mark.parametrize("body", BODIES, ids=[f"{body.kind}: {body.name}" for body in BODIES])
def test_a_poisoned_body_gets_an_answer_or_a_clear_error_and_the_next_request_works(
    server: Gateway, answer: object, body: Body
) -> None:
    before = server.host_pid

    status, headers, content = server.post(body.path, body.content)

    assert status in body.statuses
    document = json.loads(content)
    if status != 200:
        assert set(document["error"]) == {"message", "type", "param", "code"}
        assert 10 < len(document["error"]["message"]) < 1000
        assert headers["x-request-id"]
    assert text_of(server) == answer
    assert server.host_pid == before


def test_an_exact_repetition_of_prompt_and_answer_is_served(server: Gateway) -> None:
    messages: list[dict[str, str]] = [{"role": "user", "content": "Tell me about the import statement."}]
    request = {"model": "demo", "messages": messages, "max_tokens": 8, "temperature": 0}

    for _ in range(3):
        statuses = [server.post("/v1/chat/completions", request) for _ in range(2)]
        assert [status for status, _, _ in statuses] == [200, 200]
        first, second = (json.loads(body)["choices"][0]["message"]["content"] for _, _, body in statuses)
        assert first == second
        messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Go on."}]
