"""OpenAI's Responses: POST /v1/responses, and what of it was stored."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route

from transport import sse
from wicketgate.api.described import Described
from wicketgate.api.dialects import dropped_header
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.intake import ignored_headers, read_intake
from wicketgate.api.order import Order
from wicketgate.api.requests import find_model
from wicketgate.api.responses.bodies import FIELDS, ResponsesBody, read_body
from wicketgate.api.responses.input import read_items, read_messages
from wicketgate.api.responses.requests import read_request
from wicketgate.api.responses.store import ResponseStore, Stored, StoreParams
from wicketgate.api.responses.wire import ResponseForm
from wicketgate.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange

    Item = Mapping[str, Any]

_ITEM_ID: Final = re.compile(r"(?:msg|rs|fc)_([0-9a-f]{32})\d+\Z")
"""Items of an answer are named after it."""

ROUTES: Final = (
    Described(
        path="/v1/responses", method="POST", body=ResponsesBody, summary="Answer in OpenAI's Responses form"
    ),
    Described(
        path="/v1/responses/{response_id}", method="GET", body=None, summary="Return a stored response"
    ),
    Described(
        path="/v1/responses/{response_id}", method="DELETE", body=None, summary="Forget a stored response"
    ),
    Described(
        path="/v1/responses/{response_id}/input_items",
        method="GET",
        body=None,
        summary="List what a stored response answers",
    ),
)


def response_routes(backend: Backend, *, params: StoreParams | None = None) -> list[BaseRoute]:
    """
    Build the routes.

    Args:
        params: How much is stored for those who ask for it.
    """
    params = params or StoreParams()
    api = _Responses(backend=backend, store=ResponseStore(params), stores_unasked=params.unasked)
    edge = backend.edge
    return [
        Route("/v1/responses", Endpoint(edge, api.create, methods=("POST",))),
        Route("/v1/responses/{response_id}", Endpoint(edge, api.stored, methods=("GET", "DELETE"))),
        Route("/v1/responses/{response_id}/input_items", Endpoint(edge, api.input_items, methods=("GET",))),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Responses:
    backend: Backend
    store: ResponseStore
    stores_unasked: bool

    async def create(self, exchange: Exchange) -> None:
        """Answer POST /v1/responses."""
        # Made elsewhere: of the body nothing must stay here for as long as the answer lasts.
        await self.backend.generation.serve(exchange, await self._order(exchange))

    async def _order(self, exchange: Exchange) -> Order:
        intake = await read_intake(exchange, self.backend)
        refuses = self.backend.edge.settings().refuses_unknown_fields
        ignored = ignored_headers(intake.fields, FIELDS, refuses=refuses)
        body = read_body(intake.fields)
        card = find_model(self.backend.models(), body.model)
        earlier = self._earlier(exchange.client, body.previous_response_id)
        items = [*earlier, *read_items(body.input, find=self._finder(exchange.client))]
        messages = read_messages(items, instructions=body.instructions, earlier=len(earlier))
        is_stored = self.stores_unasked if body.store is None else body.store
        meant = read_request(body, messages, card=card, arrival=intake.arrival)
        made = {"created_at": int(self.backend.unix_clock()), "store": is_stored}
        form = ResponseForm(
            {**meant.about, **made},
            token_bytes=card.token_bytes,
            unix_clock=self.backend.unix_clock,
            on_end=self._keep(exchange.client, items) if is_stored else _forget,
        )
        headers = (*ignored, *dropped_header(meant.dropped))
        return Order(requests=(meant.request,), form=form, stream=body.stream, headers=headers)

    async def stored(self, exchange: Exchange) -> None:
        """Answer GET and DELETE /v1/responses/ID."""
        name = exchange.path_params["response_id"]
        found = self._found(exchange.client, name)
        if exchange.method != "DELETE":
            await exchange.answer(json.loads(found.response))
            return
        self.store.delete(exchange.client, name, now_s=self.backend.clock())
        await exchange.answer({"id": name, "object": "response", "deleted": True})

    async def input_items(self, exchange: Exchange) -> None:
        """Answer GET /v1/responses/ID/input_items: all of them, the newest first, as OpenAI lists them."""
        name = exchange.path_params["response_id"]
        found = self._found(exchange.client, name)
        suffix = name.removeprefix("resp_")
        asked = json.loads(found.items)[: found.asked]
        data = [_listed(item, f"in_{suffix}{index}") for index, item in enumerate(asked)]
        data.reverse()
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        await exchange.answer({"object": "list", "data": data, "has_more": False, **ends})

    def _found(self, owner: str | None, name: str) -> Stored:
        found = self.store.get(owner, name, now_s=self.backend.clock())
        if found is None:
            raise NotFoundError(
                f"no response {name[:80]!r} is stored; those of requests with store: true are, for a while",
                param="response_id",
                code="not_found",
            )
        return found

    def _earlier(self, owner: str | None, name: str | None) -> list[Item]:
        """Return what a conversation holds so far; its instructions do not carry over."""
        if name is None:
            return []
        found = self.store.get(owner, name, now_s=self.backend.clock())
        if found is None:
            raise InvalidRequestError(
                f"previous_response_id {name[:80]!r} is not stored; those of requests with store: true are,"
                " for a while",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        items: list[Item] = json.loads(found.items)
        return items

    def _finder(self, owner: str | None) -> Callable[[str], Item | None]:
        """Return what finds an item of a stored answer by its id; each answer is read once."""
        outputs: dict[str, list[Item]] = {}

        def find(name: str) -> Item | None:
            match = _ITEM_ID.match(name)
            if match is None:
                return None
            answer = f"resp_{match[1]}"
            if answer not in outputs:
                found = self.store.get(owner, answer, now_s=self.backend.clock())
                outputs[answer] = json.loads(found.response)["output"] if found else []
            return next((item for item in outputs[answer] if item["id"] == name), None)

        return find

    def _keep(self, owner: str | None, asked: Sequence[Item]) -> Callable[[Mapping[str, Any]], None]:
        def keep(response: Mapping[str, Any]) -> None:
            items = [*asked, *response["output"]]
            stored = Stored(response=sse.json_bytes(response), items=sse.json_bytes(items), asked=len(asked))
            self.store.put(owner, response["id"], stored, now_s=self.backend.clock())

        return keep


def _forget(_: Mapping[str, Any]) -> None:
    """Keep nothing of a response."""


def _listed(item: Item, name: str) -> dict[str, Any]:
    """Write an item as lists have it: with an id, and content in parts."""
    listed = {"id": name, "status": "completed", **item}
    if isinstance(content := item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        listed["content"] = [{"type": kind, "text": content}]
    return listed
