"""Pins how a call is served: what goes out when, who is cancelled when, and how it ends for everybody."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from starlette.routing import Route

from tests.api_fakes import Client, FakeAnswers, FakeHandle, finished, make_app, make_backend, text
from tests.fakes import request
from transport import sse
from transport.asgi_stream import EXTENSION
from wicketgate.api.cancel import cancel_routes
from wicketgate.api.endpoint import ApiSettings, Endpoint
from wicketgate.api.envelopes import error_event
from wicketgate.api.order import Order
from wicketgate.errors import EngineFailedError, OverloadedError, RateLimitedError, UnavailableError
from wicketgate.inference import FinishReason, TextPrompt

if TYPE_CHECKING:
    from wicketgate.api.order import Choice

pytestmark = pytest.mark.anyio


@dataclass
class PlainForm:
    """Writes what happens, in the order in which it is told."""

    fault: Exception | None = None

    def opening(self, answers) -> bytes:
        return sse.event({"opening": len(answers)})

    def pieces(self, choice, pieces) -> bytes:
        if self.fault is not None:
            raise self.fault
        return sse.event({"choice": choice, "text": "".join(piece.text for piece in pieces)})

    def finished(self, choice, finished) -> bytes:
        return sse.event({"choice": choice, "finish": str(finished.reason)})

    def closing(self) -> bytes:
        return sse.DONE

    def failure(self, error) -> bytes:
        return error_event(error)

    def whole(self, choices: list[Choice]):
        return {"texts": ["".join(piece.text for piece in choice.pieces) for choice in choices]}


@dataclass
class Desk:
    """One route that serves `choices` requests of a faked pipeline, and the one that cancels."""

    answers: FakeAnswers
    stream: bool = True
    choices: int = 1
    settings: ApiSettings = field(default_factory=ApiSettings)
    form: PlainForm = field(default_factory=PlainForm)
    handle: FakeHandle | None = None
    quotas: FakeQuotas | None = None

    def __post_init__(self) -> None:
        self.prompt = TextPrompt(text="hello")
        self.exchanges = weakref.WeakSet()
        self.backend = make_backend(self.answers, settings=self.settings, quotas=self.quotas)
        self.app = make_app(backend=self.backend, routes=self._routes)
        self.client = Client(self.app, extensions={EXTENSION: self.handle} if self.handle else {})

    def _routes(self, backend):
        async def serve(exchange) -> None:
            self.exchanges.add(exchange)
            await exchange.read_body()
            requests = [self._request(choice) for choice in range(self.choices)]
            order = Order(
                requests=tuple(requests), form=self.form, stream=self.stream, headers=((b"x-order", b"1"),)
            )
            await backend.generation.serve(exchange, order)

        return [Route("/go", Endpoint(backend.edge, serve, methods=("POST",))), *cancel_routes(backend)]

    def _request(self, choice: int):
        return replace(request(f"r{choice}"), choice=choice, prompt=self.prompt)

    async def ask(self, **headers: str):
        return await self.client.ask("/go", b"", headers=headers)

    def start(self) -> asyncio.Task:
        return asyncio.create_task(self.ask())

    async def opened(self, choice: int = 0):
        """Wait until the pipeline has opened an answer, and its stream has begun."""
        while len(self.answers.opened) <= choice:
            await asyncio.sleep(0)
        await turns()
        return self.answers.opened[choice]


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def data(parts: list[bytes]) -> list:
    events = b"".join(parts).replace(sse.HEARTBEAT, b"").decode().split("\n\n")[:-1]
    found = [event.removeprefix("data: ") for event in events]
    return [each if each == "[DONE]" else json.loads(each) for each in found]


def both(**more):
    """A desk on a connection with the direct handle, and one on plain ASGI."""
    return [pytest.param(FakeHandle, id="direct", **more), pytest.param(lambda: None, id="asgi", **more)]


@pytest.mark.parametrize("handle", both())
async def test_a_stream_opens_writes_each_step_finishes_and_closes(handle) -> None:
    desk = Desk(FakeAnswers(), handle=handle())

    reply = await desk.ask()

    parts = desk.handle.parts if desk.handle else reply.parts
    assert (reply.status, reply.headers["x-order"], reply.headers["x-wicketgate-flags"]) == (200, "1", "-")
    assert data(parts) == [
        {"opening": 1},
        {"choice": 0, "text": "Hel"},
        {"choice": 0, "text": "lo"},
        {"choice": 0, "finish": "stop"},
        "[DONE]",
    ]
    assert parts[0].count(b"data: ") == 2
    assert parts[-1].endswith(b'finish":"stop"}\n\n' + sse.DONE)
    assert len(desk.backend.generation.live) == 0


async def test_news_of_a_stream_is_written_in_the_turn_in_which_it_comes() -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle())
    asking = desk.start()
    answer = await desk.opened()

    answer.give(*text("b"))
    written = data(desk.handle.parts)

    assert written[-1] == {"choice": 0, "text": "b"}
    answer.give(finished())
    await asking
    assert desk.handle.is_ended


async def test_a_whole_answer_comes_once_with_all_choices() -> None:
    answers = FakeAnswers(choices=[[*text("a", "b"), finished()], [*text("c"), finished()]])

    reply = await Desk(answers, stream=False, choices=2).ask()

    assert (reply.status, reply.json) == (200, {"texts": ["ab", "c"]})


async def test_choices_interleave_and_the_end_comes_with_the_last_of_them() -> None:
    answers = FakeAnswers(choices=[[*text("a"), finished()], [*text("c", "d", "e"), finished()]])
    desk = Desk(answers, choices=2, handle=FakeHandle())

    await desk.ask()

    events = data(desk.handle.parts)
    assert events[0] == {"opening": 2}
    assert events.index({"choice": 0, "finish": "stop"}) < events.index({"choice": 1, "text": "e"})
    assert events[-2:] == [{"choice": 1, "finish": "stop"}, "[DONE]"]


async def test_the_refusal_of_one_choice_ends_the_others_and_is_the_answer() -> None:
    answers = FakeAnswers([None], refuses={1: OverloadedError("full")})
    desk = Desk(answers, choices=3)

    reply = await desk.ask()

    assert (reply.status, reply.error["code"]) == (429, "overloaded")
    assert [answer.error.code for answer in answers.opened] == ["overloaded"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_any_text_has_its_own_status(stream) -> None:
    failure = finished(FinishReason.ERROR, error=UnavailableError("no", code="engine_restarting"))

    reply = await Desk(FakeAnswers([failure]), stream=stream).ask()

    assert (reply.status, reply.error["code"]) == (503, "engine_restarting")


@pytest.mark.parametrize("handle", both())
@pytest.mark.parametrize(
    ("end", "code"),
    [
        (finished(FinishReason.ERROR, error=EngineFailedError("no")), "engine_failed"),
        (finished(FinishReason.ERROR), "engine_failed"),
        (finished(FinishReason.CANCELLED), "draining"),
    ],
)
async def test_a_failure_after_text_ends_the_stream_with_an_error_event(handle, end, code) -> None:
    desk = Desk(FakeAnswers([*text("Hel"), end]), handle=handle())

    reply = await desk.ask()

    events = data(desk.handle.parts if desk.handle else reply.parts)
    assert events[1] == {"choice": 0, "text": "Hel"}
    assert events[-1]["error"]["code"] == code
    assert desk.handle.is_ended if desk.handle else reply.is_whole


async def test_a_fault_in_the_form_ends_its_own_stream_only(caplog) -> None:
    desk = Desk(
        FakeAnswers([None]), form=PlainForm(), handle=FakeHandle(), settings=ApiSettings(hold_headers_s=0)
    )
    asking = desk.start()
    answer = await desk.opened()
    desk.form.fault = RuntimeError("secret")

    answer.give(*text("a"))
    await asking

    error = data(desk.handle.parts)[-1]["error"]
    assert (error["code"], answer.error.code) == ("internal_error", "internal_error")
    assert "secret" not in error["message"]
    assert caplog.records[0].getMessage() == "request_failed"


async def test_a_stream_whose_text_is_late_gets_its_headers_and_its_opening_meanwhile() -> None:
    desk = Desk(FakeAnswers([None]), settings=ApiSettings(hold_headers_s=0.0), handle=FakeHandle())
    asking = desk.start()
    answer = await desk.opened()

    before = data(desk.handle.parts)
    answer.give(*text("late"), finished())
    await asking

    assert before == [{"opening": 1}]
    assert data(desk.handle.parts)[1] == {"choice": 0, "text": "late"}


async def test_no_header_is_sent_while_a_request_waits_for_its_ticket() -> None:
    desk = Desk(FakeAnswers(is_full=True), settings=ApiSettings(hold_headers_s=0.0))
    asking = desk.start()
    await desk.answers.waited.wait()
    await turns()

    desk.client.gone.set()
    reply = await asking

    assert (reply.status, reply.parts) == (0, [])
    assert desk.answers.left.is_set()


async def test_behind_a_reader_who_is_slow_tokens_wait_and_come_as_one() -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle())
    asking = desk.start()
    answer = await desk.opened()
    desk.handle.pause()
    answer.give(*text("b"))
    answer.give(*text("c"))
    waiting = data(desk.handle.parts)

    desk.handle.resume()
    answer.give(finished())
    await asking

    assert waiting[-1] == {"choice": 0, "text": "a"}
    assert data(desk.handle.parts)[-3:] == [
        {"choice": 0, "text": "bc"},
        {"choice": 0, "finish": "stop"},
        "[DONE]",
    ]


async def test_a_reader_who_does_not_read_for_too_long_is_cut_off_and_cancelled_as_such() -> None:
    settings = ApiSettings(slow_reader_timeout_s=0.01)
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle(), settings=settings)
    asking = desk.start()
    answer = await desk.opened()

    desk.handle.pause()
    answer.give(*text("b"))
    await asking

    assert desk.handle.is_aborted
    assert answer.code == "slow_reader"


@pytest.mark.parametrize("handle", both())
async def test_a_silent_stream_gets_a_comment_line_and_nothing_else(handle) -> None:
    settings = ApiSettings(heartbeat_s=0.01)
    desk = Desk(FakeAnswers([*text("a"), finished()], pause_s=0.03), handle=handle(), settings=settings)

    reply = await desk.ask()

    parts = desk.handle.parts if desk.handle else reply.parts
    assert sse.HEARTBEAT in parts
    assert data(parts)[-1] == "[DONE]"


class MuteForm(PlainForm):
    """Begins with nothing, as the answer of /v1/completions does."""

    def opening(self, answers) -> bytes:
        return b""


async def test_a_stream_that_begins_with_silence_gets_a_comment_line_too() -> None:
    settings = ApiSettings(heartbeat_s=0.005, hold_headers_s=0.005)
    answers = FakeAnswers([*text("a"), finished()], pause_s=0.05)
    desk = Desk(answers, form=MuteForm(), handle=FakeHandle(), settings=settings)

    await desk.ask()

    assert desk.handle.parts[0] == sse.HEARTBEAT


async def test_a_heartbeat_does_not_hide_a_stream_that_is_stuck() -> None:
    settings = ApiSettings(heartbeat_s=0.005, no_progress_timeout_s=0.03)
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle(), settings=settings)

    await desk.ask()

    assert sse.HEARTBEAT in desk.handle.parts
    assert data(desk.handle.parts)[-1]["error"]["code"] == "no_progress"
    assert desk.answers.opened[0].error.code == "no_progress"


@pytest.mark.parametrize("handle", both())
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_its_generation(handle, stream) -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), stream=stream, handle=handle(), choices=2)
    asking = desk.start()
    answer = await desk.opened(1)

    if desk.handle:
        desk.handle.close()
        assert answer.code == "cancelled", "in this very turn"
    desk.client.gone.set()
    await asking

    assert [each.code for each in desk.answers.opened] == ["cancelled", "cancelled"]
    assert len(desk.backend.generation.live) == 0


@pytest.mark.parametrize("handle", both())
async def test_a_call_whose_client_left_does_not_wait_for_the_garbage_collector(handle) -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), handle=handle())
    gc.disable()
    try:
        asking = desk.start()
        await desk.opened()
        desk.client.gone.set()
        if desk.handle:
            desk.handle.close()
        await asking
        await turns()

        assert len(desk.exchanges) == 0
    finally:
        gc.enable()


async def test_a_client_that_had_left_before_is_not_served() -> None:
    desk = Desk(FakeAnswers(), handle=FakeHandle())
    desk.handle.close()

    reply = await desk.ask()

    assert (reply.status, desk.answers.opened) == (0, [])


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_is_held_up_beyond_its_deadline_is_ended(stream) -> None:
    desk = Desk(FakeAnswers(is_full=True), stream=stream, settings=ApiSettings(request_timeout_s=-1.99))

    reply = await desk.ask()

    assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")
    assert reply.headers["x-should-retry"] == "false"


async def test_a_request_is_cancelled_by_the_id_that_its_answer_names() -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle())
    asking = desk.start()
    answer = await desk.opened()
    name = "req_" + "0" * 31 + "1"

    reply = await Client(desk.app).ask(f"/v1/requests/{name}", b"", method="DELETE")
    again = await Client(desk.app).ask(f"/v1/requests/{name}", b"", method="DELETE")
    served = await asking

    assert served.headers["x-request-id"] == served.headers["request-id"] == name
    assert (reply.status, reply.json) == (200, {"id": name, "object": "request", "cancelled": True})
    assert (again.status, again.error["code"]) == (404, "not_found")
    assert answer.code == "cancelled"
    assert data(desk.handle.parts)[-1]["error"]["code"] == "cancelled"


async def test_a_request_that_waits_for_its_ticket_can_be_cancelled() -> None:
    desk = Desk(FakeAnswers(is_full=True))
    asking = desk.start()
    await desk.answers.waited.wait()

    await Client(desk.app).ask("/v1/requests/req_" + "0" * 31 + "1", b"", method="DELETE")
    reply = await asking

    assert (reply.status, reply.error["code"]) == (499, "cancelled")
    assert desk.answers.left.is_set()


async def test_a_request_cannot_be_cancelled_with_another_key() -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle())
    asking = desk.start()
    await desk.opened()
    live = desk.backend.generation.live

    is_stopped = live.stop("req_" + "0" * 31 + "1", UnavailableError("no"), client="alice")

    assert not is_stopped
    assert live.stop("req_" + "0" * 31 + "1", UnavailableError("no"), client=None)
    await asking


async def test_all_calls_end_with_an_error_when_the_server_ends_them() -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle())
    asking = desk.start()
    answer = await desk.opened()

    ended = desk.backend.generation.live.stop_all(UnavailableError("stopping", code="draining"))
    await asking

    assert ended == 1
    assert data(desk.handle.parts)[-1]["error"]["code"] == "draining"
    assert answer.error.code == "draining"


async def test_the_clients_own_name_of_a_request_is_passed_on_and_echoed_where_it_is_fit_for_a_log() -> None:
    desk = Desk(FakeAnswers())

    reply = await desk.ask(**{"x-request-id": "mine-7"})
    other = await Desk(desk.answers).ask(**{"x-request-id": "mine 7"})

    assert reply.headers["x-client-request-id"] == "mine-7"
    assert "x-client-request-id" not in other.headers
    assert desk.answers.client_request_ids == ["mine-7", None]


@dataclass
class FakeGrant:
    """What a client's limits hold for one request."""

    error: RateLimitedError | None = None
    charged: int = 0
    spent: int = 0

    def enter(self) -> None:
        """Count it."""

    def leave(self) -> None:
        """Note its end."""

    def headers(self, family) -> tuple:
        return ((b"x-ratelimit-limit-tokens", b"9"),)

    def charge(self, tokens: int) -> None:
        self.charged = tokens
        if self.error is not None:
            raise self.error

    def spend(self, tokens: int) -> None:
        self.spent += tokens


@dataclass
class FakeQuotas:
    """Gives every request the same grant."""

    grant: FakeGrant

    def open(self, key, address) -> FakeGrant:
        return self.grant


async def test_what_an_answer_uses_is_charged_before_and_told_after_each_prompt_once() -> None:
    grant = FakeGrant()
    desk = Desk(FakeAnswers(), choices=2, quotas=FakeQuotas(grant))

    reply = await desk.ask()

    asked = 2 * 8 + 2  # of two answers to one prompt
    assert (grant.charged, grant.spent) == (asked, 2 * 2 + 3)
    assert reply.headers["x-ratelimit-limit-tokens"] == "9"


async def test_a_client_over_its_limit_of_tokens_is_refused_before_anything_is_asked_for() -> None:
    grant = FakeGrant(error=RateLimitedError("too many", kind="tokens", retry_after_s=1.0))
    desk = Desk(FakeAnswers(), quotas=FakeQuotas(grant))

    reply = await desk.ask()

    assert (reply.status, reply.error["type"]) == (429, "tokens")
    assert (desk.answers.requests, grant.spent) == ([], 0)


async def test_a_fault_in_the_form_at_the_first_look_after_a_pause_ends_the_stream() -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle())
    asking = desk.start()
    answer = await desk.opened()
    desk.handle.pause()
    answer.give(*text("b"))
    desk.form.fault = RuntimeError("secret")

    desk.handle.resume()
    await asking

    assert data(desk.handle.parts)[-1]["error"]["code"] == "internal_error"
    assert answer.error.code == "internal_error"


async def test_of_several_choices_one_may_have_ended_when_the_client_reads_again() -> None:
    answers = FakeAnswers(choices=[[*text("a"), finished()], [*text("c"), None]])
    desk = Desk(answers, choices=2, handle=FakeHandle())
    asking = desk.start()
    second = await desk.opened(1)
    desk.handle.pause()
    second.give(*text("d"), finished())

    desk.handle.resume()
    await asking

    assert data(desk.handle.parts)[-3:] == [
        {"choice": 1, "text": "d"},
        {"choice": 1, "finish": "stop"},
        "[DONE]",
    ]


async def test_a_server_that_cancels_the_task_itself_gets_its_way() -> None:
    desk = Desk(FakeAnswers([*text("a"), None]), handle=FakeHandle())
    asking = desk.start()
    answer = await desk.opened()

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert answer.code == "cancelled"


async def test_2000_clients_that_vanish_leave_no_task_and_no_answer() -> None:
    answers = FakeAnswers([*text("a"), None])
    desk = Desk(answers, settings=ApiSettings(hold_headers_s=0.0))
    tasks_before = len(asyncio.all_tasks())
    for number in range(2_000):
        handle = FakeHandle() if number % 2 else None
        client = Client(desk.app, extensions={EXTENSION: handle} if handle else {})
        asking = asyncio.create_task(client.ask("/go", b"", headers={}))
        await turns(number % 23)

        client.gone.set()
        if handle is not None:
            handle.close()
        await asking

    await turns()
    assert len(asyncio.all_tasks()) == tasks_before
    assert len(desk.backend.generation.live) == 0
    assert all(answer.cancelled.is_set() for answer in answers.opened)
