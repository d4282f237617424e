"""Pins whose limits hold for a request, what a refusal says, and what every answer tells of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from starlette.routing import Route

from tests.api_fakes import Client, make_app
from transport.rates import Quota
from wicketgate.api.endpoint import Endpoint
from wicketgate.api.envelopes import Family
from wicketgate.api.keys import Key, Keys, Role
from wicketgate.api.openai.routes import chat_routes
from wicketgate.api.quotas import Limits, Quotas, estimate_tokens
from wicketgate.errors import InvalidRequestError, RateLimitedError
from wicketgate.inference import (
    ChatPrompt,
    InferenceRequest,
    Sampling,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
)

ALICE_HASH = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"  # of "alice"
ALICE = Key(id="alice", role=Role.USER, sha256=ALICE_HASH)


@dataclass
class Clock:
    """Moves when it is told to."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make(
    *, per_key: Quota | None = None, per_address: Quota | None = None, clock: Clock | None = None
) -> Quotas:
    limits = Limits(per_key=per_key or Quota(), per_address=per_address or Quota())
    return Quotas(lambda: limits, clock=clock or Clock(), unix_clock=lambda: 1_700_000_000.5)


def refusal(quotas: Quotas, key: Key | None, address: str | None) -> RateLimitedError:
    grant = quotas.open(key, address)
    assert grant is not None
    with pytest.raises(RateLimitedError) as raised:
        grant.enter()
    return raised.value


def test_without_limits_nobody_is_counted():
    assert make().open(ALICE, "10.0.0.1") is None


def test_a_key_has_its_limit_from_wherever_it_calls():
    quotas = make(per_key=Quota(requests_per_minute=2))
    quotas.open(ALICE, "10.0.0.1").enter()
    quotas.open(ALICE, "10.0.0.2").enter()

    error = refusal(quotas, ALICE, "10.0.0.3")
    assert error.message == (
        "this API key may use 2 requests a minute (security.per_key.requests_per_minute); try again in 30 s"
    )
    assert (error.status, error.code, error.api_type) == (429, "rate_limit_exceeded", "requests")


def test_an_address_has_its_limit_whatever_its_keys():
    quotas = make(per_address=Quota(streams=2))
    bob = Key(id="bob", role=Role.USER, sha256="0" * 64)
    quotas.open(ALICE, "10.0.0.1").enter()
    quotas.open(bob, "10.0.0.1").enter()

    assert refusal(quotas, None, "10.0.0.1").message == (
        "this address may have 2 requests at once (security.per_address.streams); wait for one to end"
    )
    quotas.open(None, "10.0.0.2").enter()


@pytest.mark.parametrize("address", [None, ""])
def test_a_client_on_a_unix_socket_has_no_address_that_could_be_limited(address):
    assert make(per_address=Quota(streams=1)).open(None, address) is None


def test_a_line_of_the_file_may_say_otherwise_and_leaves_the_rest_as_it_is_for_all():
    quotas = make(per_key=Quota(requests_per_minute=1, streams=7))
    vip = Key(id="vip", role=Role.USER, sha256="0" * 64, limits=(("requests_per_minute", 3),))
    free = Key(
        id="free", role=Role.USER, sha256="1" * 64, limits=(("requests_per_minute", None), ("streams", None))
    )
    for _ in range(3):
        quotas.open(vip, None).enter()

    assert "3 requests a minute" in refusal(quotas, vip, None).message
    assert quotas.open(free, None) is None


def test_tokens_are_refused_as_tokens():
    grant = make(per_key=Quota(tokens_per_minute=10)).open(ALICE, None)
    grant.enter()
    grant.charge(10)

    with pytest.raises(RateLimitedError) as raised:
        grant.charge(1)
    assert raised.value.api_type == "tokens"


def test_openais_headers_tell_limit_rest_and_how_long_until_all_is_back():
    grant = make(per_key=Quota(requests_per_minute=10, tokens_per_minute=1000)).open(ALICE, None)
    grant.enter()
    grant.charge(1000)

    assert grant.headers(Family.OPENAI) == (
        (b"x-ratelimit-limit-requests", b"10"),
        (b"x-ratelimit-remaining-requests", b"9"),
        (b"x-ratelimit-reset-requests", b"6s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"1m0s"),
    )


def test_a_debt_is_told_in_minutes_and_seconds():
    clock = Clock()
    quotas = make(per_key=Quota(tokens_per_minute=100), clock=clock)
    grant = quotas.open(ALICE, None)
    grant.enter()
    grant.charge(1)
    grant.spend(610)
    grant.leave()

    assert (b"x-ratelimit-reset-tokens", b"6m6s") in quotas.open(ALICE, None).headers(Family.OPENAI)


def test_anthropics_headers_name_the_moment():
    grant = make(per_key=Quota(requests_per_minute=10)).open(ALICE, None)
    grant.enter()

    assert grant.headers(Family.ANTHROPIC) == (
        (b"anthropic-ratelimit-requests-limit", b"10"),
        (b"anthropic-ratelimit-requests-remaining", b"9"),
        (b"anthropic-ratelimit-requests-reset", b"2023-11-14T22:13:27Z"),
    )


def request(prompt, *, max_tokens: int = 7) -> InferenceRequest:
    sampling = Sampling(max_tokens=max_tokens, seed=1)
    return InferenceRequest(
        id="r", model="m", prompt=prompt, sampling=sampling, arrived_s=0.0, key="k", key_source="request"
    )


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (TokenPrompt(ids=(1, 2, 3)), 3),
        (TextPrompt(text="x" * 40), 11),
        (
            ChatPrompt(
                messages=({"role": "user", "content": "x" * 8}, {"role": "assistant", "content": None}),
                template_kwargs={},
            ),
            4,
        ),
    ],
)
def test_a_request_is_charged_its_prompt_and_the_longest_answer(prompt, tokens):
    assert estimate_tokens([request(prompt)]) == tokens + 7


def test_choices_of_one_prompt_are_charged_it_once():
    prompt = TokenPrompt(ids=(1, 2, 3))

    assert estimate_tokens([request(prompt), request(prompt)]) == 3 + 2 * 7


def limited_app(quotas: Quotas, handle=None, **endpoint):
    async def answer(exchange):
        await exchange.answer({})

    def routes(backend):
        return [Route("/x", Endpoint(backend.edge, handle or answer, methods=("GET",), **endpoint))]

    return Client(make_app(routes=routes, quotas=quotas, keys=Keys([ALICE])))


KEY = {"authorization": "Bearer alice"}


@pytest.mark.anyio
async def test_every_answer_of_a_limited_client_tells_its_limits():
    client = limited_app(make(per_key=Quota(requests_per_minute=1)))

    first = await client.ask("/x", b"", method="GET", headers=KEY)
    second = await client.ask("/x", b"", method="GET", headers=KEY)

    assert (first.status, first.headers["x-ratelimit-remaining-requests"]) == (200, "0")
    assert (second.status, second.headers["x-ratelimit-limit-requests"]) == (429, "1")
    assert second.error["type"] == "requests"
    assert second.error["code"] == "rate_limit_exceeded"
    # The SDKs take no more than a minute; spread, so that not all come back at once.
    assert 48 <= int(second.headers["retry-after"]) <= 59
    assert 47_200 <= int(second.headers["retry-after-ms"]) <= 59_000


@pytest.mark.anyio
async def test_a_place_is_free_again_when_the_answer_has_ended():
    client = limited_app(make(per_key=Quota(streams=1)))

    replies = [await client.ask("/x", b"", method="GET", headers=KEY) for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 200]


@pytest.mark.anyio
async def test_a_place_is_free_again_when_the_answer_has_failed():
    async def fail(_):
        raise RuntimeError("a fault")

    client = limited_app(make(per_key=Quota(streams=1)), fail)

    replies = [await client.ask("/x", b"", method="GET", headers=KEY) for _ in range(2)]

    assert [reply.status for reply in replies] == [500, 500]


@pytest.mark.anyio
async def test_tokens_charged_for_what_is_then_refused_come_back():
    async def refuse(exchange):
        exchange.grant.charge(100)
        raise InvalidRequestError("no")

    quotas = make(per_key=Quota(tokens_per_minute=100))
    client = limited_app(quotas, refuse)

    replies = [await client.ask("/x", b"", method="GET", headers=KEY) for _ in range(2)]

    assert [reply.status for reply in replies] == [400, 400]


@pytest.mark.anyio
@pytest.mark.parametrize("is_exempt", [False, True])
async def test_whoever_tries_keys_is_stopped_by_the_limit_of_its_address(is_exempt):
    client = limited_app(make(per_address=Quota(requests_per_minute=2)), is_exempt=is_exempt)

    replies = [
        await client.ask("/x", b"", method="GET", headers={"x-api-key": f"guess{number}"})
        for number in range(3)
    ]

    assert [reply.status for reply in replies] == [401, 401, 429]


@pytest.mark.anyio
async def test_an_exempt_path_is_never_refused_and_tells_no_limits():
    client = limited_app(make(per_address=Quota(requests_per_minute=1)), is_exempt=True, is_public=True)

    replies = [await client.ask("/x", b"", method="GET") for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert "x-ratelimit-limit-requests" not in replies[0].headers


@pytest.mark.anyio
async def test_anthropics_clients_are_refused_in_their_words():
    client = limited_app(make(per_key=Quota(requests_per_minute=1)), family=Family.ANTHROPIC)
    await client.ask("/x", b"", method="GET", headers=KEY)

    reply = await client.ask("/x", b"", method="GET", headers=KEY)

    assert reply.status == 429
    assert reply.json["error"]["type"] == "rate_limit_error"
    assert reply.json["request_id"] == reply.headers["request-id"]
    assert reply.headers["anthropic-ratelimit-requests-remaining"] == "0"


@pytest.mark.anyio
async def test_a_chat_costs_its_prompt_and_its_answer_however_long_it_might_have_been():
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
    quotas = make(per_key=Quota(tokens_per_minute=1000))
    client = Client(make_app(routes=chat_routes, quotas=quotas, keys=Keys([ALICE])))

    first = await client.ask("/v1/chat/completions", body, headers=KEY | {"content-type": "application/json"})
    used = first.json["usage"]["total_tokens"]

    assert first.headers["x-ratelimit-remaining-tokens"] == str(1000 - 40 - 1)
    assert (b"x-ratelimit-remaining-tokens", b"%d" % (1000 - used)) in quotas.open(ALICE, None).headers(
        Family.OPENAI
    )


class Assessing:
    """Rates every prompt; a token is a letter."""

    async def tokenize(self, model, prompt):
        return list(prompt.ids)

    async def prompt_logprobs(self, request, *, top):
        return [None, *(TokenLogprob(token, -1.0, ()) for token in request.prompt.ids[1:])]


@pytest.mark.anyio
async def test_a_prompt_that_is_only_rated_costs_its_tokens():
    body = {"model": "demo", "prompt": [104] * 60, "max_tokens": 0, "echo": True, "logprobs": 0}
    quotas = make(per_key=Quota(tokens_per_minute=100))
    client = Client(make_app(routes=chat_routes, quotas=quotas, keys=Keys([ALICE]), jobs=Assessing()))
    headers = KEY | {"content-type": "application/json"}

    rated = await client.ask("/v1/completions", body, headers=headers)
    refused = await client.ask("/v1/completions", body, headers=headers)

    assert (rated.status, rated.headers["x-ratelimit-remaining-tokens"]) == (200, "40")
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
