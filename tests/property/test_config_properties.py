"""Whatever stands in a runtime.yaml: it is loaded or refused in words, at a place within the text."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wicketgate.config import ConfigurationFaultsError, Fault, RuntimeConfig, load
from wicketgate.config_keys import keys_of

REFERENCE = (Path(__file__).parents[2] / "runtime.yaml").read_text(encoding="utf-8")
NAMES = sorted({key.path[-1] for key in keys_of(RuntimeConfig)})
PIECES = [
    *": ,-[]{}#&*!|>'\"%@`?\n\t\0\x85\u2028\ufeff\ud800~",
    "\n  ",
    "- ",
    ": ",
    "!!str ",
    "<<",
    "---\n",
    ".nan",
]

words = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(PIECES),
    st.sampled_from(
        ["true", "null", "0", "-1", "1e999", "9" * 5000, "500ms", "8MiB", "1%", "a/b", "~x/y", "\\0"]
    ),
    st.text(max_size=5),
)
garbage = st.lists(words, max_size=40).map("".join)


@st.composite
def spoilt_references(draw: st.DrawFn) -> str:
    start = draw(st.integers(0, len(REFERENCE)))
    end = min(len(REFERENCE), start + draw(st.integers(0, 30)))
    return REFERENCE[:start] + draw(words) + REFERENCE[end:]


@st.composite
def written_keys(draw: st.DrawFn) -> str:
    key = draw(st.sampled_from([key for key in keys_of(RuntimeConfig) if "[]" not in key.path]))
    value = draw(st.one_of(words, st.integers().map(str), st.floats().map(str)))
    return "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(key.path))[:-1] + f" {value}\n"


def faults_of(text: str) -> tuple[Fault, ...]:
    try:
        load(None, text=text)
    except ConfigurationFaultsError as error:
        return error.faults
    return ()


@given(st.one_of(garbage, spoilt_references(), written_keys()))
@settings(max_examples=300, deadline=None)
def test_any_text_is_loaded_or_refused_at_a_place_within_it(text: str) -> None:
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)

    for fault in faults_of(text):
        assert 1 <= fault.line <= len(lines)
        assert 1 <= fault.column <= len(lines[fault.line - 1]) + 1
        assert fault.message
        assert fault.fix


def numbers_of(section: str) -> dict[tuple[str, ...], list[float]]:
    """For each number of a section: its bounds and its default, from the page's own words."""
    found = {}
    for key in keys_of(RuntimeConfig):
        if key.path[0] == section and key.type in (int, float) and "[]" not in key.path:
            bounds = [key.type(bound) for bound in re.findall(r"[0-9.]+", key.bounds)]
            found[key.path] = [*bounds, key.value_in(RuntimeConfig())]
    return found


@given(st.data())
def test_the_cores_accept_whatever_the_schema_accepts(data: st.DataObject) -> None:
    tree: dict[str, dict[str, object]] = {"governor": {}, "qos": {}}
    for section in tree:
        for path, values in numbers_of(section).items():
            branch = tree
            for part in path[:-1]:
                branch = branch.setdefault(part, {})  # type: ignore[assignment]
            branch[path[-1]] = data.draw(st.sampled_from(values))  # type: ignore[assignment]
    try:
        config = RuntimeConfig.model_validate(tree)
    except ValidationError:
        return  # a contradiction, and refused as one

    assert config.governor.limit_params().max == config.governor.limit.max
    assert config.governor.admission_params().fixed_limit == config.governor.limit.fixed
    assert config.qos.params().window_s == config.qos.window_s
