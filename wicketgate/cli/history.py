"""`wicketgate rollout history [F]`: who changed what, when, why and on what evidence, from the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wicketgate.cli import meters
from wicketgate.cli.output import EN_DASH, Screen, count, number, print_json
from wicketgate.cli.place import find
from wicketgate.errors import ExitCode, LedgerError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from wicketgate.cli.output import Cell

_GLYPHS = {
    "start": ("▸", "accent"),
    "promote": ("▸", "accent"),
    "resume": ("▸", "accent"),
    "reset": ("▸", "accent"),
    "unkill": ("▸", "accent"),
    "rollback": ("✗", "bad"),
    "kill": ("✗", "bad"),
    "hold": ("‖", "warn"),
    "pause": ("‖", "warn"),
}


def run(args: Namespace) -> int:
    """
    Print the audit, newest first, and whether its chain holds.

    Returns:
        8 where the audit was edited, or says something else than the state.
    """
    screen = Screen.of(args)
    ledger = find(args, note=screen.note).ledger()
    rows = ledger.history(args.feature, limit=args.limit)
    # The kill switch is part of every feature's history, and no proof of one.
    if args.feature and all(row["feature"] != args.feature for row in rows):
        _check_feature(args.feature, ledger.history(None, limit=1_000_000))
    changes, broken = 0, None
    try:
        changes = ledger.verify()
    except LedgerError as error:
        broken = error.message
    if args.json:
        verified = {"ok": broken is None, "changes": changes, "problem": broken}
        print_json({"schema": "wicketgate.history/1", "ok": broken is None, "audit": verified, "rows": rows})
    else:
        if rows:
            headers = (">REV", "WHEN", "FEATURE", "WHAT", "FROM", "TO", "WHO", "WHY")
            screen.table(headers, [_cells(row) for row in rows], optional=(("FROM",), ("WHO",)))
            screen.out()
        _verdict(screen, changes, broken)
    return ExitCode.DONE if broken is None else ExitCode.CHECK_FAILED


def _check_feature(feature: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a name that neither the audit nor a packaged declaration knows."""
    from wicketgate.audit import KILL_SWITCH
    from wicketgate.cli.place import PACKAGED_FEATURES
    from wicketgate.cli.standing import check_known

    check_known(feature, {*PACKAGED_FEATURES, *(str(row["feature"]) for row in rows)} - {KILL_SWITCH})


def _verdict(screen: Screen, changes: int, broken: str | None) -> None:
    if broken is not None:
        screen.out(f"{screen.paint('✗', 'bad')} {broken}")
    elif changes:
        glyph = screen.paint("✓", "ok")
        screen.out(f"{glyph} {count(changes, 'change', 'changes')}, and the chain of the audit holds.")
    else:
        screen.out("Nothing was changed yet.")


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    action = str(row.get("action", EN_DASH))
    glyph, role = _GLYPHS.get(action, ("·", "dim"))
    return [
        number(int(row.get("revision", 0))),
        str(row.get("at", EN_DASH)).replace("T", " ").removesuffix("Z"),
        str(row.get("feature", EN_DASH)),
        (f"{glyph} {action}", role),
        _stood(row.get("from")),
        _stood(row.get("to")),
        str(row.get("actor") or EN_DASH),
        _why(row),
    ]


def _stood(document: Mapping[str, Any] | None) -> str:
    """Write where a feature stood: `canary`, `holding at canary`, `off`; a dash where there was no row."""
    if not document:
        return EN_DASH
    if "engaged" in document:
        return "on" if document["engaged"] else "off"
    phase, stage = str(document.get("phase", EN_DASH)).replace("_", " "), document.get("stage")
    if phase == "running" and stage:
        return str(stage)
    return f"{phase} at {stage}" if stage and phase in ("holding", "paused") else phase


def _why(row: Mapping[str, Any]) -> str:
    """Write the reason, and beside a person's what the guards had seen; a guard's own says it already."""
    reason = str(row.get("reason") or "")
    by_itself = str(row.get("actor") or "").startswith("auto:")
    figures = "" if by_itself and reason else _figures(row.get("evidence") or {})
    return "; ".join(each for each in (reason, figures) if each)


def _figures(evidence: Mapping[str, Any]) -> str:
    """Write what the guards had seen; nothing where the audit holds no evidence."""
    found = meters.nearest(evidence)
    if found is None:
        return ""
    guard, reading = found
    said = f"{guard} at {meters.evidence(reading['evidence'])} of {meters.evidence(reading['limit'])}"
    return f"{meters.failures(evidence)}, {said}"
