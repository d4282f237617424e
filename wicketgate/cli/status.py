"""`wicketgate status`: what is true now, from the running gateway's one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wicketgate.cli import control
from wicketgate.cli.features import print_features
from wicketgate.cli.output import EN_DASH, Screen, binary_size, count, duration, print_json, share
from wicketgate.cli.place import find
from wicketgate.errors import ExitCode, UnreachableError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

ANSWER_S = 2.0
"""How long the gateway may take."""


def run(args: Namespace) -> int:
    """Print the snapshot."""
    screen = Screen.of(args)
    place = find(args, note=screen.note)
    try:
        status, snapshot = control.request(place.socket, "GET", "/v1/snapshot", timeout_s=ANSWER_S)
    except UnreachableError as error:
        raise UnreachableError(error.message, fix="Start one: wicketgate serve") from error
    if status != 200:
        raise UnreachableError(f"the gateway at {place.socket} answered {status} instead of its snapshot")
    if args.json:
        print_json(snapshot)
    else:
        _print(screen, snapshot)
    return ExitCode.DONE


def _print(screen: Screen, snapshot: Mapping[str, Any]) -> None:
    state = str(snapshot.get("state", "unknown"))
    objectives = snapshot.get("objectives") or []
    glyph, role = {"ready": ("✓", "ok"), "failed": ("✗", "bad")}.get(state, ("!", "warn"))
    if state == "ready" and any(row.get("state") == "violated" for row in objectives):
        glyph, role = "!", "warn"
    screen.out(f"{screen.paint(glyph, role)} {snapshot.get('sentence') or state}")
    screen.out()
    rows = [(name, text) for name, text in _facts(snapshot) if text]
    for name, text in rows:
        screen.out(f"{screen.paint(f'{name:<11}', 'dim')}{text}")
    if objectives:
        screen.out()
        _print_objectives(screen, objectives)
    if snapshot.get("rollouts"):
        screen.out()
        print_features(screen, snapshot["rollouts"])


def _facts(snapshot: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write the snapshot's parts, a line each; a part that is missing is left out."""
    flow, engine = _part(snapshot, "flow"), _part(snapshot, "engine")
    model, latency = _part(snapshot, "model"), _part(snapshot, "latency")
    throughput = _part(snapshot, "throughput")
    return [
        ("runtime", _runtime(snapshot)),
        ("config", _refused(_part(snapshot, "config"))),
        ("listening", _join(" and ", *_part(snapshot, "listeners").values())),
        ("model", _join(", ", model.get("id"), _counted(model.get("context_tokens"), "tokens of context"))),
        (
            "engine",
            _join(
                ", ",
                engine.get("state"),
                _labelled("pid", engine.get("pid")),
                _counted(engine.get("restarts"), "restarts"),
                _counted(engine.get("rows"), "rows"),
                _bytes(engine.get("memory_bytes")),
                (None, "above the soft mark of memory", "above the hard mark of memory")[
                    engine.get("memory_pressure") or 0
                ],
            ),
        ),
        ("last exit", engine.get("last_exit") or ""),
        ("safe mode", engine.get("safe_mode") or ""),
        ("models", _models(snapshot.get("models") or [])),
        (
            "flow",
            _join(
                ", ",
                _counted(flow.get("in_flight"), "in flight"),
                _counted(flow.get("queued"), "queued"),
                _labelled("limit", flow.get("limit")),
                _counted(flow.get("shed_total"), "shed since start"),
            ),
        ),
        ("ttft", _quantiles(latency.get("ttft_ms"))),
        ("itl", _quantiles(latency.get("itl_ms"))),
        (
            "throughput",
            _join(
                ", ",
                _counted(throughput.get("requests_per_s"), "requests/s"),
                _counted(throughput.get("tokens_per_s"), "tokens/s"),
            ),
        ),
        ("errors", _ratio(_part(snapshot, "errors"))),
    ]


def _models(rows: list[Mapping[str, Any]]) -> str:
    """Tell where each of several models stands; a single one is told by its engine."""
    if len(rows) < 2:
        return ""
    return ", ".join(f"{row.get('id')} {row.get('state')}" for row in rows)


def _ratio(errors: Mapping[str, Any]) -> str:
    if "error_ratio" not in errors:
        return ""
    ratio = errors["error_ratio"]
    return EN_DASH if ratio is None else share(100 * ratio)


def _runtime(snapshot: Mapping[str, Any]) -> str:
    uptime_s = snapshot.get("uptime_s")
    return _join(
        ", ",
        _join(" ", snapshot.get("name"), snapshot.get("version")),
        _labelled("pid", snapshot.get("pid")),
        None if uptime_s is None else f"up {duration(round(uptime_s))}",
    )


def _refused(config: Mapping[str, Any]) -> str:
    """Say that an edit of the configuration is not in force; nothing where it is."""
    if not config.get("error"):
        return ""
    file = config.get("file")
    return f"the last edit of {file} was refused, the one before is in force: wicketgate validate {file}"


def _print_objectives(screen: Screen, objectives: list[Mapping[str, Any]]) -> None:
    roles = {"ok": "ok", "violated": "bad", "no_data": "dim"}
    rows = []
    for each in objectives:
        state = str(each.get("state", EN_DASH))
        name = str(each.get("name", EN_DASH))
        counted = f"{each.get('bad', EN_DASH)} of {each.get('total', EN_DASH)}"
        shown = (state.replace("_", " "), roles.get(state, "warn"))
        rows.append((name, shown, counted, str(each.get("why") or "")))
    screen.table(("OBJECTIVE", "STATE", ">BAD", "WHY"), rows)


def _part(snapshot: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = snapshot.get(name)
    return part if isinstance(part, dict) else {}


def _join(between: str, *parts: object) -> str:
    return between.join(str(part) for part in parts if part not in (None, ""))


def _counted(number: float | None, noun: str) -> str | None:
    if number is None:
        return None
    return count(number, noun, noun) if isinstance(number, int) else f"{number:.3g} {noun}"


def _labelled(label: str, value: object) -> str | None:
    return None if value is None else f"{label} {value}"


def _quantiles(values: Mapping[str, Any] | None) -> str:
    if not values:
        return ""
    return ", ".join(
        f"{name} {EN_DASH if value is None else duration(value / 1000)}" for name, value in values.items()
    )


def _bytes(number: float | None) -> str | None:
    return None if number is None else binary_size(number)
