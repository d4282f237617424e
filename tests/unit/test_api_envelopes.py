"""Pins how every error looks in each API: status, type, body, headers, and the event that ends a stream."""

from __future__ import annotations

import json

import pytest

from wicketgate import errors
from wicketgate.api.envelopes import Family, envelope, error_event, error_headers, status_of

RATE = errors.RateLimitedError("too many", kind="tokens", retry_after_s=2.0)


def all_classes(root: type = errors.WicketgateError) -> list[type]:
    return [root, *(found for each in root.__subclasses__() for found in all_classes(each))]


@pytest.mark.parametrize("cls", all_classes(), ids=lambda cls: cls.__name__)
def test_no_error_has_a_status_that_sdks_try_again_without_need(cls):
    assert cls.status not in {409, 501}


def test_openais_envelope_always_has_its_four_keys():
    assert envelope(errors.InternalError("x")) == {
        "error": {"message": "x", "type": "server_error", "param": None, "code": "internal_error"}
    }


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (errors.InvalidRequestError("x"), 400, "invalid_request_error", "invalid_value"),
        (errors.NotFoundError("x"), 404, "invalid_request_error", "unknown_url"),
        (
            errors.MethodNotAllowedError("x", allowed=()),
            405,
            "invalid_request_error",
            "method_not_allowed",
        ),
        (errors.PayloadTooLargeError("x"), 413, "invalid_request_error", "request_too_large"),
        (
            errors.UnsupportedEncodingError("x"),
            415,
            "invalid_request_error",
            "unsupported_content_encoding",
        ),
        (errors.AuthenticationError("x"), 401, "invalid_request_error", "invalid_api_key"),
        (errors.ForbiddenError("x"), 403, "invalid_request_error", "insufficient_permissions"),
        (errors.BodyTimeoutError("x"), 408, "timeout_error", "request_timeout"),
        (RATE, 429, "tokens", "rate_limit_exceeded"),
        (errors.OverloadedError("x"), 429, "server_error", "overloaded"),
        (errors.InternalError("x"), 500, "server_error", "internal_error"),
        (errors.EngineFailedError("x"), 500, "server_error", "engine_failed"),
        (errors.ConvictedRequestError("x"), 500, "server_error", "engine_failed"),
        (errors.UnavailableError("x", code="draining"), 503, "server_error", "draining"),
        (errors.DeadlineExceededError("x"), 504, "timeout_error", "deadline_exceeded"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_openais_statuses_types_and_codes(error, status, kind, code):
    body = envelope(error)["error"]

    assert (status_of(error, Family.OPENAI), body["type"], body["code"]) == (status, kind, code)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidRequestError("x"), 400, "invalid_request_error"),
        (errors.AuthenticationError("x"), 401, "authentication_error"),
        (errors.ForbiddenError("x"), 403, "permission_error"),
        (errors.NotFoundError("x"), 404, "not_found_error"),
        (errors.MethodNotAllowedError("x", allowed=()), 405, "invalid_request_error"),
        (errors.BodyTimeoutError("x"), 408, "timeout_error"),
        (errors.PayloadTooLargeError("x"), 413, "request_too_large"),
        (errors.UnsupportedEncodingError("x"), 415, "invalid_request_error"),
        (RATE, 429, "rate_limit_error"),
        (errors.OverloadedError("x"), 529, "overloaded_error"),
        (errors.InternalError("x"), 500, "api_error"),
        (errors.UnavailableError("x"), 529, "overloaded_error"),
        (errors.DeadlineExceededError("x"), 504, "timeout_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_anthropics_statuses_and_types(error, status, kind):
    assert status_of(error, Family.ANTHROPIC) == status
    assert envelope(error, Family.ANTHROPIC, request_id="req_1") == {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": "req_1",
    }


def test_an_error_in_a_stream_of_openais_is_an_event_without_a_name():
    event = error_event(errors.EngineFailedError("x"))

    assert event.startswith(b"data: {")
    assert event.endswith(b"\n\n")
    assert set(json.loads(event.removeprefix(b"data: "))["error"]) == {"message", "type", "param", "code"}


def test_an_error_in_a_stream_of_anthropics_is_an_event_named_error():
    event = error_event(errors.OverloadedError("x"), Family.ANTHROPIC, request_id="req_1")

    name, data = event.rstrip().split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    ("wait_s", "request_id", "seconds", "milliseconds"),
    [
        (0.0, "", b"1", b"1"),
        (0.2, "req_0000", b"1", b"200"),
        (1.0, "req_0000", b"1", b"1000"),
        (1.0, "req_ffff", b"2", b"1250"),
        (1.0, "req_8000", b"2", b"1125"),
        (1.0, "not hexadecimal", b"1", b"1000"),
        (55.0, "req_8000", b"57", b"57000"),
        (59.0, "req_0000", b"48", b"47200"),
        (400.0, "req_0000", b"48", b"47200"),
        (400.0, "req_8000", b"54", b"53100"),
        (400.0, "req_ffff", b"59", b"59000"),
    ],
)
def test_a_wait_is_told_as_every_sdk_takes_it_and_not_the_same_to_all(
    wait_s, request_id, seconds, milliseconds
):
    error = errors.OverloadedError("x", retry_after_s=wait_s)

    assert error_headers(error, request_id=request_id) == (
        (b"retry-after", seconds),
        (b"retry-after-ms", milliseconds),
    )


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (errors.InvalidRequestError("x"), ()),
        (errors.AuthenticationError("x"), ((b"www-authenticate", b"Bearer"),)),
        (errors.ForbiddenError("x"), ((b"www-authenticate", b'Bearer error="insufficient_scope"'),)),
        (errors.ForbiddenError("x", code="foreign_origin"), ()),
        (errors.MethodNotAllowedError("x", allowed=("GET", "HEAD")), ((b"allow", b"GET, HEAD"),)),
        (errors.InternalError("x"), ((b"x-should-retry", b"false"),)),
        (errors.ConvictedRequestError("x"), ((b"x-should-retry", b"false"),)),
        (errors.DeadlineExceededError("x"), ((b"x-should-retry", b"false"),)),
        (errors.EngineFailedError("x"), ()),
        (errors.UnavailableError("x"), ()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_an_error_tells_besides_its_body(error, headers):
    assert error_headers(error) == headers
