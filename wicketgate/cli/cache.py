"""`wicketgate cache ls | stats | clear`: what the prefix stores of the loaded models hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from wicketgate.cli.asking import ask
from wicketgate.cli.output import EN_DASH, Screen, binary_size, count, duration, print_json, share
from wicketgate.cli.place import find
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

ANSWER_S: Final = 12.0
"""How long the gateway may take: its hosts answer between two steps."""


def ls(args: Namespace) -> int:
    """List the prefixes that are held, most recently used first."""
    screen, answer = _ask(args)
    if args.json:
        print_json(answer)
        return ExitCode.DONE
    rows = [(report, entry) for report in answer["models"] for entry in report["entries"]]
    if not rows:
        screen.out("Nothing is kept.")
        return ExitCode.DONE
    screen.table(
        ("MODEL", "PREFIX", ">TOKENS", ">SIZE", "TIER", ">USED", "SESSION"),
        [
            (
                report["model"],
                entry["key"],
                str(entry["tokens"]),
                binary_size(entry["size_bytes"]),
                f"{entry['tier']}, pinned" if entry["is_pinned"] else entry["tier"],
                duration(round(entry["age_s"])),
                entry["session"] or EN_DASH,
            )
            for report, entry in rows
        ],
        optional=(("MODEL",), ("PREFIX",)),
    )
    return ExitCode.DONE


def stats(args: Namespace) -> int:
    """Tell hits, sizes, and what a session takes against the formula."""
    screen, answer = _ask(args)
    models = [{**report, "sessions": sessions(report)} for report in answer["models"]]
    for report in models:
        del report["entries"]
    if args.json:
        print_json({**answer, "models": models})
        return ExitCode.DONE
    if not models:
        screen.out("No model is loaded.")
    for report in models:
        _print_stats(screen, report)
    return ExitCode.DONE


def clear(args: Namespace) -> int:
    """Drop what is kept, but for pinned prompts."""
    screen = Screen.of(args)
    body = {"model": args.model, "tier": args.tier}
    answer = ask(find(args, note=screen.note), "POST", "/v1/engine/cache/clear", body, timeout_s=ANSWER_S)
    if args.json:
        print_json(answer)
        return ExitCode.DONE
    for report in answer["models"]:
        left = f"{binary_size(report['memory_bytes'])} in memory, {binary_size(report['disk_bytes'])} on disk"
        screen.out(f"{screen.paint('✓', 'ok')} {screen.paint(report['model'], 'bold')}: cleared; left {left}")
    return ExitCode.DONE


def sessions(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    Add up what each session holds in memory, and compare it with the formula.

    The formula is tokens x bytes per token; what is over it is the grain in which caches grow.

    Args:
        report: A CacheReport as the gateway writes it.

    Returns:
        By session, the largest first; entries without a session are together under "".
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in report["entries"]:
        if entry["tier"] == "disk":
            continue
        row = found.setdefault(
            entry["session"], {"session": entry["session"], "prefixes": 0, "tokens": 0, "size_bytes": 0}
        )
        row["prefixes"] += 1
        row["tokens"] += entry["tokens"]
        row["size_bytes"] += entry["size_bytes"]
    for row in found.values():
        row["formula_bytes"] = row["tokens"] * report["kv_bytes_per_token"]
        row["overhead_ratio"] = overhead_ratio(row["size_bytes"], row["formula_bytes"])
    return sorted(found.values(), key=lambda row: -int(row["size_bytes"]))


def overhead_ratio(size_bytes: int, formula_bytes: int) -> float | None:
    """Return how much is held over the formula, as a share of it; None where the formula says nothing."""
    return round(size_bytes / formula_bytes - 1, 4) if formula_bytes else None


def _ask(args: Namespace) -> tuple[Screen, dict[str, Any]]:
    screen = Screen.of(args)
    query = f"?{urlencode({'model': args.model})}" if args.model else ""
    place = find(args, note=screen.note)
    return screen, ask(place, "GET", f"/v1/engine/cache{query}", timeout_s=ANSWER_S)


def _print_stats(screen: Screen, report: Mapping[str, Any]) -> None:
    asked = report["hits"] + report["misses"]
    hits = EN_DASH if not asked else share(100 * report["hits"] / asked)
    rows_formula = report["rows_tokens"] * report["kv_bytes_per_token"]
    facts = [
        ("memory", f"{binary_size(report['memory_bytes'])} of {binary_size(report['memory_limit_bytes'])}"),
        ("disk", f"{binary_size(report['disk_bytes'])} of {binary_size(report['disk_limit_bytes'])}"),
        ("hits", f"{hits} of {count(asked, 'prompt', 'prompts')}, {report['disk_hits']} from disk"),
        ("rejected", f"{count(report['rejected_files'], 'file', 'files')} damaged or foreign"),
        ("a token", binary_size(report["kv_bytes_per_token"])),
        (
            "running",
            f"{count(report['rows'], 'stream', 'streams')},"
            f" {count(report['rows_tokens'], 'token', 'tokens')},"
            f" {binary_size(report['rows_bytes'])}, {_over(report['rows_bytes'], rows_formula)}",
        ),
    ]
    screen.out(screen.paint(str(report["model"]), "bold"))
    for name, text in facts:
        screen.out(f"  {screen.paint(f'{name:<9}', 'dim')}{text}")
    _print_sessions(screen, report["sessions"])


def _print_sessions(screen: Screen, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    screen.out()
    screen.table(
        ("SESSION", ">PREFIXES", ">TOKENS", ">SIZE", "OVER THE FORMULA"),
        [
            (
                row["session"] or EN_DASH,
                str(row["prefixes"]),
                str(row["tokens"]),
                binary_size(row["size_bytes"]),
                _over(row["size_bytes"], row["formula_bytes"]),
            )
            for row in rows
        ],
    )


def _over(size_bytes: int, formula_bytes: int) -> str:
    ratio = overhead_ratio(size_bytes, formula_bytes)
    return EN_DASH if ratio is None else f"{share(round(100 * ratio, 1))} over the formula"
