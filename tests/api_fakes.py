"""A pipeline that says what a test tells it to, and a client that speaks ASGI without a socket."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.routing import Router

from wicketgate.api.backend import Backend
from wicketgate.api.endpoint import ApiSettings, Edge, Endpoint, not_found
from wicketgate.api.generation import Generation
from wicketgate.api.health import Health
from wicketgate.api.requests import ModelCard
from wicketgate.inference import Finished, FinishReason
from wicketgate.pipeline.pieces import TextChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from wicketgate.errors import WicketgateError
    from wicketgate.inference import InferenceRequest
    from wicketgate.pipeline.pieces import Piece

READY = Health(has_started=True, engine_is_ready=True, is_draining=False)
CARD = ModelCard(
    id="demo",
    created_unix_s=1_700_000_000,
    context_tokens=64,
    vocabulary_tokens=300,
    token_bytes=lambda token: bytes([token]) if token < 256 else b"<special>",
)
"""Token n is byte n."""
TURNS = 8
"""Turns of the event loop between two items that come without a pause."""


def finished(reason: FinishReason = FinishReason.STOP, **more: Any) -> Finished:
    return Finished(reason=reason, **{"prompt_tokens": 3, "completion_tokens": 2} | more)


def text(*pieces: str) -> list[TextChunk]:
    return [TextChunk(text=piece, tokens=1) for piece in pieces]


class FakeAnswer:
    """
    Gives its items one after the other, some turns of the loop apart; after a None nothing comes any more.

    Args:
        items: Pieces, and Finished last; a list of them is what one step of the engine brings.
        pause_s: Between them.
        flags: Features that it is on.
        prompt_ids: Its prompt.
        cached_tokens: Of the prompt.
    """

    def __init__(
        self,
        items: Sequence[Piece | Finished | list[Piece | Finished] | None],
        *,
        pause_s: float = 0.0,
        flags: tuple[str, ...] = (),
        prompt_ids: Sequence[int] = (104, 105, 33),
        cached_tokens: int = 0,
    ) -> None:
        self.flags = flags
        self.prompt_ids = list(prompt_ids)
        self.cached_tokens = cached_tokens
        self.completion_tokens = 2
        self.on_news: Callable[[], None] | None = None
        self.given = 0
        """How many items have come."""
        self.code: str | None = None
        """Why it was cancelled before its end."""
        self.error: WicketgateError | None = None
        """What it was failed with."""
        self.cancelled = asyncio.Event()
        """Set when it was cancelled or failed, before its end or after it."""
        self._items = list(items)
        self._pause_s = pause_s
        self._ready: list[Piece | Finished] = []
        self._ended = False
        self._news = asyncio.Event()
        self._next = self._later(TURNS)

    def _later(self, turns: int) -> asyncio.Handle:
        loop = asyncio.get_running_loop()
        if self._pause_s:
            return loop.call_later(self._pause_s, self._come, 0)
        return loop.call_soon(self._come, turns)

    def _come(self, turns: int) -> None:
        if turns:
            self._next = self._later(turns - 1)
            return
        if self.given == len(self._items) or (item := self._items[self.given]) is None:
            return
        self.given += 1
        self.give(*(item if isinstance(item, list) else [item]))
        self._next = self._later(TURNS)

    def give(self, *items: Piece | Finished) -> None:
        """Bring items now, as a step of the engine does."""
        self._ready += items
        self._news.set()
        if self.on_news is not None:
            self.on_news()

    def take(self) -> list[Piece | Finished]:
        ready, self._ready = self._ready, []
        self._ended = self._ended or (bool(ready) and isinstance(ready[-1], Finished))
        return ready

    async def next(self) -> list[Piece | Finished]:
        while not (ready := self.take()):
            self._news.clear()
            await self._news.wait()
        return ready

    def cancel(self, *, code: str = "cancelled") -> None:
        self._end(code=code)

    def fail(self, error: WicketgateError) -> None:
        self._end(error=error)

    def _end(self, *, code: str | None = None, error: WicketgateError | None = None) -> None:
        if not self._ended:
            self._ended, self.code, self.error = True, code, error
        self._next.cancel()
        self._ready.clear()
        self.cancelled.set()


@dataclass
class FakeAnswers:
    """Opens one answer after the other; keeps what it was asked."""

    items: Sequence[Any] = field(default_factory=lambda: [*text("Hel", "lo"), finished()])
    """Of every answer."""
    pause_s: float = 0.0
    flags: tuple[str, ...] = ()
    error: Exception | None = None
    is_full: bool = False
    """Requests wait, for ever."""
    choices: Sequence[Sequence[Any]] | None = None
    """Items of each answer by the request's choice, where they differ."""
    refuses: dict[int, Exception] = field(default_factory=dict)
    """Errors by the request's choice."""
    requests: list[InferenceRequest] = field(default_factory=list)
    client_request_ids: list[str | None] = field(default_factory=list)
    opened: list[FakeAnswer] = field(default_factory=list)
    waited: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self, request: InferenceRequest, *, client_request_id: str | None = None) -> FakeAnswer:
        self.requests.append(request)
        self.client_request_ids.append(client_request_id)
        error = self.refuses.get(request.choice, self.error)
        if error is not None:
            raise error
        if self.is_full:
            self.waited.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.left.set()
        items = self.items if self.choices is None else self.choices[request.choice]
        self.opened.append(FakeAnswer(items, pause_s=self.pause_s, flags=self.flags))
        return self.opened[-1]


def make_backend(answers: FakeAnswers | None = None, **more: Any) -> Backend:
    """Return a backend over `answers`; models, settings, keys, quotas, cors and jobs may be given."""
    ids = (f"req_{number:032x}" for number in itertools.count(1))
    settings = more.pop("settings", ApiSettings())
    models = more.pop("models", [CARD])
    keys = more.pop("keys", None)
    edge = {name: more.pop(name) for name in ("quotas", "cors") if name in more}
    backend = Backend(
        edge=Edge(
            settings=lambda: settings,
            new_id=lambda: next(ids),
            keys=keys if callable(keys) else lambda: keys,
            **edge,
        ),
        generation=Generation(answers or FakeAnswers(), settings=lambda: settings),
        jobs=more.pop("jobs", None),
        models=lambda: models,
        clock=more.pop("clock", lambda: 7.0),
        unix_clock=more.pop("unix_clock", lambda: 1_700_000_123.9),
    )
    assert not more, f"no such part of a backend: {', '.join(more)}"
    return backend


def make_app(
    answers: FakeAnswers | None = None,
    *,
    routes: Callable[[Backend], Sequence[BaseRoute]] | None = None,
    backend: Backend | None = None,
    **more: Any,
) -> ASGIApp:
    """
    Return an application on a faked pipeline.

    Args:
        answers: The pipeline.
        routes: One API module's alone; None makes the whole application.
        backend: Instead of one made of `answers` and `more`.
        more: As for `make_backend`, and for the whole application `health` too.
    """
    if routes is None:
        from wicketgate.api.app import create_app
        from wicketgate.api.health import Probes

        health = more.pop("health", READY)
        backend = backend or make_backend(answers, **more)
        return create_app(backend, probes=Probes(backend.edge, lambda: health))
    backend = backend or make_backend(answers, **more)
    default = Endpoint(backend.edge, not_found, methods=None)
    return Router([*routes(backend)], redirect_slashes=False, default=default)


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    parts: list[bytes]
    is_whole: bool = False
    """The last send has returned."""

    @property
    def json(self) -> Any:
        return json.loads(b"".join(self.parts))

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def named_events(self) -> list[tuple[str | None, Any]]:
        """Name and data of every event, the data parsed but for [DONE]."""
        # A comment is a line of its own; `event: ping` is none.
        lines = [line for line in b"".join(self.parts).decode().split("\n") if not line.startswith(":")]
        blocks = "\n".join(lines).split("\n\n")
        assert blocks.pop() == "", "the last event has no blank line behind it"
        events: list[tuple[str | None, Any]] = []
        for block in blocks:
            *head, data = block.split("\n")
            assert data.startswith("data: ")
            assert all(line.startswith("event: ") for line in head)
            data = data.removeprefix("data: ")
            name = head[0].removeprefix("event: ") if head else None
            events.append((name, data if data == "[DONE]" else json.loads(data)))
        return events

    @property
    def events(self) -> list[Any]:
        """The data of every event, parsed but for [DONE]."""
        return [data for _, data in self.named_events]


@dataclass
class Client:
    """Calls an application as a server would; `gone` says that the client has left."""

    app: ASGIApp
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    extensions: dict[str, Any] = field(default_factory=dict)
    """Of the scope: `wicketgate.stream` is a FakeHandle."""

    async def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        parts: list[bytes] | None = None,
    ) -> Reply:
        """Send a request: `body` as it is where it is bytes, else as JSON, or in `parts`."""
        if parts is None:
            parts = [body if isinstance(body, bytes) else json.dumps(body).encode()]
        headers = {"content-type": "application/json"} if headers is None else headers
        reply = Reply(0, {}, [])
        queue = [
            {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
            for index, part in enumerate(parts)
        ]

        async def receive() -> dict[str, Any]:
            if queue:
                return queue.pop(0)
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert not queue, "the answer came before the body was read"
                reply.status = message["status"]
                reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                reply.parts.append(message["body"])
                if not message["more_body"]:
                    self.gone.set()  # hypercorn says so before its last send returns
                    for _ in range(5):
                        await asyncio.sleep(0)
                    reply.is_whole = True

        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "http_version": "2",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50_000),
            "extensions": self.extensions,
        }
        await self.app(scope, receive, send)
        return reply


class FakeHandle:
    """A stream of a connection whose client reads when the test says so; see `stream_handle`."""

    def __init__(self) -> None:
        self.on_resume: Callable[[], None] | None = None
        self.on_closed: Callable[[], None] | None = None
        self.is_paused = False
        self.is_gone = False
        self.unsent_bytes = 0
        self.parts: list[bytes] = []
        self.is_ended = False
        self.is_aborted = False

    @property
    def reply(self) -> Reply:
        return Reply(200, {}, self.parts)

    def write(self, data: bytes) -> None:
        assert not self.is_ended
        self.parts.append(data)

    def end(self, data: bytes = b"") -> None:
        self.write(data)
        self.is_ended = True

    def abort(self) -> None:
        self.is_aborted = True

    def pause(self) -> None:
        """The client reads no more."""
        self.is_paused = True

    def resume(self) -> None:
        """The client has read everything."""
        self.is_paused = False
        if self.on_resume is not None:
            self.on_resume()

    def close(self) -> None:
        """The client resets the stream."""
        self.is_gone = True
        if self.on_closed is not None:
            self.on_closed()
