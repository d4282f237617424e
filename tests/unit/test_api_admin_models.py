"""The routes about models and prefix stores: what they ask of the runtime, and what they let through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.unit.test_api_admin import FakeOperations
from wicketgate.api.admin.app import Guard, create_admin_app
from wicketgate.api.admin.models import model_routes
from wicketgate.engine.wire import CacheEntry, CacheReport
from wicketgate.errors import NotFoundError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio

REPORT = CacheReport(
    id=4,
    entries=[
        CacheEntry(
            key="ab12", tokens=64, size_bytes=4096, tier="memory", is_pinned=False, session="s", age_s=1.5
        )
    ],
    memory_bytes=4096,
    memory_limit_bytes=1 << 20,
    disk_bytes=0,
    disk_limit_bytes=0,
    hits=1,
    misses=2,
    disk_hits=0,
    rejected_files=0,
    kv_bytes_per_token=64,
    rows=0,
    rows_tokens=0,
    rows_bytes=0,
)


class FakeModels:
    """A fleet that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def load(self, name: str) -> None:
        if name == "nope":
            raise NotFoundError("no model nope", code="model_not_found")
        if name == "large":
            raise RefusedError("large does not fit now")
        self.asked.append(("load", name))

    def unload(self, name: str) -> None:
        self.asked.append(("unload", name))

    async def cache(self, name: str | None, *, clear: str = "") -> Mapping[str, CacheReport]:
        self.asked.append(("cache", name, clear))
        return {"demo": REPORT}


def client(models: FakeModels, *, guarded: bool = False) -> httpx.AsyncClient:
    guard = Guard(token="secret", hosts=frozenset, reads_need_token=False, keys=lambda: None)
    routes = model_routes(models, rows=lambda: [{"id": "demo", "state": "ready"}])
    app = create_admin_app(FakeOperations(), more_routes=routes, guard=guard if guarded else None)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8001")


async def test_models_are_listed() -> None:
    async with client(FakeModels()) as http:
        answer = (await http.get("/v1/engine/models")).json()

    assert answer == {
        "schema": "wicketgate.models/1",
        "ok": True,
        "models": [{"id": "demo", "state": "ready"}],
    }


@pytest.mark.parametrize("name", ["demo", "org/name", "a b"])
@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_a_model_is_moved_whatever_its_name(verb: str, name: str) -> None:
    models = FakeModels()
    async with client(models) as http:
        answer = await http.post(f"/v1/engine/models/{name}/{verb}")

    assert answer.status_code == 200
    assert models.asked == [(verb, name)]


@pytest.mark.parametrize(("name", "status"), [("nope", 404), ("large", 422)])
async def test_a_refusal_of_the_runtime_has_its_status(name: str, status: int) -> None:
    async with client(FakeModels()) as http:
        assert (await http.post(f"/v1/engine/models/{name}/load")).status_code == status


async def test_the_cache_is_told_by_model() -> None:
    models = FakeModels()
    async with client(models) as http:
        answer = (await http.get("/v1/engine/cache?model=demo")).json()

    (row,) = answer["models"]
    assert models.asked == [("cache", "demo", "")]
    assert (row["model"], row["hits"], row["entries"][0]["session"]) == ("demo", 1, "s")
    assert "id" not in row


@pytest.mark.parametrize(("body", "tier"), [({}, "all"), ({"tier": "disk", "model": "demo"}, "disk")])
async def test_the_cache_is_cleared_by_tier(body: dict[str, str], tier: str) -> None:
    models = FakeModels()
    async with client(models) as http:
        await http.post("/v1/engine/cache/clear", json=body)

    assert models.asked == [("cache", body.get("model"), tier)]


async def test_an_unknown_tier_clears_nothing() -> None:
    models = FakeModels()
    async with client(models) as http:
        answer = await http.post("/v1/engine/cache/clear", json={"tier": "tape"})

    assert (answer.status_code, models.asked) == (400, [])


@pytest.mark.parametrize(
    "path", ["/v1/engine/models/demo/load", "/v1/engine/models/demo/unload", "/v1/engine/cache/clear"]
)
async def test_on_tcp_a_change_needs_the_token(path: str) -> None:
    models = FakeModels()
    async with client(models, guarded=True) as http:
        closed = await http.post(path)
        opened = await http.post(path, headers={"authorization": "Bearer secret"})

    assert (closed.status_code, opened.status_code, len(models.asked)) == (401, 200, 1)
