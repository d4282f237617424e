"""A Score as the gateway sees it: asked once, answered once, however many hosts die between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wicketgate.engine.stream import failure
from wicketgate.errors import EngineFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.engine.wire import Done, Score, Scored
    from wicketgate.errors import WicketgateError


class PendingScore:
    """`result` and `cancel` are for the consumer, of which there is one; the rest is the client's."""

    def __init__(self, message: Score, *, on_cancel: Callable[[int], None]) -> None:
        self._message = message
        self._on_cancel = on_cancel
        self._answer: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()

    @property
    def id(self) -> int:
        """The engine's number of it."""
        return self._message.id

    async def result(self) -> Scored:
        """
        Wait for the answer; a consumer that is cancelled here gives the score up.

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

    def answer(self, scored: Scored) -> None:
        """Note the answer."""
        if not self._answer.done():
            self._answer.set_result(scored)

    def fail(self, error: WicketgateError) -> None:
        """Note an end without an answer."""
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # a score that nobody waits for is not worth a warning

    def finish_as(self, done: Done) -> None:
        """Note the end that the host reported; after an answer it says nothing new."""
        self.fail(failure(done) or EngineFailedError(f"the engine ended the score: {done.reason}"))

    def submission(self) -> Score:
        """Return the message that asks for it."""
        return self._message
