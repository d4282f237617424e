"""A model is a folder with config.json, or a hub id; anything else is explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wicketgate import models
from wicketgate.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_with_a_configuration_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert models.resolve(str(tmp_path)) == tmp_path.resolve()


def test_a_folder_without_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"without config\.json"):
        models.resolve(str(tmp_path))


def test_a_name_that_is_neither_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match="ORGANISATION/NAME"):
        models.resolve("/no/such/folder")
