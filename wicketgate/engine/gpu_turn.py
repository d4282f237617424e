"""
Whose turn it is to compute prompts, where several engine hosts share one GPU. Pure.

Theory of operation. Two processes share a GPU without any knob: a decoding one fell from 81.6 to 9.1 steps a
second beside one that computed large products. So the gateway lets one host at a time compute prompts, in
small chunks while another host has work; all of them decode as they like.

1. A host that asks gets the turn when it is free, or when its holder has no prompt left.
2. A holder that others wait for loses it after `turn_s`. The next one gets it only when a step of the old
   holder began after it was told: two never compute prompts at once.
3. The next one is whoever used the least time so far. Who was away comes back with neither savings nor debt.

A host that was told and never steps again is frozen; supervision ends it, and `leaves` frees the turn.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnParams:
    """How turns are shared."""

    turn_s: float = 0.25
    """How long a holder keeps the turn while others wait; handing it over costs a step without a chunk."""
    shared_chunk_s: float = 0.05
    """Longest gap that a holder should make while others decode or wait."""
    transit_s: float = 0.005
    """A step that began so soon after a message may not have read it."""


@dataclass(frozen=True, slots=True)
class TurnChanged:
    """What to tell a host."""

    host: int
    has_turn: bool
    chunk_bound_s: float | None
    """What its chunk target must not exceed now; None leaves it as configured."""


@dataclass(slots=True)
class _Host:
    """What is known of one host."""

    told: tuple[bool, float | None]
    asked_s: float | None = None
    """Since when it has prompts to compute; None for none."""
    rows: int = 0
    used_s: float = 0.0


class GpuTurns:
    """The turn among a few hosts; `advance` after each fact, and send what it returns before the prompt."""

    def __init__(self, params: TurnParams) -> None:
        self._params = params
        self._hosts: dict[int, _Host] = {}
        self._holder: int | None = None
        self._since_s = 0.0
        self._revoked_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        """When the holder's time is over; None where nobody waits for it."""
        if self._holder is None or self._revoked_s is not None or not self._is_awaited:
            return None
        return self._since_s + self._params.turn_s

    def joins(self, host: int, *, now_s: float) -> None:
        """Note a host that is ready; it believes that the turn is its own until it is told."""
        self._hosts[host] = _Host(told=(True, None))
        if self._holder is None:
            self._take(host, now_s=now_s)

    def leaves(self, host: int) -> None:
        """Note that a host is gone."""
        del self._hosts[host]
        if self._holder == host:
            self._holder = None

    def asks(self, host: int, *, now_s: float) -> None:
        """Note that a prompt is about to be sent to a host."""
        state = self._hosts[host]
        if state.asked_s is None:
            self._begin_to_wait(state, now_s=now_s)
        state.asked_s = now_s

    def _begin_to_wait(self, state: _Host, *, now_s: float) -> None:
        if not self._is_awaited:
            # What the holder used while nobody else wanted it costs it nothing.
            self._since_s = now_s
        used_s = [self._hosts[each].used_s for each in self._asking()]
        if used_s:
            state.used_s = min(max(state.used_s, min(used_s)), max(used_s) + self._params.turn_s)

    def stepped(self, host: int, *, began_s: float, has_prompts: bool, rows: int, now_s: float) -> None:
        """
        Note a step or a beat of a host.

        Args:
            host: Which.
            began_s: When it began; what was sent later, it had not read.
            has_prompts: Whether prompts are left to compute.
            rows: How many rows decode.
            now_s: The time.
        """
        state = self._hosts[host]
        state.rows = rows
        if has_prompts and state.asked_s is None:
            self.asks(host, now_s=now_s)
        elif not has_prompts and state.asked_s is not None and began_s > state.asked_s:
            state.asked_s = None
        told_s = self._revoked_s
        if host == self._holder and told_s is not None and began_s > told_s + self._params.transit_s:
            self._release(state, now_s=now_s)

    def advance(self, *, now_s: float) -> list[TurnChanged]:
        """Move the turn where it is due; returns what each host must be told, the one that loses it first."""
        if self._holder is not None:
            self._move_on(self._hosts[self._holder], now_s=now_s)
        if self._holder is None and (asking := self._asking()):
            self._take(min(asking, key=lambda host: self._hosts[host].used_s), now_s=now_s)
        return sorted(self._news(), key=lambda change: change.has_turn)

    def _move_on(self, holder: _Host, *, now_s: float) -> None:
        if not self._is_awaited:
            self._revoked_s = None
        elif holder.asked_s is None:
            self._release(holder, now_s=now_s)
        elif self._revoked_s is None and now_s >= self._since_s + self._params.turn_s:
            self._revoked_s = now_s

    def _asking(self) -> list[int]:
        return [host for host, state in self._hosts.items() if state.asked_s is not None]

    @property
    def _is_awaited(self) -> bool:
        return any(host != self._holder for host in self._asking())

    def _take(self, host: int, *, now_s: float) -> None:
        self._holder, self._since_s, self._revoked_s = host, now_s, None

    def _release(self, holder: _Host, *, now_s: float) -> None:
        holder.used_s += now_s - self._since_s
        self._holder = None

    def _news(self) -> list[TurnChanged]:
        changes = []
        for host, state in self._hosts.items():
            has_turn = host == self._holder and self._revoked_s is None
            bound_s = self._chunk_bound_s(host) if has_turn else state.told[1]
            if (has_turn, bound_s) != state.told:
                state.told = (has_turn, bound_s)
                changes.append(TurnChanged(host, has_turn, bound_s))
        return changes

    def _chunk_bound_s(self, host: int) -> float | None:
        others = (state for each, state in self._hosts.items() if each != host)
        is_shared = any(state.rows or state.asked_s is not None for state in others)
        return self._params.shared_chunk_s if is_shared else None
