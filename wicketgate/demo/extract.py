"""
The prose of CPython's built-in help as plain paragraphs: how `text/python_topics.txt` was made.

The help topics mix prose with grammar rules, tables and code, and repeat whole sections. Only prose is
kept, each paragraph once, unwrapped to one line. The file in the tree is what the demo model learns from;
another release of Python has other topics and would make another file.

    python3.11 -m wicketgate.demo.extract > wicketgate/demo/text/python_topics.txt
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SKIPPED = (
    "debugger", "formatstrings", "specialnames", "string-methods", "types", "typesmapping", "typesseq"
)  # fmt: skip
"""Long lists of methods, commands and attributes. Half the text is learned in half the time, and what is
left reads as explanations."""

MIN_WORDS = 8
"""A paragraph of fewer words is a heading or a stub."""

MIN_PROSE_RATIO = 0.93
"""Least share of letters, spaces and plain punctuation; code and tables lie below it."""

_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_BULLET = re.compile(r"^(\*|[0-9]+\.|\[[0-9]+\]) +")
_NOT_PROSE = re.compile(r"[^A-Za-z ,.;:\"'\u2019()*\-]")


def prose(topics: Mapping[str, str]) -> str:
    """
    Reduce help topics to their prose.

    Args:
        topics: Text of each topic by its name, as `pydoc_data.topics.topics` holds them.

    Returns:
        Sections that open with a line `== name ==`; paragraphs of one line, a blank line between two.
        A paragraph that several topics share stays with the first, a topic left empty is absent.
    """
    seen: set[str] = set()
    sections = []
    for name, text in topics.items():
        if name in SKIPPED:
            continue
        fresh = [p for p in _paragraphs(text) if p not in seen]
        seen.update(fresh)
        if fresh:
            sections.append("\n\n".join([f"== {name} ==", *dict.fromkeys(fresh)]))
    return "\n\n".join(sections) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of one topic that read as prose, each on one line."""
    for block in _BLANK_LINE.split(text):
        lines = [line.strip() for line in block.strip().splitlines()]
        paragraph = _BULLET.sub("", " ".join(line for line in lines if line))
        if is_prose(paragraph):
            yield paragraph


def is_prose(paragraph: str) -> bool:
    """Tell whether a paragraph is running English: a sentence that begins and ends as one."""
    if len(paragraph.split()) < MIN_WORDS or not paragraph.endswith((".", ":")):
        return False
    if not paragraph[0].isupper() or "::=" in paragraph or ">>>" in paragraph:
        return False
    return 1 - len(_NOT_PROSE.findall(paragraph)) / len(paragraph) >= MIN_PROSE_RATIO


def main() -> None:
    """Write the prose of this interpreter's help topics to standard output."""
    from pydoc_data.topics import topics

    sys.stdout.write(prose(topics))


if __name__ == "__main__":
    main()
