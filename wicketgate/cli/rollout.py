"""`wicketgate rollout list|status`: what is declared, and where every feature stands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rollout.assignment import FlagSnapshot
from rollout.spec import DEFAULT_STAGES, Feature, Key, Mode, Spec, Stage, did_you_mean
from wicketgate.cli import control
from wicketgate.cli.features import print_features
from wicketgate.cli.output import Screen, print_json, share
from wicketgate.cli.place import Place, find
from wicketgate.errors import ExitCode, LedgerError, NotFoundError, TimedOutError, UnreachableError
from wicketgate.flags import describe, states_of

if TYPE_CHECKING:
    from argparse import Namespace

    from rollout.stages import State

ANSWER_S = 1.0
"""How long a gateway may take to tell where features stand."""


def declared(args: Namespace) -> int:
    """Print the features as declared."""
    screen, rows = _rows(args)
    if args.json:
        print_json({"schema": "wicketgate.rollout/1", "ok": True, "features": rows})
        return ExitCode.DONE
    cells = [
        (
            row["feature"],
            row["mode"],
            share(row["ceiling_percentage"]),
            "yes" if row["enabled"] else "no",
            row["key"],
            ", ".join(row["requires"]),
        )
        for row in rows
    ]
    screen.table(("FEATURE", "MODE", ">CEILING", "ENABLED", "KEY", "REQUIRES"), cells)
    return ExitCode.DONE


def status(args: Namespace) -> int:
    """Print where every feature stands, or one of them with who changed it last."""
    screen, rows = _rows(args)
    if args.feature:
        check_known(args.feature, [row["feature"] for row in rows])
        rows = [row for row in rows if row["feature"] == args.feature]
    if args.json:
        print_json({"schema": "wicketgate.rollout/1", "ok": True, "features": rows})
        return ExitCode.DONE
    print_features(screen, rows)
    if args.feature and rows[0]["updated_at"]:
        row = rows[0]
        why = f": {row['reason']}" if row["reason"] else ""
        screen.out(f"  Changed {row['updated_at']} by {row['actor']}{why}")
    return ExitCode.DONE


def _rows(args: Namespace) -> tuple[Screen, list[dict[str, Any]]]:
    """Ask the gateway where features stand; where none answers, ledger and configuration."""
    screen = Screen.of(args)
    place = find(args, note=screen.note)
    rows, gateway = ask(place)
    if rows is not None:
        return screen, rows
    silence = "No gateway is running" if gateway == "none" else "The running gateway does not answer"
    screen.note(f"{silence}; this is what the ledger and the configuration say.")
    states, killed = read_states(place)
    snapshot = FlagSnapshot(declaration(place), states, killed=killed)
    return screen, describe(snapshot, now_unix_s=time.time())


def ask(place: Place) -> tuple[list[dict[str, Any]] | None, str]:
    """Return the gateway's rows, or None; and whether it is up, silent, or there is none."""
    try:
        code, answer = control.request(place.socket, "GET", "/v1/rollout", timeout_s=ANSWER_S)
    except UnreachableError:
        return None, "none"
    except TimedOutError:
        return None, "silent"
    return (answer["features"], "up") if code == 200 and "features" in answer else (None, "silent")


def declaration(place: Place) -> Spec:
    """Read what is declared from the configuration."""
    from wicketgate.config import load  # pydantic: 50 ms, paid only where no gateway answers

    return load(place.config).rollout


def spec_from(rows: list[dict[str, Any]]) -> Spec:
    """Make the declaration that a gateway's rows stand for."""
    features = [
        Feature(
            name=row["feature"],
            enabled=row["enabled"],
            rollout_percentage=row["ceiling_percentage"],
            mode=Mode(row["mode"]),
            key=Key(row["key"]),
            requires=tuple(row["requires"]),
        )
        for row in rows
    ]
    stages = tuple(Stage(**each) for each in rows[0]["stages"]) if rows else DEFAULT_STAGES
    killed = any(row["cause"] == "killed" for row in rows)
    return Spec(features={each.name: each for each in features}, stages=stages, kill_switch=killed)


def read_states(place: Place) -> tuple[dict[str, State], bool]:
    """Read where features stand by the ledger, and whether its kill switch is on."""
    contents = place.ledger().read()
    try:
        return states_of(contents), contents.killed
    except ValueError as error:
        raise LedgerError(f"the ledger in {place.state_dir} is of a newer version: {error}") from error


def check_known(feature: str, known: list[str]) -> None:
    """Refuse a name that no feature has."""
    if feature not in known:
        raise NotFoundError(
            f"no feature named {feature}.{did_you_mean(feature, known)} Nothing was changed.",
            fix=f"Features: {', '.join(sorted(known))}.",
            param="feature",
        )
