"""
How soon a rollback is in force, by a guard, by command and by file, and what writing it costs the event loop.

Run as `python -m bench.rollback [automatic | manual | edits | stalls]`; without a word, all of them. The
classes are the shipped ones. `manual` and `edits` start a gateway on the simulated engine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import CollectorRegistry

from bench.server import Server, ServerError
from bench.statistics import quantile
from rollout.guards import GuardParams
from rollout.spec import Feature, Mode, Spec, Stage
from rollout.stages import Input, State, apply
from wicketgate.cli import control
from wicketgate.ending import Ending
from wicketgate.flags import FlagBoard, states_of
from wicketgate.inference import InferenceRequest, Sampling, TokenPrompt
from wicketgate.ledger import FILE_NAME, Ledger
from wicketgate.metrics import Metrics
from wicketgate.platform import control_socket_path, sqlite_needs_fullfsync
from wicketgate.rollouts import Rollouts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.lowering import Lowering

FEATURE: Final = "ttft_pipeline"
TRIALS: Final = 1000
ROUNDS: Final = 100
STALL_ROUNDS: Final = 200
ANSWER_S: Final = 10.0
PROBE_S: Final = 0.001
MOST_FAILURES: Final = 10
"""A canary that always fails must be rolled back by then."""
SPEC: Final = Spec(
    features=MappingProxyType({FEATURE: Feature(name=FEATURE, mode=Mode.STAGED)}),
    stages=(Stage(name="half", percentage=50.0, hold_s=3600.0), Stage(name="full", percentage=100.0)),
)
CONFIG: Final[dict[str, object]] = {
    "engine": {"kind": "simulated", "simulated": {"speed_ratio": 100}},
    "logs": {"requests": False},
    "phase4_rollout": {
        "adaptive_governor": {"enabled": True},
        "http2_transport": {"enabled": True},
        FEATURE: {"enabled": True, "mode": "staged"},
        "qos_monitoring": {"enabled": True},
    },
}


def automatic() -> None:
    """Time from the report of the deciding failure to the first request that is off, and to its saving."""
    off_s: list[float] = []
    processor_s: list[float] = []
    durable_s: list[float] = []
    failures: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        ledger = Ledger(Path(folder) / FILE_NAME, fullfsync=sqlite_needs_fullfsync())
        board = FlagBoard(SPEC, ledger)
        metrics = Metrics(CollectorRegistry(), models=("demo",), features=(FEATURE,))
        rollouts = Rollouts(board, ledger, params=GuardParams(), metrics=metrics, offload=pool.submit)
        canaries = _sessions_that_are_on(board, ledger)
        for _ in range(TRIALS):
            _start(board, ledger)
            off = _fail_until_off(rollouts, canaries)
            pool.submit(int).result()  # what was handed over before this has been saved
            durable_s.append(time.perf_counter() - off.began_s)
            off_s.append(off.took_s)
            processor_s.append(off.processor_s)
            failures.append(off.failures)
        if ledger.verify() != 2 * TRIALS + 2:
            raise RuntimeError("a rollback is not in the audit")
    print(
        f"automatic, {TRIALS} trials on the shipped classes; bar: off within 1 ms (p99), 2 failures at most"
    )
    _show("failing requests until it", failures, factor=1, unit="")
    _show("deciding failure to first new request off", off_s)
    _show("processor time of that, which other programs do not stretch", processor_s)
    _show("deciding failure to saved", durable_s)


def _sessions_that_are_on(board: FlagBoard, ledger: Ledger) -> list[InferenceRequest]:
    """Return requests of sessions that are on at half of them."""
    _start(board, ledger)
    requests = [_request(number) for number in range(4 * MOST_FAILURES)]
    canaries = [each for each in requests if FEATURE in board.assign(each.key).on]
    board.rollback(FEATURE, actor="bench", reason="bench")
    return canaries


def _request(number: int) -> InferenceRequest:
    return InferenceRequest(
        id=f"req_{number}",
        model="demo",
        prompt=TokenPrompt(ids=(1,)),
        sampling=Sampling(max_tokens=1, seed=0),
        arrived_s=0.0,
        key=f"session-{number}",
        key_source="x-session-id",
    )


def _start(board: FlagBoard, ledger: Ledger) -> None:
    """Begin at the first stage, whatever was before."""
    state = states_of(ledger.read()).get(FEATURE, State(feature=FEATURE))
    after = apply(state, Input.START, spec=SPEC, now_unix_s=time.time(), actor="bench", reason="bench")
    ledger.change([FEATURE], lambda *_: after.document(), action=Input.START, actor="bench", reason="bench")
    board.refresh()


class _Off(NamedTuple):
    """A canary that was rolled back by its guard."""

    failures: int
    """How many requests failed until then."""
    began_s: float
    """When the last of them was reported."""
    took_s: float
    """From then until the next request was off."""
    processor_s: float
    """What the thread that serves requests used of it."""


def _fail_until_off(rollouts: Rollouts, canaries: Sequence[InferenceRequest]) -> _Off:
    began_s, began_processor_s = time.perf_counter(), time.thread_time()
    for failures, request in enumerate(canaries):
        assigned = rollouts.assign(request)
        if FEATURE not in assigned.on:
            took_s = time.perf_counter() - began_s
            return _Off(failures, began_s, took_s, time.thread_time() - began_processor_s)
        rollouts.arrived(assigned, request)
        began_s, began_processor_s = time.perf_counter(), time.thread_time()
        rollouts.ended(assigned, request, ending=Ending.FAILED, tpot_s=None)
    raise RuntimeError(f"{len(canaries)} failures of a canary did not roll it back")


def manual() -> None:
    """Time `wicketgate rollback`, and the same over the control socket."""
    wall_s, durable_s, flip_s, connected_s = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), CONFIG) as server:
        for number in range(ROUNDS + 1):
            _command(server, "rollout", "start", FEATURE, "--at", "full", "--yes", "--reason", "bench")
            if number % 2:
                began_s = time.perf_counter()
                socket = control_socket_path(server.state_dir)
                _, answer = control.request(
                    socket,
                    "POST",
                    "/v1/rollback",
                    {"feature": FEATURE, "reason": "bench"},
                    timeout_s=ANSWER_S,
                )
                took_s = time.perf_counter() - began_s
                # The answer comes when it is saved; all that is not saving is counted as before the flip.
                connected_s.append(took_s - (answer["durable_s"] - answer["flip_s"]))
            else:
                took_s, answer = _command(server, "rollback", FEATURE)
                if number:  # the first one compiles the command
                    wall_s.append(took_s)
            durable_s.append(answer["durable_s"])
            flip_s.append(answer["flip_s"])
    print(f"manual, {ROUNDS} rounds; bars: off within 10 ms of connecting, command 150 ms, saved 50 ms (p99)")
    _show("in the gateway, asked to off", flip_s)
    _show("connecting to off, at most", connected_s)
    _show("asked to saved", durable_s)
    _show("the whole command", wall_s)


def _command(server: Server, *words: str) -> tuple[float, dict[str, float]]:
    ran = server.command(*words)
    if ran.code != 0:
        raise ServerError(f"wicketgate {' '.join(words)} ended with {ran.code}: {ran.out}{ran.err}")
    return ran.wall_s, json.loads(ran.out)


def edits() -> None:
    """Time from a written configuration file to the changed shares, by the gateway's log (to 1 ms)."""
    visible_s = []
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), CONFIG) as server:
        config = json.loads(server.file.read_text(encoding="utf-8"))
        for number in range(ROUNDS):
            config["phase4_rollout"]["qos_monitoring"]["rollout_percentage"] = 99 - number % 2
            draft = server.file.with_suffix(".new")
            draft.write_text(json.dumps(config), encoding="utf-8")
            began_unix_s = time.time()
            draft.replace(server.file)
            visible_s.append(_changed_unix_s(server, number + 1) - began_unix_s)
    print(f"edits, {ROUNDS} of them; bar: visible within 150 ms (p99)")
    _show("file written to shares changed", visible_s)


def _changed_unix_s(server: Server, count: int) -> float:
    """Wait until the gateway has logged so many changes of shares; returns when the last of them was."""
    deadline_s = time.monotonic() + ANSWER_S
    # The log, because a question to the gateway would keep its event loop busy.
    while len(lines := server.events("flags_changed")) < count:
        if time.monotonic() > deadline_s:
            raise ServerError("the gateway did not take the file up")
        time.sleep(0.02)
    return datetime.fromisoformat(str(lines[-1]["at"])).timestamp()


def stalls() -> None:
    """Compare how late an event loop runs while rollbacks are saved by a thread, and while none are."""
    asyncio.run(_stalls())


async def _stalls() -> None:
    quiet_s: list[float] = []
    saving_s: list[float] = []
    processor_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / FILE_NAME, fullfsync=sqlite_needs_fullfsync())
        board = FlagBoard(SPEC, ledger)
        board.start()
        for _ in range(STALL_ROUNDS):
            await asyncio.to_thread(_start, board, ledger)
            began_s = time.perf_counter()
            lowering = board.lower(FEATURE, actor="bench", reason="bench")
            saving = asyncio.create_task(asyncio.to_thread(_processor_time_s, board.persist, lowering))
            saving_s += await _lags(lambda saving=saving: not saving.done())  # type: ignore[misc]
            took_s = time.perf_counter() - began_s
            processor_s.append(await saving)
            until_s = time.perf_counter() + took_s
            quiet_s += await _lags(lambda until_s=until_s: time.perf_counter() < until_s)  # type: ignore[misc]
        board.stop()
    print(f"stalls, {STALL_ROUNDS} rollbacks saved by a thread; bar: 1 ms (p99) more than without")
    _show("the loop is late, nothing being saved", quiet_s)
    _show("the loop is late, a rollback being saved", saving_s)
    _show("processor time of one, the most that it can hold the interpreter", processor_s)


def _processor_time_s(save: Callable[[Lowering], object], lowering: Lowering) -> float:
    began_s = time.thread_time()
    save(lowering)
    return time.thread_time() - began_s


async def _lags(goes_on: Callable[[], bool]) -> list[float]:
    """Sleep shortly again and again; returns how late each sleep ended."""
    lags = []
    while goes_on():
        due_s = time.perf_counter() + PROBE_S
        await asyncio.sleep(PROBE_S)
        lags.append(max(0.0, time.perf_counter() - due_s))
    return lags


def _show(what: str, values: Sequence[float], *, factor: float = 1000.0, unit: str = " ms") -> None:
    points = ((name, factor * quantile(values, q)) for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1)))
    shown = ", ".join(f"{name} {value:.4g}{unit}" for name, value in points)
    print(f"  {what}: {shown} ({len(values)})")


MEASUREMENTS: Final[dict[str, Callable[[], None]]] = {
    "automatic": automatic,
    "manual": manual,
    "edits": edits,
    "stalls": stalls,
}


def main() -> None:
    """Measure what is asked for."""
    unknown = set(sys.argv[1:]) - set(MEASUREMENTS)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MEASUREMENTS)}")
    for name in sys.argv[1:] or MEASUREMENTS:
        MEASUREMENTS[name]()


if __name__ == "__main__":
    main()
