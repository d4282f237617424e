"""A call that is answered once, when all of it is computed: its client, its deadline or DELETE may end it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from wicketgate.api.exchange import ClientGoneError
from wicketgate.api.serving import DEADLINE_SLACK_S
from wicketgate.errors import DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from wicketgate.api.backend import Backend
    from wicketgate.api.exchange import Exchange, Headers

T = TypeVar("T")


class JobCall:
    """One call. Made and run by the task that answers it."""

    def __init__(self, exchange: Exchange, backend: Backend) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._exchange, self._backend = exchange, backend
        self._stopped_by: Exception | None = None
        self._is_over = False

    async def run(self, work: Callable[[], Awaitable[object]], *, headers: Headers = ()) -> None:
        """
        Do the work and answer with what it gives.

        Raises:
            ClientGoneError: the client went away.
            WicketgateError: the work failed, took too long, or was ended from outside.
        """
        answer = await self.result(work)
        await self._exchange.answer(answer, headers=headers)

    async def result(self, work: Callable[[], Awaitable[T]]) -> T:
        """
        Do the work and return what it gives; the answer is made of it later.

        Raises:
            ClientGoneError: the client went away.
            WicketgateError: the work failed, took too long, or was ended from outside.
        """
        exchange, live = self._exchange, self._backend.generation.live
        limit_s = self._backend.edge.settings().request_timeout_s
        try:
            async with asyncio.timeout(limit_s + DEADLINE_SLACK_S):
                with (
                    exchange.watched(self._gone),
                    live.entered(exchange.request_id, self, client=exchange.client),
                ):
                    return await work()
        except TimeoutError:
            raise DeadlineExceededError(
                f"the request took longer than {limit_s:g} s (server.request_timeout_s)"
            ) from None
        except asyncio.CancelledError:
            if self._stopped_by is None or self._task.uncancel() > 0:
                raise
            raise self._stopped_by from None
        finally:
            self._is_over = True

    def stop(self, error: Exception) -> bool:
        """End the call with an error; false when it has ended."""
        if self._is_over or self._stopped_by is not None:
            return False
        self._stopped_by = error
        self._task.cancel()
        return True

    def _gone(self) -> None:
        self.stop(ClientGoneError())
