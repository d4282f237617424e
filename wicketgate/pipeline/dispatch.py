"""
From an arrived request to its token stream: flags, lane, ticket, text, engine; lane and ticket back once.

Everything here runs on the event loop and decides nothing by itself: `governor/admission.py` says who may
run, `queue.py` who is next, the engine what comes out. A request that waits holds no resources but its place.
A model that is not loaded is waited for before the ticket, so that nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from governor.admission import Admitted, Outcome, Queued, Shed
from wicketgate.drill import Drill, DrillParams
from wicketgate.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
    WicketgateError,
)
from wicketgate.inference import ChatPrompt, Finished, FinishReason, TextPrompt, TokenPrompt
from wicketgate.pipeline.answer import OUTCOMES, Answer, Run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from governor.admission import Admission, Ticket
    from wicketgate.assigned import Assigned
    from wicketgate.inference import InferenceRequest
    from wicketgate.pipeline.lane import Lane, Lanes
    from wicketgate.pipeline.queue import WaitQueue
    from wicketgate.recorder import Record, Recorder

log = logging.getLogger(__name__)

T = TypeVar("T")

_PROMPT_FIELDS: Final = {"chat": "messages", "messages": "messages", "responses": "input"}
"""What each API calls the prompt, for errors."""
CHARACTERS_PER_TOKEN = 4
"""First guess of a prompt's length, until it is tokenised."""


@dataclass(slots=True, kw_only=True)
class _Waiter:
    ticket: asyncio.Future[Ticket]
    adaptive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a dispatcher is made of."""

    assign: Callable[[InferenceRequest], Assigned]
    admission: Admission
    queue: WaitQueue
    recorder: Recorder
    lanes: Lanes
    inline_chars: Callable[[], int]
    """Longer prompts are tokenised off the event loop."""
    clock: Callable[[], float]


class Dispatcher:
    """Opens requests: `open` returns an Answer that runs, or raises what the client should hear."""

    def __init__(self, parts: Parts, *, request_timeout_s: float) -> None:
        self._parts = parts
        self.request_timeout_s = request_timeout_s
        self.drill = Drill(DrillParams())
        """Makes requests fail, or wait, on purpose; off until `reconfigured`."""
        self._waiters: dict[str, _Waiter] = {}
        self.changed = asyncio.Event()
        """Set when the deadline of admission may have moved."""

    async def open(self, request: InferenceRequest, *, client_request_id: str | None = None) -> Answer:
        """
        Get a request its ticket and start it.

        Args:
            request: What is asked for; for no tokens, its prompt is computed and kept.
            client_request_id: The client's own name for it, for the log.

        Raises:
            NotFoundError: no such model.
            OverloadedError: refused by admission, or waited too long.
            UnavailableError: the model cannot be served now.
            InvalidRequestError: the prompt can never be served.
            WicketgateError: a drill made it fail.
        """
        parts = self._parts
        record = parts.recorder.arrived(request, parts.assign(request), client_request_id=client_request_id)
        lane, ticket = await self._enter(request, record)
        try:
            ids = await self._ids(request, record, lane)
            asked = _fitted(request, ids, context_tokens=lane.engine.context_tokens)
            parts.recorder.started(record, prompt_tokens=len(ids))
            text = lane.text.stream(request)
            stream = lane.engine.submit(ids, _told(asked, lane))
        except BaseException as error:
            self._give_up(record, ticket, lane, error)
            raise
        lane.warmer.started(stream.id, ids, salt=request.salt)
        run = Run(
            record=record,
            ticket=ticket,
            lane=lane,
            stream=stream,
            text=text,
            prompt_ids=ids,
            is_prompt_only=request.sampling.max_tokens == 0,
        )
        return Answer(self, run)

    async def job(
        self, request: InferenceRequest, work: Callable[[Lane], Awaitable[T]], *, prompt_tokens: int = 0
    ) -> T:
        """
        Get a request its ticket, do its work on its model's lane, and give the ticket back.

        Args:
            request: What is recorded of it.
            work: What is done.
            prompt_tokens: Of all its prompts, for the record.

        Raises:
            WicketgateError: it is refused, or the work failed.
        """
        parts = self._parts
        record = parts.recorder.arrived(request, parts.assign(request), has_tokens=False)
        lane, ticket = await self._enter(request, record)
        parts.recorder.started(record, prompt_tokens=prompt_tokens)
        reason = FinishReason.CANCELLED
        error: WicketgateError | None = None
        try:
            async with asyncio.timeout(self.time_left_s(record)):
                result = await work(lane)
            reason = FinishReason.STOP
            return result
        except TimeoutError:
            text = f"the request took longer than {self.request_timeout_s:g} s (server.request_timeout_s)"
            reason, error = FinishReason.ERROR, DeadlineExceededError(text)
            raise error from None
        except WicketgateError as failure:
            reason, error = FinishReason.ERROR, failure
            raise
        except Exception:
            reason = FinishReason.ERROR
            raise
        finally:
            parts.lanes.leave(lane)
            ended = Finished(reason=reason, prompt_tokens=prompt_tokens, completion_tokens=0, error=error)
            parts.recorder.finished(record, ended)
            self.release(ticket, OUTCOMES.get(reason, Outcome.FINISHED))

    async def _enter(self, request: InferenceRequest, record: Record) -> tuple[Lane, Ticket]:
        """Get a request its model's lane and its ticket; where it gets none, it has ended."""
        lane: Lane | None = None
        ticket: Ticket | None = None
        try:
            lane = await self._parts.lanes.enter(request.model)
            _require(lane)
            ticket = await self._ticket(request, record, lane)
            self._parts.recorder.admitted(record)
            await self._rehearse(record)
            _require(lane)
        except BaseException as error:
            self._give_up(record, ticket, lane, error)
            raise
        return lane, ticket

    async def _rehearse(self, record: Record) -> None:
        """Let the drill hit a request, where one is on."""
        hit = self.drill.hit(record.on)
        if hit is None:
            return
        if hit.fails:
            raise WicketgateError(
                f"made to fail by a drill of {self.drill.params.feature} (phase4_rollout.drill)", code="drill"
            )
        await asyncio.sleep(hit.delay_s)

    async def _ticket(self, request: InferenceRequest, record: Record, lane: Lane) -> Ticket:
        parts = self._parts
        adaptive = "adaptive_governor" in record.on
        now_s = parts.clock()
        match parts.admission.arrive(request_id=request.id, adaptive=adaptive, now_s=now_s):
            case Admitted(ticket=ticket):
                return ticket
            case Shed(reason=reason, retry_after_s=retry_after_s):
                if parts.admission.draining:
                    raise UnavailableError(
                        "the server is draining; send the request to another", code="draining"
                    )
                raise OverloadedError(
                    f"too many requests: {parts.admission.in_flight} in flight,"
                    f" {parts.admission.queued} waiting ({reason.replace('_', ' ')});"
                    f" try again in {retry_after_s:.0f} s",
                    retry_after_s=retry_after_s,
                )
            case Queued(predicted_wait_s=predicted_wait_s):
                return await self._wait(request, record, lane, predicted_wait_s or 0.0)

    async def _wait(self, request: InferenceRequest, record: Record, lane: Lane, fcfs_s: float) -> Ticket:
        parts = self._parts
        adaptive = "adaptive_governor" in record.on
        future: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._waiters[request.id] = _Waiter(ticket=future, adaptive=adaptive)
        flagged = "ttft_pipeline" in record.on
        parts.queue.arrive(
            request.id,
            flagged=flagged,
            uncached_tokens=estimate_tokens(request),
            fcfs_s=fcfs_s,
            now_s=parts.clock(),
        )
        self.changed.set()
        self.pump()
        if flagged and not future.done():
            lane.warmer.waiting(request, sized=parts.queue.sized)
        try:
            return await future
        except asyncio.CancelledError:
            # The client went away. Its ticket may have been granted in this very turn of the loop.
            if future.done() and not future.cancelled() and future.exception() is None:
                parts.admission.release(future.result(), outcome=Outcome.CANCELLED, now_s=parts.clock())
            raise
        finally:
            del self._waiters[request.id]
            if parts.queue.remove(request.id):
                parts.admission.leave(request.id, now_s=parts.clock())
            self.pump()

    def reconfigured(self, *, request_timeout_s: float, drill: DrillParams) -> None:
        """Go on with other parameters, after admission and queue have got theirs."""
        self.request_timeout_s = request_timeout_s
        before = self.drill.params
        self.drill.reconfigure(drill)
        if drill.is_on and drill != before:
            log.warning("drill_on", extra={"drill": str(drill)})
        elif before.is_on and not drill.is_on:
            log.warning("drill_over", extra={"drill": str(before)})
        self.changed.set()
        self.pump()

    def pump(self) -> None:
        """Give out the tickets that are free; called whenever one may have become so."""
        parts = self._parts
        now_s = parts.clock()
        while True:
            request_id = parts.queue.take(eligible=self._eligible, now_s=now_s)
            if request_id is None:
                return
            ticket = parts.admission.grant(request_id=request_id, now_s=now_s)
            if ticket is not None:
                self._waiters[request_id].ticket.set_result(ticket)

    def _eligible(self, request_id: str) -> bool:
        waiter = self._waiters[request_id]
        return not waiter.ticket.done() and self._parts.admission.has_room(adaptive=waiter.adaptive)

    @property
    def deadline_s(self) -> float | None:
        """When the longest waiting request will have waited too long."""
        return self._parts.admission.deadline_s

    def advance(self, *, now_s: float) -> tuple[()]:
        """Refuse those that waited longer than `governor.queue.max_wait_s`."""
        parts = self._parts
        for expired in parts.admission.advance(now_s=now_s):
            parts.queue.remove(expired.request_id)
            future = self._waiters[expired.request_id].ticket
            if future.done():  # its client went away in this very turn of the loop
                continue
            future.set_exception(
                OverloadedError(
                    "no place became free in time; try again in"
                    f" {expired.retry_after_s:.0f} s (governor.queue.max_wait_s)",
                    retry_after_s=expired.retry_after_s,
                )
            )
        return ()

    async def _ids(self, request: InferenceRequest, record: Record, lane: Lane) -> list[int]:
        if "ttft_pipeline" in record.on:
            prepared = await lane.warmer.take(request.id)
            if prepared is not None:
                record.warmed = prepared.warmed
                return prepared.ids
        return await lane.text.encode_prompt(
            request.prompt,
            inline_chars=self._parts.inline_chars(),
            most_tokens=lane.engine.context_tokens,
            field=_PROMPT_FIELDS.get(request.api, "prompt"),
        )

    def _give_up(
        self, record: Record, ticket: Ticket | None, lane: Lane | None, error: BaseException
    ) -> None:
        recorder = self._parts.recorder
        if lane is not None:
            lane.warmer.drop(record.request.id)
            self._parts.lanes.leave(lane)
        if ticket is not None:
            self.release(ticket, Outcome.CANCELLED)
        match error:
            case OverloadedError() | UnavailableError(code="starting" | "draining" | "memory"):
                recorder.refused(record, status=error.status, code=error.code)
            case InvalidRequestError():
                recorder.invalid(record, status=error.status, code=error.code)
            case WicketgateError():
                recorder.unavailable(record, status=error.status, code=error.code)
            case asyncio.CancelledError():
                recorder.cancelled(record)
            case _:
                recorder.unavailable(record, status=500, code="internal_error")

    def release(self, ticket: Ticket, outcome: Outcome) -> None:
        """Take a ticket back and pass it on."""
        if self._parts.admission.release(ticket, outcome=outcome, now_s=self._parts.clock()):
            self.changed.set()
            self.pump()

    def first_tokens(self, record: Record, count: int, cached_tokens: int) -> None:
        """Tell the recorder that the first tokens arrived."""
        self._parts.recorder.tokens(record, count=count, cached_tokens=cached_tokens)

    def ended(self, run: Run, finished: Finished, outcome: Outcome, *, code: str) -> None:
        """Tell that a stream ended, and take its ticket and its lane back; `code` is why it was cancelled."""
        run.lane.warmer.ended(run.stream.id)
        self._parts.lanes.leave(run.lane)
        if finished.reason is FinishReason.CANCELLED:
            self._parts.recorder.cancelled(run.record, code=code)
        else:
            self._parts.recorder.finished(run.record, finished)
        self.release(run.ticket, outcome)

    def time_left_s(self, record: Record) -> float:
        """Return how long a request may still run."""
        return self.request_timeout_s - (self._parts.clock() - record.request.arrived_s)


def _require(lane: Lane) -> None:
    error = lane.engine.unavailable()
    if error is not None:
        raise error


def _fitted(request: InferenceRequest, ids: list[int], *, context_tokens: int) -> InferenceRequest:
    """Check a tokenised prompt against the model, and cut max_tokens to what the context leaves."""
    field = _PROMPT_FIELDS.get(request.api, "prompt")
    room = context_tokens - len(ids)
    if room < 1:
        raise InvalidRequestError(
            f"{field} has {len(ids)} tokens; with at least one token of answer the model's context of"
            f" {context_tokens} tokens is exceeded. Shorten it.",
            param=field,
            code="context_length_exceeded",
        )
    sampling = request.sampling
    # An engine makes one token at least: the prompt is computed with it.
    max_tokens = min(max(sampling.max_tokens, 1), room)
    if sampling.max_tokens == max_tokens:
        return request
    min_tokens = min(sampling.min_tokens, max_tokens) if sampling.max_tokens else 0
    return replace(request, sampling=replace(sampling, max_tokens=max_tokens, min_tokens=min_tokens))


def _told(request: InferenceRequest, lane: Lane) -> InferenceRequest:
    """Have a grammar wait for the end of the reasoning that the prompt has opened."""
    grammar, prompt = request.sampling.grammar, request.prompt
    if grammar is None or not isinstance(prompt, ChatPrompt) or not lane.text.opens_reasoning(prompt):
        return request
    grammar = replace(grammar, starts_after=lane.text.think_end_id)
    return replace(request, sampling=replace(request.sampling, grammar=grammar))


def estimate_tokens(request: InferenceRequest) -> int:
    """Guess a prompt's length in tokens without tokenising it."""
    match request.prompt:
        case TokenPrompt(ids=ids):
            return len(ids)
        case TextPrompt(text=text):
            return len(text) // CHARACTERS_PER_TOKEN + 1
        case chat:
            length = sum(len(str(message.get("content", ""))) for message in chat.messages)
            return length // CHARACTERS_PER_TOKEN + 1
