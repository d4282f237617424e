"""Bounds of parameters, and the error that names the one that is broken."""

from __future__ import annotations


class OutOfBoundsError(ValueError):
    """A parameter lies outside its bounds."""

    def __init__(self, *, field: str, value: object, bound: str) -> None:
        super().__init__(f"{field} must be {bound}, got {value!r}")
        self.field = field
        self.value = value
        self.bound = bound


def require_bounds(params: object, /, **bounds: tuple[float, float]) -> None:
    """
    Check fields of a parameter object against inclusive bounds; NaN is outside all of them.

    Args:
        params: The object whose attributes are checked.
        bounds: For each attribute the lowest and the highest value allowed.

    Raises:
        OutOfBoundsError: the first attribute that lies outside.
    """
    for field, (low, high) in bounds.items():
        value = getattr(params, field)
        if not low <= value <= high:
            raise OutOfBoundsError(field=field, value=value, bound=f"between {low:g} and {high:g}")
