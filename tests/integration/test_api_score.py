"""
Pins scores, log-probabilities and vectors from request to engine host: those of a direct full softmax.

The reference computes every text with every label as one sequence of its own, on the model that ships.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from tokenizers import Tokenizer

from tests.api_fakes import Client, make_app
from tests.engines import running_engine, served
from tests.job_fakes import FakeDesk
from wicketgate.api.embeddings import embedding_routes
from wicketgate.api.requests import ModelCard
from wicketgate.api.score import score_routes
from wicketgate.api.tokenize import tokenize_routes
from wicketgate.engine.options import HostOptions
from wicketgate.inference import Sampling, TextPrompt
from wicketgate.pipeline.gate import GatedEngine
from wicketgate.pipeline.text import TextModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from starlette.routing import BaseRoute

    from wicketgate.api.backend import Backend
    from wicketgate.engine.client import EngineClient

pytestmark = pytest.mark.anyio
TOLERANCE = 1e-4
VOCABULARY, CONTEXT = 1536, 2048
QUERY = "The river that turns the wheel is"
ITEMS = [" wide", " deep and cold", "", " older than the mill", " deep and cold"]
LABELS = [" and", " water", " of the governor", "."]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Any:
    return load_model(demo_model)[0]


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(demo_model / "tokenizer.json"))


@pytest.fixture(scope="module")
async def engine(demo_model: Path) -> AsyncIterator[EngineClient]:
    options = HostOptions(
        model=str(demo_model), context_tokens=CONTEXT, prefill_step_tokens=64, prewarm=False
    )
    async with running_engine(options) as client:
        yield client


@pytest.fixture(scope="module")
async def desk(demo_model: Path, engine: EngineClient) -> AsyncIterator[FakeDesk]:
    text = TextModel.load(demo_model)
    yield FakeDesk(text, engine=GatedEngine(engine, clock=time.monotonic))
    text.close()


@pytest.fixture
def client(desk: FakeDesk) -> Client:
    def routes(backend: Backend) -> list[BaseRoute]:
        return [*score_routes(backend), *embedding_routes(backend), *tokenize_routes(backend)]

    card = ModelCard(
        id="demo",
        created_unix_s=0,
        context_tokens=CONTEXT,
        vocabulary_tokens=VOCABULARY,
        token_bytes=desk.text.token_bytes,
    )
    return Client(make_app(routes=routes, jobs=desk.jobs(), models=[card]))


def logprobs_after(model: Any, ids: Sequence[int]) -> NDArray[np.float64]:
    logits = np.array(model(mx.array([list(ids)]))[0].astype(mx.float32)).astype(np.float64)
    best = logits.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = logits - best - np.log(np.exp(logits - best).sum(axis=-1, keepdims=True))
    return total


def direct(model: Any, prompt: Sequence[int], label: Sequence[int]) -> float:
    """Return how likely a label is behind a prompt, by the softmax over the whole vocabulary."""
    found = logprobs_after(model, [*prompt, *label])
    return sum(float(found[len(prompt) - 1 + at, token]) for at, token in enumerate(label))


def expected(
    model: Any, tokenizer: Tokenizer, texts: Sequence[str], labels: Sequence[str]
) -> NDArray[np.float64]:
    rows = []
    for text in texts:
        prompt = tokenizer.encode(text).ids
        whole = [tokenizer.encode(text + label).ids for label in labels]
        assert all(ids[: len(prompt)] == prompt for ids in whole)
        rows.append([direct(model, prompt, ids[len(prompt) :]) for ids in whole])
    return np.exp(np.array(rows))


async def scores(client: Client, **fields: Any) -> NDArray[np.float64]:
    reply = await client.ask("/v1/score", {"query": QUERY, "items": ITEMS, "labels": LABELS} | fields)
    assert reply.status == 200, reply.json
    client.gone.clear()
    return np.array(reply.json["scores"])


async def test_scores_are_those_of_a_full_softmax_with_labels_of_several_tokens(
    client: Client, model: Any, tokenizer: Tokenizer
) -> None:
    found = await scores(client)

    wanted = expected(model, tokenizer, [QUERY + item for item in ITEMS], LABELS)
    assert np.abs(np.log(found) - np.log(wanted)).max() < TOLERANCE


async def test_softmax_over_the_labels_is_that_of_their_probabilities(
    client: Client, model: Any, tokenizer: Tokenizer
) -> None:
    found = await scores(client, apply_softmax=True)

    wanted = expected(model, tokenizer, [QUERY + item for item in ITEMS], LABELS)
    assert np.abs(found - wanted / wanted.sum(axis=1, keepdims=True)).max() < TOLERANCE


async def test_the_item_first_is_another_text(client: Client, model: Any, tokenizer: Tokenizer) -> None:
    items = ["Wide", "Deep and cold"]
    found = await scores(client, items=items, query=" is the river", item_first=True)

    wanted = expected(model, tokenizer, [item + " is the river" for item in items], LABELS)
    assert np.abs(np.log(found) - np.log(wanted)).max() < TOLERANCE


async def test_200_items_in_any_order_and_company_have_the_scores_that_they_have_alone(
    client: Client, model: Any, tokenizer: Tokenizer
) -> None:
    items = [f" {'very ' * (index % 9)}number {index}" for index in range(200)]
    together = await scores(client, items=items, labels=[" and", " of the"])
    backwards = await scores(client, items=items[::-1], labels=[" and", " of the"])
    alone = await scores(client, items=[items[77]], labels=[" and", " of the"])

    assert together.shape == (200, 2)
    assert np.abs(np.log(together) - np.log(backwards[::-1])).max() < TOLERANCE
    assert np.abs(np.log(together[77]) - np.log(alone[0])).max() < TOLERANCE
    wanted = expected(model, tokenizer, [QUERY + items[index] for index in (0, 77, 199)], [" and", " of the"])
    assert np.abs(np.log(together[[0, 77, 199]]) - np.log(wanted)).max() < TOLERANCE


async def test_scores_beside_a_running_stream_change_neither(client: Client, engine: EngineClient) -> None:
    prompt, sampling = list(range(300, 340)), Sampling(max_tokens=150, seed=4, ignore_eos=True)
    alone, _ = await served(engine, prompt, sampling)
    quiet = await scores(client)

    running = asyncio.create_task(served(engine, prompt, sampling))
    busy = await scores(client)
    beside, _ = await running

    assert beside == alone
    assert np.abs(np.log(busy) - np.log(quiet)).max() < TOLERANCE


async def test_the_log_probabilities_of_a_prompt_are_those_of_a_full_softmax(
    desk: FakeDesk, model: Any, tokenizer: Tokenizer
) -> None:
    from tests.text_models import asking

    text = f"{QUERY} wide. " * 20
    first, *rest = await desk.jobs().prompt_logprobs(asking(prompt=TextPrompt(text=text)), top=3)

    ids = tokenizer.encode(text).ids
    wanted = logprobs_after(model, ids)
    assert first is None
    assert [each.token for each in rest] == ids[1:]
    assert (
        np.abs(np.array([each.logprob for each in rest]) - wanted[np.arange(len(rest)), ids[1:]]).max()
        < TOLERANCE
    )
    best = -np.sort(-wanted[:-1], axis=1)[:, :3]
    assert np.abs(np.array([[value for _, value in each.top] for each in rest]) - best).max() < TOLERANCE


@pytest.mark.parametrize("pooling", ["last", "mean"])
async def test_vectors_are_the_pooled_last_hidden_states(
    client: Client, model: Any, tokenizer: Tokenizer, pooling: str
) -> None:
    texts = [QUERY, "a", "The governor closes the gate. " * 30]
    body = {"input": texts, "pooling": pooling}
    packed = await client.ask("/v1/embeddings", body)
    client.gone.clear()
    plain = await client.ask("/v1/embeddings", body | {"encoding_format": "float"})

    vectors = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in packed.json["data"]]
    assert (
        np.abs(np.array(vectors) - np.array([each["embedding"] for each in plain.json["data"]])).max() < 1e-6
    )
    for text, vector in zip(texts, vectors, strict=True):
        states = np.array(model.model(mx.array([tokenizer.encode(text).ids]))[0].astype(mx.float32))
        pooled = states.mean(axis=0) if pooling == "mean" else states[-1]
        assert np.abs(vector - pooled / np.linalg.norm(pooled)).max() < TOLERANCE


async def test_text_comes_back_from_its_tokens(client: Client, tokenizer: Tokenizer) -> None:
    found = await client.ask("/tokenize", {"prompt": QUERY})
    client.gone.clear()
    back = await client.ask("/detokenize", {"tokens": tokenizer.encode(QUERY, add_special_tokens=False).ids})

    assert found.json["tokens"] == tokenizer.encode(QUERY).ids
    assert back.json["prompt"] == QUERY
