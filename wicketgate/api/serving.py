"""
One call being served, from the opening of its requests to the last byte of its answer.

Theory of operation. The call's own task opens the requests one after the other and waits: for the first token
of a stream, so that a refusal still gets a status, and for the end. All between is pushed: an engine step
calls `on_news` of each answer that it touched, and in that same turn of the loop the tokens become text, the
text events, and the events bytes in the connection's buffer. No task is woken for a token.

A client that does not read pauses its handle. Then nothing is taken from the answers: tokens wait as tokens,
and come as one merged delta when it reads again. Whoever ends a call early (`stop`) cancels its requests at
once and its task, which writes the error, if anybody is left to read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Final, cast

from transport import sse
from wicketgate.api.exchange import LAST_WRITE_S, ClientGoneError
from wicketgate.api.order import Choice
from wicketgate.api.patience import Due, Patience, PatienceParams
from wicketgate.api.quotas import estimate_tokens
from wicketgate.api.stream_handle import AsgiHandle
from wicketgate.errors import (
    CancelledRequestError,
    DeadlineExceededError,
    EngineFailedError,
    InternalError,
    UnavailableError,
    WicketgateError,
)
from wicketgate.inference import Finished, FinishReason

if TYPE_CHECKING:
    from wicketgate.api.endpoint import ApiSettings
    from wicketgate.api.exchange import Exchange, Headers
    from wicketgate.api.order import Answer, Answers, Order
    from wicketgate.api.stream_handle import StreamHandle
    from wicketgate.pipeline.pieces import Piece

_log = logging.getLogger(__name__)

DEADLINE_SLACK_S: Final = 2.0
"""The pipeline ends a request at its deadline; so much later we do, whatever holds it up."""


class SlowReaderError(CancelledRequestError):
    """The client has not read for too long; its stream is reset, so that nobody hears of it but the log."""

    code = "slow_reader"


class Serving:
    """
    One call. Made and run by the task that answers it.

    Args:
        exchange: Whose answer it is.
        order: What is asked for.
        answers: The pipeline.
        settings: What runtime.yaml says now.
    """

    __slots__ = (
        "_answers",
        "_ends",
        "_exchange",
        "_form",
        "_handle",
        "_is_over",
        "_loop",
        "_news",
        "_order",
        "_over",
        "_patience",
        "_pieces",
        "_pipeline",
        "_running",
        "_settings",
        "_stopped_by",
        "_task",
        "_timer",
    )

    def __init__(self, exchange: Exchange, order: Order, *, answers: Answers, settings: ApiSettings) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._exchange, self._order, self._form = exchange, order, order.form
        self._pipeline = answers
        self._settings = settings
        self._answers: list[Answer] = []
        self._pieces: list[list[Piece]] = [[] for _ in order.requests]
        """Taken and not written: of a stream until it begins, else all."""
        self._ends: list[Finished | None] = [None for _ in order.requests]
        self._running = len(order.requests)
        """Choices that have not finished."""
        self._handle: StreamHandle | None = None
        """Of a stream that has begun."""
        # An Event has a queue of its waiters, 0.7 KB of it; here only this call's task waits.
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._is_over = False
        self._stopped_by: Exception | None = None
        self._patience: Patience | None = None
        self._timer: asyncio.TimerHandle | None = None

    # By the call's own task

    async def run(self) -> None:
        """
        Answer the call, with an error where it fails.

        Raises:
            ClientGoneError: the client went away.
        """
        try:
            async with asyncio.timeout(self._settings.request_timeout_s + DEADLINE_SLACK_S):
                with self._exchange.watched(self._gone):
                    await self._serve()
        except TimeoutError:
            limit_s = self._settings.request_timeout_s
            text = f"the request took longer than {limit_s:g} s (server.request_timeout_s)"
            await self._refuse(DeadlineExceededError(text))
        except asyncio.CancelledError:
            if self._stopped_by is None or self._task.uncancel() > 0:
                raise
            await self._refuse(self._stopped_by)
        except Exception as error:  # noqa: BLE001  (the top of a request)
            await self._refuse(error)
        finally:
            self._close()

    async def _serve(self) -> None:
        if self._exchange.grant is not None:
            self._exchange.grant.charge(estimate_tokens(self._order.requests))
        for choice, request in enumerate(self._order.requests):
            if choice:
                await asyncio.sleep(0)  # nothing need wait in the opening of one, and others have a turn
            answer = await self._pipeline.open(request, client_request_id=self._exchange.client_request_id)
            self._answers.append(answer)
            answer.on_news = functools.partial(self._arrived, choice)
            self._gather(choice)
        patience = PatienceParams(
            heartbeat_s=self._settings.heartbeat_s,
            no_progress_timeout_s=self._settings.no_progress_timeout_s,
            slow_reader_timeout_s=self._settings.slow_reader_timeout_s,
        )
        self._patience = Patience(patience, now_s=self._loop.time())
        self._schedule()
        if self._order.stream:
            await self._stream()
        else:
            await self._whole()

    async def _whole(self) -> None:
        await self._over
        choices = [
            Choice(answer=answer, pieces=pieces, finished=finished)
            for answer, pieces, finished in zip(self._answers, self._pieces, self._ends, strict=True)
            if finished is not None
        ]
        await self._exchange.answer(self._form.whole(choices), headers=self._headers())

    async def _stream(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.hold_headers_s):
                await self._news
        handle = await self._exchange.start_events(self._headers())
        handle.on_resume = self._resumed
        self._handle = handle
        self._begin(handle)
        if isinstance(handle, AsgiHandle):
            await handle.run()
        else:
            await self._over

    def _begin(self, handle: StreamHandle) -> None:
        """Write what a stream begins with, and what has come until now."""
        data = self._form.opening(self._answers)
        for choice, pieces in enumerate(self._pieces):
            data += self._events(choice, pieces)
        self._pieces.clear()
        now_s = self._loop.time()
        assert self._patience is not None
        # The headers were: the client's silence begins here, also where the answer begins with none.
        self._patience.written_s = now_s
        self._write(handle, data, now_s)
        self._schedule()

    def _headers(self) -> Headers:
        flags = ",".join(sorted({flag for answer in self._answers for flag in answer.flags})) or "-"
        return (*self._order.headers, (b"x-wicketgate-flags", flags.encode()))

    async def _refuse(self, error: Exception) -> None:
        """Tell the client what went wrong, in the form that is still open to it."""
        self._end_answers(error)
        if isinstance(error, ClientGoneError):
            # A new one: raised, `error` would hold this frame, and the call, until the collector comes.
            raise ClientGoneError
        if not isinstance(error, WicketgateError):
            _log.error("request_failed", exc_info=error, extra={"request_id": self._exchange.request_id})
            error = InternalError(f"internal error; the log has more under {self._exchange.request_id}")
        handle = self._handle
        if handle is None:
            await self._exchange.refuse(error, headers=self._headers())
        elif self._is_over or isinstance(error, SlowReaderError):
            handle.abort()
        else:
            self._is_over = True
            self._exchange.ending()
            handle.end(self._form.failure(error))
            if isinstance(handle, AsgiHandle):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WRITE_S):
                        await handle.run()

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._handle is not None:
            self._handle.on_resume = None
        for answer in self._answers:
            answer.on_news = None
            answer.cancel()
        if self._exchange.grant is not None:
            asked = zip(self._order.requests, self._answers, strict=False)
            prompts = {id(request.prompt): len(answer.prompt_ids) for request, answer in asked}
            used = sum(prompts.values()) + sum(answer.completion_tokens for answer in self._answers)
            self._exchange.grant.spend(used)

    # By whoever brings news, in the turn of the loop in which it comes

    def _arrived(self, choice: int) -> None:
        """Take what an answer has, and pass it on."""
        patience, handle, now_s = self._patience, self._handle, self._loop.time()
        try:
            if patience is None or handle is None:
                self._gather(choice)
            elif handle.is_paused:
                patience.unread(now_s=now_s, unsent_bytes=handle.unsent_bytes)
                self._schedule()
            else:
                self._flow(handle, choice, now_s)
        except Exception as error:  # noqa: BLE001  (raised here it would hit the other streams of the step)
            self._stop(error)
        if patience is not None:
            patience.progress_s = now_s

    def _gather(self, choice: int) -> None:
        """Keep what came until the stream begins, or for the whole answer."""
        items = self._answers[choice].take()
        if items:
            self._pieces[choice] += self._split(choice, items)
            _set(self._news)
            if not self._running:
                _set(self._over)

    def _flow(self, handle: StreamHandle, choice: int, now_s: float) -> None:
        """Write what came."""
        items = self._answers[choice].take()
        if not items:
            return
        if isinstance(items[-1], Finished):
            self._write(handle, self._events(choice, self._split(choice, items)), now_s)
        # What most tokens take: no call more than is needed.
        elif data := self._form.pieces(choice, cast("list[Piece]", items)):
            handle.write(data)
            assert self._patience is not None
            self._patience.written_s = now_s

    def _split(self, choice: int, items: list[Piece | Finished]) -> list[Piece]:
        """Take the end off what came, and keep it; raise what it failed of."""
        finished = items[-1]
        if isinstance(finished, Finished):
            if finished.reason is FinishReason.ERROR:
                raise finished.error or EngineFailedError("the engine could not finish this request")
            if finished.reason is FinishReason.CANCELLED:
                raise finished.error or UnavailableError(
                    "the server has cancelled this request", code="draining"
                )
            self._ends[choice] = finished
            self._running -= 1
            items.pop()
        return cast("list[Piece]", items)

    def _events(self, choice: int, pieces: list[Piece]) -> bytes:
        data = self._form.pieces(choice, pieces) if pieces else b""
        finished = self._ends[choice]
        return data if finished is None else data + self._form.finished(choice, finished)

    def _write(self, handle: StreamHandle, data: bytes, now_s: float) -> None:
        patience = self._patience
        assert patience is not None
        if self._running:
            if data:
                handle.write(data)
                patience.written_s = now_s
            return
        self._is_over = True
        self._exchange.ending()
        handle.end(data + self._form.closing())
        patience.unread(now_s=now_s, unsent_bytes=handle.unsent_bytes)
        _set(self._over)

    def _resumed(self) -> None:
        """Write what has waited, now that the client reads again."""
        handle, patience, now_s = self._handle, self._patience, self._loop.time()
        if handle is None or patience is None or self._is_over:
            return
        patience.read(now_s=now_s)
        try:
            for choice, end in enumerate(self._ends):
                if end is None:
                    self._flow(handle, choice, now_s)
        except Exception as error:  # noqa: BLE001  (as above)
            self._stop(error)

    # What does not come

    def _schedule(self) -> None:
        """Look again when patience has run out; for what moves that on, the timer fires too early."""
        if self._timer is not None:
            self._timer.cancel()
        if self._patience is not None:
            self._timer = self._loop.call_at(self._patience.deadline_s, self._look)

    def _look(self) -> None:
        patience, handle, now_s = self._patience, self._handle, self._loop.time()
        assert patience is not None
        if handle is not None and (handle.is_paused or self._is_over):
            patience.unread(now_s=now_s, unsent_bytes=handle.unsent_bytes)
        for due in patience.advance(now_s=now_s):
            match due:
                case Due.HEARTBEAT:
                    # On top of what is unsent it would tell nobody anything.
                    if handle is not None and not handle.unsent_bytes:
                        handle.write(sse.HEARTBEAT)
                case Due.UNREAD:
                    limit_s = self._settings.slow_reader_timeout_s
                    self._stop(SlowReaderError(f"nothing was read for {limit_s:g} s"))
                case Due.STUCK:
                    limit_s = self._settings.no_progress_timeout_s
                    text = f"no token came for {limit_s:g} s (server.no_progress_timeout_s)"
                    self._stop(DeadlineExceededError(text, code="no_progress"))
        if self._stopped_by is None:
            self._schedule()

    def _gone(self) -> None:
        self._stop(ClientGoneError())

    def stop(self, error: Exception) -> bool:
        """End the call with an error; false when it has ended."""
        return not self._is_over and self._stop(error)

    def _stop(self, error: Exception) -> bool:
        if self._stopped_by is not None:
            return False
        self._stopped_by = error
        self._end_answers(error)
        self._task.cancel()
        return True

    def _end_answers(self, error: Exception) -> None:
        for answer in self._answers:
            match error:
                case ClientGoneError():
                    answer.cancel()
                case CancelledRequestError():
                    answer.cancel(code=error.code)
                case WicketgateError():
                    answer.fail(error)
                case _:
                    answer.fail(InternalError("a fault in the answer's text"))


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
