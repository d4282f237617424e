"""POST /tokenize and /detokenize as vLLM has them, also under /v1; llama.cpp's `content` is understood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field
from starlette.routing import Route

from wicketgate.api.described import Described
from wicketgate.api.dialects import MAX_ITEMS, MAX_LISTED_TOOLS
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.fields import MAX_TEMPLATE_KWARGS, WireModel, check_template_kwargs, validate
from wicketgate.api.inputs import Input
from wicketgate.api.intake import beside, ignored_headers, read_intake
from wicketgate.api.job_call import JobCall
from wicketgate.api.requests import find_model
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import ChatPrompt, TextPrompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange, Headers
    from wicketgate.api.requests import ModelCard
    from wicketgate.inference import Prompt


MAX_CHARS: Final = 1 << 19
"""Of a text to be tokenised, where the model's context does not take more: an answer with as many tokens is
written on the event loop."""
CONTEXT_CHARS: Final = 4
"""Characters of such a text for each token of the context."""


class TokenizeBody(WireModel):
    """POST /tokenize: a text, or messages."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    """llama.cpp's word for the prompt."""
    messages: (
        Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)] | None
    ) = None
    add_special_tokens: bool = True
    """Of a text; a chat template writes its own."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_LISTED_TOOLS, fail_fast=True)] = Field(
        default_factory=list
    )
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=MAX_TEMPLATE_KWARGS)] = Field(
        default_factory=dict
    )
    return_token_strs: bool = False


class DetokenizeBody(WireModel):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)]


PATHS: Final = ("/tokenize", "/v1/tokenize")
BACK_PATHS: Final = ("/detokenize", "/v1/detokenize")
ROUTES: Final = (
    *(
        Described(path=path, method="POST", body=TokenizeBody, summary="Turn text or messages into tokens")
        for path in PATHS
    ),
    *(
        Described(path=path, method="POST", body=DetokenizeBody, summary="Turn tokens into text")
        for path in BACK_PATHS
    ),
)


def tokenize_routes(backend: Backend) -> list[BaseRoute]:
    """Make the routes of both directions."""
    api = _Tokenize(backend)
    return [
        *(Route(path, Endpoint(backend.edge, api.tokenize, methods=("POST",))) for path in PATHS),
        *(Route(path, Endpoint(backend.edge, api.detokenize, methods=("POST",))) for path in BACK_PATHS),
    ]


class _Tokenize:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def tokenize(self, exchange: Exchange) -> None:
        """Answer POST /tokenize."""
        backend = self._backend
        intake = await read_intake(exchange, backend)
        refuses = backend.edge.settings().refuses_unknown_fields
        cards = backend.models()

        def read() -> tuple[TokenizeBody, Prompt, ModelCard, Headers]:
            headers = ignored_headers(intake.fields, TokenizeBody.model_fields, refuses=refuses)
            body = validate(TokenizeBody, intake.fields)
            card = find_model(cards, body.model)
            return body, _prompt(body, card), card, headers

        body, prompt, card, headers = await beside(backend, intake, read)

        async def work() -> dict[str, object]:
            ids = await backend.jobs.tokenize(card.id, prompt, add_special_tokens=body.add_special_tokens)
            answer: dict[str, object] = {
                "count": len(ids),
                "max_model_len": card.context_tokens,
                "tokens": ids,
            }
            if body.return_token_strs:
                answer["token_strs"] = await beside(backend, intake, lambda: _texts(ids, card))
            return answer

        await JobCall(exchange, backend).run(work, headers=headers)

    async def detokenize(self, exchange: Exchange) -> None:
        """Answer POST /detokenize."""
        backend = self._backend
        intake = await read_intake(exchange, backend)
        refuses = backend.edge.settings().refuses_unknown_fields
        cards = backend.models()

        def work() -> tuple[str, Headers]:
            headers = ignored_headers(intake.fields, DetokenizeBody.model_fields, refuses=refuses)
            body = validate(DetokenizeBody, intake.fields)
            card = find_model(cards, body.model)
            Input(param="tokens", content=tuple(body.tokens)).check(card)
            return backend.jobs.detokenize(card.id, body.tokens), headers

        text, headers = await beside(backend, intake, work)
        await exchange.answer({"prompt": text}, headers=headers)


def _texts(ids: Sequence[int], card: ModelCard) -> list[str]:
    return [card.token_bytes(token).decode(errors="replace") for token in ids]


def _prompt(body: TokenizeBody, card: ModelCard) -> Prompt:
    """
    Return the one prompt that a body has.

    Raises:
        InvalidRequestError: it has none, or several, or one that is too long.
    """
    check_template_kwargs(body.chat_template_kwargs)
    named = {"prompt": body.prompt, "content": body.content, "messages": body.messages}
    given = [name for name, value in named.items() if value is not None]
    if not given:
        raise InvalidRequestError(
            "prompt is required (or messages)", param="prompt", code="missing_required_parameter"
        )
    if len(given) > 1:
        raise InvalidRequestError(
            f"{given[0]} and {given[1]} cannot both be tokenised; send one",
            param=given[1],
            code="invalid_parameter_combination",
        )
    if body.messages is None:
        text = body.prompt if body.prompt is not None else body.content or ""
        most = max(MAX_CHARS, CONTEXT_CHARS * card.context_tokens)
        if len(text) > most:
            raise InvalidRequestError(
                f"{given[0]} must have at most {most} characters, got {len(text)}; send it in parts",
                param=given[0],
                code="string_above_max_length",
            )
        return TextPrompt(text=text)
    own = {} if body.add_generation_prompt else {"add_generation_prompt": False}
    return ChatPrompt(
        messages=tuple(body.messages),
        template_kwargs={**body.chat_template_kwargs, **own},
        tools=tuple(body.tools),
        continues=body.continue_final_message,
    )
