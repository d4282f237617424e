"""What is wrong with a configuration, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from wicketgate.errors import ConfigurationError

Severity: TypeAlias = Literal["error", "warning"]

_MOST_SHOWN = 50
_WIDEST_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong, or doubtful, in a configuration."""

    file: str
    """Name of the file, as it was given."""
    line: int
    """Where: 1 is the first line."""
    column: int
    """Where in the line: 1 is the first character."""
    key: str
    """The key's full path with dots, such as server.bind; empty where no key is to blame."""
    value: str
    """The value as written; empty where none is to blame."""
    message: str
    """What is, and what it must be."""
    fix: str
    """What to do about it."""
    severity: Severity = "error"
    """A warning changes nothing."""
    source: str = ""
    """The whole line."""

    def render(self) -> str:
        """Return the fault as text: place and message, the line with a caret, the fix."""
        start = max(0, self.column - _WIDEST_SHOWN // 2)
        shown = self.source.expandtabs(1)[start : start + _WIDEST_SHOWN]
        return (
            f"{self.file}:{self.line}:{self.column}  {self.severity}  {self.message}\n"
            f"{self.line:>6} | {shown}\n"
            f"       | {' ' * (self.column - 1 - start)}^\n"
            f"         fix: {self.fix}"
        )


class ConfigurationFaultsError(ConfigurationError):
    """A configuration cannot be used; the message is the whole report."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        parts = [fault.render() for fault in faults[:_MOST_SHOWN]]
        if len(faults) > _MOST_SHOWN:
            parts.append(f"... and {len(faults) - _MOST_SHOWN} more")
        count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
        parts.append(f"{count} in {faults[0].file}; a running gateway keeps the configuration that it has.")
        super().__init__("\n".join(parts), param=faults[0].key or None)
        self.faults = faults
