"""Pins whose turn it is to compute prompts: one host at a time, in time, and as fair as the clock allows."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from wicketgate.engine.gpu_turn import GpuTurns, TurnChanged, TurnParams

SHARED_S = TurnParams().shared_chunk_s


def turns(hosts: int) -> GpuTurns:
    """Make turns in which host 0 holds the free turn and all others know that they do not."""
    made = GpuTurns(TurnParams())
    for host in range(hosts):
        made.joins(host, now_s=0.0)
    made.advance(now_s=0.0)
    return made


def asks(made: GpuTurns, host: int, now_s: float) -> list[TurnChanged]:
    made.asks(host, now_s=now_s)
    return made.advance(now_s=now_s)


def steps(
    made: GpuTurns,
    host: int,
    now_s: float,
    *,
    began_s: float | None = None,
    has_prompts: bool = True,
    rows: int = 0,
) -> list[TurnChanged]:
    began_s = now_s if began_s is None else began_s
    made.stepped(host, began_s=began_s, has_prompts=has_prompts, rows=rows, now_s=now_s)
    return made.advance(now_s=now_s)


def test_a_host_that_is_alone_is_never_told_anything() -> None:
    made = turns(1)

    assert asks(made, 0, 1.0) == []
    assert steps(made, 0, 2.0, has_prompts=False, rows=3) == []
    assert made.deadline_s is None


def test_a_second_host_learns_that_the_turn_is_anothers() -> None:
    made = turns(1)
    made.joins(1, now_s=1.0)

    assert made.advance(now_s=1.0) == [TurnChanged(1, has_turn=False, chunk_bound_s=None)]


def test_a_free_turn_is_given_at_once_and_its_last_holder_is_told_first() -> None:
    made = turns(2)

    assert asks(made, 1, 5.0) == [
        TurnChanged(0, has_turn=False, chunk_bound_s=None),
        TurnChanged(1, has_turn=True, chunk_bound_s=None),
    ]


def test_chunks_are_small_as_soon_as_another_host_decodes() -> None:
    made = turns(2)
    asks(made, 0, 1.0)

    told = steps(made, 1, 1.1, has_prompts=False, rows=2)

    assert told == [TurnChanged(0, has_turn=True, chunk_bound_s=SHARED_S)]
    assert steps(made, 1, 1.2, has_prompts=False) == [TurnChanged(0, has_turn=True, chunk_bound_s=None)]


def test_a_holder_that_others_wait_for_loses_the_turn_when_its_time_is_over() -> None:
    made = turns(2)
    asks(made, 0, 1.0)
    asks(made, 1, 1.02)

    assert made.deadline_s == pytest.approx(1.27)
    assert made.advance(now_s=1.26) == []
    assert made.advance(now_s=1.27) == [TurnChanged(0, has_turn=False, chunk_bound_s=SHARED_S)]
    assert made.deadline_s is None


def test_the_next_host_waits_for_a_step_that_began_after_the_holder_was_told() -> None:
    made = turns(2)
    asks(made, 0, 1.0)
    asks(made, 1, 1.0)
    made.advance(now_s=1.25)

    assert steps(made, 0, 1.3, began_s=1.24) == []
    assert steps(made, 0, 1.35, began_s=1.254) == []
    assert steps(made, 0, 1.4, began_s=1.35) == [TurnChanged(1, has_turn=True, chunk_bound_s=SHARED_S)]


def test_a_holder_that_nobody_waits_for_any_more_keeps_the_turn() -> None:
    made = turns(2)
    asks(made, 0, 1.0)
    asks(made, 1, 1.0)
    made.advance(now_s=1.25)

    assert steps(made, 1, 1.3, has_prompts=False) == [TurnChanged(0, has_turn=True, chunk_bound_s=None)]


def test_a_step_from_before_a_prompt_was_sent_does_not_take_back_its_asking() -> None:
    made = turns(2)
    asks(made, 1, 5.0)

    steps(made, 1, 5.01, began_s=4.99, has_prompts=False)

    assert asks(made, 0, 5.02) == [TurnChanged(1, has_turn=True, chunk_bound_s=SHARED_S)]


def test_a_second_prompt_keeps_the_turn_although_a_step_reports_the_end_of_the_first() -> None:
    made = turns(2)
    asks(made, 1, 5.0)
    asks(made, 1, 6.0)

    steps(made, 1, 6.01, began_s=5.99, has_prompts=False)

    assert asks(made, 0, 6.02) == [TurnChanged(1, has_turn=True, chunk_bound_s=SHARED_S)]


def test_a_prompt_that_was_never_asked_for_waits_for_its_turn_too() -> None:
    made = turns(2)
    asks(made, 0, 1.0)

    steps(made, 1, 1.1, has_prompts=True)

    assert made.deadline_s == pytest.approx(1.35)


def test_the_turn_of_a_host_that_is_gone_goes_to_one_that_waits() -> None:
    made = turns(3)
    asks(made, 0, 1.0)
    asks(made, 2, 1.0)

    made.leaves(1)
    made.leaves(0)

    assert made.advance(now_s=1.01) == [TurnChanged(2, has_turn=True, chunk_bound_s=None)]


def test_a_host_that_joins_while_the_turn_is_free_holds_it() -> None:
    made = turns(2)
    made.leaves(0)
    made.advance(now_s=1.0)

    made.joins(2, now_s=2.0)

    assert made.advance(now_s=2.0) == []


def test_the_turn_of_a_host_that_is_gone_stays_free_where_nobody_waits() -> None:
    made = turns(2)

    made.leaves(0)

    assert made.advance(now_s=1.0) == []
    assert asks(made, 1, 1.1) == [TurnChanged(1, has_turn=True, chunk_bound_s=None)]


def test_an_hour_alone_with_the_gpu_is_not_held_against_a_host() -> None:
    made = turns(2)
    asks(made, 0, 0.0)
    asks(made, 1, 3600.0)
    made.advance(now_s=3600.25)
    steps(made, 0, 3600.3, began_s=3600.26)
    made.advance(now_s=3600.6)

    told = steps(made, 1, 3600.7, began_s=3600.65)

    assert told == [TurnChanged(0, has_turn=True, chunk_bound_s=SHARED_S)]


# A GPU that several hosts share: one unit of work at a time, in the order in which it was handed in.

DECODE_S, CHUNK_SLACK = 0.012, 1.1
"""One decode step; a chunk may take a tenth longer than it was meant to."""


@dataclass
class SimulatedHost:
    """A host that computes a chunk where it may, then a decode step, and reports."""

    id: int
    prompt_s: float
    """Seconds of GPU that its prompts still take."""
    may_prefill: bool = True
    chunk_s: float = 0.1
    least_chunk_s: float = 0.0
    began_s: float = 0.0
    decoded_s: float | None = None
    """When its last decode step ended; None right after a chunk of its own."""
    worst_gap_s: float = 0.0
    prefilled_s: float = 0.0
    held_s: float = 0.0
    inbox: list[tuple[float, TurnChanged]] = field(default_factory=list)


class SharedGpu:
    """The hosts, their GPU and the turns between them, in simulated time."""

    def __init__(self, hosts: int, *, seed: int, prompt_s: float) -> None:
        self.draw = random.Random(seed)
        self.turns = GpuTurns(TurnParams())
        self.hosts = [SimulatedHost(id=each, prompt_s=prompt_s) for each in range(hosts)]
        self.queue: list[tuple[float, int, SimulatedHost, str, float]] = []
        self.free_s = 0.0
        self.order = 0
        self.prefilling: set[int] = set()
        self.most_prefilling = 0
        self.holder, self.since_s = 0, 0.0

    def run(self, until_s: float) -> None:
        for host in self.hosts:
            self.turns.joins(host.id, now_s=0.0)
            self.turns.asks(host.id, now_s=0.0)
        self.tell(self.turns.advance(now_s=0.0), 0.0)
        for host in self.hosts:
            self.begin(host, 0.01 + self.draw.random() * 0.01)
        while self.queue[0][0] < until_s:
            handed_s, _, host, kind, cost_s = heapq.heappop(self.queue)
            self.free_s = max(self.free_s, handed_s) + cost_s
            self.end(host, kind, cost_s, self.free_s)

    def begin(self, host: SimulatedHost, now_s: float) -> None:
        """Read what has arrived and hand in the first unit of a step."""
        host.began_s = now_s
        for at_s, change in [each for each in host.inbox if each[0] <= now_s]:
            host.inbox.remove((at_s, change))
            host.may_prefill = change.has_turn
            host.chunk_s = change.chunk_bound_s or 0.1
        if host.may_prefill and host.prompt_s > 0:
            self.prefilling.add(host.id)
            self.most_prefilling = max(self.most_prefilling, len(self.prefilling))
            meant_s = max(host.chunk_s, host.least_chunk_s)
            cost_s = min(meant_s * self.draw.uniform(0.5, CHUNK_SLACK), host.prompt_s)
            self.hand_in(host, "chunk", cost_s, now_s)
        else:
            self.hand_in(host, "decode", DECODE_S, now_s)

    def hand_in(self, host: SimulatedHost, kind: str, cost_s: float, now_s: float) -> None:
        self.order += 1
        heapq.heappush(self.queue, (now_s, self.order, host, kind, cost_s))

    def end(self, host: SimulatedHost, kind: str, cost_s: float, now_s: float) -> None:
        if kind == "chunk":
            host.prompt_s -= cost_s
            host.prefilled_s += cost_s
            host.decoded_s = None
            self.prefilling.discard(host.id)
            self.hand_in(host, "decode", DECODE_S, now_s)
            return
        if host.decoded_s is not None:
            host.worst_gap_s = max(host.worst_gap_s, now_s - host.decoded_s)
        host.decoded_s = now_s
        self.turns.stepped(host.id, began_s=host.began_s, has_prompts=host.prompt_s > 0, rows=1, now_s=now_s)
        self.tell(self.turns.advance(now_s=now_s), now_s)
        self.begin(host, now_s + self.draw.uniform(0.0, 0.001))

    def tell(self, changes: list[TurnChanged], now_s: float) -> None:
        for change in changes:
            host = self.hosts[change.host]
            after_s = max([now_s, *(at_s for at_s, _ in host.inbox)])
            if change.has_turn and change.host != self.holder:
                self.hosts[self.holder].held_s += now_s - self.since_s
                self.holder, self.since_s = change.host, now_s
            host.inbox.append((after_s + self.draw.uniform(0.0, 0.003), change))


@pytest.mark.parametrize("hosts", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_one_host_computes_prompts_at_a_time_and_the_others_wait_two_chunks_and_a_step_at_most(
    hosts: int, seed: int
) -> None:
    gpu = SharedGpu(hosts, seed=seed, prompt_s=1000.0)

    gpu.run(until_s=60.0)

    assert gpu.most_prefilling == 1
    worst_s = max(host.worst_gap_s for host in gpu.hosts)
    assert worst_s <= 2 * SHARED_S * CHUNK_SLACK + DECODE_S


@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_hosts_with_endless_prompts_get_equal_shares(hosts: int) -> None:
    gpu = SharedGpu(hosts, seed=7, prompt_s=1000.0)

    gpu.run(until_s=120.0)

    shares = [host.prefilled_s for host in gpu.hosts]
    assert min(shares) > 0.9 * max(shares)


def test_a_host_whose_chunks_are_long_holds_the_turn_no_longer_than_the_others() -> None:
    gpu = SharedGpu(3, seed=7, prompt_s=1000.0)
    gpu.hosts[0].least_chunk_s = 0.6

    gpu.run(until_s=120.0)

    held = [host.held_s for host in gpu.hosts]
    assert max(held) < 1.1 * min(held)


@pytest.mark.parametrize("seed", range(5))
def test_every_prompt_is_computed_in_the_end(seed: int) -> None:
    gpu = SharedGpu(4, seed=seed, prompt_s=2.0)

    gpu.run(until_s=60.0)

    assert all(host.prompt_s <= 0 for host in gpu.hosts)
