"""Every error that leaves wicketgate: one tree, each class with its HTTP status, API code and exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


class ExitCode(IntEnum):
    """What a command's exit code means; one table for all commands."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    REVISION_CONFLICT = 3
    REFUSED = 4
    UNREACHABLE = 5
    NOT_DURABLE = 6
    TIMED_OUT = 7
    CHECK_FAILED = 8
    INCONCLUSIVE = 9
    INVALID_MEASUREMENT = 10
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class WicketgateError(Exception):
    """
    Something that a user of wicketgate should hear about, in words.

    Args:
        message: What is, what it must be, what to do; no blame, no prompt text.
        param: The request's field (OpenAI's `param`) or the configuration key, where one is to blame.
        code: Overrides the class's API code.
        retry_after_s: When it makes sense to try again; None sends no Retry-After.
        fix: What to do about it, for a line of its own on a terminal.
    """

    status = 500
    api_type = "server_error"
    code = "internal_error"
    exit_code = ExitCode.INTERNAL
    should_retry: bool | None = None
    """What the header x-should-retry tells SDKs, which try every 5xx again otherwise; None sends none."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.fix = fix
        if code is not None:
            self.code = code


class InvalidRequestError(WicketgateError):
    """The request can never succeed as it stands: the field, the value and the bound are named."""

    status = 400
    api_type = "invalid_request_error"
    code = "invalid_value"
    exit_code = ExitCode.USAGE


class NotFoundError(InvalidRequestError):
    """No such route, model or object."""

    status = 404
    code = "unknown_url"


class MethodNotAllowedError(InvalidRequestError):
    """
    The route exists, with another method.

    Args:
        message: What was asked.
        allowed: Methods that it takes, for the header Allow.
    """

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)


class PayloadTooLargeError(InvalidRequestError):
    """The body is over `server.max_body_bytes`."""

    status = 413
    code = "request_too_large"


class UnsupportedEncodingError(InvalidRequestError):
    """The body is compressed in a way that is not understood."""

    status = 415
    code = "unsupported_content_encoding"


class AuthenticationError(WicketgateError):
    """No API key, or none that we know."""

    status = 401
    api_type = "invalid_request_error"
    code = "invalid_api_key"


class ForbiddenError(WicketgateError):
    """The key is known, and may not do this; or the request came from a foreign page."""

    status = 403
    api_type = "invalid_request_error"
    code = "insufficient_permissions"


class MisdirectedError(WicketgateError):
    """The Host header names no name of this listener (a defence against DNS rebinding)."""

    status = 421
    api_type = "invalid_request_error"
    code = "misdirected_request"


class BodyTimeoutError(WicketgateError):
    """The client did not send its body in time."""

    status = 408
    api_type = "timeout_error"
    code = "request_timeout"


class CancelledRequestError(WicketgateError):
    """Somebody who may has ended the request before its end; SDKs do not try it again."""

    status = 499
    api_type = "invalid_request_error"
    code = "cancelled"


class OverloadedError(WicketgateError):
    """Admission refused the request: the queue is full or the wait would be too long."""

    status = 429
    code = "overloaded"


class RateLimitedError(WicketgateError):
    """
    The caller's own limit refused the request.

    Args:
        message: Which limit, and when there is room again.
        kind: What ran out.
        retry_after_s: When there is room again.
    """

    status = 429
    code = "rate_limit_exceeded"
    exit_code = ExitCode.REFUSED

    def __init__(self, message: str, *, kind: Literal["requests", "tokens"], retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.api_type = kind


class UnavailableError(WicketgateError):
    """Nothing can be served right now: starting, draining, or the engine is down."""

    status = 503
    code = "starting"
    exit_code = ExitCode.UNREACHABLE


class InternalError(WicketgateError):
    """A fault of ours; the same request would meet it again."""

    should_retry = False


class EngineFailedError(WicketgateError):
    """The engine could not finish this request."""

    code = "engine_failed"


class ConvictedRequestError(EngineFailedError):
    """Engine hosts died over this very request, and the next one would too."""

    should_retry = False


class DeadlineExceededError(WicketgateError):
    """The request ran longer than `server.request_timeout_s`."""

    status = 504
    api_type = "timeout_error"
    code = "deadline_exceeded"
    exit_code = ExitCode.TIMED_OUT
    should_retry = False  # it would take as long again


class ConfigurationError(WicketgateError):
    """A file or an option cannot be used; the message names file, line, column, key, value, bound and fix."""

    status = 400
    code = "invalid_configuration"
    exit_code = ExitCode.USAGE


class UsageError(WicketgateError):
    """A command was called with what it cannot use."""

    status = 400
    code = "usage"
    exit_code = ExitCode.USAGE


class RevisionConflictError(WicketgateError):
    """Somebody changed the feature meanwhile; nothing was done."""

    status = 412
    code = "revision_conflict"
    exit_code = ExitCode.REVISION_CONFLICT


class RefusedError(WicketgateError):
    """The change is not allowed in this state; nothing was done."""

    status = 422
    code = "refused"
    exit_code = ExitCode.REFUSED


class UnreachableError(WicketgateError):
    """No running runtime answers."""

    status = 503
    code = "no_runtime"
    exit_code = ExitCode.UNREACHABLE


class NotDurableError(WicketgateError):
    """The change is in force but could not be saved."""

    code = "not_durable"
    exit_code = ExitCode.NOT_DURABLE


class LedgerError(WicketgateError):
    """The ledger cannot be read or written: which file, why, and what to do."""

    code = "ledger_unusable"


class TimedOutError(WicketgateError):
    """The change was made, and the runtime did not confirm it in time."""

    status = 504
    code = "timed_out"
    exit_code = ExitCode.TIMED_OUT
