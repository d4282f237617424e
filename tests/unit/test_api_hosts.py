"""Pins which Host headers are answered while no key is asked for, and what the others hear."""

from __future__ import annotations

import pytest

from tests.api_fakes import READY, Client, make_backend
from wicketgate.api.app import create_app, create_instants
from wicketgate.api.health import Probes
from wicketgate.api.hosts import is_known
from wicketgate.api.keys import Key, Keys, Role

ALICE = Key(
    id="alice",
    role=Role.USER,
    sha256="2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90",
)
NAMES = ("gate.example", "Mac.local")


class Listener(Client):
    """A client of the whole application, over TCP or a Unix socket."""

    def __init__(self, *, keys=None, server=("127.0.0.1", 8000), names=lambda: NAMES):
        backend = make_backend(keys=keys)
        app = create_app(backend, probes=Probes(backend.edge, lambda: READY), hosts=names)

        async def served(scope, receive, send):
            await app({**scope, "server": server}, receive, send)

        super().__init__(served)

    async def get(self, host, path="/v1/models", **headers):
        return await self.ask(path, b"", method="GET", headers={"host": host, **headers})


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.:8000",
        "gate.localhost:8000",
        "127.0.0.1:8000",
        "127.0.0.1",
        "[::1]:8000",
        "[::1]",
        "192.168.1.7:8000",
        "gate.example:443",
        "mac.local",
        "",
    ],
)
def test_addresses_localhost_and_our_own_names_are_known(host):
    assert is_known(host, NAMES)


@pytest.mark.parametrize("name", ["gate.example:8443", "gate.example.", "Gate.Example.:8443"])
def test_a_name_of_ours_may_be_written_as_the_refusal_quotes_it(name):
    assert is_known("gate.example:8443", [name])
    assert is_known("gate.example", [name])
    assert not is_known("evil.example:8443", [name])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evillocalhost",
        "[evil.example]:8000",
        "gate.example.evil",
        "0x7f000001",
    ],
)
def test_any_other_name_may_be_a_pages_that_leads_here(host):
    assert not is_known(host, NAMES)


@pytest.mark.anyio
async def test_a_name_that_is_not_ours_gets_421_and_hears_what_to_do():
    reply = await Listener().get("evil.example:8000")

    assert (reply.status, reply.error["code"]) == (421, "misdirected_request")
    assert all(word in reply.error["message"] for word in ("evil.example", "security.hosts", "localhost"))


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/models", "/health/live", "/openapi.json", "/nowhere"])
async def test_no_path_is_told_to_a_foreign_page(path):
    assert (await Listener().get("evil.example", path)).status == 421


@pytest.mark.anyio
async def test_anthropics_clients_hear_it_in_their_own_form():
    reply = await Listener().get("evil.example", **{"anthropic-version": "2023-06-01"})

    assert (reply.status, reply.json["type"]) == (421, "error")


@pytest.mark.anyio
async def test_one_of_ours_is_served():
    assert (await Listener().get("gate.example")).status == 200


@pytest.mark.anyio
async def test_the_names_are_those_of_now():
    names = []
    listener = Listener(names=lambda: names)
    assert (await listener.get("new.example")).status == 421

    names.append("new.example")

    assert (await Listener(names=lambda: names).get("new.example")).status == 200


@pytest.mark.anyio
async def test_with_keys_any_name_will_do_since_a_page_has_none():
    reply = await Listener(keys=Keys([ALICE])).get("gate.company.example")

    assert reply.status == 401


@pytest.mark.anyio
async def test_a_unix_socket_is_exempt():
    reply = await Listener(server=("/run/api.sock", None)).get("whatever")

    assert reply.status == 200


@pytest.mark.parametrize(
    ("host", "keys", "server", "is_answered"),
    [
        ("localhost:8000", None, ("127.0.0.1", 8000), True),
        ("gate.example", None, ("127.0.0.1", 8000), True),
        ("evil.example", None, ("127.0.0.1", 8000), False),
        ("evil.example", Keys([ALICE]), ("127.0.0.1", 8000), True),
        ("evil.example", None, ("/run/gate.sock", None), True),
    ],
    ids=["local", "ours", "another's", "with keys", "unix"],
)
def test_what_is_answered_without_the_application_is_asked_by_the_same_names(host, keys, server, is_answered):
    probes = Probes(make_backend(keys=keys).edge, lambda: READY)
    instants = create_instants(probes, hosts=lambda: NAMES)
    scope = {"method": "GET", "path": "/health", "raw_path": b"/health", "server": server}

    assert bool(instants.find({**scope, "headers": [(b"host", host.encode())]})) is is_answered
