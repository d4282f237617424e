"""
`wicketgate rollback F | --all`: to 0 % for new requests, whatever state the gateway is in.

The gateway is asked first, because it acts in memory at once. Where it does not answer within 100 ms, or
nobody does, the ledger is written directly; a gateway that lives takes that up within 50 ms, even with its
event loop blocked. This path imports little, so that it is quick.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from rollout.latch import ROLLBACK, rolled_back
from wicketgate.cli import control
from wicketgate.cli.output import Screen, count, duration, print_json, share
from wicketgate.cli.place import PACKAGED_FEATURES, Place, find
from wicketgate.errors import (
    ExitCode,
    LedgerError,
    NotDurableError,
    NotFoundError,
    TimedOutError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping, Sequence

    from wicketgate.ledger import Row

ANSWER_S = 0.1
"""How long the gateway may take before the ledger is written directly."""
SILENT = "  The running gateway does not answer; it takes this up from the ledger as soon as it can."
CONFIRM_S = 1.0
"""How long a running gateway may take to report what was written to the ledger."""


def run(args: Namespace) -> int:
    """Roll back one feature or all."""
    if bool(args.feature) == args.all:
        raise UsageError("rollback needs the name of a feature, or --all", fix="wicketgate rollback --help")
    screen = Screen.of(args)
    place = find(args, note=screen.note)
    if args.dry_run:
        return _rehearse(args, screen, place)
    answer = _ask(place, args.feature, args.reason)
    if not answer["ok"]:
        answer = _write(place, args.feature, args.reason, failed=bool(answer.get("error")))
        revisions = {row["feature"]: row["revision"] for row in answer["features"]}
        answer["gateway"] = reached(place, lambda: confirm(place, revisions))
    if args.json:
        print_json(answer)
    else:
        _print(screen, answer)
    return ExitCode.DONE


def _rehearse(args: Namespace, screen: Screen, place: Place) -> int:
    """Say which features would be rolled back."""
    names = _names(args.feature, _known(place, args.feature))
    if args.json:
        features = [{"feature": name, "to_percentage": 0.0} for name in names]
        document = {"schema": "wicketgate.rollback/1", "ok": True, "dry_run": True, "features": features}
        print_json(document)
    else:
        for name in names:
            screen.out(f"Would roll back {name} to 0 % for new requests. Nothing was changed.")
    return ExitCode.DONE


def actor() -> str:
    """Name who does it, for the audit: user@host."""
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid{os.getuid()}"
    return f"{user}@{os.uname().nodename}"


def confirm(place: Place, revisions: dict[str, int]) -> None:
    """
    Wait until the running gateway reports what was written to the ledger.

    Raises:
        TimedOutError: it did not within a second.
    """

    def shows(rows: Sequence[Mapping[str, Any]]) -> bool:
        reported = {row["feature"]: row["revision"] for row in rows}
        return all(reported.get(name, revision) >= revision for name, revision in revisions.items())

    names = ", ".join(f"{name} (revision {revision})" for name, revision in revisions.items())
    wait_for(place, shows, saved=f"saved: {names}")


def wait_for(
    place: Place, shows: Callable[[Sequence[Mapping[str, Any]]], bool], *, saved: str
) -> Sequence[Mapping[str, Any]]:
    """
    Wait until the rows of the running gateway show something; return them.

    Args:
        place: Whose.
        shows: Tells whether the rows do.
        saved: What was saved meanwhile, for the message.

    Raises:
        TimedOutError: they did not within a second.
    """
    deadline_s = time.monotonic() + CONFIRM_S
    while (left_s := deadline_s - time.monotonic()) > 0:
        try:
            _, answer = control.request(place.socket, "GET", "/v1/rollout", timeout_s=left_s)
        except (UnreachableError, TimedOutError):
            break
        rows: Sequence[Mapping[str, Any]] = answer.get("features", ())
        if shows(rows):
            return rows
        time.sleep(0.01)
    raise TimedOutError(
        f"{saved}; the running gateway did not confirm it within {CONFIRM_S:g} s.",
        fix="It takes the ledger up as soon as it can. Look with: wicketgate rollout status",
    )


def reached(place: Place, confirmed: Callable[[], object]) -> str:
    """
    Tell what the gateway makes of what was saved: none, silent or confirmed.

    Saved is enough: a gateway that hangs takes it up before all else.

    Args:
        place: Whose gateway.
        confirmed: Waits until the gateway shows it; raises TimedOutError where it does not.
    """
    if not control.is_alive(place.socket):
        return "none"
    try:
        confirmed()
    except TimedOutError:
        return "silent"
    return "confirmed"


def _ask(place: Place, feature: str | None, reason: str) -> dict[str, Any]:
    """Ask the gateway to do it; return its answer, with `ok` false where there was none or it failed."""
    body = {"feature": feature, "reason": reason, "actor": actor()}
    try:
        status, answer = control.request(place.socket, "POST", "/v1/rollback", body, timeout_s=ANSWER_S)
    except (UnreachableError, TimedOutError):
        return {"ok": False}
    if status == NotFoundError.status:
        message = str(answer.get("error", {}).get("message", f"no feature named {feature}"))
        raise NotFoundError(message, param="feature")
    return {**answer, "ok": status == 200, "gateway": "answered"}


def _write(place: Place, feature: str | None, reason: str, *, failed: bool) -> dict[str, Any]:
    """
    Write it to the ledger directly, and tell it in the words of the gateway's own answer.

    Args:
        place: Whose ledger.
        feature: Which one; None is all.
        reason: Why.
        failed: The gateway did it in memory, and could not save it.
    """
    began_s, now_unix_s = time.perf_counter(), time.time()
    ledger = place.ledger()

    def decide(_name: str, row: Row) -> dict[str, object] | None:
        return rolled_back(row.document, now_unix_s=now_unix_s, actor=actor(), reason=reason)

    try:
        names = _names(feature, _known(place, feature))
        rows = ledger.change(names, decide, action=ROLLBACK, actor=actor(), reason=reason)
    except LedgerError as error:
        if not failed:
            raise
        raise NotDurableError(
            f"{feature or 'every feature'} is off in the running gateway, and not saved: {error.message}",
            fix="Repair that and run this again: a restart of the gateway would undo it.",
        ) from error
    return {
        "schema": "wicketgate.rollback/1",
        "ok": True,
        "features": [_as_row(name, row, place) for name, row in rows.items()],
        "flip_s": None,
        "durable_s": time.perf_counter() - began_s,
    }


def _known(place: Place, feature: str | None) -> list[str]:
    """Name the features that are packaged, declared, or, if the wanted one is not, in the ledger."""
    known = dict.fromkeys([*PACKAGED_FEATURES, *place.declared()])
    if feature is not None and feature not in known:
        known |= dict.fromkeys(place.ledger().read().rows)
    return list(known)


def _names(feature: str | None, known: list[str]) -> list[str]:
    if feature is None:
        return known
    if feature not in known:
        from rollout.spec import did_you_mean

        raise NotFoundError(
            f"no feature named {feature}.{did_you_mean(feature, known)} Nothing was rolled back. "
            f"Features: {', '.join(sorted(known))}.",
            fix="One that only a configuration elsewhere declares needs --config.",
            param="feature",
        )
    return [feature]


def _as_row(name: str, row: Row, place: Place) -> dict[str, Any]:
    stage = row.document.get("stage")
    mode = place.declared().get(name, {}).get("mode", "staged" if stage else "direct")
    return {
        "feature": name,
        "from_percentage": None,
        "to_percentage": 0.0,
        "mode": str(mode),
        "stage": stage,
        "revision": row.revision,
        "in_flight_on": None,
    }


def _print(screen: Screen, answer: dict[str, Any]) -> None:
    """Tell what is true now, how long it took, what is unharmed, and what undoes it."""
    times = []
    if answer.get("flip_s") is not None:
        times.append(f"off for new requests after {duration(answer['flip_s'])}")
    if answer.get("durable_s") is not None:
        times.append(f"saved after {duration(answer['durable_s'])}")
    took = ", ".join(times)
    in_flight = 0
    for row in answer["features"]:
        was = row.get("from_percentage")
        change = "0 %" if was is None else f"{share(was)} → 0 %"
        screen.out(
            f"{screen.paint('✓', 'ok')} {screen.paint(row['feature'], 'bold')}: {change}"
            f"   revision {row['revision']}   {took}"
        )
        in_flight += row.get("in_flight_on") or 0
    if answer["gateway"] == "none":
        screen.out("  No gateway is running; it holds from the next start on.")
    elif answer["gateway"] == "silent":
        screen.out(SILENT)
    elif in_flight:
        started = count(in_flight, "request", "requests")
        screen.out(f"  {started} started with it and will finish; nothing was cancelled.")
    else:
        screen.out("  Requests in flight finish as they began; nothing was cancelled.")
    for row in answer["features"]:
        screen.out(screen.paint(f"  Undo: {undo(row)}", "dim"))


def undo(row: dict[str, Any]) -> str:
    """Write the command that ends a rollback."""
    if row.get("mode") == "direct":
        return f'wicketgate rollout reset {row["feature"]} --reason "..."'
    at = f" --at {row['stage']}" if row.get("stage") else ""
    return f'wicketgate rollout start {row["feature"]}{at} --reason "..."'
