"""A pipeline that says what a test tells it to, and a client that speaks ASGI without a socket."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wicketgate.api.endpoint import ApiSettings
from wicketgate.api.health import Health
from wicketgate.api.openai import create_app
from wicketgate.api.openai_requests import ModelCard
from wicketgate.inference import Finished, FinishReason
from wicketgate.pipeline.text import TextChunk

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from wicketgate.inference import InferenceRequest

READY = Health(has_started=True, engine_is_ready=True, is_draining=False)
CARD = ModelCard(
    id="demo",
    created_unix_s=1_700_000_000,
    context_tokens=64,
    vocabulary_tokens=300,
    token_bytes=lambda token: bytes([token]) if token < 256 else b"<special>",
)
"""Token n is byte n."""


def finished(reason: FinishReason = FinishReason.STOP, **more: Any) -> Finished:
    return Finished(reason=reason, prompt_tokens=3, completion_tokens=2, **more)


def text(*pieces: str) -> list[TextChunk]:
    return [TextChunk(text=piece, tokens=1) for piece in pieces]


@dataclass
class FakeAnswer:
    """Gives its items, waiting `pause_s` before each; a None among them waits for ever."""

    items: list[TextChunk | Finished | None]
    pause_s: float = 0.0
    flags: tuple[str, ...] = ()
    given: int = 0
    due_s: float | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self) -> TextChunk | Finished:
        item = self.items[self.given]
        if item is None:
            await asyncio.get_running_loop().create_future()
        # Being cancelled while it waits loses nothing: the item is due when it was due before.
        now_s = asyncio.get_running_loop().time()
        self.due_s = self.due_s or now_s + self.pause_s
        await asyncio.sleep(self.due_s - now_s)
        self.due_s = None
        self.given += 1
        return item

    def cancel(self) -> None:
        self.cancelled.set()


@dataclass
class FakeAnswers:
    """Opens one answer after the other as `make` says; keeps what it was asked."""

    items: list[TextChunk | Finished | None] = field(default_factory=lambda: [*text("Hel", "lo"), finished()])
    pause_s: float = 0.0
    flags: tuple[str, ...] = ()
    error: Exception | None = None
    is_full: bool = False
    """Requests wait, for ever."""
    requests: list[InferenceRequest] = field(default_factory=list)
    opened: list[FakeAnswer] = field(default_factory=list)
    waiting: int = 0
    waited: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self, request: InferenceRequest) -> FakeAnswer:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        if self.is_full:
            self.waited.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.left.set()
        self.opened.append(FakeAnswer(list(self.items), pause_s=self.pause_s, flags=self.flags))
        return self.opened[-1]


def make_app(answers: FakeAnswers | None = None, **more: Any) -> ASGIApp:
    ids = (f"req_{number:032x}" for number in itertools.count(1))
    settings = more.pop("settings", ApiSettings())
    models = more.pop("models", [CARD])
    health = more.pop("health", READY)
    return create_app(
        answers=answers or FakeAnswers(),
        models=lambda: models,
        health=lambda: health,
        settings=lambda: settings,
        keys=more.pop("keys", None),
        clock=lambda: 7.0,
        new_id=lambda: next(ids),
        unix_clock=lambda: 1_700_000_123.9,
        **more,
    )


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
    def events(self) -> list[Any]:
        """The data of every event, parsed but for [DONE]."""
        blocks = b"".join(self.parts).decode().replace(": ping\n", "").split("\n\n")
        assert blocks.pop() == ""
        data = [block.removeprefix("data: ") for block in blocks]
        return [entry if entry == "[DONE]" else json.loads(entry) for entry in data]


@dataclass
class Client:
    """Calls an application as a server would; `gone` says that the client has left."""

    app: ASGIApp
    gone: asyncio.Event = field(default_factory=asyncio.Event)

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

        scope = {
            "type": "http",
            "http_version": "2",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50_000),
        }
        await self.app(scope, receive, send)
        return reply
