"""POST /v1/embeddings: the pooled last hidden states of a model, as vectors of length 1."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any, Final, Literal

from starlette.routing import Route

from wicketgate.api.described import Described
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.fields import WireModel, validate
from wicketgate.api.inputs import read_inputs
from wicketgate.api.intake import ignored_headers, read_intake
from wicketgate.api.job_call import JobCall
from wicketgate.api.requests import KEY_FIELDS, build_request, find_model
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import Sampling, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange
    from wicketgate.api.inputs import Input
    from wicketgate.api.requests import Arrival, ModelCard
    from wicketgate.inference import InferenceRequest

MAX_INPUTS: Final = 2048
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
        intake = await read_intake(exchange, backend)
        refuses = backend.edge.settings().refuses_unknown_fields
        headers = ignored_headers(intake.fields, EmbeddingsBody.model_fields, refuses=refuses)
        body = validate(EmbeddingsBody, intake.fields)
        inputs = read_inputs(body.input, param="input", most=MAX_INPUTS)
        if body.dimensions is not None:
            raise InvalidRequestError(
                "dimensions cannot be chosen: the vectors of a model have one size; leave it out",
                param="dimensions",
                code="unsupported_parameter",
            )
        card = find_model(backend.models(), body.model)
        for each in inputs:
            each.check(card)

        async def work() -> dict[str, object]:
            prompts = await self._tokens(inputs, card)
            tokens = sum(len(prompt) for prompt in prompts)
            if exchange.grant is not None:
                exchange.grant.charge(tokens)
            request = _request(body, prompts, card=card, arrival=intake.arrival)
            vectors = await backend.jobs.embed(request, prompts, pooling=body.pooling)
            if exchange.grant is not None:
                exchange.grant.spend(tokens)
            return _answer(body, vectors, model=card.id, tokens=tokens)

        await JobCall(exchange, backend).run(work, headers=headers)

    async def _tokens(self, inputs: Sequence[Input], card: ModelCard) -> Sequence[Sequence[int]]:
        """
        Return the tokens of each input.

        Raises:
            InvalidRequestError: one gives none, or more than the model takes.
        """
        texts = [each.content for each in inputs if isinstance(each.content, str)]
        encoded = iter(await self._backend.jobs.tokens_of(card.id, texts))
        prompts = [next(encoded) if isinstance(each.content, str) else each.content for each in inputs]
        for each, prompt in zip(inputs, prompts, strict=True):
            if not prompt:
                raise InvalidRequestError(
                    f"{each.param} must give at least one token", param=each.param, code="empty_string"
                )
            if len(prompt) > card.context_tokens:
                raise InvalidRequestError(
                    f"{each.param} has {len(prompt)} tokens; the model's context is {card.context_tokens}."
                    " Shorten it.",
                    param=each.param,
                    code="context_length_exceeded",
                )
        return prompts


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


def _answer(body: EmbeddingsBody, vectors: Sequence[bytes], *, model: str, tokens: int) -> dict[str, object]:
    write = _as_base64 if body.encoding_format == "base64" else _as_numbers
    data = [
        {"object": "embedding", "index": index, "embedding": write(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _as_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _as_numbers(vector: bytes) -> list[float]:
    return [number for (number,) in struct.iter_unpack("<f", vector)]
