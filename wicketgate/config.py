"""
runtime.yaml -> RuntimeConfig, with every fault at once and at its place; and again when the file changes.

`load` never gives a half-read configuration: it returns a whole one or raises. So a bad file cannot
change a running gateway.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rollout.spec import did_you_mean
from wicketgate.config_document import (
    LARGEST_BYTES,
    Document,
    dotted,
    read,
)
from wicketgate.config_faults import ConfigurationFaultsError, Fault
from wicketgate.config_fields import CONTRADICTION, to_percent
from wicketgate.config_keys import Key, by_path, key_at, names_at
from wicketgate.config_rollout import FEATURES, SAMPLE_RATE
from wicketgate.config_schema import RuntimeConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_core import ErrorDetails

    from wicketgate.config_document import KeyPath, Tree

__all__ = ["ConfigurationFaultsError", "Fault", "RuntimeConfig", "Watcher", "load"]

_MOST_FAULTS = 200
"""More are left out: a wrong file of a million keys must not take minutes to complain about."""
_BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def load(path: Path | None, *, text: str | None = None) -> RuntimeConfig:
    """
    Load a configuration.

    Args:
        path: The file; relative paths in it start from its folder. None loads the defaults, or `text`.
        text: Used instead of the file's content; `path` then only names it.

    Returns:
        The configuration; `warnings` holds what is allowed and doubtful.

    Raises:
        ConfigurationFaultsError: it cannot be used; every fault is in it.
    """
    if path is None and text is None:
        return RuntimeConfig()
    name = "<text>" if path is None else str(path)
    folder = (path or Path("text")).absolute().parent
    document = read(_content(path) if text is None and path else text or "", file=name)
    try:
        config = RuntimeConfig.model_validate(document.tree, context={"folder": folder})
    except ValidationError as error:
        complaints = error.errors(include_url=False)
        if "models" not in document.tree:  # they were spelt out from `model`, which has its own complaint
            complaints = [details for details in complaints if details["loc"][:1] != ("models",)]
        faults = [_translate(details, document) for details in complaints[:_MOST_FAULTS]]
        # What is wrong with the form of a value explains what the schema finds wrong with it.
        explained = {(fault.line, fault.column) for fault in document.faults}
        document.faults += [fault for fault in faults if (fault.line, fault.column) not in explained]
    if document.faults:
        raise ConfigurationFaultsError(tuple(sorted(document.faults, key=lambda f: (f.line, f.column))))
    return config.with_warnings(_warnings(document))


class Watcher:
    """
    Looks whether a file has changed; create it before the first `load`, so that no change is missed.

    A change is read when the file has stood still from one `poll` to the next: an editor that empties
    the file before it writes must not be taken at its word.

    Args:
        path: The file.
        override: Puts over the file's content what the command line says instead, at every change.
    """

    def __init__(
        self, path: Path, *, override: Callable[[RuntimeConfig], RuntimeConfig] = lambda config: config
    ) -> None:
        self.path = path
        self._override = override
        self._read = self._last = self._signature()

    def poll(self) -> RuntimeConfig | ConfigurationFaultsError | None:
        """Return the new configuration, or why the changed file cannot be used; None while nothing is new."""
        signature = self._signature()
        settled = signature == self._last
        self._last = signature
        if not settled or signature == self._read:
            return None
        self._read = signature
        try:
            return self._override(load(self.path))
        except ConfigurationFaultsError as error:
            return error

    def _signature(self) -> tuple[int, int, int] | None:
        """Tell one state of the file from another; None where there is no file."""
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _content(path: Path) -> str:
    """Read the file, or say why that is impossible."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _refusal(
            path, "", f"cannot read the file: {reason}.", "check the path and its permissions"
        ) from error
    if len(content) > LARGEST_BYTES:
        raise _refusal(
            path, "", f"the file is larger than {LARGEST_BYTES >> 20} MiB.", "is it the right file?"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        raise _refusal(
            path, before, "cannot read this line: it is not UTF-8.", "save the file as UTF-8"
        ) from error


def _refusal(path: Path, before: str, message: str, fix: str) -> ConfigurationFaultsError:
    """Return the error for a file that cannot be read after the text `before`."""
    document = Document(file=str(path), lines=before.split("\n"))
    at = (len(document.lines), len(document.lines[-1]) + 1)
    return ConfigurationFaultsError((document.fault(at, message, fix),))


def _translate(details: ErrorDetails, document: Document) -> Fault:
    """Turn pydantic's complaint into ours: what is, what it must be, what to do, and where."""
    path = details["loc"]
    if details["type"] == CONTRADICTION:
        return _contradiction(document, path, **details["ctx"])
    if details["type"] == "extra_forbidden":
        return _unknown(document, path)
    if details["type"] == "missing":
        return _fault(document, path, f"{_shown(path)} is missing.", f"add {path[-1]}", at_key=True)
    key = key_at(RuntimeConfig, path)
    assert key is not None, f"the schema complains about a key that it does not have: {path}"
    return _fault(document, path, *_misfit(key, path, details, document))


def _contradiction(document: Document, above: KeyPath, *, key: str, message: str, fix: str) -> Fault:
    path = (*above, *(int(part) if part.isdigit() else part for part in key.split(".")))
    named = path[:-1] if isinstance(path[-1], int) else path
    end = "" if message.endswith((".", "?")) else "."
    return _fault(document, path, f"{_shown(named)} {message}{end}", fix)


def _misfit(key: Key, path: KeyPath, details: ErrorDetails, document: Document) -> tuple[str, str]:
    """Say that a value does not fit its key, and what would."""
    place = document.place(path)
    subject = f"{_shown(path)} is {place.text or 'a ' + _kind(details['input'])}"
    if key.title == SAMPLE_RATE and (rate := _as_rate(details["input"])):
        return f"{subject}; it is {SAMPLE_RATE}. Did you mean {rate}?", f"write {rate}"
    if key.type is bool and not key.listed:
        return f"{subject}; write true or false.", "write true or false"
    if details["type"] in _BOUND_ERRORS:
        return f"{subject}; it must be {key.bounds}.", f"write a value {key.bounds}"
    wanted = (", " if "," in key.phrase else " ").join(filter(None, (key.phrase, key.bounds)))
    if key.unit == "ratio" and isinstance(details["input"], str):
        percent = to_percent(details["input"])
        example = percent if isinstance(percent, float) else 90
        return f"{subject}; it must be {wanted}.", f"write {example / 100:g} for {example:g} %"
    if key.listed and place.text:
        return f"{subject}; it must be {wanted}.", f"write [{place.text}]"
    if key.phrase == "text" and place.text:
        return f"{subject}; it must be {wanted}.", f'write "{place.text}"'
    if details["input"] is None:
        return f"{subject}; it must be {wanted}.", f"write {key.phrase}, or remove the line"
    return f"{subject}; it must be {wanted}.", f"write {key.phrase}"


def _unknown(document: Document, path: KeyPath) -> Fault:
    """Say that there is no such key, and which one is near."""
    word, above = str(path[-1]), path[:-1]
    kind = (
        "feature"
        if above == ("phase4_rollout",) and isinstance(_at(document.tree, path), dict)
        else "setting"
    )
    known = names_at(RuntimeConfig, above)
    suggestion = did_you_mean(word, known)
    elsewhere = [key.name for key in by_path(RuntimeConfig).values() if key.path[-1] == word]
    if suggestion:
        fix = f"write {suggestion.removeprefix(' Did you mean ').removesuffix('?')}"
    elif 1 <= len(elsewhere) <= 2:
        fix = f"remove it; there is {' and '.join(elsewhere)}"
    else:
        fix = f"remove it; known here: {', '.join(FEATURES if kind == 'feature' else known)}"
    return _fault(document, path, f"unknown {kind} {_shown(path)}.{suggestion}", fix, at_key=True)


def _fault(document: Document, path: KeyPath, message: str, fix: str, *, at_key: bool = False) -> Fault:
    place = document.place(path)
    at = place.key if at_key else place.value
    return document.fault(
        at, message, fix, key=dotted(path), value=place.text if path in document.places else ""
    )


def _warnings(document: Document) -> tuple[Fault, ...]:
    """Find percentages that may have been meant as shares: 0.5 is half a percent, and not half."""
    doubts = []
    for path, place in document.places.items():
        value = _at(document.tree, path)
        if str(path[-1]).endswith("percentage") and isinstance(value, float) and 0 < value < 1:
            share = "half" if value == 0.5 else f"{100 * value:g} %"
            fix = f'Write {100 * value:g} for {share} of all traffic, or "{value:g}%" to silence this.'
            message = f"{_shown(path)} is {place.text}, which means {value:g} %. {fix}"
            at = place.value
            doubts.append(
                document.fault(at, message, fix, key=dotted(path), value=place.text, severity="warning")
            )
    return tuple(doubts)


def _shown(path: KeyPath) -> str:
    """A key's name in messages: people speak of ttft_pipeline.enabled, whatever section it is in."""
    return dotted(path[1:] if path[0] == "phase4_rollout" and len(path) > 1 else path)


def _at(tree: Tree, path: KeyPath) -> Tree:
    for part in path:
        tree = tree[part]  # type: ignore[index]  # the document has this path
    return tree


def _kind(value: object) -> str:
    return "mapping" if isinstance(value, dict) else "list"


def _as_rate(value: object) -> int | None:
    """The N in one sample in N that a fraction such as 0.1 or "10%" asks for."""
    share = to_percent(value)
    if isinstance(value, str) and isinstance(share, float):
        share /= 100
    return round(1 / share) if isinstance(share, float) and 0.000001 <= share < 1 else None
