"""Pins who is let in: the file of keys, the comparison, roles, and when keys are a must."""

from __future__ import annotations

import hashlib

import pytest

from tests.api_fakes import Client, make_app
from wicketgate.api.keys import Keys, Role, require_keys
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
    [("Bearer s1", None), ("bearer  s1 ", None), (None, "s1"), ("Bearer s1", "other")],
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


@pytest.mark.anyio
@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"authorization": "Bearer s1"}, 200)])
async def test_an_endpoint_asks_for_a_key(keys, headers, status):
    reply = await Client(make_app(keys=keys)).ask("/v1/models", b"", method="GET", headers=headers)

    assert reply.status == status
    assert (reply.headers.get("www-authenticate") == "Bearer") is (status == 401)


@pytest.mark.anyio
async def test_health_asks_for_none(keys):
    reply = await Client(make_app(keys=keys)).ask("/health/ready", b"", method="GET")

    assert reply.status == 200
