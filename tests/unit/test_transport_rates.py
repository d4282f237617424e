"""Pins what a client may use: requests and tokens a minute, requests at once, on all its accounts or none."""

from __future__ import annotations

import pytest

from transport.rates import Account, Accounts, Meter, Quota, Refused, Standing


def enter(*accounts: Account, at_s: float = 0.0) -> Refused | None:
    return Meter(accounts).enter(now_s=at_s)


def admitted(*accounts: Account, at_s: float = 0.0) -> Meter:
    meter = Meter(accounts)
    assert meter.enter(now_s=at_s) is None
    return meter


def test_an_idle_client_may_make_a_minutes_requests_at_once_and_then_one_for_each_that_time_gives_back():
    account = Account(Quota(requests_per_minute=6))
    for _ in range(6):
        assert enter(account) is None

    assert enter(account) == Refused(kind="requests", account=0, limit=6, retry_after_s=10.0)
    assert enter(account, at_s=10.0) is None
    assert enter(account, at_s=10.0) is not None


def test_a_client_that_was_away_for_long_gets_no_more_than_a_minutes_requests():
    account = Account(Quota(requests_per_minute=2))
    enter(account)

    assert [enter(account, at_s=1e6) is None for _ in range(3)] == [True, True, False]


def test_a_refused_request_costs_nothing():
    account = Account(Quota(requests_per_minute=1))
    enter(account)
    for _ in range(50):
        enter(account, at_s=30.0)

    assert enter(account, at_s=60.0) is None


def test_a_request_that_one_account_refuses_costs_nothing_on_the_other():
    key, address = Account(Quota(requests_per_minute=9)), Account(Quota(requests_per_minute=1))
    enter(key, address)
    refused = enter(key, address)

    assert refused == Refused(kind="requests", account=1, limit=1, retry_after_s=60.0)
    assert Meter([key]).requests(now_s=0.0) == Standing(limit=9, remaining=8, reset_s=pytest.approx(60 / 9))


def test_the_refusal_that_lasts_longest_is_told():
    first, second = Account(Quota(requests_per_minute=1)), Account(Quota(requests_per_minute=2))
    enter(first, second)
    enter(second)

    assert enter(first, second, at_s=31.0) == Refused(
        kind="requests", account=0, limit=1, retry_after_s=pytest.approx(29.0)
    )
    assert enter(second, first) == Refused(kind="requests", account=1, limit=1, retry_after_s=60.0)


def test_requests_at_once_are_counted_until_they_leave():
    account = Account(Quota(streams=1))
    first = admitted(account)

    assert enter(account) == Refused(kind="streams", account=0, limit=1, retry_after_s=1.0)
    first.leave()
    first.leave()
    assert account.streams == 0
    assert enter(account) is None


def test_a_request_that_never_entered_gives_no_place_back():
    account = Account(Quota(streams=1))
    admitted(account)
    Meter([account]).leave()

    assert account.streams == 1


def test_what_was_charged_and_not_used_comes_back_at_the_end():
    account = Account(Quota(tokens_per_minute=100))
    meter = admitted(account)
    meter.charge(90, now_s=0.0)
    assert Meter([account]).tokens(now_s=0.0).remaining == 10
    meter.spend(20)
    meter.spend(5)
    meter.leave()

    assert Meter([account]).tokens(now_s=0.0).remaining == 75


def test_what_was_used_beyond_the_charge_is_owed():
    account = Account(Quota(tokens_per_minute=100))
    meter = admitted(account)
    meter.charge(10, now_s=0.0)
    meter.spend(160)
    meter.leave()

    refused = admitted(account).charge(1, now_s=0.0)
    assert refused is not None
    assert refused.retry_after_s == pytest.approx(36.6)


def test_a_charge_that_nobody_corrects_stays():
    account = Account(Quota(tokens_per_minute=100))
    meter = admitted(account)
    meter.charge(60, now_s=0.0)
    meter.leave()

    assert Meter([account]).tokens(now_s=0.0).remaining == 40


def test_a_charge_over_a_minutes_worth_waits_for_a_full_bucket():
    account = Account(Quota(tokens_per_minute=100))
    admitted(account).charge(30, now_s=0.0)

    assert admitted(account).charge(5000, now_s=0.0) == Refused(
        kind="tokens", account=0, limit=100, retry_after_s=pytest.approx(18.0)
    )
    assert admitted(account).charge(5000, now_s=18.0) is None


def test_a_refused_charge_takes_the_request_back():
    account = Account(Quota(requests_per_minute=10, tokens_per_minute=10, streams=1))
    meter = admitted(account)
    meter.charge(10, now_s=0.0)
    meter.leave()
    late = admitted(account)

    assert late.charge(10, now_s=0.0) is not None
    assert account.streams == 0
    assert Meter([account]).requests(now_s=0.0).remaining == 9


def test_a_charge_counts_on_the_account_that_limits_tokens_and_on_no_other():
    free, bound = Account(Quota(streams=3)), Account(Quota(tokens_per_minute=10))
    admitted(free, bound).charge(4, now_s=0.0)

    assert Meter([free, bound]).tokens(now_s=0.0).remaining == 6
    assert Meter([free]).tokens(now_s=0.0) is None


def test_the_tightest_of_two_standings_is_told():
    key, address = Account(Quota(requests_per_minute=100)), Account(Quota(requests_per_minute=5))
    meter = admitted(key, address)

    assert meter.requests(now_s=0.0) == Standing(limit=5, remaining=4, reset_s=pytest.approx(12.0))


def test_a_quota_that_lets_nothing_in_is_refused():
    with pytest.raises(ValueError, match="streams must be at least 1, got 0"):
        Quota(streams=0)


@pytest.mark.parametrize(
    ("quota", "is_open"),
    [
        (Quota(), True),
        (Quota(requests_per_minute=1), False),
        (Quota(tokens_per_minute=1), False),
        (Quota(streams=1), False),
    ],
)
def test_a_quota_without_limits_is_open(quota, is_open):
    assert quota.is_open is is_open


def test_no_more_accounts_are_kept_than_allowed_and_the_one_unheard_of_longest_goes():
    accounts, quota = Accounts(max_accounts=2), Quota(requests_per_minute=1)
    first = accounts.find("a", quota)
    accounts.find("b", quota)
    assert accounts.find("a", quota) is first
    accounts.find("c", quota)

    assert len(accounts) == 2
    assert accounts.find("a", quota) is first


def test_a_table_without_room_is_refused():
    with pytest.raises(ValueError, match="max_accounts must be at least 1, got 0"):
        Accounts(max_accounts=0)


def test_another_quota_holds_at_once_and_what_was_used_stays_used():
    accounts = Accounts(max_accounts=2)
    for _ in range(10):
        enter(accounts.find("a", Quota(requests_per_minute=10)))

    raised = accounts.find("a", Quota(requests_per_minute=600, tokens_per_minute=5))
    assert enter(raised) is not None
    assert enter(raised, at_s=0.1) is None
    assert Meter([raised]).tokens(now_s=0.0).remaining == 5
    assert enter(accounts.find("a", Quota())) is None
