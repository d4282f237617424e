"""Pins what the probes say in every state, which reasons make the runtime not ready, and what it costs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from starlette.routing import Router

from tests.api_fakes import READY, Client, make_app, make_backend
from transport.asgi_stream import RECEIVED
from wicketgate.api.cors import Cors
from wicketgate.api.health import Health, KvMark, Probe, Probes, Reason, judge, page
from wicketgate.api.keys import Key, Keys, Role

STATES = {
    "starting": Health(has_started=False, engine_is_ready=False, is_draining=False),
    "serving": READY,
    "restarting": replace(READY, engine_is_ready=False),
    "draining": replace(READY, is_draining=True),
}


@pytest.mark.parametrize(
    ("state", "startup", "ready", "word", "reasons"),
    [
        ("starting", 503, 503, "starting", (Reason.STARTING,)),
        ("serving", 200, 200, "ok", ()),
        ("restarting", 200, 503, "degraded", (Reason.ENGINE_RESTARTING,)),
        ("draining", 200, 503, "draining", (Reason.DRAINING,)),
    ],
)
def test_the_probes_tell_what_to_do(state, startup, ready, word, reasons):
    health = STATES[state]
    verdict = judge(Probe.READY, health)

    assert judge(Probe.LIVE, health).status == 200
    assert judge(Probe.STARTUP, health).status == startup
    assert (verdict.status, verdict.word, verdict.reasons) == (ready, word, reasons)


@pytest.mark.parametrize(
    ("facts", "status", "reason"),
    [
        ({"is_stuck": True}, 503, "engine_stuck"),
        ({"pressure": 2}, 503, "memory"),
        ({"is_kv_full": True}, 503, "kv_pool_full"),
        ({"pressure": 1}, 200, "memory_short"),
        ({"is_kv_disk_full": True}, 200, "kv_disk_full"),
        ({"models_down": ("small",)}, 200, "model_down"),
        ({"violated": ("ttft",)}, 200, "slo_violated"),
    ],
)
def test_what_another_gateway_would_do_better_makes_it_not_ready_the_rest_is_only_told(facts, status, reason):
    verdict = judge(Probe.READY, replace(READY, **facts))

    assert (verdict.status, verdict.word, verdict.reasons) == (status, "degraded", (Reason(reason),))
    assert judge(Probe.STARTUP, replace(READY, **facts)).status == 200


def test_all_reasons_are_told_the_gravest_first():
    health = replace(READY, violated=("ttft",), is_draining=True, is_kv_full=True)

    assert judge(Probe.READY, health).reasons == (
        Reason.DRAINING,
        Reason.KV_POOL_FULL,
        Reason.SLO_VIOLATED,
    )


def test_one_that_drains_before_it_has_started_says_both():
    health = replace(STATES["starting"], is_draining=True)

    assert judge(Probe.READY, health).reasons == (Reason.STARTING, Reason.DRAINING)


def test_a_page_brings_the_figures_that_the_verdict_rests_on():
    health = replace(
        READY, is_kv_full=True, kv_use_ratio=0.95312, cache_hit_ratio=float("nan"), queue=3, in_flight=7
    )
    body = page(judge(Probe.READY, health), health)

    assert body == {
        "status": "degraded",
        "reason": "kv_pool_full",
        "reasons": ["kv_pool_full"],
        "retry_after": 1,
        "kv_use_ratio": 0.953,
        "cache_hit_ratio": None,
        "queue": 3,
        "in_flight": 7,
        "probe_age_s": None,
        "beat_age_s": None,
        "models_down": [],
        "violated": [],
    }


MARK = {"mark_ratio": 0.9, "for_s": 10.0}


def test_the_kv_pool_is_full_once_it_was_above_its_mark_for_so_long():
    mark = KvMark()
    seen = [mark.observe(0.95, now_s=at_s, **MARK) for at_s in (0.0, 9.9, 10.0)]

    assert seen == [False, False, True]


@pytest.mark.parametrize("ratio", [0.9, 0.1, None])
def test_one_moment_at_the_mark_or_below_begins_it_anew(ratio):
    mark = KvMark()
    mark.observe(0.95, now_s=0.0, **MARK)
    mark.observe(ratio, now_s=5.0, **MARK)

    assert not mark.observe(0.95, now_s=12.0, **MARK)


def test_without_a_time_to_wait_the_mark_counts_at_once():
    assert KvMark().observe(0.95, mark_ratio=0.9, for_s=0.0, now_s=0.0)


class Facts:
    """Facts that can change, and how often they were asked for."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.asked = 0
        self.now_s = 0.0

    def __call__(self) -> Health:
        self.asked += 1
        return self.health

    def client(self, **backend) -> Client:
        def routes(backend):
            return Probes(backend.edge, self, clock=lambda: self.now_s).routes()

        return Client(make_app(routes=routes, **backend))


async def get(client: Client, path: str):
    return await client.ask(path, b"", method="GET")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/health/ready", "/health"])
async def test_a_probe_that_fails_says_why_and_when_to_ask_again(path):
    reply = await get(Facts(replace(STATES["restarting"], retry_after_s=1.2)).client(), path)

    assert (reply.status, reply.headers["retry-after"]) == (503, "2")
    assert (reply.json["status"], reply.json["reason"]) == ("degraded", "engine_restarting")
    assert (reply.json["reasons"], reply.json["retry_after"]) == (["engine_restarting"], 2)


@pytest.mark.anyio
async def test_a_probe_that_passes_says_ok():
    reply = await get(Facts(READY).client(), "/health/ready")

    assert (reply.status, reply.json["status"], reply.json["retry_after"]) == (200, "ok", None)
    assert "retry-after" not in reply.headers


@pytest.mark.anyio
async def test_live_asks_for_no_facts():
    facts = Facts(STATES["starting"])
    reply = await get(facts.client(), "/health/live")

    assert (reply.status, reply.json["status"], facts.asked) == (200, "ok", 0)


@pytest.mark.anyio
async def test_a_hundred_probes_at_once_ask_for_the_facts_once():
    facts = Facts(READY)
    client = facts.client()
    for _ in range(100):
        await get(client, "/health/ready")
    await get(client, "/health/startup")

    assert facts.asked == 1


@pytest.mark.anyio
async def test_what_has_changed_is_told_a_tenth_of_a_second_later():
    facts = Facts(READY)
    client = facts.client()
    await get(client, "/health/ready")
    facts.health = STATES["draining"]
    facts.now_s = 0.1

    assert (await get(client, "/health/ready")).status == 503


@pytest.mark.anyio
async def test_probes_bring_no_key():
    client = Facts(READY).client(keys=Keys([Key(id="a", role=Role.USER, sha256="0" * 64)]))

    assert [(await get(client, f"/health/{probe}")).status for probe in Probe] == [200, 200, 200]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "headers", "parts"),
    [
        ("GET", {}, [b""]),
        ("GET", {"origin": "https://a.example"}, [b""]),
        ("GET", {}, [b"a", b"b"]),
        ("HEAD", {}, [b""]),
    ],
    ids=["plain", "from a page", "with a body", "HEAD"],
)
async def test_a_probe_is_answered_alike_however_it_comes(method, headers, parts):
    facts = Facts(STATES["draining"])
    reply = await facts.client().ask("/health/ready", method=method, headers=headers, parts=parts)

    assert (reply.status, reply.headers["retry-after"], reply.json["reason"]) == (503, "1", "draining")
    assert reply.headers["content-length"] == str(len(b"".join(reply.parts)))
    assert reply.headers["x-request-id"] == reply.headers["request-id"]


@pytest.mark.anyio
@pytest.mark.parametrize(("received", "told"), [({RECEIVED: 0.0}, 1), ({}, 0)], ids=["known", "unknown"])
async def test_how_long_a_probe_took_is_told_where_its_arrival_is_known(received, told):
    took_s = []
    edge = replace(make_backend().edge, probed=took_s.append)
    app = Router(Probes(edge, lambda: READY).routes())

    async def received_then(scope, receive, send):
        await app({**scope, **received}, receive, send)

    await get(Client(received_then), "/health/ready")
    await asyncio.sleep(0)

    assert len(took_s) == told
    assert all(each > 0 for each in took_s)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "cors", [None, Cors(origins=("https://a.example",), max_age_s=1.0)], ids=["", "cors"]
)
async def test_a_plain_probe_hears_the_same_headers_as_another(cors):
    edge = replace(make_backend().edge, new_id=lambda: "req_1", cors=lambda: cors)
    client = Client(Router(Probes(edge, lambda: STATES["draining"]).routes()))
    plain = await get(client, "/health")
    other = await client.ask("/health", method="GET", headers={"x-request-id": "mine"})

    assert other.headers.pop("x-client-request-id") == "mine"
    assert (list(plain.headers.items()), plain.parts) == (list(other.headers.items()), other.parts)


@pytest.mark.parametrize(
    ("change", "is_found"),
    [
        ({}, True),
        ({"method": "HEAD"}, True),
        ({"method": "POST"}, False),
        ({"path": "/health/ready/"}, False),
        ({"headers": [(b"accept", b"*/*")]}, True),
        ({"headers": [(b"origin", b"null")]}, False),
        ({"headers": [(b"x-request-id", b"mine")]}, False),
    ],
)
def test_only_a_plain_probe_is_answered_without_an_exchange(change, is_found):
    probes = Probes(make_backend().edge, lambda: READY)

    assert bool(probes.find({"method": "GET", "path": "/health/ready", "headers": [], **change})) is is_found


@pytest.mark.anyio
async def test_a_probe_takes_no_other_method():
    reply = await Facts(READY).client().ask("/health/ready", {})

    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
