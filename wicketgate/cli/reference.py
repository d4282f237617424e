"""`python -m wicketgate.cli.reference`: write docs/configuration.md from the schema."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from wicketgate.config_keys import Key, keys_of
from wicketgate.config_schema import RuntimeConfig

if TYPE_CHECKING:
    from wicketgate.config_fields import Section

PAGE = Path("docs/configuration.md")
"""Where the page stands, from the root of the tree."""

_HEAD = """\
# Configuration

<!-- Written by `make docs` from the schema in wicketgate/config_schema.py; a test compares. -->

`runtime.yaml` configures a runtime. Every key has a default, so that a file names only what differs;
[runtime.yaml](../runtime.yaml) at the root of the tree spells out every key with its default. Without a
file all defaults are in force.

`wicketgate validate [FILE]` checks a file and names all that is wrong with it at once, by line and column.
A running gateway reads a changed file within a second: what is *hot* is followed at once, for the rest
it says that a restart is needed, and a file with an error changes nothing.

## How values are written

| key ends in | write |
|---|---|
| `_s` | seconds as a number, or text with a unit: `0.5`, `500ms`, `10s`, `1m30s`, `24h`, `7d` |
| `_bytes` | bytes as a whole number, or text with a unit: `8388608`, `8MiB`, `1GB` |
| `_ratio` | a number; a share from 0 to 1 unless its bounds say otherwise |
| `percentage` | a percentage from 0 to 100, as a number or as `1%`; 0.5 is half a percent |

* Relative paths start from the folder of the file; `~` is the home folder.
* Unknown and repeated keys are errors. So are YAML's anchors, aliases, tags and second documents.
* Words are read as in YAML 1.2: `true` and `false` are the only truth values; `off`, `no` and `on` are text.
* An empty file is an error, because it may be half-written; `{}` means all defaults.
* Without `phase4_rollout` all four features are on at 100 %. With it, a feature that it does not name is off.
"""


def render() -> str:
    """Return the page."""
    keys = list(keys_of(RuntimeConfig))
    sections = {key.name: key for key in keys if len(key.path) == 1 and key.section}
    parts = [_HEAD, "## Top level\n", _table([key for key in keys if key.path[0] not in sections])]
    for top in sections.values():
        parts.append(f"## {top.name}\n\n{inspect.getdoc(top.type)}\n")
        parts.append(_table([key for key in keys if key.path[0] == top.name and not key.section]))
    return "\n".join(parts)


def _table(keys: list[Key]) -> str:
    rows = ["| key | type | default | unit | bounds | change | meaning |", "|---|---|---|---|---|---|---|"]
    for key in keys:
        cells = (
            f"`{key.name}`",
            _type(key),
            "required" if key.required else f"`{key.show(key.default)}`",
            key.unit,
            key.bounds,
            "hot" if key.hot else "restart",
            _meaning(key),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _type(key: Key) -> str:
    short = {"seconds": "duration", "bytes": "size"}.get(key.unit, key.phrase)
    short = short.removeprefix("a ").removeprefix("an ")
    return f"{short}; or null" if key.optional else short


def _meaning(key: Key) -> str:
    owner: type[Section] = RuntimeConfig
    for part in key.path[:-1]:
        if part != "[]":
            owner = next(inner.type for inner in keys_of(owner) if inner.path == (part,))
    return _docstrings(owner)[key.path[-1]]


@cache
def _docstrings(section: type[Section]) -> dict[str, str]:
    """Read the strings below a section's keys, and below those that it inherits."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if owner.__module__ != section.__module__:
            continue
        body = ast.parse(inspect.getsource(owner)).body[0]
        assert isinstance(body, ast.ClassDef)
        for key, below in zip(body.body, body.body[1:], strict=False):
            match key, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = text
    return found


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
