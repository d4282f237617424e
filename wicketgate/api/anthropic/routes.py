"""Anthropic's API: POST /v1/messages and /v1/messages/count_tokens; any version of it, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route

from wicketgate.api.anthropic.bodies import (
    FIELDS,
    MessagesBody,
    PromptBody,
    read_messages_body,
    read_prompt_body,
)
from wicketgate.api.anthropic.requests import read_prompt, read_request
from wicketgate.api.anthropic.wire import MessageForm
from wicketgate.api.described import Described
from wicketgate.api.dialects import dropped_header
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.envelopes import Family
from wicketgate.api.intake import beside, ignored_headers, read_intake
from wicketgate.api.job_call import JobCall
from wicketgate.api.order import Order
from wicketgate.api.requests import find_model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.anthropic.requests import MeantPrompt
    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange, Headers
    from wicketgate.api.intake import Intake
    from wicketgate.api.requests import ModelCard

ROUTES: Final = (
    Described(path="/v1/messages", method="POST", body=MessagesBody, summary="Answer in Anthropic's form"),
    Described(
        path="/v1/messages/count_tokens",
        method="POST",
        body=PromptBody,
        summary="Count the tokens of a prompt, with template and tools",
    ),
)


def message_routes(backend: Backend) -> list[BaseRoute]:
    """Build the routes."""
    api = _Anthropic(backend=backend)

    def route(path: str, handle: Callable[[Exchange], Awaitable[None]]) -> Route:
        return Route(path, Endpoint(backend.edge, handle, methods=("POST",), family=Family.ANTHROPIC))

    return [route("/v1/messages", api.create), route("/v1/messages/count_tokens", api.count_tokens)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Anthropic:
    backend: Backend

    async def create(self, exchange: Exchange) -> None:
        """Answer POST /v1/messages."""
        # Made elsewhere: of the body nothing must stay here for as long as the answer lasts.
        await self.backend.generation.serve(exchange, await self._order(exchange))

    async def _order(self, exchange: Exchange) -> Order:
        intake = await read_intake(exchange, self.backend)
        cards = self.backend.models()
        return await beside(self.backend, intake, lambda: self._meant_order(intake, cards))

    def _meant_order(self, intake: Intake, cards: Sequence[ModelCard]) -> Order:
        ignored = self._ignored(intake.fields)
        body = read_messages_body(intake.fields)
        card = find_model(cards, body.model)
        request, dropped = read_request(body, card=card, arrival=intake.arrival)
        form = MessageForm(
            request_id=intake.arrival.id,
            model=request.model,
            max_tokens=body.max_tokens,
            shows_thinking=body.thinking is None or body.thinking.display != "omitted",
        )
        headers = (*ignored, *dropped_header(dropped))
        return Order(requests=(request,), form=form, stream=body.stream, headers=headers)

    async def count_tokens(self, exchange: Exchange) -> None:
        """Answer POST /v1/messages/count_tokens."""
        intake = await read_intake(exchange, self.backend)
        cards = self.backend.models()
        card, meant, headers = await beside(self.backend, intake, lambda: self._counted(intake, cards))

        async def count() -> object:
            return {"input_tokens": len(await self.backend.jobs.tokenize(card.id, meant.prompt))}

        await JobCall(exchange, self.backend).run(count, headers=headers)

    def _counted(self, intake: Intake, cards: Sequence[ModelCard]) -> tuple[ModelCard, MeantPrompt, Headers]:
        ignored = self._ignored(intake.fields)
        body = read_prompt_body(intake.fields)
        card = find_model(cards, body.model)
        meant = read_prompt(body, card=card, max_tokens=card.context_tokens)
        return card, meant, (*ignored, *dropped_header(meant.dropped))

    def _ignored(self, fields: Mapping[str, Any]) -> Headers:
        refuses = self.backend.edge.settings().refuses_unknown_fields
        return ignored_headers(fields, FIELDS, refuses=refuses)
