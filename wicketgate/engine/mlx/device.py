"""
Whether the device computes, and what mlx says of it.

A process that must not load mlx itself runs `python -m wicketgate.engine.mlx.device` and reads one JSON
object: where mlx cannot start, only that child ends.
"""

from __future__ import annotations

import json
import sys

import mlx.core as mx


def works() -> bool:
    """Compute something small, so that a device that only looks well is found out."""
    ones = mx.ones((8, 8))
    return bool((ones @ ones).sum().item() == 512)


def main() -> int:
    """Print what is known of the device."""
    device = {name: value for name, value in mx.device_info().items() if isinstance(value, int | str)}
    has_gpu = mx.device_count(mx.gpu) > 0
    sys.stdout.write(json.dumps({"device": device, "has_gpu": has_gpu, "works": works()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
