"""Pins when a request's body is too large, and how much of it is read all the same."""

from __future__ import annotations

import pytest

from transport.limits import BodyLimit, Verdict

LIMIT = BodyLimit(max_bytes=100, timeout_s=1.0)


@pytest.mark.parametrize(
    ("received", "declared", "verdict"),
    [
        (0, None, Verdict.GO_ON),
        (100, None, Verdict.GO_ON),
        (100, 100, Verdict.GO_ON),
        (0, 101, Verdict.DISCARD),
        (101, None, Verdict.DISCARD),
        (800, 10**9, Verdict.DISCARD),
        (801, None, Verdict.STOP),
    ],
)
def test_a_body_is_kept_discarded_or_cut_off(received, declared, verdict):
    assert LIMIT.judge(received_bytes=received, declared_bytes=declared) is verdict


@pytest.mark.parametrize(("field", "value"), [("max_bytes", 0), ("timeout_s", 0.0)])
def test_a_limit_that_lets_nothing_in_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        BodyLimit(**{"max_bytes": 1, "timeout_s": 1.0, field: value})
