"""`wicketgate rollout list|status`: what is declared, and where every feature stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wicketgate.cli.features import STUCK, phase, print_features
from wicketgate.cli.output import Screen, print_json, share
from wicketgate.cli.place import find
from wicketgate.cli.standing import chosen, look
from wicketgate.cli.telling import say_outcome
from wicketgate.cli.wait import check_staged, limit_s, wait_for
from wicketgate.cli.watch import show, watch
from wicketgate.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from wicketgate.cli.place import Place


def declared(args: Namespace) -> int:
    """Print the features as declared."""
    screen = Screen.of(args)
    rows, _ = look(find(args, note=screen.note), note=screen.note)
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
    """
    Print where every feature stands, or all about one; with --watch, again and again.

    Returns:
        With `--exit-code` 8 where one is rolled back, holding or paused; with `--wait` the stage's end.
    """
    screen = Screen.of(args)
    place = find(args, note=screen.note)
    if args.wait is not None and not args.feature:
        raise UsageError("--wait needs the name of a feature", fix="wicketgate rollout status --help")
    if args.watch:
        return watch(args, place, screen)
    if args.wait is not None:
        return _wait(args, place, screen)
    everything, _ = look(place, note=screen.note)
    rows = chosen(everything, args.feature)
    if args.json:
        print_json({"schema": "wicketgate.rollout/1", "ok": True, "features": rows})
    elif args.feature:
        show(screen, rows[0])
    else:
        print_features(screen, rows)
    stuck = args.exit_code and any(phase(row) in STUCK for row in rows)
    return ExitCode.CHECK_FAILED if stuck else ExitCode.DONE


def _wait(args: Namespace, place: Place, screen: Screen) -> ExitCode:
    """Wait for the end of a stage, and tell once what became of it: a pipeline's log is read by people."""
    rows, _ = look(place, note=screen.note)
    (row,) = chosen(rows, args.feature)
    check_staged(row)
    done, row, waited_s = wait_for(
        place,
        args.feature,
        screen,
        from_index=row["stage_index"],
        revision=row["revision"],
        within_s=limit_s(args.wait),
    )
    if args.json:
        told = {"ok": done.code is ExitCode.DONE, "outcome": done.document(row, waited_s=waited_s)}
        print_json({"schema": "wicketgate.rollout/1", **told, "features": [row]})
    else:
        show(screen, row)
        screen.out()
        say_outcome(screen, done, args.feature, waited_s=waited_s)
    return done.code
