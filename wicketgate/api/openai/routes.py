"""OpenAI's chat completions and completions: POST /v1/chat/completions and POST /v1/completions."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from wicketgate.api.described import Described
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.intake import beside, ignored_headers, read_intake
from wicketgate.api.job_call import JobCall
from wicketgate.api.openai.bodies import ChatBody, CompletionBody, read_chat, read_completion
from wicketgate.api.openai.chat_form import ChatForm
from wicketgate.api.openai.requests import chat_requests, completion_requests, samples, tool_choice
from wicketgate.api.openai.text_form import Begun, TextForm, TextOptions, prompt_text
from wicketgate.api.openai.wire import About
from wicketgate.api.order import Order
from wicketgate.api.requests import find_model
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import Finished, FinishReason, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange, Headers
    from wicketgate.api.intake import Intake
    from wicketgate.api.openai.bodies import CommonBody
    from wicketgate.api.quotas import Grant
    from wicketgate.api.requests import Arrival, ModelCard
    from wicketgate.inference import InferenceRequest

MAX_ECHOED: Final = 1 << 14
"""Tokens of prompts in one answer with their log-probabilities: written on the event loop, 3 us each."""
ROUTES: Final = (
    Described(path="/v1/chat/completions", method="POST", body=ChatBody, summary="Answer a chat"),
    Described(path="/v1/completions", method="POST", body=CompletionBody, summary="Continue a text"),
)


def chat_routes(backend: Backend) -> list[BaseRoute]:
    """Build the routes."""
    api = _OpenAI(backend=backend)
    return [
        Route("/v1/chat/completions", Endpoint(backend.edge, api.chat, methods=("POST",))),
        Route("/v1/completions", Endpoint(backend.edge, api.completion, methods=("POST",))),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenAI:
    backend: Backend

    async def chat(self, exchange: Exchange) -> None:
        """Answer POST /v1/chat/completions."""
        # Made elsewhere: of the body nothing must stay here for as long as the answer lasts.
        await self.backend.generation.serve(exchange, await self._chat(exchange))

    async def _chat(self, exchange: Exchange) -> Order:
        intake = await read_intake(exchange, self.backend)
        cards = self.backend.models()
        return await beside(self.backend, intake, lambda: self._chat_order(intake, cards))

    def _chat_order(self, intake: Intake, cards: Sequence[ModelCard]) -> Order:
        headers = self._ignored(intake, ChatBody)
        body = read_chat(intake.fields)
        card = find_model(cards, body.model)
        requests = chat_requests(body, card=card, arrival=intake.arrival)
        is_named = tool_choice(body).kind == "named"
        form = ChatForm(
            self._about(body, card, intake.arrival),
            choices=len(requests),
            token_bytes=card.token_bytes,
            has_logprobs=body.logprobs,
            call_reason=self.backend.edge.settings().named_tool_finish if is_named else "tool_calls",
        )
        return Order(requests=requests, form=form, stream=body.stream, headers=headers)

    async def completion(self, exchange: Exchange) -> None:
        """Answer POST /v1/completions."""
        order = await self._completion(exchange)
        if order is not None:
            await self.backend.generation.serve(exchange, order)

    async def _completion(self, exchange: Exchange) -> Order | None:
        """Return what to generate; None where that was nothing, and the answer has been given."""
        intake = await read_intake(exchange, self.backend)
        cards = self.backend.models()
        call = await beside(self.backend, intake, lambda: self._completion_call(intake, cards))
        if call.body.max_tokens == 0:
            work = functools.partial(call.without_answers, exchange.grant)
            await JobCall(exchange, self.backend).run(work, headers=call.headers)
            return None
        if call.body.echo and call.body.logprobs is not None:
            await JobCall(exchange, self.backend).result(call.assess)
        return Order(requests=call.requests, form=call.form(), stream=call.body.stream, headers=call.headers)

    def _completion_call(self, intake: Intake, cards: Sequence[ModelCard]) -> _Completion:
        headers = self._ignored(intake, CompletionBody)
        body = read_completion(intake.fields)
        card = find_model(cards, body.model)
        requests = completion_requests(body, card=card, arrival=intake.arrival)
        about = self._about(body, card, intake.arrival)
        return _Completion(body, requests, backend=self.backend, card=card, about=about, headers=headers)

    def _ignored(self, intake: Intake, body: type[CommonBody]) -> Headers:
        refuses = self.backend.edge.settings().refuses_unknown_fields
        return ignored_headers(intake.fields, body.model_fields.keys(), refuses=refuses)

    def _about(self, body: CommonBody, card: ModelCard, arrival: Arrival) -> About:
        return About(
            request_id=arrival.id,
            model=card.id,
            created_unix_s=int(self.backend.unix_clock()),
            fingerprint=card.fingerprint,
            has_usage=body.stream_options is not None and body.stream_options.include_usage,
        )


class _Completion:
    """One call of /v1/completions: its prompts, and what is known of them."""

    def __init__(
        self,
        body: CompletionBody,
        requests: Sequence[InferenceRequest],
        *,
        backend: Backend,
        card: ModelCard,
        about: About,
        headers: Headers,
    ) -> None:
        self.requests = tuple(requests)
        self.headers = headers
        self.body, self._backend, self._card, self._about = body, backend, card, about
        self._samples = samples(body)
        prompts = [request.prompt for request in requests[:: self._samples]]
        self._begun = [Begun(text=prompt_text(prompt, card.token_bytes)) for prompt in prompts]

    def form(self) -> TextForm:
        """Return how the answer is written."""
        body = self.body
        options = TextOptions(
            samples=self._samples, sent=body.n, echoes=body.echo, has_logprobs=body.logprobs is not None
        )
        return TextForm(self._about, self._begun, token_bytes=self._card.token_bytes, options=options)

    async def assess(self) -> None:
        """
        Find the tokens of the prompts, and how likely each was; they are echoed with them.

        Raises:
            InvalidRequestError: they are too many.
            WicketgateError: refused or failed.
        """
        echoed = 0
        for place, begun in enumerate(self._begun):
            first = place * self._samples
            ids = await self._tokens(place)
            echoed += len(ids) * self._samples
            if echoed > MAX_ECHOED:
                raise InvalidRequestError(
                    f"prompt may have {MAX_ECHOED} tokens, all prompts and samples together, where logprobs"
                    f" are echoed, got {echoed} or more; send fewer at a time",
                    param="prompt",
                    code="array_above_max_length",
                )
            prompt = TokenPrompt(ids=ids)
            requests = [
                replace(request, prompt=prompt) for request in self.requests[first : first + self._samples]
            ]
            entries = await self._backend.jobs.prompt_logprobs(requests[0], top=self.body.logprobs or 0)
            self._begun[place] = replace(begun, ids=ids, entries=tuple(entries))
            self.requests = (*self.requests[:first], *requests, *self.requests[first + self._samples :])

    async def without_answers(self, grant: Grant | None) -> Mapping[str, object]:
        """
        Return the answer where no token is wanted: what is known of the prompts.

        Args:
            grant: What the client's limits hold for it; tokens count where they are computed.

        Raises:
            WicketgateError: refused or failed.
        """
        counts = [len(await self._tokens(place)) for place in range(len(self._begun))]
        if self.body.echo and self.body.logprobs is not None:
            if grant is not None:
                grant.charge(sum(counts))
            await self.assess()
            if grant is not None:
                grant.spend(sum(counts))
        ends = []
        for count in counts:
            end = Finished(reason=FinishReason.LENGTH, prompt_tokens=count, completion_tokens=0)
            ends += [end] * self._samples
        return self.form().unanswered(ends)

    async def _tokens(self, place: int) -> tuple[int, ...]:
        prompt = self.requests[place * self._samples].prompt
        return tuple(await self._backend.jobs.tokenize(self._card.id, prompt))
