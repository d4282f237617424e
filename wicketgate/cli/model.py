"""`wicketgate model ls | load | unload`: which models the running gateway has loaded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from wicketgate.cli.asking import ask
from wicketgate.cli.output import EN_DASH, Screen, binary_size, duration, print_json
from wicketgate.cli.place import find
from wicketgate.errors import EngineFailedError, ExitCode, NotFoundError, TimedOutError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from wicketgate.cli.place import Place

ANSWER_S: Final = 5.0
"""How long the gateway may take."""
LOOK_S: Final = 0.1
"""How often --wait looks."""
_ROLES: Final = {"ready": "ok", "failed": "bad", "unloaded": "dim"}


def ls(args: Namespace) -> int:
    """List the configured models and where each stands."""
    screen = Screen.of(args)
    answer = _look(find(args, note=screen.note))
    if args.json:
        print_json(answer)
    else:
        _print(screen, answer["models"])
    return ExitCode.DONE


def load(args: Namespace) -> int:
    """Load a model; with --wait until it is ready."""
    return _move(args, "load", end="ready")


def unload(args: Namespace) -> int:
    """Unload a model; with --wait until its host has ended."""
    return _move(args, "unload", end="unloaded")


def _move(args: Namespace, verb: str, *, end: str) -> int:
    screen = Screen.of(args)
    place = find(args, note=screen.note)
    began_s = time.monotonic()
    answer = ask(
        place, "POST", f"/v1/engine/models/{quote(args.model, safe='')}/{verb}", {}, timeout_s=ANSWER_S
    )
    row = _row(answer, args.model)
    if args.wait:
        row = _wait(place, args.model, row, end=end, deadline_s=began_s + args.timeout)
    took_s = time.monotonic() - began_s
    if args.json:
        print_json({"schema": "wicketgate.model/1", "ok": True, "model": row, "took_s": round(took_s, 3)})
        return ExitCode.DONE
    if row["state"] == end:
        took = f" after {duration(took_s)}" if args.wait else ""
        screen.out(f"{screen.paint('✓', 'ok')} {screen.paint(args.model, 'bold')}: {row['state']}{took}")
    else:
        screen.out(f"{screen.paint(args.model, 'bold')}: {row['state']}; look with: wicketgate model ls")
    return ExitCode.DONE


def _wait(
    place: Place, name: str, row: Mapping[str, Any], *, end: str, deadline_s: float
) -> Mapping[str, Any]:
    """
    Look until the model stands where it should.

    Raises:
        EngineFailedError: its host cannot start.
        TimedOutError: it did not get there in time.
    """
    while row["state"] != end:
        if row["state"] == "failed" or (end == "ready" and row["state"] == "unloaded"):
            raise EngineFailedError(
                f"{name} is {row['state']}: {row['last_exit'] or 'the log of the gateway says why'}"
            )
        if time.monotonic() >= deadline_s:
            raise TimedOutError(
                f"{name} is {row['state']} and not yet {end}", fix="Look with: wicketgate model ls"
            )
        time.sleep(LOOK_S)
        row = _row(_look(place), name)
    return row


def _look(place: Place) -> dict[str, Any]:
    return ask(place, "GET", "/v1/engine/models", timeout_s=ANSWER_S)


def _row(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    row: Mapping[str, Any] | None = next((row for row in answer["models"] if row["id"] == name), None)
    if row is None:
        raise NotFoundError(f"no model {name} is configured", code="model_not_found")
    return row


def _print(screen: Screen, rows: list[Mapping[str, Any]]) -> None:
    table = []
    for row in rows:
        state = str(row["state"])
        pid = EN_DASH if row["pid"] is None else str(row["pid"])
        table.append(
            (
                str(row["id"]),
                (state, _ROLES.get(state, "warn")),
                binary_size(row["weights_bytes"]),
                str(row["in_use"]),
                duration(round(row["idle_s"])),
                pid,
                _notes(row),
            )
        )
    screen.table(
        ("MODEL", "STATE", ">WEIGHTS", ">IN USE", ">IDLE", ">PID", "NOTES"),
        table,
        optional=(("PID",), ("IDLE",)),
    )


def _notes(row: Mapping[str, Any]) -> str:
    notes = ["pinned"] if row["pinned"] else []
    if row["load"] == "demand":
        notes.append("on demand")
    if row["safe_mode"]:
        notes.append(f"safe mode: {row['safe_mode']}")
    if row["last_exit"]:
        notes.append(f"last exit: {row['last_exit']}")
    return ", ".join(notes)
