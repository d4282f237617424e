"""Raw and served slices in turns, at one concurrency, until there are enough or the time is up."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from bench.load import burst
from bench.prompts import completion
from bench.slices import BLOCK, Arm, Slice
from wicketgate.platform import process_cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.ceiling import Ceiling
    from bench.h2_client import Connection
    from bench.prompts import Supply
    from bench.server import Server

PROMPT_TOKENS: Final = 64
GENERATED_TOKENS: Final = 64
BLOCKS: Final = 6
"""Two pairs each."""
SLICE_S: Final = 0.6
"""Least length of a slice; several bursts where one is shorter."""
MAX_BURSTS: Final = 8


class Throughput:
    """
    What both arms need.

    Args:
        server: The stack, with its prefix cache off.
        ceiling: BatchGenerator by itself.
        prompts: Each is used once.
        began_s: When the measurement began, monotonic.
    """

    def __init__(self, server: Server, ceiling: Ceiling, prompts: Supply, *, began_s: float) -> None:
        self._server = server
        self._ceiling = ceiling
        self._prompts = prompts
        self._began_s = began_s
        self._pids = (server.pid, server.host_pid)

    def measure(self, concurrency: int, *, until_s: float) -> list[Slice]:
        """
        Take slices of one concurrency.

        Args:
            concurrency: Requests at once.
            until_s: No block begins after this, monotonic.
        """
        with self._server.connect() as connection:
            arms: dict[Arm, Callable[[int, int], Slice]] = {
                Arm.RAW: lambda bursts, order: self._raw(concurrency, bursts, order),
                Arm.SERVED: lambda bursts, order: self._served(connection, concurrency, bursts, order),
            }
            # The first of each is for warming up, and tells how long a burst is.
            shortest_s = min(arm(1, 0).duration_s for arm in arms.values())
            bursts = max(1, min(MAX_BURSTS, math.ceil(SLICE_S / shortest_s)))
            slices: list[Slice] = []
            for _ in range(BLOCKS):
                if time.monotonic() > until_s:
                    break
                for arm in BLOCK:
                    slices.append(arms[arm](bursts, len(slices)))
        return slices

    def _take(self, concurrency: int) -> list[list[int]]:
        return [self._prompts.take(PROMPT_TOKENS) for _ in range(concurrency)]

    def _raw(self, concurrency: int, bursts: int, order: int) -> Slice:
        began_s = time.monotonic()
        done = [
            self._ceiling.burst(self._take(concurrency), max_tokens=GENERATED_TOKENS) for _ in range(bursts)
        ]
        return Slice(
            arm=Arm.RAW,
            concurrency=concurrency,
            order=order,
            began_s=began_s - self._began_s,
            duration_s=sum(each.duration_s for each in done),
            offered=concurrency * bursts,
            ok=sum(each.tokens for each in done) // GENERATED_TOKENS,
            tokens=sum(each.tokens for each in done),
            ttft_s=tuple(ttft_s for each in done for ttft_s in each.ttft_s),
            tpot_s=tuple(tpot_s for each in done for tpot_s in each.tpot_s),
        )

    def _served(self, connection: Connection, concurrency: int, bursts: int, order: int) -> Slice:
        began_s, cpu_before = time.monotonic(), self._cpu_s()
        done = []
        for _ in range(bursts):
            bodies = [completion(each, max_tokens=GENERATED_TOKENS) for each in self._take(concurrency)]
            done.append(burst([connection], bodies, tokens_each=GENERATED_TOKENS))
        gateway_s, host_s = (after - before for before, after in zip(cpu_before, self._cpu_s(), strict=True))
        return Slice(
            arm=Arm.SERVED,
            concurrency=concurrency,
            order=order,
            began_s=began_s - self._began_s,
            duration_s=sum(each.duration_s for each in done),
            offered=concurrency * bursts,
            ok=sum(each.ok for each in done),
            tokens=sum(each.tokens for each in done),
            ttft_s=tuple(ttft_s for each in done for ttft_s in each.ttft_s),
            tpot_s=tuple(tpot_s for each in done for tpot_s in each.tpot_s),
            lateness_s=tuple(late_s for each in done for late_s in each.lateness_s),
            client_cpu_s=sum(each.client_cpu_s for each in done),
            gateway_cpu_s=gateway_s,
            host_cpu_s=host_s,
        )

    def _cpu_s(self) -> tuple[float, float]:
        gateway, host = (0.0 if pid is None else process_cpu_s(pid) or 0.0 for pid in self._pids)
        return gateway, host
