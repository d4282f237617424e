"""Pins how a promotion is refused: what is missing, when it may be there, and what goes past it."""

from __future__ import annotations

import pytest

from tests.rollout_rows import row_with
from wicketgate.cli.verdicts import check
from wicketgate.errors import ExitCode, RefusedError

NEEDED = (
    "611 canary requests, 0 failed; 1 076 are needed to exclude a failure rate of 0.5 % or more (risk 1 %)"
)


def refusal(*, is_watched: bool = True, **row: object) -> RefusedError:
    """Ask for a promotion that is refused."""
    with pytest.raises(RefusedError) as caught:
        check(row_with(**row), is_watched=is_watched)  # type: ignore[arg-type]
    return caught.value


def test_a_verdict_that_passes_lets_go_on():
    check(row_with(kind="pass"), is_watched=True)


def test_what_is_missing_is_told_with_the_rate_and_the_time_it_takes():
    error = refusal(reasons=(NEEDED,), needs_requests=465, eta_s=18 * 3600.0)

    assert error.message == (
        f"http2_transport stays at canary, for want of evidence: {NEEDED}. "
        "At 26 requests/h that is about 18 h. Nothing was done."
    )
    assert error.fix == ('Promote anyway: wicketgate rollout promote http2_transport --force --reason "..."')
    assert error.exit_code == ExitCode.REFUSED


def test_time_alone_is_told_without_a_rate():
    error = refusal(reasons=("5 h of 24 h are held",), eta_s=19 * 3600.0)

    assert error.message.endswith("5 h of 24 h are held. That is about 19 h. Nothing was done.")


def test_what_no_time_can_be_told_of_is_told_without_one():
    error = refusal(reasons=("no canary request has ended for 10 min or longer",))

    assert error.message.endswith("for 10 min or longer. Nothing was done.")


def test_evidence_that_speaks_against_it_is_told_as_such():
    error = refusal(kind="fail", reasons=("3 of 9 canary requests failed, 33 %; the limit is 0.1 %",))

    assert error.message.startswith("http2_transport stays at canary, the evidence is against it: 3 of 9")


def test_several_reasons_have_a_line_each():
    error = refusal(reasons=("5 h of 24 h are held", NEEDED), needs_requests=465, eta_s=18 * 3600.0)

    assert error.message.splitlines() == [
        "http2_transport stays at canary, for want of evidence:",
        "  5 h of 24 h are held",
        f"  {NEEDED}",
        "At 26 requests/h that is about 18 h. Nothing was done.",
    ]


def test_without_a_gateway_nothing_more_is_gathered():
    error = refusal(is_watched=False, reasons=(NEEDED,), needs_requests=465, eta_s=18 * 3600.0)

    assert "No gateway is running, so nothing more is gathered. Nothing was done." in error.message


def test_without_any_evidence_nothing_is_promoted():
    assert refusal(verdict=None).message == (
        "http2_transport stays at canary: no evidence was gathered there yet. Nothing was done."
    )
