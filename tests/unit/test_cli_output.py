"""Pins what a command prints: colour rules, ASCII fallback, tables that fold, words for numbers."""

from __future__ import annotations

import io
from argparse import Namespace

import pytest

from wicketgate.cli.output import EN_DASH, Screen, count, duration, share

HEADERS = ("FEATURE", "STAGE", ">SHARE", "HOLD", "NEXT")
ROWS = [
    ("adaptive_governor", ("▸ mid 3/4", "accent"), "50 %", "41 h of 72 h", "rollout promote it"),
    ("qos", ("✓ complete", "ok"), "100 %", "-", ""),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal, of some encoding."""

    def __init__(self, *, encoding: str = "utf-8", is_terminal: bool = True) -> None:
        super().__init__()
        self._encoding = encoding
        self._is_terminal = is_terminal

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal


def screen(out: Terminal, *, color: str | None = None, **env: str) -> Screen:
    """Make a screen over a fake terminal."""
    return Screen(stdout=out, stderr=out, color=color, env=env)


def table(width: int | None, *, encoding: str = "utf-8") -> list[str]:
    """Print the table to a terminal of a width, or to a file."""
    out = Terminal(encoding=encoding, is_terminal=width is not None)
    screen(out, COLUMNS=str(width), NO_COLOR="1").table(HEADERS, ROWS, optional=(("HOLD",),))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("color", "env", "is_terminal", "colored"),
    [
        (None, {}, True, True),
        (None, {}, False, False),
        (None, {"TERM": "dumb"}, True, False),
        (None, {"NO_COLOR": "1"}, True, False),
        (None, {"NO_COLOR": ""}, True, True),
        (None, {"FORCE_COLOR": "1"}, False, True),
        (None, {"CLICOLOR_FORCE": "1"}, False, True),
        (None, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour_is_asked_for_by_option_then_environment_then_terminal(color, env, is_terminal, colored):
    painted = screen(Terminal(is_terminal=is_terminal), color=color, **env).paint("x", "ok")

    assert painted == ("\x1b[32mx\x1b[0m" if colored else "x")


def test_the_option_reaches_the_screen():
    assert Screen.of(Namespace(color="always")).paint("x", "bad") == "\x1b[1;31mx\x1b[0m"


def test_a_table_has_two_spaces_between_and_numbers_right():
    assert table(None) == [
        "FEATURE            STAGE       SHARE  HOLD          NEXT",
        "adaptive_governor  ▸ mid 3/4    50 %  41 h of 72 h  rollout promote it",
        "qos                ✓ complete  100 %  -",
    ]


def test_a_narrow_terminal_drops_a_column_first():
    assert table(60)[1] == "adaptive_governor  ▸ mid 3/4    50 %  rollout promote it"


def test_a_narrower_one_puts_the_last_column_under_and_keeps_what_then_fits():
    assert table(50)[:2] == [
        "FEATURE            STAGE       SHARE  HOLD",
        "adaptive_governor  ▸ mid 3/4    50 %  41 h of 72 h",
    ]


def test_a_very_narrow_one_does_both():
    assert table(45) == [
        "FEATURE            STAGE       SHARE",
        "adaptive_governor  ▸ mid 3/4    50 %",
        "    rollout promote it",
        "qos                ✓ complete  100 %",
    ]


def test_where_nothing_comes_next_nothing_is_put_under():
    out = Terminal()
    screen(out, COLUMNS="12", NO_COLOR="1").table(
        ("FEATURE", "NEXT"), [("canary", EN_DASH), ("b", "promote it")]
    )

    assert out.getvalue().splitlines() == ["FEATURE", "canary", "b", "    promote", "    it"]


def test_a_table_without_rows_is_its_header():
    out = Terminal(is_terminal=False)
    screen(out).table(("A", ">B"), [])

    assert out.getvalue() == "A  B\n"


def test_a_terminal_that_tells_no_width_counts_as_80_columns():
    out = Terminal()
    screen(out, NO_COLOR="1").table(("A", "B"), [("a" * 40, "b" * 40)])

    assert out.getvalue().splitlines()[1:] == ["a" * 40, f"    {'b' * 40}"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_where_the_encoding_is_not_utf8_nothing_outside_ascii_is_left(encoding):
    out = Terminal(encoding=encoding, is_terminal=False)
    screen(out).out("✓ ✗ ▸ ‖ ↗ · → \N{EN DASH} 5 µs Zürich")

    assert out.getvalue() == "+ x > | ^ . -> - 5 us Z\\xfcrich\n"


def test_a_lone_surrogate_does_not_stop_a_line():
    out = Terminal()
    screen(out).out("\udcff")

    assert out.getvalue() == "\\udcff\n"


def test_notes_go_to_stderr():
    out, err = Terminal(), Terminal()
    Screen(stdout=out, stderr=err, env={}).note("beside")

    assert (out.getvalue(), err.getvalue()) == ("", "beside\n")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0 s"),
        (3.2e-6, "3 µs"),
        (0.0042, "4 ms"),
        (1.5, "1500 ms"),
        (2.0, "2 s"),
        (75, "1 min 15 s"),
        (147_600, "1 d 17 h"),
        (86_400, "1 d"),
        (3_700_000, "42 d 19 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, written):
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("percentage", "written"),
    [(0.0, "0 %"), (100.0, "100 %"), (0.001, "0.001 %"), (12.5, "12.5 %"), (33.333, "33.333 %")],
)
def test_a_share_has_three_decimals_at_most(percentage, written):
    assert share(percentage) == written


def test_a_count_has_a_true_plural_and_spaced_thousands():
    assert [count(number, "request", "requests") for number in (0, 1, 4_120_882)] == [
        "0 requests",
        "1 request",
        "4 120 882 requests",
    ]
