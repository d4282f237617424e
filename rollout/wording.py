"""Figures as people write them, for the reasons that a rollout gives."""

from __future__ import annotations

_SPANS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def number(value: float) -> str:
    """Write a whole number with a space every three digits; below ten one decimal, if it says something."""
    if value < 10 and round(value, 1) != round(value):
        return f"{value:.1f}"
    return f"{value:,.0f}".replace(",", " ")


def percent(ratio: float) -> str:
    """Write a ratio (0 to 1) in percent, with two digits that count."""
    return f"{100 * ratio:.2g} %" if ratio < 0.1 else f"{100 * ratio:.4g} %"


def span(seconds: float) -> str:
    """Write a time span in the largest unit that it has two of, rounded down."""
    for size, unit in _SPANS:
        if seconds >= 2 * size:
            return f"{int(seconds / size)} {unit}"
    return f"{seconds:.2g} s"
