"""
How much each client may ask for: its API key, and its address, within their limits.

The limits are `security.per_key` (a line of the file of keys may say otherwise) and `security.per_address`;
a request counts on both. What decides is transport/rates.py; this gives it names, a clock and words.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from transport.rates import Accounts, Meter, Quota, Refused
from transport.sockets import prefix_of
from wicketgate.api.envelopes import Family
from wicketgate.api.keys import MAX_KEYS
from wicketgate.errors import RateLimitedError
from wicketgate.inference import ChatPrompt, TextPrompt, TokenPrompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transport.rates import Account, Standing
    from wicketgate.api.exchange import Headers
    from wicketgate.api.keys import Key
    from wicketgate.inference import InferenceRequest, Prompt

MAX_ADDRESSES: Final = 65_536
"""So many addresses are remembered, about 20 MB; then the one that was heard of longest ago is forgotten."""
CHARACTERS_PER_TOKEN: Final = 4
"""Of English; what a prompt of text really has is known, and corrected, at the end."""
_WHAT: Final = ("limit", "remaining", "reset")
_NAMES: Final = {
    Family.OPENAI: {
        kind: tuple(f"x-ratelimit-{what}-{kind}".encode() for what in _WHAT)
        for kind in ("requests", "tokens")
    },
    Family.ANTHROPIC: {
        kind: tuple(f"anthropic-ratelimit-{kind}-{what}".encode() for what in _WHAT)
        for kind in ("requests", "tokens")
    },
}
"""Of headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the configuration says."""

    per_key: Quota
    per_address: Quota


class Quotas:
    """
    The accounts of all clients.

    Args:
        limits: What the configuration says now.
        clock: Monotonic seconds.
        unix_clock: Wall time, for the moments that Anthropic's headers name.
    """

    def __init__(
        self,
        limits: Callable[[], Limits],
        *,
        clock: Callable[[], float],
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._unix_clock = unix_clock
        self._merged: dict[tuple[object, Quota], Quota] = {}
        """Limits of keys whose lines have some, by those and by what holds for the rest."""
        self._keys = Accounts(max_accounts=MAX_KEYS)
        self._addresses = Accounts(max_accounts=MAX_ADDRESSES)

    def open(self, key: Key | None, address: str | None) -> Grant | None:
        """
        Return what a request may use; None where nothing limits it.

        Args:
            key: Its API key, where keys are asked for.
            address: Of its client; None or empty on a Unix socket.
        """
        limits = self._limits()
        accounts: list[Account] = []
        if key is not None:
            quota = self._quota(key, limits.per_key) if key.limits else limits.per_key
            if not quota.is_open:
                accounts.append(self._keys.find(key.id, quota))
        keys = len(accounts)
        if address and not limits.per_address.is_open:
            accounts.append(self._addresses.find(prefix_of(address), limits.per_address))
        if not accounts:
            return None
        return Grant(Meter(accounts), keys=keys, clock=self._clock, unix_clock=self._unix_clock)

    def _quota(self, key: Key, rest: Quota) -> Quota:
        found = self._merged.get((key.limits, rest))
        if found is None:
            if len(self._merged) >= MAX_KEYS:
                self._merged.clear()
            found = self._merged[key.limits, rest] = replace(rest, **dict(key.limits))
        return found


class Grant:
    """
    What one request may use of its client's limits, and has used; made by `Quotas.open`.

    Args:
        meter: Counts it.
        keys: So many of the meter's accounts are of an API key; the rest are of an address.
        clock: Monotonic seconds.
        unix_clock: Wall time.
    """

    __slots__ = ("_clock", "_keys", "_meter", "_unix_clock")

    def __init__(
        self, meter: Meter, *, keys: int, clock: Callable[[], float], unix_clock: Callable[[], float]
    ) -> None:
        self._meter = meter
        self._keys = keys
        self._clock = clock
        self._unix_clock = unix_clock

    def enter(self) -> None:
        """
        Count the request; the endpoint does that.

        Raises:
            RateLimitedError: there are too many; nothing was used.
        """
        self._require(self._meter.enter(now_s=self._clock()))

    def charge(self, tokens: int) -> None:
        """
        Take the tokens that the request will use at most, before any work is done for it.

        Raises:
            RateLimitedError: there are too few; nothing was used.
        """
        self._require(self._meter.charge(tokens, now_s=self._clock()))

    def spend(self, tokens: int) -> None:
        """Note tokens that were really used; at the end their sum takes the place of what was charged."""
        self._meter.spend(tokens)

    def leave(self) -> None:
        """Note the end; the endpoint does that."""
        self._meter.leave()

    def headers(self, family: Family) -> Headers:
        """Return what an answer says of the limits, in the words of its API."""
        now_s = self._clock()
        requests, tokens = self._meter.requests(now_s=now_s), self._meter.tokens(now_s=now_s)
        names = _NAMES[family]
        headers: Headers = ()
        if requests is not None:
            headers = self._told(names["requests"], requests, family)
        if tokens is not None:
            headers += self._told(names["tokens"], tokens, family)
        return headers

    def _told(self, names: tuple[bytes, ...], standing: Standing, family: Family) -> Headers:
        limit, remaining, reset = names
        if family is Family.ANTHROPIC:
            moment = time.gmtime(math.ceil(self._unix_clock() + standing.reset_s))
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", moment).encode()
        else:
            minutes, seconds = divmod(math.ceil(standing.reset_s), 60)
            when = b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds
        return (limit, b"%d" % standing.limit), (remaining, b"%d" % standing.remaining), (reset, when)

    def _require(self, refused: Refused | None) -> None:
        if refused is None:
            return
        is_key, wait_s = refused.account < self._keys, refused.retry_after_s
        owner, section = ("this API key", "per_key") if is_key else ("this address", "per_address")
        if refused.kind == "streams":
            raise RateLimitedError(
                f"{owner} may have {refused.limit} requests at once (security.{section}.streams);"
                " wait for one to end",
                kind="requests",
                retry_after_s=wait_s,
            )
        raise RateLimitedError(
            f"{owner} may use {refused.limit} {refused.kind} a minute"
            f" (security.{section}.{refused.kind}_per_minute); try again in {wait_s:.3g} s",
            kind=refused.kind,
            retry_after_s=wait_s,
        )


def estimate_tokens(requests: Sequence[InferenceRequest]) -> int:
    """Return how many tokens the choices of one call use at most; each prompt counts once."""
    prompts = {id(request.prompt): request.prompt for request in requests}
    answers = sum(request.sampling.max_tokens for request in requests)
    return answers + sum(_prompt_tokens(prompt) for prompt in prompts.values())


def _prompt_tokens(prompt: Prompt) -> int:
    match prompt:
        case TokenPrompt():
            return len(prompt.ids)
        case TextPrompt():
            return len(prompt.text) // CHARACTERS_PER_TOKEN + 1
        case ChatPrompt():
            texts = (str(message.get("content") or "") for message in prompt.messages)
            return sum(len(text) // CHARACTERS_PER_TOKEN + 1 for text in texts)
