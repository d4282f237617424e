"""Pins that the reference file, the reference page and the demo's file say what the schema says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from rollout.spec import Mode
from wicketgate.cli.reference import PAGE, render
from wicketgate.config import RuntimeConfig, load
from wicketgate.config_keys import Key, keys_of

if TYPE_CHECKING:
    from pathlib import Path


def unlisted_keys() -> list[Key]:
    return [key for key in keys_of(RuntimeConfig) if "[]" not in key.path]


def test_the_page_is_what_the_schema_says(root: Path) -> None:
    assert (root / PAGE).read_text(encoding="utf-8") == render()


def test_the_page_has_a_line_for_every_key() -> None:
    page = render()

    for key in keys_of(RuntimeConfig):
        assert key.section or f"| `{key.name}` |" in page


def test_the_reference_file_holds_the_defaults(root: Path) -> None:
    config = load(root / "runtime.yaml")

    assert config.changed(RuntimeConfig()) == ([], [])
    assert config.warnings == ()


def test_the_reference_file_names_every_key_and_no_other(root: Path) -> None:
    tree = yaml.safe_load((root / "runtime.yaml").read_text(encoding="utf-8"))
    named = set()

    def walk(branch: dict[str, object], path: tuple[str, ...]) -> None:
        for name, value in branch.items():
            named.add((*path, name))
            if isinstance(value, dict):
                walk(value, (*path, name))

    walk(tree, ())

    assert named == {key.path for key in unlisted_keys()}


def test_every_line_of_the_reference_file_with_a_quantity_names_its_unit(root: Path) -> None:
    lines = (root / "runtime.yaml").read_text(encoding="utf-8").splitlines()
    seconds = [line for line in lines if "_s: " in line and " - {" not in line and not line.startswith("#")]

    assert [line for line in seconds if "second" not in line] == []


def test_a_key_that_ends_in_a_unit_reads_it() -> None:
    titles = {"_s": "seconds", "_bytes": "bytes", "percentage": "a percentage"}

    for key in keys_of(RuntimeConfig):
        for ending, title in titles.items():
            if key.path[-1].endswith(ending) and not key.path[-1].endswith("_per_s"):
                assert key.phrase.startswith(title), key.name


def test_every_number_has_bounds() -> None:
    for key in keys_of(RuntimeConfig):
        if key.type in (int, float):
            assert key.bounds, key.name


def test_the_demo_serves_the_model_beside_it_with_one_feature_to_roll_out(root: Path) -> None:
    config = load(root / "wicketgate" / "demo" / "runtime.yaml")

    assert config.name == "demo"
    assert [(entry.name, entry.path) for entry in config.models] == [
        ("demo", str(root / "wicketgate" / "demo" / "model")),
    ]
    assert {name: (f.enabled, f.mode) for name, f in config.rollout.features.items()} == {
        "adaptive_governor": (True, Mode.DIRECT),
        "http2_transport": (True, Mode.DIRECT),
        "ttft_pipeline": (True, Mode.STAGED),
        "qos_monitoring": (True, Mode.DIRECT),
    }
