"""
The first listener's application: OpenAI's chat and completions, the models, health.

Endpoints are raw ASGI. A request is read to its end and checked before anything else happens; then the
answers of the pipeline are awaited, while a second task listens for the client's going away and cancels
all of it. A stream's status waits for the first text, so that a refusal still gets its own.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from starlette.routing import Route, Router

from wicketgate.api.endpoint import Edge, Endpoint, not_found
from wicketgate.api.fields import read_object, unknown_names
from wicketgate.api.health import health_routes
from wicketgate.api.openai_models import CHAT_FIELDS, COMPLETION_FIELDS, read_chat, read_completion
from wicketgate.api.openai_requests import Arrival, chat_request, completion_request, find_model
from wicketgate.api.openai_wire import ChatForm, CompletionForm, Writer, prompt_chars
from wicketgate.errors import (
    DeadlineExceededError,
    EngineFailedError,
    InvalidRequestError,
    UnavailableError,
    UnsupportedEncodingError,
    WicketgateError,
)
from wicketgate.inference import Finished, FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from wicketgate.api.endpoint import ApiSettings
    from wicketgate.api.exchange import Exchange, Headers
    from wicketgate.api.health import Health
    from wicketgate.api.keys import Keys
    from wicketgate.api.openai_models import CommonBody
    from wicketgate.api.openai_requests import ModelCard
    from wicketgate.api.openai_wire import Form
    from wicketgate.inference import InferenceRequest
    from wicketgate.pipeline.text import TextChunk

DEADLINE_SLACK_S: Final = 2.0
"""The pipeline ends a request at its deadline; so much later the endpoint does, whatever holds it up."""
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
"""What curl calls a body when it is not told."""


class Answer(Protocol):
    """A request that runs."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Features that the request is on."""

    async def next(self) -> TextChunk | Finished:
        """
        Wait for more text, all that there is at once; Finished comes once, last.

        Being cancelled while it waits loses nothing: the next call gives it.
        """

    def cancel(self) -> None:
        """Stop and give the ticket back; idempotent, and nothing after the end."""


class Answers(Protocol):
    """The pipeline, as the APIs see it."""

    async def open(self, request: InferenceRequest) -> Answer:
        """
        Wait until a request runs; being cancelled gives up its place.

        Raises:
            WicketgateError: it is refused.
        """


def create_app(
    *,
    answers: Answers,
    models: Callable[[], Sequence[ModelCard]],
    health: Callable[[], Health],
    settings: Callable[[], ApiSettings],
    keys: Keys | None,
    clock: Callable[[], float],
    new_id: Callable[[], str],
    unix_clock: Callable[[], float] = time.time,
    more_routes: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """
    Build the application.

    Args:
        answers: The pipeline.
        models: What is loaded.
        health: The facts that probes are answered from.
        settings: What runtime.yaml says now.
        keys: Who may ask; None lets everybody in.
        clock: Monotonic seconds.
        new_id: Ids of requests, "req_" and 32 random hexadecimal digits.
        unix_clock: Wall time, for `created`.
        more_routes: Served too, with no key asked for.
    """
    edge = Edge(settings=settings, new_id=new_id, keys=keys)
    api = _OpenAI(answers=answers, models=models, settings=settings, clock=clock, unix_clock=unix_clock)
    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", Endpoint(edge, api.chat, methods=("POST",))),
        Route("/v1/completions", Endpoint(edge, api.completion, methods=("POST",))),
        Route("/v1/models", Endpoint(edge, api.list_models, methods=("GET",))),
        Route("/v1/models/{model:path}", Endpoint(edge, api.show_model, methods=("GET",))),
        *health_routes(edge, health),
        *more_routes,
    ]
    # The middlewares of starlette.applications.Starlette would wrap `send` for every chunk of a stream.
    return Router(routes, redirect_slashes=False, default=Endpoint(edge, not_found, methods=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intake:
    fields: dict[str, Any]
    is_casual: bool
    """It came as curl sends a body when it is not told more: `model` may be absent."""
    arrival: Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What a body asks for, and how the answer is to be written."""

    request: InferenceRequest
    writer: Writer
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenAI:
    answers: Answers
    models: Callable[[], Sequence[ModelCard]]
    settings: Callable[[], ApiSettings]
    clock: Callable[[], float]
    unix_clock: Callable[[], float]

    async def list_models(self, exchange: Exchange) -> None:
        """Answer GET /v1/models."""
        await exchange.answer({"object": "list", "data": [_about(card) for card in self.models()]})

    async def show_model(self, exchange: Exchange) -> None:
        """Answer GET /v1/models/NAME."""
        await exchange.answer(_about(find_model(self.models(), exchange.path_params["model"])))

    async def chat(self, exchange: Exchange) -> None:
        """Answer POST /v1/chat/completions."""
        intake = await self._intake(exchange)
        headers = self._ignored(intake.fields, CHAT_FIELDS)
        body = read_chat(intake.fields)
        card = find_model(self.models(), body.model, may_be_absent=intake.is_casual)
        request = chat_request(body, card=card, arrival=intake.arrival)
        writer = self._writer(ChatForm(card.token_bytes), body, request)
        await self._serve(exchange, _Order(request=request, writer=writer, headers=headers))

    async def completion(self, exchange: Exchange) -> None:
        """Answer POST /v1/completions."""
        intake = await self._intake(exchange)
        headers = self._ignored(intake.fields, COMPLETION_FIELDS)
        body = read_completion(intake.fields)
        card = find_model(self.models(), body.model, may_be_absent=intake.is_casual)
        request = completion_request(body, card=card, arrival=intake.arrival)
        form = CompletionForm(card.token_bytes, prompt_chars=prompt_chars(request.prompt, card.token_bytes))
        writer = self._writer(form, body, request)
        await self._serve(exchange, _Order(request=request, writer=writer, headers=headers))

    async def _intake(self, exchange: Exchange) -> _Intake:
        data = await exchange.read_body()
        arrival = Arrival(
            id=exchange.request_id,
            arrived_s=self.clock(),
            session=exchange.header("x-session-id"),
            client=exchange.client,
            connection=exchange.connection,
        )
        encoding = exchange.header("content-encoding") or "identity"
        if encoding.lower() != "identity":
            raise UnsupportedEncodingError(f"content-encoding must be identity, got {encoding[:40]}")
        kind = (exchange.header("content-type") or "").partition(";")[0].strip().lower()
        # A page of another origin can send these without being asked (no preflight): never for it.
        is_casual = kind in {"", _FORM_TYPE} and exchange.header("origin") is None
        if not is_casual and kind != "application/json":
            raise InvalidRequestError(
                f"content-type must be application/json, got {kind[:40] or 'none'}",
                code="unsupported_content_type",
            )
        return _Intake(fields=read_object(data), is_casual=is_casual, arrival=arrival)

    def _ignored(self, fields: Mapping[str, Any], known: frozenset[str]) -> Headers:
        refuses = self.settings().refuses_unknown_fields
        names = unknown_names(fields, known, refuses=refuses)
        return ((b"x-wicketgate-ignored", ", ".join(names).encode()),) if names else ()

    def _writer(self, form: Form, body: CommonBody, request: InferenceRequest) -> Writer:
        has_usage = body.stream_options is not None and body.stream_options.include_usage
        return Writer(form, request, created_unix_s=int(self.unix_clock()), has_usage=has_usage)

    async def _serve(self, exchange: Exchange, order: _Order) -> None:
        limit_s = self.settings().request_timeout_s
        try:
            async with asyncio.timeout(limit_s + DEADLINE_SLACK_S):
                await exchange.while_connected(self._run(exchange, order))
        except TimeoutError:
            raise DeadlineExceededError(
                f"the request took longer than {limit_s:g} s (server.request_timeout_s)"
            ) from None

    async def _run(self, exchange: Exchange, order: _Order) -> None:
        answer = await self.answers.open(order.request)
        flags = ",".join(answer.flags) or "-"
        headers = (*order.headers, (b"x-wicketgate-flags", flags.encode()))
        try:
            if order.request.stream:
                hold_s = self.settings().hold_headers_s
                await _stream(exchange, answer, order.writer, headers=headers, hold_headers_s=hold_s)
            else:
                await _whole(exchange, answer, order.writer, headers=headers)
        except WicketgateError as error:
            await exchange.refuse(error, headers=headers)
        finally:
            answer.cancel()


async def _whole(exchange: Exchange, answer: Answer, writer: Writer, *, headers: Headers) -> None:
    chunks: list[TextChunk] = []
    while not isinstance(item := await answer.next(), Finished):
        chunks.append(item)
    _raise_failure(item)
    await exchange.answer(writer.whole(chunks, item), headers=headers)


async def _stream(
    exchange: Exchange, answer: Answer, writer: Writer, *, headers: Headers, hold_headers_s: float
) -> None:
    item = await _first(answer, within_s=hold_headers_s)
    if isinstance(item, Finished):
        _raise_failure(item)
    await exchange.start_events(headers)
    data = writer.first()
    if item is None:
        if data:
            await exchange.write(data)
            data = b""
        item = await answer.next()
    while not isinstance(item, Finished):
        await exchange.write(data + writer.delta(item))
        data = b""
        item = await answer.next()
    _raise_failure(item)
    await exchange.end(data + writer.last(item))


async def _first(answer: Answer, *, within_s: float) -> TextChunk | Finished | None:
    try:
        async with asyncio.timeout(within_s):
            return await answer.next()
    except TimeoutError:
        return None


def _raise_failure(finished: Finished) -> None:
    if finished.reason is FinishReason.ERROR:
        raise finished.error or EngineFailedError("the engine could not finish this request")
    if finished.reason is FinishReason.CANCELLED:
        raise finished.error or UnavailableError("the server has cancelled this request", code="draining")


def _about(card: ModelCard) -> dict[str, object]:
    return {
        "id": card.id,
        "object": "model",
        "created": card.created_unix_s,
        "owned_by": "wicketgate",
        "context_length": card.context_tokens,
    }
