"""Pins what is stored of responses: only on request, for its own client, for a while; and what it is for."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from tests.api_fakes import CARD, Client, FakeAnswers, finished, make_app, text
from wicketgate.api.endpoint import ApiSettings
from wicketgate.api.keys import Key, Keys, Role
from wicketgate.api.responses.routes import response_routes
from wicketgate.api.responses.store import StoreParams
from wicketgate.errors import EngineFailedError
from wicketgate.inference import FinishReason
from wicketgate.pipeline.pieces import CallArguments, CallOpened, ReasoningChunk

pytestmark = pytest.mark.anyio
MODEL = replace(CARD, context_tokens=4096, tool_format="json_tools")
BODY = {"model": "demo", "input": "hi", "store": True}
KEYS = Keys(
    [
        Key(id=name, role=Role.USER, sha256=sha256(f"{name}-key".encode()).hexdigest())
        for name in ("ann", "bob")
    ]
)
CALLS = [
    ReasoningChunk(text="hm", tokens=1),
    *text("ok"),
    CallOpened(index=0, name="f"),
    CallArguments(index=0, text='{"a":1}'),
    finished(calls=1),
]


class Store:
    """One application, asked again and again; the time stands still until it is set."""

    def __init__(self, items=None, *, params=None, keys=None, **settings):
        self.now_s = 0.0
        self.models = [MODEL]
        self.answers = FakeAnswers() if items is None else FakeAnswers(items)
        self._app = make_app(
            self.answers,
            routes=lambda backend: response_routes(backend, params=params),
            models=self.models,
            clock=lambda: self.now_s,
            keys=keys,
            settings=ApiSettings(**settings),
        )

    async def ask(self, path="", body=None, *, method="POST", who=None):
        headers = {"content-type": "application/json"}
        if who is not None:
            headers["authorization"] = f"Bearer {who}-key"
        return await Client(self._app).ask(f"/v1/responses{path}", body, method=method, headers=headers)

    async def put(self, **fields):
        reply = await self.ask(body=BODY | fields, who=fields.pop("who", None))
        assert reply.status == 200, reply.parts
        return reply.json["id"] if not fields.get("stream") else reply.events[-1]["response"]["id"]

    async def get(self, name, *, who=None):
        return await self.ask(f"/{name}", method="GET", who=who)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stored_response_comes_back_as_it_was(stream):
    store = Store()
    answer = await store.ask(body=BODY | {"stream": stream})
    given = answer.events[-1]["response"] if stream else answer.json

    reply = await store.get(given["id"])

    assert (reply.status, reply.json) == (200, given)


async def test_nothing_is_stored_unasked():
    store = Store()
    name = await store.put(store=None)

    reply = await store.get(name)

    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "not_found", "response_id")


@pytest.mark.parametrize(("asked", "status"), [(None, 200), (False, 404), (True, 200)])
async def test_where_all_is_stored_a_client_can_still_forbid_it(asked, status):
    store = Store(params=StoreParams(unasked=True))
    name = await store.put(store=asked)

    assert (await store.get(name)).status == status


async def test_a_response_that_failed_is_not_stored():
    store = Store([*text("a"), finished(FinishReason.ERROR, error=EngineFailedError("x"))])
    failed = await store.put(stream=True)

    reply = await store.get(failed)

    assert reply.status == 404


async def test_a_deleted_response_is_gone():
    store = Store()
    name = await store.put()

    deleted = await store.ask(f"/{name}", method="DELETE")
    again = await store.ask(f"/{name}", method="DELETE")

    assert deleted.json == {"id": name, "object": "response", "deleted": True}
    assert again.status == (await store.get(name)).status == 404


async def test_a_response_is_kept_for_a_while():
    store = Store(params=StoreParams(max_age_s=60))
    name = await store.put()

    store.now_s = 59.9
    before = await store.get(name)
    store.now_s = 60.0
    after = await store.get(name)

    assert (before.status, after.status) == (200, 404)


async def test_what_another_client_stored_does_not_exist():
    store = Store(keys=KEYS)
    name = (await store.ask(body=BODY, who="ann")).json["id"]

    seen = await store.get(name, who="bob")
    continued = await store.ask(body=BODY | {"previous_response_id": name}, who="bob")
    deleted = await store.ask(f"/{name}", method="DELETE", who="bob")

    assert (seen.status, deleted.status, continued.status) == (404, 404, 400)
    assert continued.error["code"] == "previous_response_not_found"
    assert (await store.get(name, who="ann")).status == 200


async def test_a_conversation_goes_on_without_its_instructions():
    store = Store(CALLS)
    first = await store.put(instructions="be short")
    output = {"type": "function_call_output", "call_id": f"call_{first[5:]}2", "output": "one"}

    await store.put(previous_response_id=first, input=[output])

    function = {"name": "f", "arguments": {"a": 1}}
    call = {"id": f"call_{first[5:]}2", "type": "function", "function": function}
    assert list(store.answers.requests[1].prompt.messages) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ok", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "name": "f", "tool_call_id": call["id"], "content": "one"},
    ]


async def test_a_conversation_of_three_turns_holds_all_of_them():
    store = Store()
    first = await store.put(input="one")
    second = await store.put(input="two", previous_response_id=first)
    await store.ask(f"/{first}", method="DELETE")

    await store.put(input="three", previous_response_id=second)

    said = [message["content"] for message in store.answers.requests[2].prompt.messages]
    assert said == ["one", "Hello", "two", "Hello", "three"]


async def test_a_fault_in_a_later_turn_is_placed_in_its_own_input():
    store = Store()
    first = await store.put()

    reply = await store.ask(body=BODY | {"previous_response_id": first, "input": [{"type": "zap"}]})

    assert reply.error["param"] == "input[0].type"


async def test_a_conversation_has_the_bounds_of_one_input():
    store = Store()
    first = await store.put(input=[{"role": "user", "content": "x"}] * 6000)

    reply = await store.ask(
        body=BODY | {"input": [{"role": "user", "content": "x"}] * 6000, "previous_response_id": first}
    )

    assert (reply.status, reply.error["param"], reply.error["code"]) == (
        400,
        "input",
        "array_above_max_length",
    )


async def test_what_is_brought_from_stored_answers_has_the_bound_of_a_body():
    store = Store(max_body_bytes=10_000)
    first = await store.put(input="x" * 8_000)
    second = await store.put(input="x" * 8_000, previous_response_id=first)

    reply = await store.ask(body=BODY | {"previous_response_id": second})

    assert (reply.status, reply.error["param"]) == (400, "previous_response_id")
    assert "10000 bytes (server.max_body_bytes)" in reply.error["message"]


async def test_an_item_that_is_sent_whole_brings_nothing_of_the_answer_that_it_was_in():
    store = Store(max_body_bytes=10_000)
    items = []
    for _ in range(4):
        name = await store.put(instructions="x" * 4_000, input=[{"role": "user", "content": "hi"}, *items])
        items += (await store.get(name)).json["output"]

    said = [message["content"] for message in store.answers.requests[-1].prompt.messages[1:]]
    assert said == ["hi", *["Hello"] * 3]


async def test_a_long_conversation_finds_that_no_model_is_served():
    store = Store()
    first = await store.put(input="x" * 40_000)
    store.models.clear()

    reply = await store.ask(body=BODY | {"previous_response_id": first})

    assert (reply.status, reply.error["param"]) == (404, "model")


@pytest.mark.parametrize(
    ("field", "param"),
    [
        (
            '"tools":[{"type":"function","name":"f","parameters":{"properties":{"a":{"maximum":1e999}}}}]',
            "tools[0].parameters",
        ),
        ('"store":true,"input":[{"role":"user","content":"hi","more":1e999}]', "input"),
    ],
)
async def test_a_number_that_cannot_be_written_back_is_refused_before_the_answer_begins(field, param):
    store = Store()

    reply = await store.ask(body=b'{"model":"demo","input":"hi","stream":true,%b}' % field.encode())

    assert (reply.status, reply.error["param"]) == (400, param)
    assert not store.answers.requests


async def test_an_item_of_a_stored_response_may_be_named_in_place_of_it():
    store = Store()
    first = await store.put()
    reference = {"type": "item_reference", "id": f"msg_{first[5:]}0"}

    await store.put(input=[{"role": "user", "content": "hi"}, reference, {"role": "user", "content": "and?"}])

    said = [message["content"] for message in store.answers.requests[1].prompt.messages]
    assert said == ["hi", "Hello", "and?"]


@pytest.mark.parametrize("name", ["msg_x", "msg_" + "0" * 32 + "0", "msg_" + "0" * 31 + "17"])
async def test_an_item_that_nobody_stored_cannot_be_named(name):
    store = Store()
    await store.put()

    reply = await store.ask(body=BODY | {"input": [{"type": "item_reference", "id": name}]})

    assert (reply.status, reply.error["param"]) == (400, "input[0].id")
    assert "store" in reply.error["message"]


async def test_what_was_asked_can_be_listed():
    store = Store()
    first = await store.put(input=[{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}])
    name = await store.put(input="two", previous_response_id=first)

    reply = await store.ask(f"/{name}/input_items", method="GET")

    assert [item["content"][0]["text"] for item in reply.json["data"]] == ["two", "Hello", "1", "one"]
    assert [item["content"][0]["type"] for item in reply.json["data"]] == [
        *("input_text", "output_text", "output_text", "input_text")
    ]
    assert reply.json["object"] == "list"
    assert reply.json["has_more"] is False
    assert reply.json["first_id"] == reply.json["data"][0]["id"]
    assert reply.json["last_id"] == reply.json["data"][-1]["id"]
