"""
POST /v1/score and /generative_scoring: how likely a model finds labels behind a query and each of many items.

The first answers as sglang does, the second as vLLM's route of that name. vLLM's other form of /v1/score,
pairs of texts, needs a model with a head for it: who sends it is shown the form that works here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field
from starlette.routing import Route

from wicketgate.api.described import Described
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.fields import WireModel, validate
from wicketgate.api.inputs import Input, read_input, read_inputs
from wicketgate.api.intake import beside, ignored_headers, read_intake
from wicketgate.api.job_call import JobCall
from wicketgate.api.requests import KEY_FIELDS, build_request, find_model
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import Sampling, TokenPrompt
from wicketgate.pipeline.score_plan import ScoreSpec, scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange, Headers
    from wicketgate.api.requests import Arrival, ModelCard
    from wicketgate.inference import InferenceRequest
    from wicketgate.pipeline.score_plan import Rated

MAX_ITEMS: Final = 2048
MAX_LABELS: Final = 256
MAX_LABEL_CHARS: Final = 4096
PRIORITY: Final = 2
"""Nobody watches scores come."""
PAIRS: Final = ("text_1", "text_2", "queries", "documents", "data_1", "data_2")
"""Fields of the form that needs a model with a head for it."""


class ScoreBody(WireModel):
    """POST /v1/score and /generative_scoring."""

    model: str | None = None
    query: Any
    """A text, or the ids of its tokens."""
    items: Any
    """Texts, or lists of ids where the query is one."""
    label_token_ids: Annotated[list[int], Field(min_length=1, max_length=MAX_LABELS)] | None = None
    """Labels of one token each."""
    labels: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]],
            Field(min_length=1, max_length=MAX_LABELS),
        ]
        | None
    ) = None
    """Labels as texts, of any number of tokens."""
    label_normalization: Literal["none", "mean"] = "none"
    """mean: the log-probability of a label is that of its tokens on average, not their sum."""
    apply_softmax: bool | None = None
    """Share 1 among the labels; else each has its own probability. Left out: false, on vLLM's path true."""
    item_first: bool = False
    join: Literal["text", "ids"] = "text"
    """Join query and item before they are tokenised, or after."""
    user: str | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    cache_salt: Annotated[str, Field(max_length=256)] = ""
    priority: Annotated[int, Field(ge=0, le=9)] = PRIORITY


ROUTES: Final = (
    Described(
        path="/v1/score", method="POST", body=ScoreBody, summary="Rate labels behind each of many items"
    ),
    Described(
        path="/generative_scoring",
        method="POST",
        body=ScoreBody,
        summary="Rate the first label behind each of many items, in vLLM's form",
    ),
)
_KNOWN: Final = frozenset(ScoreBody.model_fields) | frozenset(PAIRS)


def score_routes(backend: Backend) -> list[BaseRoute]:
    """Make the routes /v1/score and /generative_scoring."""
    sglang = _Score(backend, write=_as_sglang, has_softmax=False)
    vllm = _Score(backend, write=_as_vllm, has_softmax=True)
    return [
        Route("/v1/score", Endpoint(backend.edge, sglang.score, methods=("POST",))),
        Route("/generative_scoring", Endpoint(backend.edge, vllm.score, methods=("POST",))),
    ]


class _Score:
    """
    One of the two routes.

    Args:
        backend: What answers are made of.
        write: Turns (items, labels) of scores into what the answer holds beside its frame.
        has_softmax: Where the body does not say.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        write: Callable[[list[list[float]]], Mapping[str, object]],
        has_softmax: bool,
    ) -> None:
        self._backend = backend
        self._write = write
        self._has_softmax = has_softmax

    async def score(self, exchange: Exchange) -> None:
        """Answer one call."""
        backend = self._backend
        intake = await read_intake(exchange, backend)
        refuses = backend.edge.settings().refuses_unknown_fields
        cards = backend.models()

        def read() -> tuple[ScoreBody, ScoreSpec, ModelCard, Headers]:
            _refuse_pairs(intake.fields)
            headers = ignored_headers(intake.fields, _KNOWN, refuses=refuses)
            body = validate(ScoreBody, intake.fields)
            card = find_model(cards, body.model)
            return body, _spec(body, card), card, headers

        body, spec, card, headers = await beside(backend, intake, read)

        async def work() -> dict[str, object]:
            rated = await backend.jobs.rated(card.id, spec, context_tokens=card.context_tokens)
            return await self._rate(exchange, body, rated, card=card, arrival=intake.arrival)

        await JobCall(exchange, backend).run(work, headers=headers)

    async def _rate(
        self,
        exchange: Exchange,
        body: ScoreBody,
        rated: Sequence[Rated],
        *,
        card: ModelCard,
        arrival: Arrival,
    ) -> dict[str, object]:
        tokens = sum(len(each.prompt) for each in rated)
        if exchange.grant is not None:
            exchange.grant.charge(tokens)
        request = _request(body, rated, card=card, arrival=arrival)
        result = await self._backend.jobs.score(request, rated)
        if exchange.grant is not None:
            exchange.grant.spend(tokens)
        has_softmax = self._has_softmax if body.apply_softmax is None else body.apply_softmax
        found = [
            scores(
                logprobs,
                tokens=[len(label) for label in each.labels],
                takes_mean=body.label_normalization == "mean",
                has_softmax=has_softmax,
            )
            for each, logprobs in zip(rated, result.logprobs, strict=True)
        ]
        return {
            "id": f"score-{arrival.id.removeprefix('req_')}",
            "created": int(self._backend.unix_clock()),
            "model": card.id,
            **self._write(found),
            "usage": {
                "prompt_tokens": tokens,
                "completion_tokens": 0,
                "total_tokens": tokens,
                "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
            },
        }


def _refuse_pairs(fields: Mapping[str, Any]) -> None:
    name = next((name for name in PAIRS if name in fields), None)
    if name is not None:
        raise InvalidRequestError(
            f"{name}: scoring pairs of texts needs a model with a head for it. Ask a generative model:"
            ' {"query": "Is this about cats? ", "items": ["Tom purrs.", "Rex barks."],'
            ' "labels": [" yes", " no"], "apply_softmax": true}',
            param=name,
            code="unsupported_parameter",
        )


def _check_labels(body: ScoreBody) -> None:
    if body.labels is not None and body.label_token_ids is not None:
        raise InvalidRequestError(
            "labels and label_token_ids cannot both be rated; send one",
            param="labels",
            code="invalid_parameter_combination",
        )
    if body.labels is None and body.label_token_ids is None:
        raise InvalidRequestError(
            "label_token_ids is required (or labels, as texts)",
            param="label_token_ids",
            code="missing_required_parameter",
        )


def _read(body: ScoreBody) -> tuple[Input, list[Input]]:
    """Return query and items, of one kind."""
    query = read_input(body.query, param="query", may_be_empty=True)
    items = read_inputs(body.items, param="items", most=MAX_ITEMS, may_be_empty=True)
    if type(query.content) is not type(items[0].content):
        raise InvalidRequestError(
            "query must be of the kind of items: all strings, or all arrays of token ids",
            param="query",
            code="invalid_type",
        )
    return query, items


def _spec(body: ScoreBody, card: ModelCard) -> ScoreSpec:
    """Return what is to be rated."""
    _check_labels(body)
    query, items = _read(body)
    for each in (query, *items):
        each.check(card)
    Input(param="label_token_ids", content=tuple(body.label_token_ids or ())).check(card)
    return ScoreSpec(
        query=query.content,
        items=tuple(each.content for each in items),
        labels=tuple(body.labels or ()),
        label_ids=tuple(body.label_token_ids or ()),
        join=body.join,
        item_first=body.item_first,
    )


def _request(
    body: ScoreBody, rated: Sequence[Rated], *, card: ModelCard, arrival: Arrival
) -> InferenceRequest:
    # The longest prompt stands for all: what they share is computed once.
    longest = max((each.prompt for each in rated), key=len)
    return build_request(
        card=card,
        arrival=arrival,
        prompt=TokenPrompt(ids=longest),
        sampling=Sampling(max_tokens=1, seed=0),
        api="score",
        names={name: getattr(body, name) for name in KEY_FIELDS},
        priority=body.priority,
        cache_salt=body.cache_salt,
    )


def _as_sglang(found: list[list[float]]) -> Mapping[str, object]:
    return {"object": "scoring", "scores": found}


def _as_vllm(found: list[list[float]]) -> Mapping[str, object]:
    data = [{"index": index, "object": "score", "score": row[0]} for index, row in enumerate(found)]
    return {"object": "list", "data": data}
