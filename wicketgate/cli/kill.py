"""
`wicketgate rollout kill|unkill`: every feature to 0 % at once, and the switch back.

`kill` works as a rollback does: the gateway is asked first, because it acts in memory at once; where it does
not answer the ledger is written. `unkill` raises, so this process writes the ledger itself, and asks first.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from wicketgate.cli import control
from wicketgate.cli.output import Screen, count, duration, print_json, share
from wicketgate.cli.place import find
from wicketgate.cli.question import confirm_with_user
from wicketgate.cli.rollback import ANSWER_S, SILENT, actor, reached, wait_for
from wicketgate.errors import ExitCode, LedgerError, NotDurableError, TimedOutError, UnreachableError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from wicketgate.cli.place import Place

NONE = "none"
"""No gateway is running; as `wicketgate.cli.standing` spells it, which costs more to import than a kill."""


def kill(args: Namespace) -> int:
    """Engage the kill switch."""
    screen = Screen.of(args)
    place = find(args, note=screen.note)
    if args.dry_run:
        said = "Would put every feature to 0 %. Nothing was changed."
        return _tell(args, screen, _told("kill", changed=False), said)
    answer = _ask(place, args.reason)
    if not answer["ok"]:
        answer = _write(place, args.reason, failed=bool(answer.get("error")))
    if not answer["changed"]:
        return _tell(args, screen, answer, "The kill switch is on already; nothing was changed.")
    took = [
        f"{what} after {duration(answer[name])}"
        for name, what in (("flip_s", "off for new requests"), ("durable_s", "saved"))
        if answer[name] is not None
    ]
    return _tell(
        args,
        screen,
        answer,
        f"{screen.paint('✓', 'ok')} {screen.paint('every feature', 'bold')}: 0 %"
        f"   revision {answer['revision']}   {', '.join(took)}",
        _unharmed(answer["gateway"], in_flight=answer.get("in_flight_on") or 0),
        screen.paint("  Undo: wicketgate rollout unkill", "dim"),
    )


def unkill(args: Namespace) -> int:
    """Release the ledger's kill switch."""
    from wicketgate.cli.standing import standing

    screen = Screen.of(args)
    place = find(args, note=screen.note)
    by_file = f"kill_switch: true stands in {place.config}" if place.declares_kill() else ""
    stand = standing(place)
    told = _told("unkill", changed=False, killed=stand.contents.killed or bool(by_file))
    if not stand.contents.killed:
        return _tell(args, screen, told, _not_on(by_file))
    if args.dry_run:
        return _tell(args, screen, told, "Would release the kill switch. Nothing was changed.")
    confirm_with_user(args, "Release the kill switch: every feature goes back to its share?")
    began_s = time.perf_counter()
    seen = stand.contents.kill_switch.revision
    switch = place.ledger().set_killed(False, actor=actor(), reason=args.reason, expect_revision=seen)
    rows = [] if stand.gateway == NONE else _confirm(place, killed=bool(by_file))
    took_s = time.perf_counter() - began_s
    told |= {"changed": True, "killed": bool(by_file), "revision": switch.revision, "took_s": took_s}
    return _tell(
        args,
        screen,
        told | {"gateway": stand.gateway},
        f"{screen.paint('✓', 'ok')} {screen.paint('kill switch', 'bold')}: released"
        f"   revision {switch.revision}   saved after {duration(took_s)}",
        *([f"  {screen.paint('!', 'warn')} Every feature stays at 0 %: {by_file}."] if by_file else []),
        *(f"  {row['feature']}: 0 % → {share(row['percentage'])}" for row in rows if row["percentage"]),
        _unharmed(stand.gateway),
        screen.paint("  Undo: wicketgate rollout kill", "dim"),
    )


def _not_on(by_file: str) -> str:
    if by_file:
        return f"The ledger's kill switch is not on, but {by_file}: write false there."
    return "The kill switch is not on; nothing was changed."


def _unharmed(gateway: str, *, in_flight: int = 0) -> str:
    if gateway == NONE:
        return "  No gateway is running; it holds from the next start on."
    if gateway == "silent":
        return SILENT
    if in_flight:
        started = count(in_flight, "request", "requests")
        return f"  {started} that began before will finish; nothing was cancelled."
    return "  Requests in flight finish as they began; nothing was cancelled."


def _told(
    action: str, *, changed: bool, killed: bool | None = None, revision: int | None = None
) -> dict[str, Any]:
    return {
        "schema": "wicketgate.kill/1",
        "ok": True,
        "action": action,
        "changed": changed,
        "killed": killed,
        "revision": revision,
    }


def _tell(args: Namespace, screen: Screen, told: Mapping[str, Any], *lines: str) -> int:
    if args.json:
        print_json({**told, "dry_run": args.dry_run})
    else:
        for line in lines:
            screen.out(line)
    return ExitCode.DONE


def _ask(place: Place, reason: str) -> dict[str, Any]:
    """Ask the gateway to do it; return its answer, with `ok` false where there was none or it failed."""
    body = {"actor": actor(), "reason": reason}
    try:
        status, answer = control.request(place.socket, "POST", "/v1/kill", body, timeout_s=ANSWER_S)
    except (UnreachableError, TimedOutError):
        return {"ok": False}
    if status != 200:
        return {**answer, "ok": False}
    # One request may be on several features; the largest count misses some rather than count one twice.
    in_flight = max((row.get("in_flight_on") or 0 for row in answer.get("features", ())), default=0)
    return {
        **_told("kill", changed=True, killed=True, revision=answer.get("revision")),
        **{name: answer.get(name) for name in ("flip_s", "durable_s")},
        "in_flight_on": in_flight,
        "gateway": "answered",
    }


def _write(place: Place, reason: str, *, failed: bool) -> dict[str, Any]:
    """Write it to the ledger directly, and look who takes it up; `failed`: the gateway could not save it."""
    began_s = time.perf_counter()
    ledger = place.ledger()
    try:
        before = ledger.read()
        row = ledger.set_killed(True, actor=actor(), reason=reason)
    except LedgerError as error:
        if not failed:
            raise
        raise NotDurableError(
            f"every feature is off in the running gateway, and not saved: {error.message}",
            fix="Repair that and run this again: a restart of the gateway would undo it.",
        ) from error
    durable_s = time.perf_counter() - began_s
    gateway = reached(place, lambda: _confirm(place, killed=True))
    told = _told("kill", changed=not before.killed, killed=True, revision=row.revision)
    return {**told, "flip_s": None, "durable_s": durable_s, "gateway": gateway}


def _confirm(place: Place, *, killed: bool) -> Sequence[Mapping[str, Any]]:
    """Wait until the running gateway shows it; return its rows. Raises as `wait_for` does."""

    def shows(rows: Sequence[Mapping[str, Any]]) -> bool:
        return all((row["cause"] == "killed") == killed for row in rows)

    return wait_for(place, shows, saved="saved")
