"""
An engine host that dies, hangs and refuses as a test tells it: a program that speaks the real protocol.

Started like the real one. Its options are a HostOptions whose `model` is a Script as JSON. It answers as the
simulated engine does, so that every text is known beforehand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import time

import msgspec

from wicketgate.engine.frames import Splitter
from wicketgate.engine.options import HostOptions
from wicketgate.engine.plant import drawn_token
from wicketgate.engine.wire import (
    PROTOCOL_VERSION,
    Beat,
    CacheQuery,
    CacheReport,
    Cancel,
    Done,
    Fatal,
    FromHost,
    Load,
    Ready,
    Score,
    Scored,
    Started,
    Step,
    Stop,
    Submit,
    ToHost,
    Token,
    Tune,
    decode_to_host,
    encode,
)

VOCABULARY = 1000
KILL, ABORT, HANG, METAL, SEGFAULT = 901, 902, 903, 904, 905
"""Tokens of a prompt, and what computing them does."""
NO_MEMORY = 906
"""The stream ends for want of memory."""
BEAT_S = 0.3
LAST_S = 0.5


class Script(msgspec.Struct, frozen=True):
    """What this host does besides answering."""

    device: str = "gpu Scripted"
    step_s: float = 0.001
    kills_after: int = 0
    """Tokens that a stream with such a prompt emits before its harm is done."""
    load_fails: str = ""
    """Last words instead of Ready."""
    version: int = PROTOCOL_VERSION
    mute: bool = False
    """Answers no question about its prefix store."""


class Host:
    """Its streams, and the socket."""

    def __init__(self, sock: socket.socket, script: Script) -> None:
        self._sock = sock
        self._splitter = Splitter()
        self._script = script
        self._streams: dict[int, Submit] = {}
        self._emitted: dict[int, int] = {}
        self._scores: list[Score] = []
        self._number = 0
        self._tuned = Tune()

    def send(self, message: FromHost) -> None:
        self._sock.sendall(encode(message))

    def fail(self, words: str) -> None:
        """Send last words, and end once the gateway has had the time to hear them."""
        self.send(Fatal(words))
        self._sock.settimeout(LAST_S)
        with contextlib.suppress(OSError):
            self._sock.recv(1)
        sys.exit(1)

    def serve(self) -> None:
        while True:
            self._sock.settimeout(self._script.step_s if self._streams or self._scores else BEAT_S)
            try:
                data = self._sock.recv(1 << 20)
            except TimeoutError:
                if not (self._streams or self._scores):
                    self.send(Beat(number=self._number, at_s=time.monotonic(), load=self._load()))
            else:
                if not data:
                    return
                if not all(self._take(decode_to_host(body)) for body in self._splitter.feed(data)):
                    return
            if self._streams or self._scores:
                self._compute()

    def _take(self, message: ToHost) -> bool:
        match message:
            case Stop():
                return False
            case Submit():
                self._streams[message.id] = message
            case Score():
                self._scores.append(message)
            case Cancel():
                self._drop(message.id, "cancelled")
            case Tune():
                self._tuned = message
            case CacheQuery() if not self._script.mute:
                self.send(self._report(message))
            case _:
                pass
        return True

    def _compute(self) -> None:
        alone = [each for each in self._streams.values() if each.alone and self._emitted.get(each.id, 0) < 8]
        chosen = alone[:1] or list(self._streams.values())
        starting = [each for each in chosen if each.id not in self._emitted]
        if starting:
            self._emitted |= dict.fromkeys((each.id for each in starting), 0)
            self._step(started=[Started(each.id, 0) for each in starting])
        for each in chosen:
            self._suffer(each.prompt[: each.prompt_tokens], each.position + self._emitted[each.id])
        tokens = [self._draw(each) for each in chosen]
        done = [Done(each.id, "length") for each in chosen if self._emitted[each.id] >= each.max_tokens]
        done += [Done(each.id, "memory") for each in chosen if NO_MEMORY in each.prompt[: each.prompt_tokens]]
        scores, self._scores = self._scores, []
        for score in scores:
            self._suffer(score.query, self._script.kills_after)
        scored = [
            Scored(each.id, [[float(-len(label)) for label in each.labels]] * len(each.items))
            for each in scores
        ]
        done += [Done(each.id, "stop") for each in scores]
        for each in done:
            self._streams.pop(each.id, None)
        self._step(tokens=tokens, done=done, answers=scored)

    def _suffer(self, prompt: list[int], emitted: int) -> None:
        if emitted < self._script.kills_after:
            return
        if KILL in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if ABORT in prompt:
            os.abort()
        if SEGFAULT in prompt:
            os.kill(os.getpid(), signal.SIGSEGV)
        if HANG in prompt:
            signal.pause()
        if METAL in prompt:
            text = "[METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002:kIOGPU...)"
            self.fail(f"DeviceError: {text}")

    def _draw(self, stream: Submit) -> Token:
        position = stream.position + self._emitted[stream.id]
        self._emitted[stream.id] += 1
        token = drawn_token(seed=0, stream_seed=stream.seed, position=position, vocabulary_size=VOCABULARY)
        return Token(stream.id, token)

    def _drop(self, key: int, reason: str) -> None:
        if self._streams.pop(key, None) is not None:
            self._step(done=[Done(key, reason)])

    def _step(self, **news: list[object]) -> None:
        self._number += 1
        step = Step(
            number=self._number, at_s=time.monotonic(), step_s=self._script.step_s, load=self._load(), **news
        )
        self.send(step)

    def _load(self) -> Load:
        return Load(len(self._streams), 0, 0, 0, 0, 0)

    def _report(self, query: CacheQuery) -> CacheReport:
        """Return a report in which `hits` is the last target told for a chunk, in ms."""
        return CacheReport(
            id=query.id,
            entries=[],
            memory_bytes=0,
            memory_limit_bytes=0,
            disk_bytes=0,
            disk_limit_bytes=0,
            hits=round(1000 * (self._tuned.chunk_target_s or 0.0)),
            misses=0,
            disk_hits=0,
            rejected_files=0,
            kv_bytes_per_token=0,
            rows=0,
            rows_tokens=0,
            rows_bytes=0,
        )


def ready(options: HostOptions, script: Script) -> Ready:
    return Ready(
        version=script.version,
        pid=os.getpid(),
        engine="simulated",
        device=script.device,
        model_type="scripted",
        vocabulary_size=VOCABULARY,
        context_tokens=100_000,
        eos_token_ids=[],
        kv_bytes_per_token=0,
        weights_bytes=0,
        load_s=0.0,
        full_chunk_s=0.0,
        runtime="safe mode" if options.safe_mode else "as usual",
        blas="reference",
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--options-fd", type=int)
    parsed = parser.parse_args()
    with open(parsed.options_fd, "rb") as told:
        options = msgspec.json.decode(told.read(), type=HostOptions)
    script = msgspec.json.decode(options.model, type=Script)
    host = Host(socket.socket(fileno=parsed.fd), script)
    if script.load_fails:
        host.fail(script.load_fails)
    host.send(ready(options, script))
    host.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
