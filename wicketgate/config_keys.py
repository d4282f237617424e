"""What the schema says about each key: its type in words, unit, bounds, default, and whether it is hot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from wicketgate.config_fields import Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNITS = {
    "_per_s": "per second",
    "_s": "seconds",
    "_bytes": "bytes",
    "_ratio": "ratio",
    "percentage": "percent",
    "_tokens": "tokens",
    "_chars": "characters",
    "_nats": "nats",
    "_log": "log of a ratio",
}
_PHRASES = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key, or one section."""

    path: tuple[str, ...]
    """Its path; `[]` stands for each entry of a list."""
    default: object
    """Value when it is not written; PydanticUndefined where it must be."""
    type: Any
    """The type without null: a class, a Literal, or the class of a list's entries."""
    title: str
    """What must be written, where the schema says it; else empty."""
    constraints: tuple[object, ...]
    """Bounds, among other things."""
    optional: bool
    """Null is allowed."""
    listed: bool
    """It is a list."""
    hot: bool
    """A running gateway follows a change."""

    @property
    def name(self) -> str:
        """The path as text: server.bind, models[].path."""
        return ".".join(self.path).replace(".[]", "[]")

    @property
    def required(self) -> bool:
        """Whether it must be written where its section is."""
        return self.default is PydanticUndefined

    @property
    def section(self) -> bool:
        """Whether it holds keys and is no list."""
        return not self.listed and _is_section(self.type)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words or numbers allowed, as they are written, where only some are."""
        return tuple(map(str, get_args(self.type))) if get_origin(self.type) is Literal else ()

    @property
    def unit(self) -> str:
        """What a number counts; empty where the type says it."""
        return next((unit for ending, unit in _UNITS.items() if self.path[-1].endswith(ending)), "")

    @property
    def bounds(self) -> str:
        """The numbers allowed, such as `between 1 and 65535`; empty where there are no bounds."""
        lows = [(low, False) for low in self._limits("ge")] + [(low, True) for low in self._limits("gt")]
        highs = [(high, True) for high in self._limits("le")] + [(high, False) for high in self._limits("lt")]
        if not lows or not highs:
            return ""
        # A bound that excludes its number is the narrower one of two at the same number.
        (low, above), (high, upto) = max(lows), min(highs)
        if upto and not above:
            return f"between {self.show(low)} and {self.show(high)}"
        lower, upper = "above" if above else "at least", "at most" if upto else "below"
        return f"{lower} {self.show(low)} and {upper} {self.show(high)}"

    def _limits(self, kind: str) -> list[float]:
        return [getattr(constraint, kind) for constraint in self.constraints if hasattr(constraint, kind)]

    @property
    def phrase(self) -> str:
        """What must be written, such as `an integer`."""
        if self.listed:
            return "a list"
        if _is_section(self.type):
            return "a mapping of keys"
        if self.choices:
            return " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        return self.title or _PHRASES[self.type]

    def show(self, value: object) -> str:
        """Return a value as it is written in the file."""
        match value:
            case None | bool():
                return {None: "null", True: "true", False: "false"}[value]
            case int() if self.path[-1].endswith("_bytes"):
                return _in_binary_units(value)
            case float():
                return str(int(value)) if value.is_integer() else repr(value)
            case tuple():
                return f"[{', '.join(self.show(entry) for entry in value)}]"
            case Section():
                given = ((name, entry) for name, entry in value if entry is not None)
                return f"{{{', '.join(f'{name}: {self.show(entry)}' for name, entry in given)}}}"
            case _:
                return str(value)

    def value_in(self, config: Section) -> Any:
        """Return the key's value in a configuration; only for keys outside lists."""
        value: Any = config
        for part in self.path:
            value = getattr(value, part)
        return value


def keys_of(model: type[Section], path: tuple[str, ...] = (), *, hot: bool = False) -> Iterator[Key]:
    """Yield every key and section of a model, in order, each section before its keys."""
    for name, info in model.model_fields.items():
        key = _key((*path, name), info, hot=hot)
        yield key
        if _is_section(key.type):
            yield from keys_of(key.type, (*key.path, "[]") if key.listed else key.path, hot=key.hot)


def key_at(model: type[Section], path: tuple[str | int, ...]) -> Key | None:
    """Return what the schema says about a path with list indices, such as ("models", 0, "path")."""
    pattern = tuple("[]" if isinstance(part, int) else part for part in path)
    keys = by_path(model)
    if pattern and pattern[-1] == "[]" and (entry := keys.get(pattern[:-1])):
        return replace(entry, listed=False)
    return keys.get(pattern)


def names_at(model: type[Section], path: tuple[str | int, ...]) -> list[str]:
    """Return the names of the keys that may stand below a path."""
    pattern = tuple("[]" if isinstance(part, int) else part for part in path)
    return [key.path[-1] for key in by_path(model).values() if key.path[:-1] == pattern]


@cache
def by_path(model: type[Section]) -> Mapping[tuple[str, ...], Key]:
    """Return every key of a model by its path; worked out once, because each fault of a file asks for it."""
    return MappingProxyType({key.path: key for key in keys_of(model)})


def _key(path: tuple[str, ...], info: FieldInfo, *, hot: bool) -> Key:
    extra = info.json_schema_extra
    kind, constraints, optional = _unwrap(info.annotation)
    listed = get_origin(kind) is tuple
    if listed:
        kind, notes, _ = _unwrap(get_args(kind)[0])
        constraints += notes
    titles = [info.title, *(c.title for c in constraints if isinstance(c, FieldInfo))]
    nested = [c for part in constraints if isinstance(part, FieldInfo) for c in part.metadata]
    return Key(
        path=path,
        default=info.default,
        type=kind,
        title=next(filter(None, titles), ""),
        constraints=(*info.metadata, *constraints, *nested),
        optional=optional,
        listed=listed,
        hot=hot or (isinstance(extra, dict) and extra.get("reload") == "hot"),
    )


def _unwrap(annotation: Any) -> tuple[Any, list[object], bool]:
    """Take Annotated and `| None` off a type: what is left, what was noted, whether null is allowed."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        kind, more, optional = _unwrap(inner)
        return kind, [*notes, *more], optional
    if get_origin(annotation) in (Union, UnionType):
        inner = next(part for part in get_args(annotation) if part is not NoneType)
        kind, notes, _ = _unwrap(inner)
        return kind, notes, True
    return annotation, [], False


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _in_binary_units(size: int) -> str:
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
