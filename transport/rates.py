"""
How much one client may ask for (pure): requests and tokens a minute, and requests at once.

Theory of operation. A bucket is one number: when it will be full again. Taking n units moves that moment
n / rate later, and is refused where it would come to lie more than a minute ahead; so a client that was idle
may take a minute's worth at once, and any in t seconds no more than rate * t and that minute's worth. A
request counts on several accounts (its key, its address): on all of them, or, where one refuses, on none.

Source:
    The generic cell rate algorithm, ITU-T I.371, annex A (virtual scheduling).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

BURST_S: Final = 60.0
"""An idle client may take what comes together in so many seconds at once."""
ROUNDING_S: Final = 1e-9
"""Of sums of seconds; no reason to refuse anybody."""
STREAMS_RETRY_S: Final = 1.0
"""Nobody knows when a client's own request will end."""

Kind = Literal["requests", "tokens", "streams"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one account may use; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    streams: int | None = None
    """Requests at once."""

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "streams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def is_open(self) -> bool:
        """Whether it limits nothing."""
        return self.requests_per_minute is self.tokens_per_minute is self.streams is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a request may not go on."""

    kind: Kind
    account: int
    """Whose limit it is, by position."""
    limit: int
    """A minute, or at once."""
    retry_after_s: float
    """When there is room, as far as anybody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a bucket stands."""

    limit: int
    """A minute."""
    remaining: int
    """What could be taken now."""
    reset_s: float
    """Until it is full."""


class _Bucket:
    __slots__ = ("_full_s", "_unit_s", "limit")

    def __init__(self, limit: int) -> None:
        self._full_s = 0.0
        self.move(limit)

    def move(self, limit: int) -> None:
        self.limit = limit
        self._unit_s = BURST_S / limit

    def wait_s(self, units: int, now_s: float) -> float:
        """Return how long until so many units are there, of which a minute has as many; 0 where they are."""
        wait_s = self._full_s - now_s + units * self._unit_s - BURST_S
        return wait_s if wait_s > ROUNDING_S else 0.0

    def take(self, units: int, now_s: float) -> None:
        full_s = self._full_s
        self._full_s = (full_s if full_s > now_s else now_s) + units * self._unit_s

    def give_back(self, units: int) -> None:
        self._full_s -= units * self._unit_s

    def standing(self, now_s: float) -> Standing:
        reset_s = max(self._full_s - now_s, 0.0)
        # A millionth above, so that a float just under a whole number is that number.
        remaining = int(self.limit * (1 - reset_s / BURST_S) + 1e-6)
        return Standing(limit=self.limit, remaining=max(remaining, 0), reset_s=reset_s)


class Account:
    """What one client has used of its quota."""

    __slots__ = ("quota", "requests", "streams", "tokens")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        """What it may use; `follow` changes it."""
        self.requests = _new_bucket(quota.requests_per_minute)
        self.tokens = _new_bucket(quota.tokens_per_minute)
        self.streams = 0
        """Its requests that have not ended."""

    def follow(self, quota: Quota) -> None:
        """Put another quota in force; what was used stays used, as a share of a minute."""
        self.quota = quota
        self.requests = _moved(self.requests, quota.requests_per_minute)
        self.tokens = _moved(self.tokens, quota.tokens_per_minute)


def _new_bucket(limit: int | None) -> _Bucket | None:
    return None if limit is None else _Bucket(limit)


def _moved(bucket: _Bucket | None, limit: int | None) -> _Bucket | None:
    if bucket is None or limit is None:
        return _new_bucket(limit)
    bucket.move(limit)
    return bucket


class Accounts:
    """
    The accounts of many clients; over the bound the one that was asked for longest ago is forgotten.

    Whoever can come from more addresses than that is not held by a limit for each.

    Args:
        max_accounts: At least 1.
    """

    def __init__(self, *, max_accounts: int) -> None:
        if max_accounts < 1:
            raise ValueError(f"max_accounts must be at least 1, got {max_accounts}")
        self._max_accounts = max_accounts
        self._accounts: OrderedDict[str | bytes, Account] = OrderedDict()

    def __len__(self) -> int:
        """Count them."""
        return len(self._accounts)

    def find(self, name: str | bytes, quota: Quota) -> Account:
        """Return the account of a client, which this quota holds for from now on."""
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(quota)
            if len(self._accounts) > self._max_accounts:
                self._accounts.popitem(last=False)
            return account
        self._accounts.move_to_end(name)
        if account.quota is not quota and account.quota != quota:
            account.follow(quota)
        return account


class Meter:
    """
    What one request uses, on each of its accounts the same.

    `enter`, then perhaps `charge` and `spend`, then `leave`. One that refuses leaves nothing counted.

    Args:
        accounts: Whose quotas count.
    """

    __slots__ = ("_accounts", "_charged", "_is_in", "_spent")

    def __init__(self, accounts: Sequence[Account]) -> None:
        self._accounts = accounts
        self._charged = [0] * len(accounts)
        """Tokens taken from each account."""
        self._spent: int | None = None
        self._is_in = False

    def enter(self, *, now_s: float) -> Refused | None:
        """Count the request on all accounts, or say which of them refuses it."""
        for index, account in enumerate(self._accounts):
            limit, requests = account.quota.streams, account.requests
            if limit is not None and account.streams >= limit:
                return Refused(kind="streams", account=index, limit=limit, retry_after_s=STREAMS_RETRY_S)
            if requests is not None and requests.wait_s(1, now_s):
                return _longest("requests", [each.requests for each in self._accounts], 1, now_s)
        self._is_in = True
        for account in self._accounts:
            account.streams += 1
            if account.requests is not None:
                account.requests.take(1, now_s)
        return None

    def charge(self, tokens: int, *, now_s: float) -> Refused | None:
        """
        Take the tokens that the request will use at most, or leave with nothing used.

        Of more than a minute's worth a minute's worth is taken: such a request waits for a full bucket, and
        what it uses beyond that is owed afterwards.
        """
        refused = _longest("tokens", [each.tokens for each in self._accounts], tokens, now_s)
        if refused is not None:
            self._take_back()
            return refused
        for index, account in enumerate(self._accounts):
            if account.tokens is not None:
                units = min(tokens, account.tokens.limit)
                account.tokens.take(units, now_s)
                self._charged[index] += units
        return None

    def spend(self, tokens: int) -> None:
        """Note tokens that were used, beside those noted before; their sum is the charge in the end."""
        self._spent = (self._spent or 0) + tokens

    def leave(self) -> None:
        """Note the end of the request; a second time nothing happens."""
        if not self._is_in:
            return
        self._is_in = False
        for account, charged in zip(self._accounts, self._charged, strict=True):
            account.streams -= 1
            if account.tokens is not None and self._spent is not None:
                account.tokens.give_back(charged - self._spent)

    def _take_back(self) -> None:
        for account in self._accounts:
            if account.requests is not None:
                account.requests.give_back(1)
        self.spend(0)
        self.leave()

    def requests(self, *, now_s: float) -> Standing | None:
        """Return the tightest standing in requests; None where nothing limits them."""
        return _tightest([each.requests for each in self._accounts], now_s)

    def tokens(self, *, now_s: float) -> Standing | None:
        """Return the tightest standing in tokens; None where nothing limits them."""
        return _tightest([each.tokens for each in self._accounts], now_s)


def _longest(kind: Kind, buckets: Sequence[_Bucket | None], units: int, now_s: float) -> Refused | None:
    """Return the refusal that lasts longest; None where no bucket refuses."""
    refused: Refused | None = None
    for index, bucket in enumerate(buckets):
        wait_s = 0.0 if bucket is None else bucket.wait_s(min(units, bucket.limit), now_s)
        if bucket is not None and wait_s > (0.0 if refused is None else refused.retry_after_s):
            refused = Refused(kind=kind, account=index, limit=bucket.limit, retry_after_s=wait_s)
    return refused


def _tightest(buckets: Sequence[_Bucket | None], now_s: float) -> Standing | None:
    standings = [bucket.standing(now_s) for bucket in buckets if bucket is not None]
    return min(standings, key=lambda standing: standing.remaining, default=None)
