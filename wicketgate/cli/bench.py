"""`wicketgate bench run`: measure this machine through the whole stack, beside the ceiling of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import report, serving, smoke
from bench.ceiling import CeilingFailedError
from bench.h2_streams import ConnectionLostError
from bench.server import ServerError
from wicketgate.cli.output import Screen, print_json
from wicketgate.errors import ExitCode, UsageError, WicketgateError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

OUT = Path("bench/out")
"""Where results go when nothing else is said."""


class MeasurementFailedError(WicketgateError):
    """The measurement did not come to its end."""

    code = "measurement_failed"
    exit_code = ExitCode.INVALID_MEASUREMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Something that can be measured."""

    run: Callable[[], Any]
    """Measures; what it returns is what the others take."""
    minutes: str
    """How long that takes."""
    show: Callable[[Screen, Any, str], None]
    as_object: Callable[..., dict[str, Any]]
    write: Callable[..., list[Path]]


def run(args: Namespace) -> int:
    """Measure, print the figures, write them to files; say when they must not be believed."""
    if args.profile not in PROFILES:
        known = ", ".join(PROFILES)
        raise UsageError(f"no profile named {args.profile}; there is {known}", param="--profile")
    profile = PROFILES[args.profile]
    screen = Screen.of(args)
    screen.note(f"Measuring; this takes up to {profile.minutes} minutes (profile {args.profile}).")
    try:
        result = profile.run()
    except (ServerError, CeilingFailedError, ConnectionLostError) as error:
        raise MeasurementFailedError(str(error)) from error
    files = profile.write(result, profile=args.profile, folder=OUT if args.out is None else Path(args.out))
    if args.json:
        document = profile.as_object(result, profile=args.profile)
        print_json({**document, "files": [str(file) for file in files]})
    else:
        profile.show(screen, result, args.profile)
        for fault in result.faults:
            screen.out(f"{screen.paint('invalid:', 'bad')} {fault}")
        screen.note(f"Written: {', '.join(str(file) for file in files)}")
    return ExitCode.INVALID_MEASUREMENT if result.faults else ExitCode.DONE


def _show_smoke(screen: Screen, result: smoke.Result, profile: str) -> None:
    for line in report.heading(result, profile=profile):
        screen.out(line)
    screen.out()
    screen.table(report.HEADERS, report.rows(result))
    screen.out()
    for line in report.sentences(result):
        screen.out(line)


def _show_engine(screen: Screen, result: serving.Result, _profile: str) -> None:
    for line in serving.lines(result):
        screen.out(line)


PROFILES = {
    "smoke": Profile(
        run=smoke.run, minutes="3", show=_show_smoke, as_object=report.as_object, write=report.write
    ),
    "engine": Profile(
        run=serving.run, minutes="8", show=_show_engine, as_object=serving.as_object, write=serving.write
    ),
}
"""What can be measured."""
