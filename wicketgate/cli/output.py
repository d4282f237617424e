"""
What a command prints: colour by role, a glyph beside every colour, tables that fold, and JSON.

Results go to stdout; notes, questions and errors to stderr. Where the encoding is not UTF-8, nothing outside
ASCII is left.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    Cell = str | tuple[str, str]
    """Text, or text and the role that colours it."""

_CODES = {"ok": "32", "warn": "33", "bad": "1;31", "accent": "36", "dim": "2", "bold": "1"}
EN_DASH = "\N{EN DASH}"
"""Stands for no data; 0 is a measured zero."""
_ASCII = str.maketrans(
    {"✓": "+", "✗": "x", "▸": ">", "‖": "|", "↗": "^", "·": ".", "→": "->", EN_DASH: "-", "µ": "u"}
)
_BINARY = ("KiB", "MiB", "GiB", "TiB")
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class Screen:
    """
    Where a command writes.

    Args:
        stdout: For results.
        stderr: For everything else.
        color: always, never, or None to find out.
        env: The environment; None is the process's own.
    """

    def __init__(
        self,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        color: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._choice = color
        self._env = os.environ if env is None else env

    @classmethod
    def of(cls, args: Namespace) -> Screen:
        """Make the one that a command's options ask for."""
        return cls(color=args.color)

    def out(self, text: str = "") -> None:
        """Print a line of the result."""
        self._write(self._stdout, text)

    def note(self, text: str) -> None:
        """Print a line beside the result."""
        self._write(self._stderr, text)

    def paint(self, text: str, role: str, *, to_stderr: bool = False) -> str:
        """Colour a text by its role: ok, warn, bad, accent, dim or bold."""
        stream = self._stderr if to_stderr else self._stdout
        return f"\x1b[{_CODES[role]}m{text}\x1b[0m" if self._has_color(stream) else text

    def table(
        self, headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, optional: Sequence[str] = ()
    ) -> None:
        """
        Print a table. On a terminal that is too narrow it drops columns, then folds the last one under.

        Args:
            headers: Names of the columns; one that begins with `>` is aligned right.
            rows: The cells.
            optional: Columns that may be dropped, the first one first.
        """
        width, keep = self._width(), list(range(len(headers)))
        droppable = [index for name in optional for index in keep if headers[index].lstrip(">") == name]
        while width and droppable and _table_width(headers, rows, keep) > width:
            keep.remove(droppable.pop(0))
        folds = bool(width) and _table_width(headers, rows, keep) > width
        columns = keep[:-1] if folds else keep
        widths = {index: _column_width(headers, rows, index) for index in columns}
        self.out(
            self.paint(self._line([headers[index].lstrip(">") for index in columns], headers, widths), "dim")
        )
        for row in rows:
            self.out(self._line([row[index] for index in columns], headers, widths))
            if folds and _text(row[keep[-1]]):
                self.out(f"    {self._cell(row[keep[-1]])}")

    def _line(self, cells: Sequence[Cell], headers: Sequence[str], widths: Mapping[int, int]) -> str:
        parts = []
        for cell, (index, width) in zip(cells, widths.items(), strict=True):
            pad = " " * (width - len(_text(cell)))
            right = headers[index].startswith(">")
            parts.append(f"{pad}{self._cell(cell)}" if right else f"{self._cell(cell)}{pad}")
        return "  ".join(parts).rstrip()

    def _cell(self, cell: Cell) -> str:
        return cell if isinstance(cell, str) else self.paint(*cell)

    def _width(self) -> int:
        """Columns of the terminal; 0 where stdout is none."""
        if not self._stdout.isatty():
            return 0
        columns = self._env.get("COLUMNS", "")
        if columns.isdigit() and int(columns):
            return int(columns)
        try:
            return os.get_terminal_size(self._stdout.fileno()).columns
        except OSError:
            return 80

    def _has_color(self, stream: TextIO) -> bool:
        if self._choice is not None:
            return self._choice == "always"
        if self._env.get("NO_COLOR"):
            return False
        if self._env.get("FORCE_COLOR") or self._env.get("CLICOLOR_FORCE"):
            return True
        return stream.isatty() and self._env.get("TERM") != "dumb"

    def _write(self, stream: TextIO, text: str) -> None:
        if (stream.encoding or "").lower().replace("-", "") != "utf8":
            text = text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
        stream.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def print_json(document: Mapping[str, object]) -> None:
    """Print the one object of `--json`; ASCII only, so that any encoding can carry it."""
    import json

    sys.stdout.write(json.dumps(document) + "\n")


def share(percentage: float) -> str:
    """Write a percentage, at most three decimals."""
    return f"{percentage:.3f}".rstrip("0").rstrip(".") + " %"


def duration(seconds: float) -> str:
    """Write a time span in at most two units; milliseconds below ten seconds."""
    if 0 < seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 10:
        return f"{seconds * 1e3:.0f} ms" if seconds % 1 else f"{seconds:.0f} s"
    whole = round(seconds)
    parts = []
    for size, unit in _UNITS:
        if whole >= size:
            parts.append(f"{whole // size} {unit}")
            whole %= size
    return " ".join(parts[:2])


def binary_size(size_bytes: float) -> str:
    """Write a number of bytes in units of 1024."""
    size, unit = float(size_bytes), "B"
    for larger in _BINARY:
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def count(number: int, one: str, many: str) -> str:
    """Write a number with its noun, a space every three digits."""
    return f"{number:,} {one if number == 1 else many}".replace(",", " ")


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _column_width(headers: Sequence[str], rows: Sequence[Sequence[Cell]], index: int) -> int:
    return max(len(headers[index].lstrip(">")), *(len(_text(row[index])) for row in rows), 0)


def _table_width(headers: Sequence[str], rows: Sequence[Sequence[Cell]], keep: Sequence[int]) -> int:
    return sum(_column_width(headers, rows, index) for index in keep) + 2 * (len(keep) - 1)
