"""
The profile `smoke`: throughput and latency over the ceiling, and what operators wait for, in three minutes.

Everything runs on this machine, in four processes: the load client (this one), the gateway, its engine host,
and the ceiling. Raw and served slices take turns, and the arm that waits does nothing.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import machine, operations
from bench.ceiling import Ceiling
from bench.operations import LIMIT, QUEUE, Begin, Overload, Rollback, begin, overload, rollbacks
from bench.prompts import MODEL, training_prompts
from bench.server import Server
from bench.slices import Slice, by_concurrency, faults
from bench.throughput import Throughput

SHARES_S: Final = {1: 25.0, 8: 35.0, 32: 50.0}
"""Longest that each concurrency may take; what one leaves over goes to the next."""
ROLLBACK_S: Final = 25.0
_ON: Final = {"enabled": True}
CONFIG: Final[dict[str, object]] = {
    # Both arms compute every prompt.
    "engine": {"prefix_cache_bytes": 0},
    "phase4_rollout": {
        "adaptive_governor": _ON,
        "http2_transport": _ON,
        "qos_monitoring": _ON,
        "ttft_pipeline": {"enabled": True, "mode": "staged"},
    },
}
CROWDED: Final[dict[str, object]] = {
    **CONFIG,
    "governor": {
        "limit": {"fixed": LIMIT, "min": LIMIT, "max": LIMIT, "initial": LIMIT},
        "queue": {"max_requests": QUEUE},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything that one run measured."""

    began_unix_s: float
    wall_s: float
    device: str
    """cpu or gpu."""
    machine: dict[str, object]
    load_before: float
    load_after: float
    slices: tuple[Slice, ...]
    begin: Begin
    rollbacks: tuple[Rollback, ...]
    overload: Overload
    faults: tuple[str, ...]
    """Why it must not be believed; empty when it may."""


def run() -> Result:
    """
    Measure.

    Raises:
        ServerError: the server did not start, or did not do what it was asked to.
        CeilingFailedError: raw generation failed.
        ConnectionLostError: the server closed a connection.
    """
    began_unix_s, began_s = time.time(), time.monotonic()
    load_before = machine.load_average()
    prompts = training_prompts()
    slices: list[Slice] = []
    with tempfile.TemporaryDirectory(prefix="wicketgate-bench-") as temporary:
        folder = Path(temporary)
        with Server(folder, CONFIG) as server:
            first = begin(server, prompts)
            with Ceiling(MODEL, stderr=folder / "ceiling.log") as ceiling:
                throughput = Throughput(server, ceiling, prompts, began_s=began_s)
                until_s = time.monotonic()
                for concurrency, share_s in SHARES_S.items():
                    until_s += share_s
                    slices += throughput.measure(concurrency, until_s=until_s)
                device = ceiling.device
            undone = rollbacks(server, prompts, until_s=time.monotonic() + ROLLBACK_S)
            server.reconfigure(CROWDED)
            crowd = overload(server, prompts)
    groups = by_concurrency(slices)
    found = [fault for concurrency in SHARES_S for fault in faults(groups.get(concurrency, []))]
    return Result(
        began_unix_s=began_unix_s,
        wall_s=time.monotonic() - began_s,
        device=device,
        machine=machine.facts(),
        load_before=load_before,
        load_after=machine.load_average(),
        slices=tuple(slices),
        begin=first,
        rollbacks=tuple(undone),
        overload=crowd,
        faults=(*found, *operations.faults(undone, crowd)),
    )
