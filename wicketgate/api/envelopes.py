"""
Our errors as each API writes them (pure): one table of status, type and envelope.

OpenAI's clients lose an error that lacks one of the four keys; Anthropic's read the type of the body and, in
a stream, of the event.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from transport import sse
from wicketgate.errors import InvalidRequestError, MethodNotAllowedError

if TYPE_CHECKING:
    from wicketgate.errors import WicketgateError


class Family(StrEnum):
    """Whose envelope an answer has."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Other statuses below 500 are invalid requests, and above it api_error."""
_INDEX: Final = re.compile(r"\[(\d+)\]")
OVERLOADED_STATUS: Final = 529
"""What Anthropic answers when it sheds, or cannot serve for a while; its SDKs try again."""
MAX_RETRY_AFTER_S: Final = 59
"""The SDKs take no wait above 60 s, the AI SDK none of 60 s: they wait as long as they please instead."""
JITTER_RATIO: Final = 0.25
"""Waits are told up to this much longer: SDKs add nothing of their own, and would come back together."""


def status_of(error: WicketgateError, family: Family) -> int:
    """Return the HTTP status of an error."""
    if family is Family.ANTHROPIC and (error.status == 503 or error.code == "overloaded"):
        return OVERLOADED_STATUS
    return error.status


def envelope(
    error: WicketgateError, family: Family = Family.OPENAI, *, request_id: str = ""
) -> dict[str, object]:
    """Return an error's body."""
    if family is Family.OPENAI:
        return {
            "error": {
                "message": error.message,
                "type": error.api_type,
                "param": error.param,
                "code": error.code,
            }
        }
    status = status_of(error, family)
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": _pathed(error)}, "request_id": request_id}


def _pathed(error: WicketgateError) -> str:
    """Say where an error is as Anthropic does (`messages.0.content: ...`): its envelope has no key for it."""
    if error.param is None or not isinstance(error, InvalidRequestError):
        return error.message
    path = _INDEX.sub(r".\1", error.param)
    return f"{path}: {error.message.removeprefix(error.param).lstrip(': ')}"


def error_headers(error: WicketgateError, *, request_id: str = "") -> tuple[tuple[bytes, bytes], ...]:
    """
    Return what an error's answer says besides its body.

    Args:
        error: The error.
        request_id: Its last digits are random, and spread the waits that clients are told.
    """
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_s is not None:
        wait_ms = _wait_ms(error.retry_after_s, _fraction(request_id))
        headers.append((b"retry-after", b"%d" % math.ceil(wait_ms / 1000)))
        headers.append((b"retry-after-ms", b"%d" % wait_ms))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 403 and error.code == "insufficient_permissions":
        headers.append((b"www-authenticate", b'Bearer error="insufficient_scope"'))
    if isinstance(error, MethodNotAllowedError):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return tuple(headers)


def _wait_ms(wait_s: float, fraction: float) -> int:
    """Return what a client is told to wait; more than SDKs take is spread below that."""
    least_s = wait_s if wait_s < MAX_RETRY_AFTER_S else MAX_RETRY_AFTER_S / (1 + JITTER_RATIO)
    spread_s = min(JITTER_RATIO * least_s, MAX_RETRY_AFTER_S - least_s)
    return max(round((least_s + spread_s * fraction) * 1000), 1)


def _fraction(request_id: str) -> float:
    """Return a number from 0 to below 1, the same for the same id."""
    digits = request_id[-4:]
    try:
        return int(digits, 16) / 0x10000
    except ValueError:
        return 0.0


def error_event(error: WicketgateError, family: Family = Family.OPENAI, *, request_id: str = "") -> bytes:
    """Write the event that ends a stream which failed; no [DONE] follows."""
    name = "error" if family is Family.ANTHROPIC else None
    return sse.event(envelope(error, family, request_id=request_id), name=name)
