"""
The text of runtime.yaml as plain values, with the place of every key and value.

Theory of operation. The YAML parser's events are folded into dictionaries, tuples and scalars, and
each path such as ("server", "bind") is given the places of its key and of its value, so that every
later complaint can point at its line and column. The grammar is deliberately smaller than YAML: one
document, one mapping, no repeated keys, no tags, no anchors or aliases (an alias has no place of its
own, and nested ones grow without bound). Plain scalars are read by the core schema of YAML 1.2, where
`off`, `no` and `1:30` are text: under YAML 1.1 `blas: off` would be a boolean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import yaml

from wicketgate.config_faults import Fault, Severity

Scalar: TypeAlias = str | int | float | bool | None
Tree: TypeAlias = "Scalar | dict[str, Tree] | tuple[Tree, ...]"
KeyPath: TypeAlias = tuple[str | int, ...]

LARGEST_BYTES = 1 << 20
"""A larger file is no configuration."""
_DEEPEST = 32
_WIDEST_VALUE = 60

_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The breaks that YAML counts, so that line numbers agree with the parser's.
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a key and its value stand; line and column count from 1."""

    key: tuple[int, int]
    """Line and column of the key, or of the list entry."""
    value: tuple[int, int]
    """Line and column of the value."""
    text: str
    """The value as written; empty for a mapping or a list."""


@dataclass(slots=True, kw_only=True)
class Document:
    """A file that was read: its values, their places, and what is wrong with its form."""

    file: str
    """Name of the file."""
    lines: list[str]
    """Its lines without their ends."""
    tree: dict[str, Tree] = field(default_factory=dict)
    """The values."""
    places: dict[KeyPath, Place] = field(default_factory=dict)
    """Path to place."""
    faults: list[Fault] = field(default_factory=list)
    """What was found wrong so far."""

    def fault(
        self,
        at: tuple[int, int],
        message: str,
        fix: str,
        *,
        key: str = "",
        value: str = "",
        severity: Severity = "error",
    ) -> Fault:
        """Return a fault at a line and column of this document."""
        line = min(max(at[0], 1), len(self.lines))
        source = self.lines[line - 1]
        return Fault(
            file=self.file,
            line=line,
            column=min(max(at[1], 1), len(source) + 1),
            key=key,
            value=value,
            message=message,
            fix=fix,
            severity=severity,
            source=source,
        )

    def place(self, path: KeyPath) -> Place:
        """Return the place of a path, or of the nearest one above it that stands in the file."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, _TOP)


_TOP = Place(key=(1, 1), value=(1, 1), text="")


class _UnreadableError(Exception):
    """Nothing after this place can be read."""


def read(text: str, *, file: str) -> Document:
    """
    Read the text of a configuration.

    Args:
        text: The file's content.
        file: What to call it in messages.

    Returns:
        Its values and places. Where `faults` is not empty, the values are only what could be read.
    """
    text = text.removeprefix("\ufeff")  # a byte order mark
    document = Document(file=file, lines=_LINE_BREAK.split(text))
    if unreadable := _UNREADABLE.search(text):
        before = _LINE_BREAK.split(text[: unreadable.start()])
        document.faults.append(
            document.fault(
                (len(before), len(before[-1]) + 1),
                f"cannot read this line: it contains the character U+{ord(unreadable[0]):04X}.",
                "remove that character",
            )
        )
        return document
    if not text.strip():
        # An editor or a full disk may leave a file of no length: that must not mean "all defaults".
        fix = "write at least one key, or {} for the defaults"
        document.faults.append(document.fault((1, 1), "the file is empty.", fix))
        return document
    try:
        _Builder(text, document).build()
    except yaml.MarkedYAMLError as error:
        document.faults.append(_syntax_fault(error, document))
    except _UnreadableError:
        pass
    return document


def dotted(path: KeyPath) -> str:
    """Return a path as text: server.bind, models[0].path."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _Builder:
    """Folds the parser's events into a document."""

    def __init__(self, text: str, document: Document) -> None:
        self._events = yaml.parse(text, Loader=_LOADER)
        self._document = document

    def build(self) -> None:
        """Read the one mapping that the file must hold."""
        top: Tree = None
        seen = False
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                top = self._value(event, ())
                if not isinstance(top, dict):
                    self._stop(
                        event, "the file is not a mapping of keys to values.", 'write "key: value" lines'
                    )
                self._document.tree = top
            elif isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    self._stop(
                        event, "a second document starts here.", 'remove the line "---" and merge the two'
                    )
                seen = True

    def _value(self, event: yaml.Event, path: KeyPath) -> Tree:
        if len(path) > _DEEPEST:
            self._stop(event, f"this is nested deeper than {_DEEPEST} levels.", "remove levels")
        if isinstance(event, yaml.AliasEvent):
            self._complain(
                event, f"*{event.anchor} is an alias, which is not supported.", "write the value again"
            )
            return None
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        self._refuse_marks(event)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        return self._sequence(path)

    def _refuse_marks(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            self._complain(event, f"&{event.anchor} is an anchor, which is not supported.", "remove it")
        if event.tag is not None:
            self._complain(event, f"{event.tag} is a tag, which is not supported.", "remove it")

    def _mapping(self, path: KeyPath) -> dict[str, Tree]:
        mapping: dict[str, Tree] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                self._stop(key, "a key must be a word.", 'write "key: value"')
            self._refuse_marks(key)
            name = str(key.value)
            inner = (*path, name)
            if name in mapping:
                line = self._document.places[inner].key[0]
                shown = dotted(inner).removeprefix("phase4_rollout.")
                self._complain(
                    key,
                    f"{shown} appears twice (first at line {line}). Remove one.",
                    "remove one",
                    path=inner,
                )
                self._value(next(self._events), (*path, f"{name}\0"))  # a path that no key can have
                continue
            mapping[name] = self._placed(key, next(self._events), inner)
        return mapping

    def _sequence(self, path: KeyPath) -> tuple[Tree, ...]:
        entries: list[Tree] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            entries.append(self._placed(event, event, (*path, len(entries))))
        return tuple(entries)

    def _placed(self, key: yaml.Event, event: yaml.Event, path: KeyPath) -> Tree:
        text = _as_written(event) if isinstance(event, yaml.ScalarEvent) else ""
        self._document.places[path] = Place(key=_at(key), value=_at(event), text=text)
        return self._value(event, path)

    def _complain(self, event: yaml.Event, message: str, fix: str, *, path: KeyPath = ()) -> None:
        fault = self._document.fault(_at(event), message, fix, key=dotted(path))
        self._document.faults.append(fault)

    def _stop(self, event: yaml.Event, message: str, fix: str) -> NoReturn:
        self._complain(event, message, fix)
        raise _UnreadableError


def _at(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column + 1


def _scalar(event: yaml.ScalarEvent) -> Scalar:
    text = str(event.value)
    if event.style:  # quoted, or a block of text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) < 1000:  # Python refuses to convert very long ones
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _as_written(event: yaml.ScalarEvent) -> str:
    value = _scalar(event)
    shown = f'"{value}"' if isinstance(value, str) else str(event.value) or "empty"
    shown = " ".join(shown.split())
    return shown if len(shown) <= _WIDEST_VALUE else f"{shown[:_WIDEST_VALUE]}..."


def _syntax_fault(error: yaml.MarkedYAMLError, document: Document) -> Fault:
    """Turn a parser's complaint into plain words, at the place that a person would point at."""
    problem = str(error.problem or error.context or "this is not YAML")
    found = error.problem_mark or error.context_mark
    assert found is not None, "the parser always says where"
    opened = error.context_mark or found
    line, column = found.line, found.column
    character = "".join(document.lines[line : line + 1])[column : column + 1]
    if "cannot start any token" in problem and character == "\t":
        what, fix = "found a tab used for indentation", "replace it with spaces"
    elif "cannot start any token" in problem:
        what, fix = f"a value cannot begin with {character}", "put the value in quotes"
    elif "mapping values are not allowed" in problem:
        what = "no colon is expected here"
        fix = 'check the indentation of this line and the one above; put text that contains ": " in quotes'
    elif "',' or ']'" in problem or "',' or '}'" in problem:
        line, column = opened.line, opened.column
        bracket = "]" if "]" in problem else "}"
        what, fix = f"what opens here is not closed by {bracket}", f"add the missing {bracket} or comma"
    elif "end of stream" in problem:
        line, column = opened.line, opened.column
        what, fix = "the quoted text that begins here does not end", "add the closing quote"
    else:
        what, fix = problem, "check indentation and punctuation, here and in the line above"
    return document.fault((line + 1, column + 1), f"cannot read this line: {what}.", fix)
