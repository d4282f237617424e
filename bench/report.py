"""What a run measured, for people, for programs, and as files (pure, but for writing them)."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from bench.operations import CROWD, LIMIT, QUEUE
from bench.slices import Slice, by_concurrency, compare, pairs
from bench.statistics import Spread, quantile
from bench.throughput import GENERATED_TOKENS, PROMPT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.slices import Comparison
    from bench.smoke import Result

SCHEMA: Final = "wicketgate.bench/1"
HEADERS: Final = (
    ">STREAMS",
    ">RAW TOK/S",
    ">SERVED TOK/S",
    ">SERVED / RAW",
    ">RAW TTFT",
    ">TTFT OVERHEAD",
    ">GATEWAY CPU/TOKEN",
)
COLUMNS: Final = (
    *("run_id", "scenario", "arm", "slice", "began_s", "duration_s", "offered", "ok", "tokens"),
    *("tokens_per_s", "ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "lateness_p99_s"),
    *("gateway_cpu_s", "host_cpu_s", "client_cpu_s"),
)


def as_object(result: Result, *, profile: str) -> dict[str, Any]:
    """Return the one object of `--json`."""
    return {
        "schema": SCHEMA,
        "ok": not result.faults,
        "profile": profile,
        "measured_on": measured_on(result),
        "began_at": _at(result).isoformat(timespec="seconds"),
        "wall_s": round(result.wall_s, 1),
        "machine": {**result.machine, "load_before": result.load_before, "load_after": result.load_after},
        "prompt_tokens": PROMPT_TOKENS,
        "generated_tokens": GENERATED_TOKENS,
        "throughput": [asdict(each) for each in _comparisons(result)],
        "begin": asdict(result.begin),
        "rollback": {"count": len(result.rollbacks), **_rollback(result)},
        "overload": {**asdict(result.overload), "limit": LIMIT, "queue": QUEUE},
        "invalid": list(result.faults),
    }


def measured_on(result: Result) -> str:
    """Name the kind of machine that every figure is bound to: `Linux CPU`."""
    return f"{result.machine['system']} {result.device.upper()}"


def heading(result: Result, *, profile: str) -> list[str]:
    """Return the lines above the table."""
    facts = result.machine
    versions: Any = facts["versions"]
    commit = f" at {facts['commit']}" if facts["commit"] else ""
    return [
        f"wicketgate bench, profile {profile}: {measured_on(result)}",
        f"{facts['cpu']}, {facts['cores']} cores, load average {result.load_before} before and"
        f" {result.load_after} after",
        f"Python {facts['python']}, mlx {versions['mlx']}, mlx-lm {versions['mlx-lm']},"
        f" wicketgate {versions['wicketgate']}{commit}",
        f"{PROMPT_TOKENS} prompt + {GENERATED_TOKENS} generated tokens, greedy, all prompts different, prefix"
        " cache off; median (smallest to largest) of pairs taken in turns",
    ]


def rows(result: Result) -> list[tuple[str, ...]]:
    """Return the cells of the table under HEADERS."""
    return [
        (
            str(each.concurrency),
            _spread(each.raw_tokens_per_s, 1, ".0f"),
            _spread(each.served_tokens_per_s, 1, ".0f"),
            _spread(each.ratio, 1, ".2f"),
            _spread(each.raw_ttft_s, 1000, ".0f") + " ms",
            _spread(each.ttft_overhead_s, 1000, "+.0f") + " ms",
            f"{1000 * each.gateway_cpu_s_per_token:.2f} ms",
        )
        for each in _comparisons(result)
    ]


def sentences(result: Result) -> list[str]:
    """Return the lines under the table."""
    begin, crowd = result.begin, result.overload
    times_s = begin.sequential_request_s
    lines = [
        f"Ready {begin.start_to_ready_s:.1f} s after its start (bar 15 s); first request"
        f" {begin.first_request_s:.2f} s (bar 5 s); the next ones {quantile(times_s, 0.5):.2f} s in the"
        f" median, {max(times_s):.2f} s at most (bar 2 s).",
    ]
    if result.rollbacks:
        figures = {name: _ms(value) for name, value in _rollback(result).items()}
        lines.append(
            f"Rollback, {len(result.rollbacks)} times: from command to effect p50 {figures['effect_p50_s']},"
            f" p99 {figures['effect_p99_s']} (bar 100 ms); to the end of the command p50"
            f" {figures['wall_p50_s']}, p99 {figures['wall_p99_s']}; in the gateway p99"
            f" {figures['flip_p99_s']}."
        )
    if crowd.refusal_p50_s is not None and crowd.refusal_p99_s is not None:
        lines.append(
            f"{CROWD} at once, limit {LIMIT}, queue {QUEUE}: {crowd.finished} finished, {crowd.refused}"
            f" refused, p50 {_ms(crowd.refusal_p50_s)} and p99 {_ms(crowd.refusal_p99_s)} after the gateway"
            " had read them (bar 50 ms p99)."
        )
    return lines


def csv_rows(result: Result, *, run_id: str) -> list[dict[str, object]]:
    """Return one row per slice, by COLUMNS."""
    return [_csv_row(each, run_id) for each in result.slices]


def write(result: Result, *, profile: str, folder: Path) -> list[Path]:
    """Write the slices as CSV and everything else as JSON; returns the files."""
    run_id = f"{profile}-{_at(result):%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True, exist_ok=True)
    table, about = folder / f"{run_id}.csv", folder / f"{run_id}.json"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(csv_rows(result, run_id=run_id))
    document = {"run_id": run_id, **as_object(result, profile=profile)}
    about.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return [table, about]


def _at(result: Result) -> datetime:
    return datetime.fromtimestamp(result.began_unix_s, UTC)


def _comparisons(result: Result) -> list[Comparison]:
    groups = by_concurrency(result.slices)
    return [compare(slices) for slices in groups.values() if pairs(slices)]


def _rollback(result: Result) -> dict[str, float]:
    figures = {}
    for name in ("effect_s", "wall_s", "flip_s") if result.rollbacks else ():
        values = [getattr(each, name) for each in result.rollbacks]
        for part, q in (("p50", 0.5), ("p99", 0.99)):
            figures[name.replace("_s", f"_{part}_s")] = quantile(values, q)
    return figures


def _csv_row(each: Slice, run_id: str) -> dict[str, object]:
    def at(values: Sequence[float], q: float) -> float | str:
        return round(quantile(values, q), 6) if values else ""

    return {
        "run_id": run_id,
        "scenario": f"streams-{each.concurrency}",
        "arm": str(each.arm),
        "slice": each.order,
        "began_s": round(each.began_s, 3),
        "duration_s": round(each.duration_s, 6),
        "offered": each.offered,
        "ok": each.ok,
        "tokens": each.tokens,
        "tokens_per_s": round(each.tokens_per_s, 1),
        "ttft_p50_s": at(each.ttft_s, 0.5),
        "ttft_p95_s": at(each.ttft_s, 0.95),
        "tpot_p50_s": at(each.tpot_s, 0.5),
        "lateness_p99_s": at(each.lateness_s, 0.99),
        "gateway_cpu_s": round(each.gateway_cpu_s, 3),
        "host_cpu_s": round(each.host_cpu_s, 3),
        "client_cpu_s": round(each.client_cpu_s, 4),
    }


def _spread(value: Spread, factor: float, form: str) -> str:
    return f"{factor * value.median:{form}} ({factor * value.low:{form}} to {factor * value.high:{form}})"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
