"""`wicketgate validate [FILE]`: say whether a configuration can be used, and all that is wrong with it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from wicketgate.config import ConfigurationFaultsError, Fault, RuntimeConfig, load
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from argparse import Namespace

    from rollout.spec import Feature


def run(args: Namespace) -> int:
    """
    Check the file `args.file` (`-` is stdin; by default the one that the other commands would use).

    Results go to stdout, warnings to stderr; with `args.json` one object goes to stdout.
    """
    path = Path(args.file or os.environ.get("WICKETGATE_CONFIG") or "runtime.yaml")
    faults: tuple[Fault, ...] = ()
    config: RuntimeConfig | None = None
    try:
        config = load(path, text=sys.stdin.read() if args.file == "-" else None)
        report = f"{path} is valid: {_summary(config)}"
    except ConfigurationFaultsError as error:
        faults, report = error.faults, error.message
    warnings = config.warnings if config else ()
    if args.json:
        print(json.dumps(_as_object(path, faults, warnings)))
    else:
        print(report)
        for warning in warnings:
            print(warning.render(), file=sys.stderr)
    return ExitCode.USAGE if faults else ExitCode.DONE


def _summary(config: RuntimeConfig) -> str:
    """Name what a reader would look for first: the models, and who gets which feature."""
    models = ", ".join(entry.name for entry in config.models) or "no model"
    if config.rollout.kill_switch:
        return f"{models}; kill_switch: every feature is off"
    shares = ", ".join(_share(feature) for feature in config.rollout.features.values())
    return f"{models}; {shares}"


def _share(feature: Feature) -> str:
    if not feature.enabled:
        return f"{feature.name} off"
    staged = "staged up to " if feature.mode == "staged" else ""
    return f"{feature.name} {staged}{feature.rollout_percentage:g} %"


def _as_object(path: Path, errors: tuple[Fault, ...], warnings: tuple[Fault, ...]) -> dict[str, object]:
    return {
        "schema": "wicketgate.validate/1",
        "ok": not errors,
        "file": str(path),
        "errors": [_fault_as_object(fault) for fault in errors],
        "warnings": [_fault_as_object(fault) for fault in warnings],
    }


def _fault_as_object(fault: Fault) -> dict[str, object]:
    return {field.name: getattr(fault, field.name) for field in fields(fault) if field.name != "source"}
