"""Pins who is let in: the file of keys, the comparison, roles, and when keys are a must."""

from __future__ import annotations

import hashlib

import pytest
from starlette.routing import Route

from tests.api_fakes import Client, make_app
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.keys import MAX_FILE_BYTES, MAX_KEYS, Keys, Role, require_keys
from wicketgate.config_fields import is_loopback
from wicketgate.errors import AuthenticationError, ConfigurationError, ForbiddenError


def line(secret: str, role: str = "user", name: str = "alice") -> str:
    return f"{name} {role} {hashlib.sha256(secret.encode()).hexdigest()}"


def write(tmp_path, *lines: str, mode: int = 0o600):
    path = tmp_path / "keys"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return path


@pytest.fixture
def keys(tmp_path):
    return Keys.load(
        write(
            tmp_path, "# ours", "", line("s1"), line("s2", "admin", "bob").upper().replace("ADMIN", "admin")
        )
    )


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [("Bearer s1", None), ("bearer  s1 ", None), (None, "s1"), ("Bearer s1", "s1"), ("Basic abc", "s1")],
)
def test_a_known_key_is_let_in(keys, authorization, api_key):
    assert keys.check(authorization, api_key).id == "alice"


@pytest.mark.parametrize(
    ("authorization", "api_key", "complaint"),
    [
        (None, None, "no API key"),
        ("Bearer nope", None, "not known"),
        (None, "nope", "not known"),
        ("Basic s1", None, "no API key"),
        ("Bearer ", None, "no API key"),
        ("Bearer s1", "s2", "different keys"),
        ("Bearer s1", "other", "different keys"),
    ],
)
def test_any_other_is_not(keys, authorization, api_key, complaint):
    with pytest.raises(AuthenticationError, match=complaint):
        keys.check(authorization, api_key)


def test_an_admin_may_what_a_user_may(keys):
    assert keys.check("Bearer s2").role is Role.ADMIN


def test_a_user_may_not_what_an_admin_may(keys):
    with pytest.raises(ForbiddenError, match="role admin"):
        keys.check("Bearer s1", role=Role.ADMIN)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_file_that_others_may_read_is_refused_with_the_fix(tmp_path, mode):
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Keys.load(write(tmp_path, line("s"), mode=mode))


@pytest.mark.parametrize("bad", ["alice user 123", "alice root " + "0" * 64, "alice " + "0" * 64, "s3cret"])
def test_a_line_that_is_wrong_is_named_by_its_number_and_not_repeated(tmp_path, bad):
    with pytest.raises(ConfigurationError, match="line 2") as raised:
        Keys.load(write(tmp_path, line("s"), bad))

    assert bad not in raised.value.message


@pytest.mark.parametrize(
    ("lines", "complaint"), [(["# none"], "holds no key"), ([line("a"), line("b")], "an id twice")]
)
def test_a_file_without_keys_or_with_one_id_twice_is_refused(tmp_path, lines, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        Keys.load(write(tmp_path, *lines))


def test_a_line_may_bring_limits_of_its_own(tmp_path):
    keys = Keys.load(write(tmp_path, f"{line('s')}  requests_per_minute=60 streams=none"))

    assert keys.check("Bearer s").limits == (("requests_per_minute", 60), ("streams", None))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("requests=60", "a limit must be one of requests_per_minute, tokens_per_minute, streams"),
        ("streams=0", "streams must be none or 1 to"),
        ("streams=four", "streams must be none or 1 to"),
        ("streams=10000000000000", "streams must be none or 1 to"),
        ("streams=1 streams=2", "must not name a limit twice"),
        ("streams", "must be ID user|admin SHA256HEX"),
    ],
)
def test_limits_that_are_wrong_are_refused_with_the_number_of_the_line(tmp_path, fields, complaint):
    with pytest.raises(ConfigurationError, match=r"line 2: ") as raised:
        Keys.load(write(tmp_path, "# first", f"{line('s')} {fields}"))

    assert complaint in raised.value.message


def test_a_file_of_too_many_keys_is_refused(tmp_path):
    lines = [f"k{number} user {number:064x}" for number in range(MAX_KEYS + 1)]

    with pytest.raises(ConfigurationError, match="at most 4096 keys, got 4097"):
        Keys.load(write(tmp_path, *lines))


def test_a_file_that_is_far_too_large_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="at most 1 MiB"):
        Keys.load(write(tmp_path, "#" * MAX_FILE_BYTES))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = write(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigurationError, match="not UTF-8"):
        Keys.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        Keys.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("host", "must"),
    [
        ("127.0.0.1", False),
        ("127.0.0.9", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.2", True),
        ("myhost.local", True),
    ],
)
def test_whoever_can_be_reached_from_elsewhere_must_have_keys(host, must):
    assert is_loopback(host) is not must


def test_serving_others_without_keys_is_refused_with_both_fixes(keys):
    require_keys("0.0.0.0", keys, key="server.bind")
    require_keys("127.0.0.1", None, key="server.bind")

    with pytest.raises(ConfigurationError, match=r"server\.bind.*security\.api_keys_file.*127\.0\.0\.1"):
        require_keys("0.0.0.0", None, key="server.bind")


def keyed(keys, **endpoint):
    async def answer(exchange):
        await exchange.answer({"client": exchange.client})

    def routes(backend):
        return [Route("/x", Endpoint(backend.edge, answer, methods=("GET",), **endpoint))]

    return Client(make_app(routes=routes, keys=keys))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"x-api-key": "nope"}, 401), ({"authorization": "Bearer s1"}, 200)]
)
async def test_an_endpoint_asks_for_a_key(keys, headers, status):
    reply = await keyed(keys).ask("/x", b"", method="GET", headers=headers)

    assert reply.status == status
    assert (reply.headers.get("www-authenticate") == "Bearer") is (status == 401)


@pytest.mark.anyio
async def test_a_public_endpoint_asks_for_none(keys):
    reply = await keyed(keys, is_public=True).ask("/x", b"", method="GET")

    assert (reply.status, reply.json) == (200, {"client": None})


@pytest.mark.anyio
async def test_keys_are_looked_up_anew_for_each_request(keys):
    held = [keys, None]
    client = keyed(lambda: held[0])
    before = await client.ask("/x", b"", method="GET")
    held.reverse()
    after = await client.ask("/x", b"", method="GET")

    assert (before.status, after.status) == (401, 200)
