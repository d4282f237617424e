"""OpenAI's Responses: POST /v1/responses, and what of it was stored."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route

from transport import sse
from wicketgate.api.described import Described
from wicketgate.api.dialects import MAX_ITEMS, dropped_header
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.intake import INLINE_BYTES, beside, count_values, ignored_headers, read_intake
from wicketgate.api.order import Order
from wicketgate.api.requests import find_model, longest_context
from wicketgate.api.responses.bodies import FIELDS, ResponsesBody, read_body
from wicketgate.api.responses.input import read_items, read_messages
from wicketgate.api.responses.requests import finite_json, read_request
from wicketgate.api.responses.store import ResponseStore, Stored, StoreParams
from wicketgate.api.responses.wire import ResponseForm
from wicketgate.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange
    from wicketgate.api.intake import Intake
    from wicketgate.api.requests import ModelCard

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
        cards = self.backend.models()
        kept = await self._kept(exchange.client, intake, max_bytes=exchange.limit.max_bytes, cards=cards)
        # As if it had come with the body: together they may be long.
        whole = replace(intake, size_bytes=intake.size_bytes + kept.size_bytes)
        return await beside(
            self.backend, whole, lambda: self._meant_order(exchange.client, intake, kept, cards)
        )

    def _meant_order(
        self, owner: str | None, intake: Intake, kept: _Kept, cards: Sequence[ModelCard]
    ) -> Order:
        refuses = self.backend.edge.settings().refuses_unknown_fields
        ignored = ignored_headers(intake.fields, FIELDS, refuses=refuses)
        body = read_body(intake.fields)
        card = find_model(cards, body.model)
        earlier: list[Item] = json.loads(kept.items)
        items = [*earlier, *read_items(body.input, find=kept.finder())]
        if len(items) > MAX_ITEMS:
            raise InvalidRequestError(
                f"input must have at most {MAX_ITEMS} entries, those of previous_response_id counted, got"
                f" {len(items)}",
                param="input",
                code="array_above_max_length",
            )
        messages = read_messages(items, instructions=body.instructions, earlier=len(earlier))
        is_stored = self.stores_unasked if body.store is None else body.store
        meant = read_request(body, messages, card=card, arrival=intake.arrival)
        made = {"created_at": int(self.backend.unix_clock()), "store": is_stored}
        form = ResponseForm(
            {**meant.about, **made},
            token_bytes=card.token_bytes,
            unix_clock=self.backend.unix_clock,
            on_end=self._keep(owner, items) if is_stored else _forget,
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

    async def _kept(
        self, owner: str | None, intake: Intake, *, max_bytes: int, cards: Sequence[ModelCard]
    ) -> _Kept:
        """
        Return what a request goes on from, within the bounds of a body.

        Raises:
            InvalidRequestError: it is too much, or not stored.
        """
        fields = intake.fields
        kept = _Kept(
            items=self._earlier(owner, fields.get("previous_response_id")),
            answers=self._referred(owner, fields.get("input")),
        )
        if kept.size_bytes > max_bytes:
            raise InvalidRequestError(
                "what previous_response_id and item_reference bring from stored answers must be at most"
                f" {max_bytes} bytes (server.max_body_bytes), got {kept.size_bytes}; send less, as input",
                param="previous_response_id" if "previous_response_id" in fields else "input",
                code="string_above_max_length",
            )
        if len(kept.items) > INLINE_BYTES:
            await count_values(kept.items, most_ids=longest_context(cards))
        return kept

    def _earlier(self, owner: str | None, name: object) -> bytes:
        """Return what a conversation holds so far; its instructions do not carry over."""
        if not isinstance(name, str):
            return b"[]"
        found = self.store.get(owner, name, now_s=self.backend.clock())
        if found is None:
            raise InvalidRequestError(
                f"previous_response_id {name[:80]!r} is not stored; those of requests with store: true are,"
                " for a while",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return found.items

    def _referred(self, owner: str | None, given: object) -> dict[str, bytes]:
        """Return the stored answers that an input's references name, by their ids."""
        if not isinstance(given, list) or len(given) > MAX_ITEMS:  # which is refused when it is read
            return {}
        # Items that were sent whole have the ids of their answers too, and bring nothing.
        names = (
            item.get("id")
            for item in given
            if isinstance(item, dict) and item.get("type") == "item_reference"
        )
        matches = (_ITEM_ID.match(name) for name in names if isinstance(name, str))
        answers = {f"resp_{match[1]}" for match in matches if match is not None}
        found = self.store.find(owner, answers, now_s=self.backend.clock())
        return {name: stored.response for name, stored in found.items()}

    def _keep(self, owner: str | None, asked: Sequence[Item]) -> Callable[[Mapping[str, Any]], None]:
        """
        Return what keeps an answer, and what was asked with it: that is written now, not on the event loop.

        Raises:
            InvalidRequestError: it holds a number that cannot be written.
        """
        begun = finite_json(asked, param="input").removesuffix(b"]")
        count = len(asked)

        def keep(response: Mapping[str, Any]) -> None:
            output = sse.json_bytes(response["output"]).removeprefix(b"[")
            items = begun + (b"," if response["output"] else b"") + output
            stored = Stored(response=sse.json_bytes(response), items=items, asked=count)
            self.store.put(owner, response["id"], stored, now_s=self.backend.clock())

        return keep


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What of stored answers a request goes on from, as JSON."""

    items: bytes
    """Of the conversation so far."""
    answers: Mapping[str, bytes]
    """Those that references name."""

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return len(self.items) + sum(map(len, self.answers.values()))

    def finder(self) -> Callable[[str], Item | None]:
        """Return what finds an item of an answer by its id; each answer is read once."""
        outputs: dict[str, list[Item]] = {}

        def find(name: str) -> Item | None:
            match = _ITEM_ID.match(name)
            answer = "" if match is None else f"resp_{match[1]}"
            if answer not in self.answers:
                return None
            if answer not in outputs:
                outputs[answer] = json.loads(self.answers[answer])["output"]
            return next((item for item in outputs[answer] if item["id"] == name), None)

        return find


def _forget(_: Mapping[str, Any]) -> None:
    """Keep nothing of a response."""


def _listed(item: Item, name: str) -> dict[str, Any]:
    """Write an item as lists have it: with an id, and content in parts."""
    listed = {"id": name, "status": "completed", **item}
    if isinstance(content := item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        listed["content"] = [{"type": kind, "text": content}]
    return listed
