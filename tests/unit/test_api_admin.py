"""The admin application: closed to strangers, open to the token, and nothing that raises a share."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import httpx
import pytest

from wicketgate.api.admin.app import Guard, create_admin_app
from wicketgate.api.keys import Key, Keys, Role
from wicketgate.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

pytestmark = pytest.mark.anyio

KEYS = Keys(
    [
        Key(id="root", role=Role.ADMIN, sha256=hashlib.sha256(b"admin-key").hexdigest()),
        Key(id="alice", role=Role.USER, sha256=hashlib.sha256(b"user-key").hexdigest()),
    ]
)


class FakeOperations:
    """A runtime that remembers what was rolled back."""

    def __init__(self) -> None:
        self.rolled_back: list[tuple[str | None, str, str]] = []
        self.killed: tuple[str, str] | None = None

    def snapshot(self) -> Mapping[str, object]:
        return {"schema": "wicketgate.snapshot/1", "ok": True}

    def metrics(self) -> bytes:
        return b"up 1\n"

    def features(self) -> Sequence[Mapping[str, object]]:
        return [{"feature": "ttft_pipeline", "revision": 3}]

    async def rollback(self, feature: str | None, *, actor: str, reason: str) -> Mapping[str, object]:
        if feature == "nope":
            raise NotFoundError("no feature named nope")
        self.rolled_back.append((feature, actor, reason))
        return {"ok": True}

    async def kill(self, *, actor: str, reason: str) -> Mapping[str, object]:
        self.killed = (actor, reason)
        return {"ok": True}


def client(
    operations: FakeOperations,
    *,
    guarded: bool = True,
    reads_need_token: bool = False,
    keys: Keys | None = None,
) -> httpx.AsyncClient:
    guard = Guard(
        token="secret",
        hosts=lambda: frozenset({"box.local"}),
        reads_need_token=reads_need_token,
        keys=lambda: keys,
    )
    app = create_admin_app(operations, more_routes=[], guard=guard if guarded else None)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8001")


async def test_metrics_snapshot_and_features_are_read_without_a_token() -> None:
    async with client(FakeOperations()) as http:
        pages = [await http.get(path) for path in ("/metrics", "/v1/snapshot", "/v1/rollout")]

    assert [page.status_code for page in pages] == [200, 200, 200]
    assert pages[0].text == "up 1\n"
    assert pages[2].json()["features"] == [{"feature": "ttft_pipeline", "revision": 3}]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "box.local", "BOX.local:8001"]
)
async def test_our_own_names_are_let_in(host: str) -> None:
    async with client(FakeOperations()) as http:
        page = await http.get("/metrics", headers={"host": host})

    assert page.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8001", "127.0.0.1.evil.example", "", "[::2]"])
async def test_a_foreign_host_is_misdirected(host: str) -> None:
    async with client(FakeOperations()) as http:
        page = await http.get("/metrics", headers={"host": host})

    assert page.status_code == 421


async def test_a_foreign_page_is_refused() -> None:
    async with client(FakeOperations()) as http:
        page = await http.get("/metrics", headers={"origin": "https://evil.example"})

    assert page.status_code == 403


async def test_our_own_page_is_not_foreign() -> None:
    async with client(FakeOperations()) as http:
        page = await http.get("/metrics", headers={"origin": "http://127.0.0.1:8001"})

    assert page.status_code == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer user-key", 403),
        ("Bearer secret", 200),
        ("Bearer admin-key", 200),
    ],
)
async def test_a_change_needs_the_token_or_an_admin_key(authorization: str | None, status: int) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    async with client(FakeOperations(), keys=KEYS) as http:
        answer = await http.post("/v1/rollback", json={"feature": "ttft_pipeline"}, headers=headers)

    assert answer.status_code == status


async def test_off_loopback_reads_need_the_token_too() -> None:
    async with client(FakeOperations(), reads_need_token=True) as http:
        closed = await http.get("/metrics")
        opened = await http.get("/metrics", headers={"authorization": "Bearer secret"})

    assert (closed.status_code, opened.status_code) == (401, 200)


async def test_the_unix_socket_asks_for_nothing() -> None:
    operations = FakeOperations()
    async with client(operations, guarded=False) as http:
        answer = await http.post("/v1/rollback", json={"feature": None, "actor": "me", "reason": "INC-1"})

    assert answer.status_code == 200
    assert operations.rolled_back == [(None, "me", "INC-1")]


async def test_evaluating_flags_is_a_read_whatever_its_method() -> None:
    async with client(FakeOperations()) as http:
        open_here = await http.post("/ofrep/v1/evaluate/flags", json={})
    async with client(FakeOperations(), reads_need_token=True) as http:
        closed = await http.post("/ofrep/v1/evaluate/flags", json={})

    assert (open_here.status_code, closed.status_code) == (404, 401)


async def test_a_kill_needs_the_token_and_says_who_and_why() -> None:
    operations = FakeOperations()
    body = {"actor": "ann@mill", "reason": "INC-9"}
    async with client(operations) as http:
        refused = await http.post("/v1/kill", json=body)
        before = operations.killed
        done = await http.post("/v1/kill", json=body, headers={"authorization": "Bearer secret"})

    assert (refused.status_code, before) == (401, None)
    assert (done.status_code, operations.killed) == (200, ("ann@mill", "INC-9"))


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "JSON"),
        (b"[]", "object"),
        (b'{"feature": 7}', "feature"),
        (b'{"reason": "' + b"x" * 501 + b'"}', "reason"),
        (b'{"pad": "' + b"x" * 70_000 + b'"}', "bytes"),
    ],
)
async def test_a_bad_body_rolls_nothing_back(body: bytes, word: str) -> None:
    operations = FakeOperations()
    async with client(operations, guarded=False) as http:
        answer = await http.post("/v1/rollback", content=body)

    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]
    assert operations.rolled_back == []


async def test_a_reason_that_is_not_unicode_stops_no_rollback_and_stays_readable() -> None:
    operations = FakeOperations()
    async with client(operations, guarded=False) as ask:
        answer = await ask.post("/v1/rollback", content=b'{"feature": "ttft_pipeline", "reason": "\\udcff"}')

    assert answer.status_code == 200
    assert operations.rolled_back == [("ttft_pipeline", "admin", "\\udcff")]


async def test_a_misspelt_field_does_not_roll_back_everything() -> None:
    operations = FakeOperations()
    async with client(operations, guarded=False) as ask:
        answer = await ask.post("/v1/rollback", json={"featrue": "ttft_pipeline"})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "featrue")
    assert operations.rolled_back == []


async def test_an_unknown_feature_is_the_runtimes_error() -> None:
    async with client(FakeOperations(), guarded=False) as http:
        answer = await http.post("/v1/rollback", json={"feature": "nope"})

    assert answer.status_code == 404


async def test_no_route_raises_a_share() -> None:
    async with client(FakeOperations(), guarded=False) as http:
        answers = [
            await http.post(f"/v1/{verb}", json={})
            for verb in ("start", "promote", "resume", "rollout", "unkill", "rollout/start")
        ]

    assert {answer.status_code for answer in answers} <= {404, 405}


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allowed"),
    [
        ("GET", "/nope", 404, "unknown_url", None),
        ("DELETE", "/v1/rollback", 405, "method_not_allowed", "POST"),
    ],
)
async def test_what_nobody_serves_is_refused_in_the_words_of_every_other_error(
    method: str, path: str, status: int, code: str, allowed: str | None
) -> None:
    async with client(FakeOperations(), guarded=False) as http:
        answer = await http.request(method, path)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("allow") == allowed


async def test_whoever_brings_no_token_hears_how_to() -> None:
    async with client(FakeOperations()) as http:
        answer = await http.post("/v1/kill", json={})

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
