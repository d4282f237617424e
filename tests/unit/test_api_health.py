"""Pins what the three probes say in every state."""

from __future__ import annotations

import pytest

from tests.api_fakes import Client, make_app
from wicketgate.api.health import Health, Probe, judge

STATES = {
    "starting": Health(has_started=False, engine_is_ready=False, is_draining=False),
    "serving": Health(has_started=True, engine_is_ready=True, is_draining=False),
    "restarting": Health(has_started=True, engine_is_ready=False, is_draining=False),
    "draining": Health(has_started=True, engine_is_ready=True, is_draining=True),
}


@pytest.mark.parametrize(
    ("state", "live", "startup", "ready", "reason"),
    [
        ("starting", 200, 503, 503, "starting"),
        ("serving", 200, 200, 200, "ok"),
        ("restarting", 200, 200, 503, "engine_restarting"),
        ("draining", 200, 200, 503, "draining"),
    ],
)
def test_the_probes_tell_what_to_do(state, live, startup, ready, reason):
    health = STATES[state]

    assert judge(Probe.LIVE, health).status == live
    assert judge(Probe.STARTUP, health).status == startup
    assert (judge(Probe.READY, health).status, judge(Probe.READY, health).reason) == (ready, reason)


@pytest.mark.anyio
async def test_a_probe_that_fails_says_why_and_when_to_ask_again():
    health = Health(has_started=True, engine_is_ready=False, is_draining=False, retry_after_s=1.2)

    reply = await Client(make_app(health=health)).ask("/health/ready", b"", method="GET")

    assert reply.status == 503
    assert reply.json == {"status": "unavailable", "reason": "engine_restarting", "retry_after": 2}
    assert reply.headers["retry-after"] == "2"


@pytest.mark.anyio
async def test_a_probe_that_passes_says_ok():
    reply = await Client(make_app()).ask("/health/live", b"", method="GET")

    assert (reply.status, reply.json["status"]) == (200, "ok")
