"""Pins that the pages on the APIs name every route, every field of a body and every header of an answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_docs import prose, quoted, read
from wicketgate.api import embeddings, score, tokenize
from wicketgate.api.anthropic import bodies as anthropic_bodies
from wicketgate.api.app import DESCRIBED
from wicketgate.api.cors import EXPOSED
from wicketgate.api.openai import bodies as openai_bodies
from wicketgate.api.responses import bodies as responses_bodies

if TYPE_CHECKING:
    from collections.abc import Collection

SHARED = "docs/api.md"
OPENAI, ANTHROPIC, SCORE = "docs/api-openai.md", "docs/api-anthropic.md", "docs/api-score.md"
FIELDS: dict[str, tuple[str, Collection[str]]] = {
    "chat": (OPENAI, openai_bodies.ChatBody.model_fields),
    "completions": (OPENAI, openai_bodies.CompletionBody.model_fields),
    "responses": (OPENAI, responses_bodies.FIELDS),
    "embeddings": (OPENAI, embeddings.EmbeddingsBody.model_fields),
    "messages": (ANTHROPIC, anthropic_bodies.FIELDS),
    "score": (SCORE, score.ScoreBody.model_fields),
    "tokenize": (SCORE, tokenize.TokenizeBody.model_fields),
    "detokenize": (SCORE, tokenize.DetokenizeBody.model_fields),
}


def names(*pages: str) -> list[re.Pattern[str]]:
    """Return the names in backticks, `prompt_cache_*` for all that begin so."""
    texts = [text for page in pages for text in quoted(prose(page))]
    words = {word for text in texts for word in re.findall(r"[\w*]+", text)}
    return [re.compile(word.replace("*", r"\w+")) for word in words if word.strip("*")]


@pytest.mark.parametrize("body", FIELDS)
def test_every_field_of_a_body_is_named_on_its_page(body: str) -> None:
    page, fields = FIELDS[body]
    named = names(page, SHARED)

    assert {field for field in fields if not any(name.fullmatch(field) for name in named)} == set()


def test_every_route_is_named_on_the_page_that_all_share() -> None:
    (table,) = re.findall(r"^\| route \|.*?\n\n", read(SHARED), re.MULTILINE | re.DOTALL)
    paths = {re.sub(r"{\w+}", "{id}", route.path) for route in DESCRIBED} | {"/openapi.json", "/metrics"}
    also_below_v1 = {"/v1/tokenize", "/v1/detokenize"}
    shortened = {"/v1/responses/{id}/input_items"}

    assert {path for path in paths - also_below_v1 - shortened if path not in table} == set()
    assert "also below `/v1`" in table
    assert "…/input_items" in table


def test_every_header_of_an_answer_is_named_on_the_page_that_all_share() -> None:
    page = read(SHARED)
    text = page.replace("{limit,remaining,reset}", "limit").replace("{requests,tokens}", "requests")
    wanted = {
        re.sub(r"(?<=-)(limit|remaining|reset)(?=-|$)", "limit", name).replace("tokens", "requests")
        for name in EXPOSED.decode().split(", ")
    }

    assert {name for name in wanted if f"`{name}" not in text} == set()
