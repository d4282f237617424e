"""The models to serve, before anything starts: their folders, their weights, and what can never be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from wicketgate import demo
from wicketgate.config import RuntimeConfig
from wicketgate.errors import ConfigurationError
from wicketgate.served import ServedModel, served_models
from wicketgate.weights import weights_bytes

FOLDER = str(Path(demo.__path__[0]) / "model")
WEIGHTS = weights_bytes(Path(FOLDER))


def entry(name: str, **more: object) -> dict[str, object]:
    return {"id": name, "path": FOLDER, **more}


def served(*entries: dict[str, object], **engine: object) -> list[ServedModel]:
    return served_models(RuntimeConfig.model_validate({"models": entries, "engine": engine}))


def test_an_entry_becomes_a_folder_with_the_bytes_of_its_weights() -> None:
    (found,) = served(entry("a", pinned=True, load="demand"))

    assert (found.name, str(found.folder), found.is_pinned, found.loads_at_start) == (
        "a",
        FOLDER,
        True,
        False,
    )
    assert found.weights_bytes == WEIGHTS > 5_000_000


def test_without_a_model_it_says_how_to_name_one() -> None:
    with pytest.raises(ConfigurationError, match="wicketgate serve MODEL"):
        served()


def test_the_weights_of_the_model_that_drafts_are_counted_with_each() -> None:
    (found,) = served(entry("a"), speculation={"draft_model": FOLDER})

    assert (str(found.draft_folder), found.weights_bytes) == (FOLDER, 2 * WEIGHTS)


def test_with_speculation_off_no_draft_is_looked_for() -> None:
    (found,) = served(entry("a"), speculation={"mode": "off", "draft_model": FOLDER})

    assert found.draft_folder is None


def test_a_model_over_the_bound_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(
        ConfigurationError, match=r"weights of a take 5\.4 MiB.*models_max_bytes \(5\.0 MiB\)"
    ):
        served(entry("a", load="demand"), models_max_bytes=5 << 20)


def test_a_model_that_never_fits_beside_the_pinned_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"weights of b .* beside 5\.4 MiB of pinned models"):
        served(entry("a", pinned=True), entry("b", load="demand"), models_max_bytes=8 << 20)


def test_models_of_the_start_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="load: demand"):
        served(entry("a"), entry("b"), models_max_bytes=8 << 20)


def test_models_on_demand_may_be_more_than_fit_together() -> None:
    found = served(entry("a"), entry("b", load="demand"), models_max_bytes=8 << 20)

    assert [each.name for each in found] == ["a", "b"]


def test_memory_is_parted_by_the_weights_that_can_be_loaded_at_once() -> None:
    both = served(entry("a"), entry("b"))
    bounded = served(entry("a"), entry("b", load="demand"), models_max_bytes=int(1.5 * WEIGHTS))

    assert [each.memory_ratio for each in both] == [0.5, 0.5]
    assert [each.memory_ratio for each in bounded] == [pytest.approx(2 / 3)] * 2


def test_a_single_model_may_use_all_memory() -> None:
    assert [each.memory_ratio for each in served(entry("a"))] == [1.0]
