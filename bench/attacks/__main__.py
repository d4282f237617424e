"""Runs every attack beside a well-behaved client, three on stock hypercorn too, and prints the table."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from bench.attacks.corpus import ATTACKS
from bench.attacks.scene import Beside, Target
from bench.attacks.seen import Scale
from bench.attacks.table import Row, markdown
from bench.server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ON_HYPERCORN: Final = ("rapid reset", "PING flood", "zero window, 20 big answers")
IDLE_S: Final = 2.0
LEAST_S: Final = 1.0
"""A shorter attack is measured so long, so that a p99 has something to stand on."""


def measured(name: str, target: Target, server: str, scale: Scale) -> Row:
    """Run one attack."""
    with Beside(target.port) as beside:
        time.sleep(IDLE_S)
        idle = beside.take()
        before = target.state()
        target.forget()
        before_bytes = target.peak_bytes()
        beside.take()
        began_s = time.monotonic()
        seen = ATTACKS[name](target, scale)
        time.sleep(max(0.0, began_s + LEAST_S - time.monotonic()))
        taken = beside.take()
        after = target.state()
        return Row(
            name=name,
            server=server,
            idle_ms=idle["delays_ms"],
            beside_ms=[*taken["delays_ms"], *taken["waiting_ms"]],
            failures=len(taken["failures"]),
            growth_bytes=target.peak_bytes() - before_bytes,
            longest_turn_s=after["longest_turn_s"],
            cpu_s=after["cpu_s"] - before["cpu_s"],
            text=seen.text,
            is_fine=seen.is_fine,
        )


def rows(wanted: list[str], scale: Scale, folder: Path) -> Iterator[Row]:
    """Run the attacks; hypercorn gets a new process for each, since it keeps what an attack leaves."""
    for name in wanted:
        with Target("ours", folder, body_timeout_s=2) as target:
            yield measured(name, target, "ours", scale)
        if name in ON_HYPERCORN:
            with Target("hypercorn", folder, port=free_port()) as target:
                yield measured(name, target, "hypercorn", scale)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS), default=list(ATTACKS), metavar="NAME")
    parser.add_argument("--frames", type=int, default=100_000, help="of a flood, at most")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a flood, at most")
    args = parser.parse_args()
    scale = Scale(frames=args.frames, limit_s=args.seconds)
    with TemporaryDirectory() as folder:
        print(markdown(list(rows(args.only, scale, Path(folder)))))


if __name__ == "__main__":
    main()
