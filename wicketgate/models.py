"""A model's name to a local folder, once, before the engine host starts, so that all read the same files."""

from __future__ import annotations

import re
from pathlib import Path

from wicketgate.errors import ConfigurationError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(path: str) -> Path:
    """
    Return the folder of a model.

    Args:
        path: A folder with config.json, or the id of a model on the Hugging Face hub (ORGANISATION/NAME),
            which is downloaded into the hub's own cache unless it is there already.

    Raises:
        ConfigurationError: neither; the message says what to write instead.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return folder.resolve()
    if folder.exists():
        raise ConfigurationError(f"model is {path}, a folder without config.json; it must hold a model")
    if not _HUB_ID.fullmatch(path):
        raise ConfigurationError(
            f"model is {path}, which is no folder; write the path of a model's folder, or the id of a model"
            " on the hub (ORGANISATION/NAME)"
        )
    return _download(path)


def _download(hub_id: str) -> Path:
    # Imported here: it costs 0.3 s, and only a hub id needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigurationError(
            f"model is {hub_id}, which is no folder here and could not be fetched from the hub"
            f" ({type(error).__name__}). Check the name and the network, or give a local folder."
        ) from error
