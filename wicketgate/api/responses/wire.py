"""
The answer to /v1/responses, whole or as events (pure).

Clients add up what events say and look for it in the last one too: every item opens, grows and closes in
order, numbers count from 0 without a gap, and the response at the end has all of the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transport import sse
from wicketgate.api.responses.items import Output
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import FinishReason
from wicketgate.pipeline.pieces import CallOpened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wicketgate.api.order import Answer, Choice
    from wicketgate.api.responses.items import Event
    from wicketgate.errors import WicketgateError
    from wicketgate.inference import Finished
    from wicketgate.pipeline.pieces import Piece


class ResponseForm:
    """
    Writes one response.

    Args:
        about: The response's fields that do not change, `id` "resp_" and a suffix of its own among them.
        token_bytes: Bytes of one token by itself.
        unix_clock: Wall time, for `completed_at`.
        on_end: Told the response when it ended well.
    """

    def __init__(
        self,
        about: Mapping[str, object],
        *,
        token_bytes: Callable[[int], bytes],
        unix_clock: Callable[[], float],
        on_end: Callable[[Mapping[str, object]], None],
    ) -> None:
        self._about = about
        self._output = Output(str(about["id"]).removeprefix("resp_"), token_bytes)
        self._unix_clock = unix_clock
        self._on_end = on_end
        self._number = 0
        self._ended: dict[str, object] = {}

    def opening(self, answers: Sequence[Answer]) -> bytes:  # noqa: ARG002  (nothing is known of it yet)
        """Write the events that a stream begins with."""
        response = self._response("in_progress")
        return self._write([("created", {"response": response}), ("in_progress", {"response": response})])

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:  # noqa: ARG002  (there is one)
        """Write the events of pieces that came together."""
        data: list[bytes] = []
        for piece in pieces:
            item, events = self._output.item(piece)
            if events:
                data.append(self._write(events))
            if not isinstance(piece, CallOpened):
                item.add(piece)
                data.append(item.delta(piece, self._next()))
        return b"".join(data)

    def finished(self, choice: int, finished: Finished) -> bytes:  # noqa: ARG002  (there is one)
        """Write the end of the last item."""
        return self._write(self._end(finished))

    def closing(self) -> bytes:
        """Write the response as it is in the end."""
        self._on_end(self._ended)
        return self._write([(str(self._ended["status"]), {"response": self._ended})])

    def failure(self, error: WicketgateError) -> bytes:
        """Write the end of a stream that failed."""
        if not self._number:
            about = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
            return sse.event({**about, "sequence_number": self._next()}, name="error")
        response = self._response("failed", error=failure(error), output=self._output.values())
        return self._write([("failed", {"response": response})])

    def whole(self, choices: Sequence[Choice]) -> Mapping[str, object]:
        """Return the answer to a call that does not stream."""
        (choice,) = choices
        for piece in choice.pieces:
            item, _ = self._output.item(piece)
            if not isinstance(piece, CallOpened):
                item.add(piece)
        self._end(choice.finished)
        self._on_end(self._ended)
        return self._ended

    def _end(self, finished: Finished) -> list[Event]:
        is_cut = finished.reason is FinishReason.LENGTH
        status = "incomplete" if is_cut else "completed"
        events = self._output.end(status)
        details = {"reason": "max_output_tokens"} if is_cut else None
        self._ended = self._response(
            status,
            completed_at=None if is_cut else int(self._unix_clock()),
            incomplete_details=details,
            output=self._output.values(),
            usage=usage(finished),
        )
        return events

    def _response(self, status: str, **changed: object) -> dict[str, object]:
        fresh: dict[str, object] = {
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "output": [],
        }
        return {**self._about, "status": status, **fresh, **changed}

    def _write(self, events: Sequence[Event]) -> bytes:
        return b"".join(self._event(name, fields) for name, fields in events)

    def _event(self, name: str, fields: Mapping[str, object]) -> bytes:
        kind = f"response.{name}"
        return sse.event({"type": kind, "sequence_number": self._next(), **fields}, name=kind)

    def _next(self) -> int:
        number, self._number = self._number, self._number + 1
        return number


def failure(error: WicketgateError) -> dict[str, str]:
    """Write why a response failed; its codes are a closed set."""
    code = "invalid_prompt" if isinstance(error, InvalidRequestError) else "server_error"
    return {"code": "rate_limit_exceeded" if error.status == 429 else code, "message": error.message}


def usage(finished: Finished) -> dict[str, object]:
    """Write what a request cost; what is cached is written for nothing."""
    return {
        "input_tokens": finished.prompt_tokens,
        "input_tokens_details": {"cached_tokens": finished.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": finished.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": finished.reasoning_tokens},
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
    }
