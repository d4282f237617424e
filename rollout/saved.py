"""Reading back what was saved: whatever is not as it was written is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping

UNREADABLE = (ValueError, TypeError, KeyError, ArithmeticError)
"""What a damaged document may raise in the hands of those who go on from it."""

_MOST = 10**12
"""No gateway counts further; beyond it floats tell a part from the whole no more."""


def part(document: Mapping[str, object], name: str) -> Mapping[str, object]:
    """
    Return a document within a document.

    Raises:
        ValueError: it is none.
    """
    value = document.get(name)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, got {value!r}")
    return value


def seconds(document: Mapping[str, object], name: str) -> float:
    """
    Return a time span of at least 0.

    Raises:
        ValueError: it is none.
    """
    value = document.get(name)
    if not isinstance(value, float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return value


def whole(document: Mapping[str, object], name: str) -> int:
    """
    Return a whole number of at least 0, as far as anybody counts.

    Raises:
        ValueError: it is none.
    """
    value = document.get(name)
    if not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ValueError(
            f"{name} must be a whole number of at least 0 and at most {_MOST}, got {value!r:.40}"
        )
    return value
