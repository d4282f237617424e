"""The calls being served, by the request id that their answers name."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wicketgate.errors import WicketgateError


class Stoppable(Protocol):
    """A call being served."""

    def stop(self, error: Exception) -> bool:
        """End it with an error; false when it had ended."""


@dataclass(frozen=True, slots=True)
class _Entry:
    call: Stoppable
    client: str | None


class LiveRequests:
    """Ends calls from outside; each can be ended by the API key only that made it."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        """Count the calls being served."""
        return len(self._entries)

    @contextlib.contextmanager
    def entered(self, request_id: str, call: Stoppable, *, client: str | None) -> Iterator[None]:
        """Have it found while it is served."""
        self._entries[request_id] = _Entry(call, client)
        try:
            yield
        finally:
            del self._entries[request_id]

    def stop(self, request_id: str, error: WicketgateError, *, client: str | None) -> bool:
        """
        End a call.

        Args:
            request_id: Ours, as its answer's header has it.
            error: What its client is told.
            client: Id of the API key that asks for it.

        Returns:
            False where there is none of that id and key, or where it has ended.
        """
        entry = self._entries.get(request_id)
        return entry is not None and entry.client == client and entry.call.stop(error)

    def stop_all(self, error: WicketgateError) -> int:
        """End all calls, those that wait for a ticket too; return how many."""
        return sum(entry.call.stop(error) for entry in list(self._entries.values()))
