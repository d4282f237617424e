"""OFREP: what a client in another process is told, in the protocol's own shapes, errors and ETag too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.applications import Starlette

from rollout.assignment import FlagSnapshot
from rollout.bucketing import VERSION, bucket, is_on
from rollout.spec import Feature, Key, Mode, Spec
from rollout.stages import Phase, State
from wicketgate.api.admin.app import MAX_BODY_BYTES
from wicketgate.api.ofrep import MAX_KEY_CHARACTERS, ofrep_routes

if TYPE_CHECKING:
    from typing import Any

pytestmark = pytest.mark.anyio

FLAGS = "/ofrep/v1/evaluate/flags"
SPEC = Spec(
    features={
        "half": Feature(name="half", mode=Mode.STAGED),
        "all": Feature(name="all"),
        "none": Feature(name="none", rollout_percentage=0),
        "child": Feature(name="child", requires=("half",)),
        "by_client": Feature(name="by_client", key=Key.CLIENT, rollout_percentage=50),
        "h2": Feature(name="h2", key=Key.CONNECTION, rollout_percentage=50),
    }
)
AT_MID = State(feature="half", revision=7, phase=Phase.RUNNING, stage="mid", share_millipercent=50_000)
ON, OFF = "sess-2", "sess-0"
"""A key that is in the lower half under `half`, and one that is not."""


def at_mid(spec: Spec = SPEC, **about: Any) -> FlagSnapshot:
    return FlagSnapshot(spec, {"half": AT_MID}, revision=7, **about)


class Board:
    """Holds a snapshot that may be replaced."""

    def __init__(self, snapshot: FlagSnapshot | None = None) -> None:
        self.snapshot = snapshot or at_mid()


def client(board: Board | None = None) -> httpx.AsyncClient:
    held = board or Board()
    app = Starlette(routes=ofrep_routes(lambda: held.snapshot))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8001")


async def evaluate(feature: str, board: Board | None = None, /, **context: object) -> httpx.Response:
    async with client(board) as http:
        return await http.post(f"{FLAGS}/{feature}", json={"context": context})


@pytest.mark.parametrize(("key", "is_in"), [(ON, True), (OFF, False)])
async def test_a_share_is_split_by_the_targeting_key(key: str, is_in: bool) -> None:
    answer = await evaluate("half", targetingKey=key)

    assert answer.status_code == 200
    assert is_on(bucket("half", key), 50_000) is is_in
    assert answer.json() == {
        "key": "half",
        "value": is_in,
        "variant": "on" if is_in else "off",
        "reason": "SPLIT",
        "metadata": {
            "revision": 7,
            "stage": "mid",
            "bucket": bucket("half", key),
            "bucketing": VERSION,
            "cause": "stage",
        },
    }


@pytest.mark.parametrize(("feature", "value"), [("all", True), ("none", False)])
async def test_at_0_and_100_percent_the_answer_is_static_and_needs_no_key(feature: str, value: bool) -> None:
    async with client() as http:
        answers = [await http.post(f"{FLAGS}/{feature}", content=body) for body in ("", '{"context": {}}')]

    for answer in answers:
        assert (answer.status_code, answer.json()["value"]) == (200, value)
        assert answer.json()["reason"] == "STATIC"
        assert answer.json()["metadata"] == {"revision": 7, "bucketing": VERSION, "cause": "direct"}


@pytest.mark.parametrize("context", [{}, {"targetingKey": ""}, {"targetingKey": None}])
async def test_in_between_a_key_is_needed(context: dict[str, object]) -> None:
    answer = await evaluate("half", **context)

    assert answer.status_code == 400
    assert answer.json()["key"] == "half"
    assert answer.json()["errorCode"] == "TARGETING_KEY_MISSING"
    assert "50 %" in answer.json()["errorDetails"]
    assert "targetingKey" in answer.json()["errorDetails"]


async def test_a_child_needs_the_key_that_its_prerequisite_needs() -> None:
    answer = await evaluate("child")

    assert (answer.status_code, answer.json()["errorCode"]) == (400, "TARGETING_KEY_MISSING")


async def test_a_child_says_that_its_prerequisite_is_off_for_this_key() -> None:
    answer = await evaluate("child", targetingKey=OFF)

    assert (answer.json()["value"], answer.json()["reason"]) == (False, "SPLIT")
    assert answer.json()["metadata"]["cause"] == "prerequisite"


async def test_a_feature_decided_by_connection_needs_one() -> None:
    missing = await evaluate("h2", targetingKey="sess-1")
    given = await evaluate("h2", connection="127.0.0.1:5")

    assert missing.json()["errorCode"] == "TARGETING_KEY_MISSING"
    assert "needs a connection" in missing.json()["errorDetails"]
    assert given.json()["metadata"]["bucket"] == bucket("h2", "127.0.0.1:5")


async def test_a_feature_decided_by_client_looks_at_the_client_first() -> None:
    answer = await evaluate("by_client", targetingKey="sess-1", client="team-a")

    assert answer.json()["metadata"]["bucket"] == bucket("by_client", "team-a")


@pytest.mark.parametrize(
    ("snapshot", "cause"),
    [
        (at_mid(killed=True), "killed"),
        (FlagSnapshot(SPEC, {"half": State(feature="half", phase=Phase.ROLLED_BACK)}), "rolled_back"),
        (FlagSnapshot(Spec(features={"half": Feature(name="half", enabled=False)}), {}), "disabled"),
    ],
)
async def test_what_was_put_off_is_disabled_and_the_metadata_say_why(
    snapshot: FlagSnapshot, cause: str
) -> None:
    answer = (await evaluate("half", Board(snapshot), targetingKey=ON)).json()

    assert (answer["value"], answer["reason"], answer["metadata"]["cause"]) == (False, "DISABLED", cause)


async def test_a_staged_feature_is_unknown_and_off_while_the_ledger_cannot_be_read() -> None:
    answer = (await evaluate("half", Board(at_mid(readable=False)), targetingKey=ON)).json()

    assert (answer["value"], answer["reason"]) == (False, "UNKNOWN")
    assert answer["metadata"]["cause"] == "unreadable"


async def test_an_unknown_feature_is_not_found_and_a_near_name_is_suggested() -> None:
    answer = await evaluate("halve", targetingKey=ON)

    assert answer.status_code == 404
    assert answer.json()["key"] == "halve"
    assert answer.json()["errorCode"] == "FLAG_NOT_FOUND"
    assert "Did you mean half?" in answer.json()["errorDetails"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", "PARSE_ERROR"),
        ("[]", "PARSE_ERROR"),
        ('{"context": 5}', "INVALID_CONTEXT"),
        ('{"context": null}', "INVALID_CONTEXT"),
        ('{"context": {"targetingKey": 5}}', "INVALID_CONTEXT"),
        ('{"context": {"connection": []}}', "INVALID_CONTEXT"),
        ('{"context": {"client": "%s"}}' % ("k" * (MAX_KEY_CHARACTERS + 1)), "INVALID_CONTEXT"),
        ('"%s"' % ("k" * MAX_BODY_BYTES), "PARSE_ERROR"),
    ],
)
async def test_a_body_that_is_no_evaluation_request_is_refused_in_the_protocols_shape(
    body: str, code: str
) -> None:
    async with client() as http:
        one = await http.post(f"{FLAGS}/half", content=body)
        bulk = await http.post(FLAGS, content=body)

    assert (one.status_code, bulk.status_code) == (400, 400)
    assert one.json()["key"] == "half"
    assert one.json()["errorCode"] == bulk.json()["errorCode"] == code
    assert bulk.json().keys() == {"errorCode", "errorDetails"}


async def test_all_features_come_at_once_and_those_that_lack_a_key_say_so() -> None:
    async with client() as http:
        answer = await http.post(FLAGS, json={"context": {"targetingKey": ON}})

    flags = {each["key"]: each for each in answer.json()["flags"]}
    assert answer.status_code == 200
    assert list(flags) == list(SPEC.features)
    assert flags["h2"]["errorCode"] == "TARGETING_KEY_MISSING"
    assert flags["child"]["value"] is True
    assert answer.json()["metadata"] == {"revision": 7}


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_who_has_the_answer_gets_304_without_a_body(form: str) -> None:
    async with client() as http:
        first = await http.post(FLAGS, json={"context": {"targetingKey": ON}})
        again = await http.post(
            FLAGS,
            json={"context": {"targetingKey": ON}},
            headers={"if-none-match": form.format(first.headers["etag"])},
        )

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


async def test_a_tag_without_its_quotes_is_taken_too() -> None:
    async with client() as http:
        tag = (await http.post(FLAGS, json={"context": {}})).headers["etag"].strip('"')
        again = await http.post(FLAGS, json={"context": {}}, headers={"if-none-match": tag})

    assert again.status_code == 304


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(FlagSnapshot(SPEC, {"half": AT_MID}, revision=8), id="another revision"),
        pytest.param(
            at_mid(Spec(features={**SPEC.features, "none": Feature(name="none", rollout_percentage=1)})),
            id="an edit of runtime.yaml at the same revision",
        ),
        pytest.param(
            FlagSnapshot(SPEC, {"half": State(feature="half", phase=Phase.ROLLED_BACK)}, revision=7),
            id="a rollback in memory that the ledger does not have yet",
        ),
    ],
)
async def test_the_tag_changes_with_the_flags(changed: FlagSnapshot) -> None:
    board = Board()
    async with client(board) as http:
        first = await http.post(FLAGS, json={"context": {"targetingKey": ON}})
        board.snapshot = changed
        again = await http.post(
            FLAGS,
            json={"context": {"targetingKey": ON}},
            headers={"if-none-match": first.headers["etag"]},
        )

    assert again.status_code == 200
    assert again.headers["etag"] != first.headers["etag"]


async def test_the_tag_of_one_context_is_not_that_of_another() -> None:
    async with client() as http:
        tags = {
            (await http.post(FLAGS, json={"context": {"targetingKey": key}})).headers["etag"]
            for key in (ON, OFF)
        }

    assert len(tags) == 2


async def test_only_post_is_answered() -> None:
    async with client() as http:
        assert (await http.get(f"{FLAGS}/half")).status_code == 405
