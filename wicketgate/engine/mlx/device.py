"""
Prints what mlx says of this machine as one JSON object, for a process that must not load mlx itself.

Run as `python -m wicketgate.engine.mlx.device`: where mlx cannot start, only this child ends.
"""

from __future__ import annotations

import json
import sys

import mlx.core as mx


def main() -> int:
    """Compute something small, so that a device that only looks well is found out."""
    device = {name: value for name, value in mx.device_info().items() if isinstance(value, int | str)}
    ones = mx.ones((8, 8))
    works = (ones @ ones).sum().item() == 512
    sys.stdout.write(json.dumps({"device": device, "has_gpu": mx.device_count(mx.gpu) > 0, "works": works}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
