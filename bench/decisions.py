"""
What one decision costs, beside the hash alone and beside other flag libraries, in one process and in turns.

Run as `python -m bench.decisions [--json]`. A case is timed in slices so short that the system rarely takes
the processor away within one; all cases take turns, every other round backwards, and what an empty loop takes
is subtracted. Figures are medians over the rounds; ratios are medians of the ratios within a round.
Libraries that are not installed are named as skipped:

    pip install openfeature-sdk openfeature-provider-flagd UnleashClient

The others are given what they need ready-made: contexts are built beforehand, no hook and no metric is on.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bench import machine
from bench.statistics import quantile
from rollout.assignment import FlagSnapshot
from rollout.bucketing import bucket_of_encoded, cbor_text, flag_head
from rollout.flagd import flagd_export
from rollout.spec import Feature, Spec
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROUNDS: Final = 301
FAST_CALLS: Final = 300
SLOW_CALLS: Final = 20
NAMES: Final = ("adaptive_governor", "http2_transport", "ttft_pipeline", "qos_monitoring")
SPLIT: Final = NAMES[0]
KEYS: Final = tuple(f"sess-{number:010d}" for number in range(FAST_CALLS))
Loop: TypeAlias = "Callable[[], None]"

HASH: Final = "mmh3, one call"
ONE: Final = "on(name, key) at 1 %"
ALL: Final = "on(name, key) at 100 %"
NONE: Final = "on(name, key) at 0 %"
FOUR: Final = "assign(key), 4 features"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure that must not be exceeded."""

    what: str
    measured: float
    bar: float
    unit: str
    met: bool


def snapshot(*percentages: float) -> FlagSnapshot:
    """Declare the four features at these shares."""
    shares = zip(NAMES, percentages, strict=True)
    features = {name: Feature(name=name, rollout_percentage=percentage) for name, percentage in shares}
    return FlagSnapshot(Spec(features=features), {})


def ours() -> dict[str, Loop]:
    """Make our own cases, and the hash alone."""
    split, fixed = snapshot(1, 10, 50, 1), snapshot(100, 0, 1, 1)
    encoded = [flag_head(SPLIT) + cbor_text(key) for key in KEYS]

    def one_hash() -> None:
        for each in encoded:
            bucket_of_encoded(each)

    def four() -> None:
        for key in KEYS:
            split.assign(key)

    return {
        HASH: one_hash,
        ONE: _on(split, NAMES[0]),
        ALL: _on(fixed, NAMES[0]),
        NONE: _on(fixed, NAMES[1]),
        FOUR: four,
    }


def _on(flags: FlagSnapshot, name: str) -> Loop:
    def loop() -> None:
        for key in KEYS:
            flags.on(name, key)

    return loop


def openfeature_ours(folder: Path, stack: ExitStack) -> Loop:
    """Ask openfeature-sdk with our provider."""
    from wicketgate.openfeature import RuntimeProvider

    file = folder / "runtime.yaml"
    file.write_text(
        f"phase4_rollout: {{{SPLIT}: {{enabled: true, rollout_percentage: 1}}}}\n", encoding="utf-8"
    )
    return _openfeature(RuntimeProvider(config=file, state_dir=folder), "ours", stack)


def openfeature_in_memory(_: Path, stack: ExitStack) -> Loop:
    """Ask openfeature-sdk with its own provider and a flag that is the same for all."""
    from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

    flag = InMemoryFlag("on", {"on": True, "off": False})
    return _openfeature(InMemoryProvider({SPLIT: flag}), "memory", stack)


def flagd(folder: Path, stack: ExitStack) -> Loop:
    """Ask flagd's in-process provider with our export."""
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType

    flags = snapshot(1, 10, 50, 1)
    file = folder / "flags.json"
    file.write_text(json.dumps(flagd_export(flags.spec, flags.shares).document), encoding="utf-8")
    provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(file))
    return _openfeature(provider, "flagd", stack)


def _openfeature(provider: Any, domain: str, stack: ExitStack) -> Loop:
    from openfeature import api
    from openfeature.evaluation_context import EvaluationContext

    stack.callback(api.clear_providers)
    api.set_provider_and_wait(provider, domain)
    client = api.get_client(domain)
    contexts = [EvaluationContext(targeting_key=key) for key in KEYS[:SLOW_CALLS]]
    if client.get_boolean_details(SPLIT, False, contexts[0]).error_code is not None:  # noqa: FBT003 - the SDK's
        raise ValueError(f"{domain} does not answer")

    def loop() -> None:
        for context in contexts:
            client.get_boolean_value(SPLIT, False, context)  # noqa: FBT003 - the SDK's signature

    return loop


def unleash(folder: Path, stack: ExitStack) -> Loop:
    """Ask UnleashClient with a flexibleRollout of 1 %, its coarsest and finest step."""
    from UnleashClient.cache import FileCache
    from UnleashClient.clients import UnleashClient

    rollout = {"rollout": "1", "stickiness": "userId", "groupId": SPLIT}
    strategy = {"name": "flexibleRollout", "parameters": rollout, "constraints": []}
    toggles = {"version": 2, "features": [{"name": SPLIT, "enabled": True, "strategies": [strategy]}]}
    cache = FileCache("bench", directory=str(folder))
    cache.bootstrap_from_dict(toggles)
    client = UnleashClient(
        url="http://127.0.0.1:9/api",
        app_name="bench",
        disable_metrics=True,
        disable_registration=True,
        cache=cache,
    )
    client.initialize_client(fetch_toggles=False)
    stack.callback(client.destroy)
    contexts = [{"userId": key} for key in KEYS[:SLOW_CALLS]]

    def loop() -> None:
        for context in contexts:
            client.is_enabled(SPLIT, context)

    return loop


ANCHORS: Final[Mapping[str, Callable[[Path, ExitStack], Loop]]] = {
    "openfeature-sdk, our provider": openfeature_ours,
    "openfeature-sdk, in memory, static": openfeature_in_memory,
    "flagd provider, in process": flagd,
    "UnleashClient, flexibleRollout": unleash,
}


def measure(cases: Mapping[str, Loop]) -> dict[str, list[float]]:
    """Time all cases in turns; returns seconds per call, one figure per round."""

    def empty() -> None:
        for _ in KEYS:
            pass

    for loop in cases.values():
        loop()
    times: dict[str, list[float]] = {name: [] for name in cases}
    nothing_s: list[float] = []
    gc.collect()
    gc.disable()
    try:
        for number in range(ROUNDS):
            nothing_s.append(_timed_s(empty) / FAST_CALLS)
            for name in list(cases)[:: -1 if number % 2 else 1]:
                calls = SLOW_CALLS if name in ANCHORS else FAST_CALLS
                times[name].append(_timed_s(cases[name]) / calls)
    finally:
        gc.enable()
    loop_s = quantile(nothing_s, 0.5)
    return {name: [each - loop_s for each in found] for name, found in times.items()}


def _timed_s(loop: Loop) -> float:
    began_s = time.perf_counter()
    loop()
    return time.perf_counter() - began_s


def bars(times: Mapping[str, Sequence[float]]) -> list[Bar]:
    """Hold the figures against what they must be."""
    found = [
        _at_most(what, 1e6 * quantile(times[what], 0.5), bar, "us")
        for what, bar in ((ONE, 0.6), (ALL, 0.2), (NONE, 0.2), (FOUR, 2.5))
    ]
    found.append(_at_most(f"{ONE} / {HASH}", _ratio(times[ONE], times[HASH]), 3, "times"))
    others = [name for name in ANCHORS if name in times]
    if others:
        fastest = min(others, key=lambda name: quantile(times[name], 0.5))
        ratio = _ratio(times[fastest], times[ONE])
        found.append(Bar(what=f"{fastest} / {ONE}", measured=ratio, bar=20, unit="times", met=ratio >= 20))
    return found


def _at_most(what: str, measured: float, bar: float, unit: str) -> Bar:
    return Bar(what=what, measured=measured, bar=bar, unit=unit, met=measured <= bar)


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return quantile([a / b for a, b in zip(above, below, strict=True)], 0.5)


def main() -> int:
    """Measure and print; the exit code tells whether every bar was met."""
    logging.disable(logging.CRITICAL)
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="wicketgate-bench-") as folder, ExitStack() as stack:
        cases = ours()
        for name, make in ANCHORS.items():
            try:
                cases[name] = make(Path(folder), stack)
            except ImportError as error:
                skipped[name] = str(error)
        times = measure(cases)
    found = bars(times)
    medians_s = {name: quantile(each, 0.5) for name, each in times.items()}
    facts = {"machine": machine.facts(), "load": machine.load_average(), "rounds": ROUNDS}
    if "--json" in sys.argv[1:]:
        report = {"medians_s": medians_s, "bars": [asdict(each) for each in found], "skipped": skipped}
        print(json.dumps({**facts, **report}))
    else:
        _print(times, found, skipped, load=machine.load_average())
    return ExitCode.DONE if all(each.met for each in found) else ExitCode.CHECK_FAILED


def _print(
    times: Mapping[str, Sequence[float]], found: Sequence[Bar], skipped: Mapping[str, str], *, load: float
) -> None:
    print(f"{machine.cpu()}, load average {load}; {ROUNDS} rounds: median (smallest), in microseconds")
    for name, each in times.items():
        print(f"  {name:38} {1e6 * quantile(each, 0.5):9.3f} ({1e6 * min(each):.3f})")
    for name, why in skipped.items():
        print(f"  {name:38}   skipped: {why}")
    for bar in found:
        verdict = "met" if bar.met else "MISSED"
        print(f"  {bar.what}: {bar.measured:.2f} {bar.unit}, bar {bar.bar:g}: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
