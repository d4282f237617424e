"""
The profile `engine`: the whole stack over raw generation, at 5.8 million parameters and at nearly none.

The same slices in turns as the profile `smoke`, at more concurrencies. Prefix cache and speculation are off
in both arms, and every prompt differs from its first token.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import machine
from bench.ceiling import Ceiling
from bench.made_models import SHAPES
from bench.prompts import RandomPrompts
from bench.report import SCHEMA
from bench.server import Server
from bench.slices import Comparison, Slice, by_concurrency, compare, faults
from bench.throughput import Throughput

CONCURRENCIES: Final = {"small": (1, 4, 8, 16, 32), "nano": (32,)}
SHARE_S: Final = 60.0
"""Longest that one concurrency may take."""
LOWEST: Final = 256
"""Token ids below are bytes, which have no text of their own."""
CHUNK_TARGET_S: Final = 0.25
"""
How long a step's prompts may take: what raw generation's 512 tokens take here, so that both arms make streams
that run wait as long for those that come. With the default, 0.1 s, they wait less, and a burst takes longer.
"""
_ON: Final = {"enabled": True}
CONFIG: Final[dict[str, object]] = {
    "engine": {
        "prefix_cache_bytes": 0,
        "speculation": {"mode": "off"},
        "chunk_target_s": CHUNK_TARGET_S,
    },
    "phase4_rollout": {
        name: _ON for name in ("adaptive_governor", "http2_transport", "qos_monitoring", "ttft_pipeline")
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One model's figures."""

    model: str
    slices: tuple[Slice, ...]
    device: str
    """cpu or gpu."""
    faults: tuple[str, ...]
    """Why they must not be believed; empty when they may."""

    @property
    def comparisons(self) -> list[Comparison]:
        """Return the two arms at each concurrency."""
        return [compare(slices) for slices in by_concurrency(self.slices).values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything that one run measured."""

    began_unix_s: float
    wall_s: float
    machine: dict[str, object]
    load_before: float
    load_after: float
    served: tuple[Served, ...]

    @property
    def device(self) -> str:
        """cpu or gpu."""
        return self.served[0].device

    @property
    def faults(self) -> tuple[str, ...]:
        """Why it must not be believed."""
        return tuple(fault for each in self.served for fault in each.faults)


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
    served = []
    with tempfile.TemporaryDirectory(prefix="wicketgate-bench-") as temporary:
        for name, concurrencies in CONCURRENCIES.items():
            served.append(measure(name, Path(temporary), concurrencies))
    return Result(
        began_unix_s=began_unix_s,
        wall_s=time.monotonic() - began_s,
        machine=machine.facts(),
        load_before=load_before,
        load_after=machine.load_average(),
        served=tuple(served),
    )


def measure(name: str, folder: Path, concurrencies: tuple[int, ...]) -> Served:
    """Measure one made model; its folder and the server's go under `folder`."""
    model, work = folder / name, folder / f"{name}-server"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "bench.made_models", name, str(model)], check=True)
    prompts = RandomPrompts(lowest=LOWEST, highest=SHAPES[name].vocabulary - 2)
    slices: list[Slice] = []
    began_s = time.monotonic()
    with (
        Server(work, CONFIG, model=model) as server,
        Ceiling(model, stderr=folder / f"{name}-ceiling.log") as ceiling,
    ):
        throughput = Throughput(server, ceiling, prompts, began_s=began_s)
        for concurrency in concurrencies:
            slices += throughput.measure(concurrency, until_s=time.monotonic() + SHARE_S)
        device = ceiling.device
    groups = by_concurrency(slices)
    found = [fault for concurrency in concurrencies for fault in faults(groups.get(concurrency, []))]
    return Served(model=name, slices=tuple(slices), device=device, faults=tuple(found))


def lines(result: Result) -> list[str]:
    """Return the figures as people read them."""
    return [
        f"{each.model} {it.concurrency:>3} streams: raw {it.raw_tokens_per_s.median:.0f} tok/s, served"
        f" {it.served_tokens_per_s.median:.0f}, ratio {it.ratio.median:.2f} ({it.ratio.low:.2f} to"
        f" {it.ratio.high:.2f}, {it.ratio.count} pairs), TTFT {1000 * it.raw_ttft_s.median:.0f} and"
        f" {1000 * it.served_ttft_s.median:.0f} ms, CPU a token: gateway"
        f" {1e6 * it.gateway_cpu_s_per_token:.0f} us, host {1e6 * it.host_cpu_s_per_token:.0f} us"
        for each in result.served
        for it in each.comparisons
    ]


def as_object(result: Result, *, profile: str) -> dict[str, Any]:
    """Return the one object of `--json`."""
    return {
        "schema": SCHEMA,
        "ok": not result.faults,
        "profile": profile,
        "measured_on": f"{result.machine['system']} {result.device.upper()}",
        "wall_s": round(result.wall_s, 1),
        "machine": {**result.machine, "load_before": result.load_before, "load_after": result.load_after},
        "chunk_target_s": CHUNK_TARGET_S,
        "throughput": [
            {"model": each.model, **asdict(it)} for each in result.served for it in each.comparisons
        ],
        "invalid": list(result.faults),
    }


def write(result: Result, *, profile: str, folder: Path) -> list[Path]:
    """Write the figures and all slices as JSON; returns the file."""
    at = datetime.fromtimestamp(result.began_unix_s, UTC)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{profile}-{at:%Y%m%dT%H%M%SZ}.json"
    slices = [{"model": each.model, **asdict(part)} for each in result.served for part in each.slices]
    document = {"run_id": file.stem, **as_object(result, profile=profile), "slices": slices}
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return [file]
