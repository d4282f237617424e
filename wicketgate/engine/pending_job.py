"""A job as the gateway sees it: asked once, answered once, however many hosts die between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wicketgate.engine.stream import failure
from wicketgate.engine.wire import Assess
from wicketgate.errors import EngineFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.engine.wire import Done, JobMessage, Part
    from wicketgate.errors import WicketgateError


class PendingJob:
    """`result` and `cancel` are for the consumer, of which there is one; the rest is the client's."""

    def __init__(self, message: JobMessage, *, on_cancel: Callable[[int], None]) -> None:
        self._message = message
        self._on_cancel = on_cancel
        self._parts: list[Part] = []
        self._answer: asyncio.Future[list[Part]] = asyncio.get_running_loop().create_future()

    @property
    def id(self) -> int:
        """The engine's number of it."""
        return self._message.id

    async def result(self) -> list[Part]:
        """
        Wait for the answer, in parts; a consumer that is cancelled here gives the job up.

        Raises:
            WicketgateError: refused, failed, or the engine is gone.
        """
        try:
            return await self._answer
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give it up; does nothing after the end."""
        self._answer.cancel()
        if self._answer.cancelled():
            self._on_cancel(self.id)

    def take(self, part: Part) -> None:
        """Note a part of the answer."""
        self._parts.append(part)

    def fail(self, error: WicketgateError) -> None:
        """Note an end without an answer."""
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # a job that nobody waits for is not worth a warning

    def finish_as(self, done: Done) -> None:
        """Note the end that the host reported."""
        # One token that nothing comes before has nothing to be assessed.
        is_answered = self._parts or isinstance(self._message, Assess)
        if done.reason != "stop" or not is_answered:
            self.fail(failure(done) or EngineFailedError(f"the engine ended the job: {done.reason}"))
        elif not self._answer.done():
            self._answer.set_result(self._parts)

    def submission(self) -> JobMessage:
        """Return the message that asks for it; what an earlier host has answered counts no more."""
        self._parts = []
        return self._message
