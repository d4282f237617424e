"""`wicketgate bench run`: measure this machine through the whole stack, beside the ceiling of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench import report, smoke
from bench.ceiling import CeilingFailedError
from bench.h2_streams import ConnectionLostError
from bench.server import ServerError
from wicketgate.cli.output import Screen, print_json
from wicketgate.errors import ExitCode, UsageError, WicketgateError

if TYPE_CHECKING:
    from argparse import Namespace

PROFILES = {"smoke": smoke.run}
"""What can be measured."""
OUT = Path("bench/out")
"""Where results go when nothing else is said."""


class MeasurementFailedError(WicketgateError):
    """The measurement did not come to its end."""

    code = "measurement_failed"
    exit_code = ExitCode.INVALID_MEASUREMENT


def run(args: Namespace) -> int:
    """Measure, print the figures, write them to files; say when they must not be believed."""
    if args.profile not in PROFILES:
        known = ", ".join(PROFILES)
        raise UsageError(f"no profile named {args.profile}; there is {known}", param="--profile")
    screen = Screen.of(args)
    screen.note(f"Measuring; this takes up to 3 minutes (profile {args.profile}).")
    try:
        result = PROFILES[args.profile]()
    except (ServerError, CeilingFailedError, ConnectionLostError) as error:
        raise MeasurementFailedError(str(error)) from error
    files = report.write(result, profile=args.profile, folder=OUT if args.out is None else Path(args.out))
    if args.json:
        document = report.as_object(result, profile=args.profile)
        print_json({**document, "files": [str(file) for file in files]})
    else:
        _print(screen, result, profile=args.profile)
        screen.note(f"Written: {', '.join(str(file) for file in files)}")
    return ExitCode.INVALID_MEASUREMENT if result.faults else ExitCode.DONE


def _print(screen: Screen, result: smoke.Result, *, profile: str) -> None:
    for line in report.heading(result, profile=profile):
        screen.out(line)
    screen.out()
    screen.table(report.HEADERS, report.rows(result))
    screen.out()
    for line in report.sentences(result):
        screen.out(line)
    for fault in result.faults:
        screen.out(f"{screen.paint('invalid:', 'bad')} {fault}")
