"""The models to serve, found on this machine before anything is started: names, folders, bytes of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wicketgate import models
from wicketgate.engine.memory import in_units
from wicketgate.errors import ConfigurationError
from wicketgate.weights import fingerprint, weights_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wicketgate.config import RuntimeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One entry of `models`."""

    name: str
    """What clients call it."""
    folder: Path
    weights_bytes: int
    """Its own, and those of the model that drafts for it."""
    is_pinned: bool = False
    """Never unloaded to make room for another."""
    loads_at_start: bool = True
    """Else with the first request that names it."""
    draft_folder: Path | None = None
    """Of the small model that drafts for it."""
    memory_ratio: float = 1.0
    """Its part of the memory that all engine hosts may use together, by the bytes of its weights."""
    fingerprint: str = ""
    """Another one where weights, settings, template or programs differ."""


def served_models(config: RuntimeConfig) -> list[ServedModel]:
    """
    Find the folders of all models, fetching those that are on the hub only.

    Raises:
        ConfigurationError: no model; one that cannot be found or is damaged; or weights that can never be
            loaded together as the configuration asks.
    """
    if not config.models:
        raise ConfigurationError(
            "no model: give one (wicketgate serve MODEL), or write `model: PATH_OR_HUB_ID` in runtime.yaml."
            " To try the model that ships: wicketgate demo"
        )
    speculation = config.engine.speculation
    drafts = speculation.mode != "off" and speculation.draft_model is not None
    draft_folder = models.resolve(speculation.draft_model) if drafts and speculation.draft_model else None
    draft_bytes = 0 if draft_folder is None else weights_bytes(draft_folder)
    found = []
    for entry in config.models:
        folder = models.resolve(entry.path)
        served = ServedModel(
            name=entry.name,
            folder=folder,
            weights_bytes=weights_bytes(folder) + draft_bytes,
            is_pinned=entry.pinned,
            loads_at_start=entry.load == "start",
            draft_folder=draft_folder,
            fingerprint=fingerprint(folder),
        )
        found.append(served)
    max_bytes = config.engine.models_max_bytes
    _require_room(found, max_bytes=max_bytes)
    # Of all weights that can be loaded at once, so that the parts of those that are never exceed the whole.
    together = sum(each.weights_bytes for each in found)
    together = together if max_bytes is None else min(together, max_bytes)
    return [replace(each, memory_ratio=each.weights_bytes / together if together else 1.0) for each in found]


def _require_room(found: Sequence[ServedModel], *, max_bytes: int | None) -> None:
    """Refuse weights that cannot be loaded: at the start together, or ever, beside those that are pinned."""
    if max_bytes is None:
        return
    for each in found:
        beside = sum(other.weights_bytes for other in found if other.is_pinned and other is not each)
        if each.weights_bytes + beside > max_bytes:
            held = f" beside {in_units(beside)} of pinned models" if beside else ""
            raise ConfigurationError(
                f"the weights of {each.name} take {in_units(each.weights_bytes)};{held} that is over"
                f" engine.models_max_bytes ({in_units(max_bytes)})"
            )
    at_start = sum(each.weights_bytes for each in found if each.loads_at_start)
    if at_start > max_bytes:
        raise ConfigurationError(
            f"the weights of the models that are loaded at the start take {in_units(at_start)}, over"
            f" engine.models_max_bytes ({in_units(max_bytes)}); give some of them load: demand"
        )
