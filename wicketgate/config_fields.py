"""What a key of runtime.yaml may hold: quantities with a unit, addresses, paths; the form of a section."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

_DURATION_PART = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(ms|us|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern} ?)+")
_SECONDS = {
    unit: Decimal(seconds)
    for unit, seconds in (("us", "1e-6"), ("ms", "1e-3"), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400))
}

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(|[kmgt]i?)b", re.IGNORECASE)
_BYTES = {"": 1} | {
    prefix + infix: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for infix, base in (("", 1000), ("i", 1024))
}

_PERCENT = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?%")


def to_seconds(value: object) -> object:
    """Return the seconds in text such as "500ms", "24h" or "1m30s"; anything else unchanged."""
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        return value
    # In decimals, so that "100ms" and 0.1 are one number and no change at a reload.
    return float(sum(Decimal(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value)))


def to_bytes(value: object) -> object:
    """Return the whole number of bytes in text such as "8MiB" or "1.5GB"; anything else unchanged."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    size = Decimal(match[1]) * _BYTES[match[2].lower()]
    return int(size) if size == int(size) else value


def to_percent(value: object) -> object:
    """Return the number in text such as "1%" or "0.5 %"; anything else unchanged."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return value if match is None else float(match[1])


CONTRADICTION = "contradiction"
"""Type of an error about several keys; its context holds `key` (dotted, below the section) and `fix`."""

HOT = Field(json_schema_extra={"reload": "hot"})
"""A running gateway follows a change."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_BIND = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):([0-9]{1,5})", re.ASCII)
_DIGITS = re.compile(r"[0-9.]+")


def contradiction(key: str, message: str, fix: str) -> PydanticCustomError:
    """Return the error to raise where values that are fine alone cannot stand together."""
    return PydanticCustomError(CONTRADICTION, "{message}", {"key": key, "message": message, "fix": fix})


def require_order(section: Section, low: str, high: str, *, blame: str | None = None) -> None:
    """Refuse a section whose key `low` is above its key `high`; point at `blame`, by default `low`."""
    small, large = getattr(section, low), getattr(section, high)
    if small <= large:
        return
    if blame == high:
        message = f"is {large:g}, which is below {low} ({small:g})"
    else:
        message = f"is {small:g}, which is above {high} ({large:g})"
    raise contradiction(blame or low, message, f"make {high} at least {low}")


def split_bind(bind: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; an IPv6 host stands in brackets. Port 0 is any free one."""
    match = _BIND.fullmatch(bind)
    if match is None or int(match[2]) > 65_535:
        raise ValueError(f"{bind} is not HOST:PORT")
    host = match[1].strip("[]")
    if match[1].startswith("["):
        ipaddress.IPv6Address(host)
    elif _DIGITS.fullmatch(host):
        ipaddress.IPv4Address(host)
    return host, int(match[2])


def is_loopback(host: str) -> bool:
    """Say whether a host can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked_bind(value: str) -> str:
    split_bind(value)
    return value


def _to_path(value: object, info: ValidationInfo) -> object:
    return _absolute(value, info) if isinstance(value, str) and value else value


def _to_model(value: str, info: ValidationInfo) -> str:
    path = _absolute(value, info)
    if _HUB_ID.fullmatch(value) and not path.exists():
        return value
    return str(path)


def _absolute(value: str, info: ValidationInfo) -> Path:
    """Resolve a path against the folder of the file, which the context gives."""
    folder: Path = (info.context or {}).get("folder", Path())
    if "\0" in value:
        raise ValueError("a path holds no NUL")
    try:
        return folder / Path(value).expanduser()
    except RuntimeError as error:  # ~NOBODY
        raise ValueError(str(error)) from error


Seconds = Annotated[
    float, BeforeValidator(to_seconds), Field(title='seconds, or text such as "500ms" or "24h"')
]
Bytes = Annotated[int, BeforeValidator(to_bytes), Field(title='bytes, or text such as "8MiB"')]
Percent = Annotated[float, BeforeValidator(to_percent), Field(ge=0, le=100, title="a percentage")]
Ratio = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", title='a name of letters, digits, ".", "_" and "-"'),
]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,253}$", title="a host name")]
LocalPath = Annotated[Path, BeforeValidator(_to_path), Field(title="a path")]
ModelPath = Annotated[
    str, Field(min_length=1, title="a folder, or ORGANISATION/NAME on the hub"), AfterValidator(_to_model)
]
Bind = Annotated[str, AfterValidator(_checked_bind), Field(title='an address such as "127.0.0.1:8000"')]


class Section(BaseModel):
    """
    A group of keys.

    The string below a key is its meaning. `cli/reference.py` reads it from the source, because letting
    pydantic do that (`use_attribute_docstrings`) made the import of the schema half as long again.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
