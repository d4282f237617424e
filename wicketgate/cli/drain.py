"""`wicketgate drain`: the running gateway finishes what is in flight, and ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from wicketgate.cli import control
from wicketgate.cli.asking import ask
from wicketgate.cli.output import Screen, duration, print_json
from wicketgate.cli.place import find
from wicketgate.cli.rollback import actor
from wicketgate.errors import ExitCode, TimedOutError

if TYPE_CHECKING:
    from argparse import Namespace

    from wicketgate.cli.place import Place

ANSWER_S: Final = 5.0
"""How long the gateway may take to answer."""
LOOK_S: Final = 0.1
"""How often --wait looks."""


def run(args: Namespace) -> int:
    """Ask for the drain; with --wait until the gateway has ended."""
    screen = Screen.of(args)
    place = find(args, note=screen.note)
    began_s = time.monotonic()
    body = {"now": args.now, "actor": actor(), "reason": args.reason}
    answer = ask(place, "POST", "/v1/drain", body, timeout_s=ANSWER_S)
    if args.wait is not None:
        _wait(place, deadline_s=began_s + args.wait)
    took_s = time.monotonic() - began_s
    if args.json:
        print_json({**answer, "ended": args.wait is not None, "took_s": round(took_s, 3)})
        return ExitCode.DONE
    requests = f"{answer['in_flight']} in flight, {answer['queued']} queued"
    if args.wait is not None:
        screen.out(f"{screen.paint('✓', 'ok')} ended after {duration(took_s)}; there were {requests}")
    elif args.now:
        screen.out(f"ending at once; cut off: {requests}")
    else:
        limit = duration(answer["drain_timeout_s"])
        screen.out(f"draining: {requests}, may finish within {limit}; nothing new is taken")
    return ExitCode.DONE


def _wait(place: Place, *, deadline_s: float) -> None:
    """
    Look until nobody listens any more.

    Raises:
        TimedOutError: somebody still does.
    """
    while control.is_alive(place.socket):
        if time.monotonic() >= deadline_s:
            raise TimedOutError(
                "the gateway still finishes what is in flight", fix="End it at once: wicketgate drain --now"
            )
        time.sleep(LOOK_S)
