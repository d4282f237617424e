"""What a route takes, for the OpenAPI document (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One route; each API module lists its own as ROUTES."""

    path: str
    """As Starlette writes it: /v1/models/{model}."""
    method: Literal["GET", "POST", "DELETE"]
    body: type[BaseModel] | None
    """Its fields and their bounds; None where no body is read."""
    summary: str
    """One sentence without a full stop."""
