"""POST /v1/embeddings: the pooled last hidden states of a model, as vectors of length 1."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import TYPE_CHECKING, Any, Final, Literal

from starlette.routing import Route

from wicketgate.api.described import Described
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.fields import WireModel, validate
from wicketgate.api.inputs import read_inputs
from wicketgate.api.intake import beside, ignored_headers, read_intake
from wicketgate.api.job_call import JobCall
from wicketgate.api.requests import KEY_FIELDS, build_request, find_model
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import Sampling, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange, Headers
    from wicketgate.api.inputs import Input
    from wicketgate.api.requests import Arrival, ModelCard
    from wicketgate.inference import InferenceRequest

MAX_INPUTS: Final = 2048
MAX_TOKENS: Final = 300_000
"""Of all inputs together, as OpenAI has it; one of them may fill the model's context all the same."""
MAX_NUMBERS: Final = 1 << 20
"""Of all vectors together, where they are written as numbers."""
PRIORITY: Final = 2
"""Nobody watches vectors come."""


class EmbeddingsBody(WireModel):
    """POST /v1/embeddings."""

    model: str | None = None
    input: Any
    """A text, texts, the token ids of a text, or those of several."""
    encoding_format: Literal["base64", "float"] = "base64"
    """base64 of little-endian float32, which SDKs ask for; or numbers."""
    pooling: Literal["last", "mean"] = "last"
    """The hidden state of the last token, or the mean of those of all."""
    dimensions: int | None = None
    user: str | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


ROUTES: Final = (
    Described(path="/v1/embeddings", method="POST", body=EmbeddingsBody, summary="Turn texts into vectors"),
)


def embedding_routes(backend: Backend) -> list[BaseRoute]:
    """Make the route /v1/embeddings."""
    return [Route("/v1/embeddings", Endpoint(backend.edge, _Embeddings(backend).embed, methods=("POST",)))]


class _Embeddings:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def embed(self, exchange: Exchange) -> None:
        """Answer POST /v1/embeddings."""
        backend = self._backend
        intake = await read_intake(exchange, backend, most_ids=MAX_TOKENS)
        refuses = backend.edge.settings().refuses_unknown_fields
        cards = backend.models()

        def read() -> tuple[EmbeddingsBody, list[Input], ModelCard, Headers]:
            headers = ignored_headers(intake.fields, EmbeddingsBody.model_fields, refuses=refuses)
            body = validate(EmbeddingsBody, intake.fields)
            return body, *_inputs(body, cards), headers

        body, inputs, card, headers = await beside(backend, intake, read)

        async def work() -> dict[str, object]:
            prompts = await self._tokens(inputs, card)
            tokens = sum(len(prompt) for prompt in prompts)
            if exchange.grant is not None:
                exchange.grant.charge(tokens)
            request = _request(body, prompts, card=card, arrival=intake.arrival)
            vectors = await backend.jobs.embed(request, prompts, pooling=body.pooling)
            if exchange.grant is not None:
                exchange.grant.spend(tokens)
            return await _answer(body, vectors, model=card.id, tokens=tokens)

        await JobCall(exchange, backend).run(work, headers=headers)

    async def _tokens(self, inputs: Sequence[Input], card: ModelCard) -> list[Sequence[int]]:
        """
        Return the tokens of each input.

        Raises:
            InvalidRequestError: one gives none, or more than the model takes, or all together are too many.
        """
        prompts: list[Sequence[int]] = []
        tokens, most = 0, max(MAX_TOKENS, card.context_tokens)
        for each in inputs:
            prompt: Sequence[int]
            if isinstance(each.content, str):
                prompt = await self._backend.jobs.encode(card.id, each.content)
            else:
                prompt = each.content
            _check_length(each.param, len(prompt), card)
            tokens += len(prompt)
            if tokens > most:
                raise InvalidRequestError(
                    f"input may have {most} tokens, all of its entries together, got {tokens} or more; send"
                    " fewer at a time",
                    param="input",
                    code="array_above_max_length",
                )
            prompts.append(prompt)
        return prompts


def _inputs(body: EmbeddingsBody, cards: Sequence[ModelCard]) -> tuple[list[Input], ModelCard]:
    inputs = read_inputs(body.input, param="input", most=MAX_INPUTS)
    if body.dimensions is not None:
        raise InvalidRequestError(
            "dimensions cannot be chosen: the vectors of a model have one size; leave it out",
            param="dimensions",
            code="unsupported_parameter",
        )
    card = find_model(cards, body.model)
    for each in inputs:
        each.check(card)
    return inputs, card


def _check_length(param: str, tokens: int, card: ModelCard) -> None:
    if not tokens:
        raise InvalidRequestError(f"{param} must give at least one token", param=param, code="empty_string")
    if tokens > card.context_tokens:
        raise InvalidRequestError(
            f"{param} has {tokens} tokens; the model's context is {card.context_tokens}. Shorten it.",
            param=param,
            code="context_length_exceeded",
        )


def _request(
    body: EmbeddingsBody, prompts: Sequence[Sequence[int]], *, card: ModelCard, arrival: Arrival
) -> InferenceRequest:
    return build_request(
        card=card,
        arrival=arrival,
        prompt=TokenPrompt(ids=tuple(token for prompt in prompts for token in prompt)),
        sampling=Sampling(max_tokens=1, seed=0),
        api="embeddings",
        names={name: getattr(body, name) for name in KEY_FIELDS},
        priority=PRIORITY,
    )


async def _answer(
    body: EmbeddingsBody, vectors: Sequence[bytes], *, model: str, tokens: int
) -> dict[str, object]:
    """
    Return the answer; between two vectors others have a turn.

    Raises:
        InvalidRequestError: it would have too many numbers.
    """
    write: Callable[[bytes], str | list[float]] = _as_base64
    if body.encoding_format == "float":
        write = _as_numbers
        numbers = sum(map(len, vectors)) // 4
        if numbers > MAX_NUMBERS:
            raise InvalidRequestError(
                f"encoding_format float may give {MAX_NUMBERS} numbers, all vectors together, got {numbers};"
                " send base64, or fewer inputs",
                param="encoding_format",
            )
    data: list[dict[str, object]] = []
    for index, vector in enumerate(vectors):
        data.append({"object": "embedding", "index": index, "embedding": write(vector)})
        await asyncio.sleep(0)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _as_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _as_numbers(vector: bytes) -> list[float]:
    return [number for (number,) in struct.iter_unpack("<f", vector)]
