"""`wicketgate rollout export --format flagd|json`: the flags as other programs read them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rollout.bucketing import VERSION
from rollout.flagd import flagd_export
from wicketgate.cli.output import Screen, print_json
from wicketgate.cli.place import find
from wicketgate.cli.standing import standing
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> int:
    """Print one document; what it could not carry is told on stderr."""
    screen = Screen.of(args)
    stand = standing(find(args, note=screen.note))
    snapshot = stand.snapshot()
    if args.format == "flagd":
        export = flagd_export(snapshot.spec, snapshot.shares, revision=snapshot.revision)
        for feature, why in export.left_out.items():
            screen.note(f"left out: {feature}: {why}")
        # As flagd takes it from a file: with --json too it is the one object.
        sys.stdout.write(json.dumps(export.document, indent=None if args.json else 2) + "\n")
        return ExitCode.DONE
    features = [
        {
            "feature": name,
            "percentage": given.percentage,
            "cause": str(given.cause),
            "key": str(snapshot.spec.features[name].key),
            "requires": list(snapshot.spec.features[name].requires),
        }
        for name, given in snapshot.shares.items()
    ]
    print_json(
        {
            "schema": "wicketgate.export/1",
            "ok": True,
            "revision": snapshot.revision,
            "bucketing": VERSION,
            "features": features,
        }
    )
    return ExitCode.DONE
