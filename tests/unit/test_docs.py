"""Pins that pages can be followed: links resolve, configuration examples load, commands exist."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from wicketgate.cli.commands import COMMANDS
from wicketgate.config import load
from wicketgate.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "runbooks").glob("*.md")],
    key=lambda page: page.relative_to(ROOT),
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    mark: str
    """The HTML comment on the line before it, where there is one."""


def read(page: Path | str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: Path | str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def blocks(page: Path | str, language: str) -> list[Block]:
    """Return a page's fenced blocks of one language."""
    text = read(page)
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip("\n").rpartition("\n")[2].strip()
        mark = before.removeprefix("<!--").removesuffix("-->").strip() if before.startswith("<!--") else ""
        found.append(Block(match[2], match[3], mark))
    return [block for block in found if block.language == language]


def rows(page: Path | str, heading: str) -> list[list[str]]:
    """Return the cells of the tables under a heading, header rows left out."""
    section = re.split(rf"^#+ {re.escape(heading)}\n", read(page), maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    heads = {index - 1 for index, line in enumerate(lines) if set(line) <= set("|-")}
    return [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for index, line in enumerate(lines)
        if index not in heads and not set(line) <= set("|-")
    ]


def quoted(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    lost = []
    for link in _LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(link)

    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_configuration_example_loads(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert load(page, text=block.text).warnings == ()


def test_there_are_configuration_examples_to_load() -> None:
    assert sum(len(blocks(page, "yaml")) for page in PAGES) >= 8


def test_the_readme_lists_every_command_as_help_does() -> None:
    listed = {quoted(row[0])[0]: row[1] for row in rows("README.md", "Commands")}

    assert listed == {
        f"wicketgate {command.shown or name}": command.summary for name, command in COMMANDS.items()
    }


def parse(words: list[str]) -> Namespace:
    """Read a command line, without its first word; raises where a command or an option does not exist."""
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
    return COMMANDS[name].parser(name).parse_args(words[len(name.split()) :])


def command_lines(page: str) -> list[str]:
    """Return the commands of wicketgate in the blocks of a page."""
    lines = [
        line for kind in ("sh", "text") for block in blocks(page, kind) for line in block.text.splitlines()
    ]
    return [line.partition(" | ")[0] for line in lines if line.startswith("wicketgate ")]


@pytest.mark.parametrize("page", [name for name in NAMES if "/" in name and command_lines(name)])
def test_every_command_in_a_block_has_the_options_that_it_takes(page: str) -> None:
    for line in command_lines(page):
        parse(shlex.split(line, comments=True)[1:])


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(UsageError):
        parse(["rollback", "ttft_pipeline", "--softly"])


def test_the_commands_of_the_runbooks_are_found() -> None:
    assert len(command_lines("runbooks/rollout-procedure.md")) >= 15
    assert any("--watch" in line for line in command_lines("runbooks/rollout-procedure.md"))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    text = prose(page)
    lines = [*quoted(text), *"\n".join(block.text for block in blocks(page, "sh")).splitlines()]
    named = [line.split()[1:3] for line in lines if line.startswith("wicketgate ")]
    groups = {name.split()[0] for name in COMMANDS if " " in name}

    unknown = [
        words
        for words in named
        if words[0] not in COMMANDS
        and " ".join(words) not in COMMANDS
        and not (words[0] in groups and (len(words) == 1 or not words[1].isalpha()))
    ]

    assert unknown == []
