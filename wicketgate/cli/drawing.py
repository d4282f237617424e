"""
Draws one feature as a screen, from its row: pure.

A screen is a list of lines, a line a list of texts with the role that colours them. No line is longer than
the width asked for; what would be goes on below, under its first word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wicketgate.cli import features, meters
from wicketgate.cli.output import EN_DASH, count, number, share, wrapped
from wicketgate.cli.rollback import undo

if TYPE_CHECKING:
    from collections.abc import Mapping

    Line = list[tuple[str, str]]

NARROWEST = 60
"""No screen is drawn narrower: its labels and meters would not fit."""
_LABEL = 12
_METER = 20
_NARROWEST_STAGE = 7
_WIDEST_STAGE = 18


def draw(row: Mapping[str, Any], *, clock: str, width: int) -> list[Line]:
    """
    Draw where a feature stands.

    Args:
        row: As `GET /v1/rollout` has it; findings and verdict may be missing.
        clock: The time to show at the right; empty shows none.
        width: Columns, `NARROWEST` at least.
    """
    screen = [_title(row, clock=clock, width=width)]
    for block in (_stages(row, width), _facts(row, width), _guards(row, width), _next(row, width)):
        if block:
            screen += [[], *block]
    return screen


def fitted(lines: list[Line], height: int) -> list[Line]:
    """Leave out what a screen has no room for: empty lines, then what stands above the way back."""
    if len(lines) <= height:
        return lines
    way_back = lines[max(index for index, line in enumerate(lines) if not line) + 1 :]
    dense = [line for line in lines if line]
    return dense if len(dense) <= height else [*dense[: max(0, height - len(way_back))], *way_back]


def text(lines: list[Line]) -> list[str]:
    """Return the lines without their roles."""
    return ["".join(part for part, _ in line).rstrip() for line in lines]


def _title(row: Mapping[str, Any], *, clock: str, width: int) -> Line:
    glyph, role = features.LOOKS.get(features.phase(row), ("!", "warn"))
    title: Line = [
        (str(row["feature"]), "bold"),
        ("  ", ""),
        (f"{glyph} {features.stage(row)}", role),
        (f"  revision {row['revision']}", "dim"),
    ]
    used = sum(len(part) for part, _ in title)
    if clock and used + 2 + len(clock) <= width:
        title += [(" " * (width - used - len(clock)), ""), (clock, "dim")]
    return title


def _stages(row: Mapping[str, Any], width: int) -> list[Line]:
    """Draw the steps: names, how much of each is served, shares; nothing for a direct feature."""
    stages = row.get("stages") or ()
    if row.get("mode") == "direct" or not stages:
        return []
    column = min(_WIDEST_STAGE, (width - 1) // len(stages) - 1)
    longest = max(len(each["name"]) for each in stages)
    if column < max(_NARROWEST_STAGE, longest):
        return _labelled(
            "stages", ", ".join(f"{each['name']} {share(each['percentage'])}" for each in stages), width
        )
    names, bars, shares = [], [], []
    for index, each in enumerate(stages):
        names.append((each["name"].ljust(column), _stage_role(row, index)))
        bars.append((meters.bar(_served_ratio(row, index), column), _stage_role(row, index)))
        shares.append((share(each["percentage"]).ljust(column), "dim"))
    return [_spaced(each) for each in (names, bars, shares)]


def _spaced(cells: Line) -> Line:
    return [part for cell in cells for part in ((" ", ""), cell)]


def _stage_role(row: Mapping[str, Any], index: int) -> str:
    if index == row.get("stage_index"):
        return features.LOOKS[features.phase(row)][1]
    return "" if _passed(row, index) else "dim"


def _passed(row: Mapping[str, Any], index: int) -> bool:
    at = row.get("stage_index")
    return at is not None and index < at


def _served_ratio(row: Mapping[str, Any], index: int) -> float:
    """Tell how much of a stage is behind a feature."""
    if _passed(row, index) or row.get("phase") == "complete":
        return 1.0
    if index != row.get("stage_index"):
        return 0.0
    hold_s = row.get("hold_s") or 0.0
    return min(1.0, (row.get("held_s") or 0.0) / hold_s) if hold_s else 1.0


def _facts(row: Mapping[str, Any], width: int) -> list[Line]:
    """Tell share, hold and requests."""
    unit = features.UNITS.get(str(row.get("key")), "requests")
    told = f"{share(row['percentage'])} of {unit}"
    in_flight = row.get("in_flight_on")
    if in_flight is not None:
        have = "has" if in_flight == 1 else "have"
        told += f"; {count(in_flight, 'request', 'requests')} in flight {have} it"
    lines = _labelled("share", told, width)
    if row.get("cause") in features.WHY:
        lines += _labelled("", features.WHY[str(row["cause"])], width, role="warn")
    if row.get("hold_s"):
        told = f"{features.served(row)} with fresh data"
        lines += _metered("hold", (row.get("held_s") or 0.0) / row["hold_s"], told, width, role="")
    compress = row.get("compress") or 1
    if compress > 1:
        lines += _labelled("", f"a rehearsal: every hold is divided by {compress:g}", width, role="warn")
    if row.get("findings"):
        lines += _labelled("requests", _requests(row), width)
    return lines


def _requests(row: Mapping[str, Any]) -> str:
    findings = row["findings"]
    canary, control = findings["canary"], findings["control"]
    ended = meters.ended(canary)
    told = f"{number(ended)} canary, {number(canary['failed'])} failed"
    if canary["refused"]:
        told += f", {number(canary['refused'])} refused"
    if canary["infrastructure"]:
        told += f", {number(canary['infrastructure'])} lost with the engine"
    if ended:
        told += f"; failure rate is below {meters.bound(findings['canary_upper_ratio'])} (95 %)"
    if meters.ended(control):
        told += f"; {number(meters.ended(control))} control, {number(control['failed'])} failed"
    return told


def _guards(row: Mapping[str, Any], width: int) -> list[Line]:
    """Draw a meter for each line of guards that says something, and why one tripped."""
    lines: list[Line] = []
    for gauge in meters.GAUGES:
        found = meters.nearest(row.get("findings"), gauge.guards)
        if found is None:
            continue
        guard, reading = found
        word = meters.word(reading)
        role = meters.ROLES[word]
        ratio = meters.meter_ratio(reading)
        lines.append(
            [
                (f" {gauge.name:<{_LABEL}}", ""),
                (meters.bar(ratio, _METER), role if ratio else "dim"),
                (f"  {word:<7}", role),
                (f"  {gauge.acts}", "dim"),
            ]
        )
        if word == meters.TRIPPED:
            lines += _labelled("  why", meters.why(row["findings"], guard), width, role="bad")
    head: Line = [(f" {'guards':<{_LABEL}}{'nothing':<{_METER - 4}}acts", "dim")]
    return [head, *lines] if lines else []


def _next(row: Mapping[str, Any], width: int) -> list[Line]:
    """Tell what is still missing, what comes next, who was here last, and what takes it back."""
    lines = _to_promote(row, width)
    coming, rolled_back = features.upcoming(row), row.get("phase") == "rolled_back"
    if coming != EN_DASH and row.get("phase") is not None and not rolled_back:
        lines += _labelled("next", coming, width)
    for reason in _reasons(row, coming):
        lines += _labelled("", reason, width)
    if row.get("updated_at"):
        because = f": {row['reason']}" if row.get("reason") else ""
        lines += _labelled("changed", f"{row['updated_at']} by {row.get('actor')}{because}", width)
    back = undo(dict(row)) if rolled_back else f"wicketgate rollback {row['feature']}"
    label = "go on" if rolled_back else "take back"
    if lines:
        lines.append([])
    return [*lines, *_labelled(label, back, width, role="accent")]


def _to_promote(row: Mapping[str, Any], width: int) -> list[Line]:
    """Draw how many of the clean requests that a promotion needs are there."""
    findings = row.get("findings")
    if not findings or row.get("phase") not in ("running", "holding", "paused"):
        return []
    seen, missing = meters.ended(findings["canary"]), int(findings["needed_requests"])
    wanted = seen + missing
    told = f"{number(seen)} of {number(wanted)} clean requests" if missing else "enough clean requests"
    return _metered("to promote", seen / wanted if missing else 1.0, told, width, role="")


def _reasons(row: Mapping[str, Any], coming: str) -> list[str]:
    """List what the verdict says is missing, but for what was said already."""
    if row.get("phase") not in ("running", "holding", "paused"):
        return []
    verdict = row.get("verdict") or {}
    reasons = verdict.get("reasons") or () if verdict.get("kind") != "pass" else ()
    return [str(each) for each in reasons if str(each) not in coming]


def _metered(label: str, ratio: float, told: str, width: int, *, role: str) -> list[Line]:
    room = width - _LABEL - _METER - 3
    first, *more = wrapped(told, room)
    head: Line = [
        (f" {label:<{_LABEL}}", "dim"),
        (meters.bar(min(1.0, ratio), _METER), role),
        (f"  {first}", ""),
    ]
    return [head, *([(" " * (_LABEL + _METER + 3), ""), (each, "")] for each in more)]


def _labelled(label: str, told: str, width: int, *, role: str = "") -> list[Line]:
    parts = wrapped(told, width - _LABEL - 1)
    labels = [f" {label:<{_LABEL}}", *[" " * (_LABEL + 1)] * (len(parts) - 1)]
    return [[(name, "dim"), (part, role)] for name, part in zip(labels, parts, strict=True)]
