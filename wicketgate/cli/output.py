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
    {
        "✓": "+",
        "✗": "x",
        "▸": ">",
        "‖": "|",
        "↗": "^",
        "·": ".",
        "→": "->",
        EN_DASH: "-",
        "µ": "u",
        "█": "#",
        "░": ".",
    }
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
        self.line_end = ""
        """What every line of the result ends in, such as the code that clears the rest of it."""

    @classmethod
    def of(cls, args: Namespace) -> Screen:
        """Make the one that a command's options ask for."""
        return cls(color=args.color)

    def out(self, text: str = "") -> None:
        """Print a line of the result."""
        self._write(self._stdout, f"{text}{self.line_end}")

    def raw(self, codes: str) -> None:
        """Send codes to the terminal as they are."""
        self._stdout.write(codes)
        self._stdout.flush()

    def note(self, text: str) -> None:
        """Print a line beside the result."""
        self._write(self._stderr, text)

    def paint(self, text: str, role: str, *, to_stderr: bool = False) -> str:
        """Colour a text by its role: ok, warn, bad, accent, dim or bold; "" leaves it as it is."""
        stream = self._stderr if to_stderr else self._stdout
        return f"\x1b[{_CODES[role]}m{text}\x1b[0m" if role and self._has_color(stream) else text

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        optional: Sequence[Sequence[str]] = (),
    ) -> None:
        """
        Print a table. On a terminal that is too narrow it drops columns, then folds the last one under.

        Args:
            headers: Names of the columns; one that begins with `>` is aligned right.
            rows: The cells.
            optional: Columns that may be dropped, those that go together in a group, the first one first.
        """
        whole = list(range(len(headers)))
        columns, folds = whole, False
        if self.width and _table_width(headers, rows, whole) > self.width:
            columns = _fitting(headers, rows, optional, columns=whole, width=self.width)
            folds = _table_width(headers, rows, columns) > self.width
        if folds:
            columns = _fitting(headers, rows, optional, columns=whole[:-1], width=self.width)
        widths = {index: _column_width(headers, rows, index) for index in columns}
        self.out(
            self.paint(self._line([headers[index].lstrip(">") for index in columns], headers, widths), "dim")
        )
        for row in rows:
            self.out(self._line([row[index] for index in columns], headers, widths))
            if folds and _text(row[-1]) not in ("", EN_DASH):
                self._fold(row[-1])

    def _fold(self, cell: Cell) -> None:
        """Put a cell under its row."""
        role = "" if isinstance(cell, str) else cell[1]
        for line in wrapped(_text(cell), self.width - 4):
            self.out(f"    {self.paint(line, role)}")

    def _line(self, cells: Sequence[Cell], headers: Sequence[str], widths: Mapping[int, int]) -> str:
        parts = []
        for cell, (index, width) in zip(cells, widths.items(), strict=True):
            pad = " " * (width - len(_text(cell)))
            right = headers[index].startswith(">")
            parts.append(f"{pad}{self._cell(cell)}" if right else f"{self._cell(cell)}{pad}")
        return "  ".join(parts).rstrip()

    def _cell(self, cell: Cell) -> str:
        return cell if isinstance(cell, str) else self.paint(*cell)

    @property
    def width(self) -> int:
        """Columns of the terminal; 0 where stdout is none."""
        return self._size(0, "COLUMNS", 80)

    @property
    def height(self) -> int:
        """Lines of the terminal; 0 where stdout is none."""
        return self._size(1, "LINES", 24)

    def _size(self, index: int, variable: str, usual: int) -> int:
        if not self._stdout.isatty():
            return 0
        told = self._env.get(variable, "")
        if told.isdigit() and int(told):
            return int(told)
        try:
            return os.get_terminal_size(self._stdout.fileno())[index] or usual
        except OSError:
            return usual

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


def number(value: int) -> str:
    """Write a number, a space every three digits."""
    return f"{value:,}".replace(",", " ")


def count(value: int, one: str, many: str) -> str:
    """Write a number with its noun."""
    return f"{number(value)} {one if value == 1 else many}"


def wrapped(text: str, width: int) -> list[str]:
    """Break a text between words, so that no line is longer than a width that every word fits in."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _fitting(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    optional: Sequence[Sequence[str]],
    *,
    columns: list[int],
    width: int,
) -> list[int]:
    """Drop optional columns until a table fits, or none is left to drop."""
    for group in optional:
        if _table_width(headers, rows, columns) > width:
            columns = [index for index in columns if headers[index].lstrip(">") not in group]
    return columns


def _column_width(headers: Sequence[str], rows: Sequence[Sequence[Cell]], index: int) -> int:
    return max(len(headers[index].lstrip(">")), *(len(_text(row[index])) for row in rows), 0)


def _table_width(headers: Sequence[str], rows: Sequence[Sequence[Cell]], keep: Sequence[int]) -> int:
    return sum(_column_width(headers, rows, index) for index in keep) + 2 * (len(keep) - 1)
