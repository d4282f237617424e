"""Finds the runtime that a command is about: its state folder, its control socket, its ledger."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wicketgate.errors import UsageError
from wicketgate.platform import control_socket_path, default_state_dir, sqlite_needs_fullfsync

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping

    from wicketgate.ledger import Ledger

_NO_FEATURES = frozenset({"guard", "drill"})
"""Sections of phase4_rollout that are no features."""
PACKAGED_FEATURES = ("adaptive_governor", "http2_transport", "ttft_pipeline", "qos_monitoring")
"""Features that exist without a configuration: those of `rollout.spec.DEFAULT_SPEC`."""
CONFIG_VARIABLE = "WICKETGATE_CONFIG"
_CONFIG_HERE = Path("runtime.yaml")
_WHERE = re.compile(
    r"^(state_dir|name):[ \t]+(\"[^\"\n]*\"|'[^'\n]*'|[^#\s][^\n]*?)[ \t]*(?:[ \t]#.*)?\r?$", re.M
)
"""A line of a configuration that says where its runtime is."""


class Place:
    """
    Where one runtime keeps its state.

    Args:
        state_dir: Its state folder.
        config: The configuration file that says so, or that stands beside; None where there is none.
        note: Told when that file cannot be read.
    """

    def __init__(self, state_dir: Path, *, config: Path | None, note: Callable[[str], None]) -> None:
        self.state_dir = state_dir
        self.config = config
        self._note = note

    @property
    def socket(self) -> Path:
        """Where its gateway listens for this user's commands."""
        return control_socket_path(self.state_dir)

    def ledger(self) -> Ledger:
        """Return its ledger."""
        # Imported here: with the gateway alive a rollback does not need it.
        from wicketgate.ledger import FILE_NAME, Ledger

        return Ledger(self.state_dir / FILE_NAME, fullfsync=sqlite_needs_fullfsync())

    def declared(self) -> dict[str, Mapping[str, Any]]:
        """Return what the configuration declares of each feature, unchecked."""
        named = {str(name): value for name, value in self._section().items() if isinstance(value, dict)}
        return {name: value for name, value in named.items() if name not in _NO_FEATURES}

    def declared_stages(self) -> list[str]:
        """Return the names of the stages that the configuration declares, unchecked; empty for none."""
        stages = self._section().get("stages")
        entries = stages if isinstance(stages, list) else []
        return [str(each["name"]) for each in entries if isinstance(each, dict) and "name" in each]

    def declares_kill(self) -> bool:
        """Tell whether the configuration's own kill switch is on."""
        return self._section().get("kill_switch") is True

    def _section(self) -> Mapping[str, Any]:
        section = _read(self.config, note=self._note).get("phase4_rollout")
        return section if isinstance(section, dict) else {}


def find(args: Namespace, *, note: Callable[[str], None], ask: bool = True) -> Place:
    """
    Find the runtime: by --state-dir, else --config, $WICKETGATE_CONFIG, ./runtime.yaml, else the default.

    Where neither option nor variable is given and nothing is alive there, this user's only running runtime
    is taken instead.

    Args:
        args: The command's options.
        note: Told what the user should know about the choice.
        ask: Look which runtimes are alive; False takes the place that options and files name.

    Raises:
        UsageError: --config names a file that does not exist.
    """
    note = _once(note)
    named = args.config or os.environ.get(CONFIG_VARIABLE)
    config = Path(named) if named else _CONFIG_HERE if _CONFIG_HERE.is_file() else None
    if args.config and not Path(args.config).is_file():
        raise UsageError(f"no file {args.config}", fix="check the path behind --config", param="--config")
    if args.state_dir:
        return Place(Path(args.state_dir).expanduser().absolute(), config=config, note=note)
    place = Place(_state_dir(config, note=note), config=config, note=note)
    if named or not ask or _is_alive(place.socket):
        return place
    return _only_running(place, note=note)


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """Say a thing once, however often the file is looked at."""
    said: set[str] = set()

    def tell(text: str) -> None:
        if text not in said:
            said.add(text)
            note(text)

    return tell


def _read(config: Path | None, *, note: Callable[[str], None]) -> Mapping[str, Any]:
    """Read a configuration as far as a command needs it; a broken one must not stop a rollback."""
    if config is None:
        return {}
    import yaml  # 15 ms, paid where there is a file

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = config.read_bytes()
    except OSError as error:
        note(f"warning: {config} cannot be read ({error}); looking where the default runtime is.")
        return {}
    try:
        document = yaml.load(content, Loader=loader)  # noqa: S506 - both are safe loaders
    except (UnicodeError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        found = _salvaged(content)
        where = "its own lines say" if found else "the default runtime is"
        note(f"warning: {config} cannot be read ({reason}); looking where {where}.")
        return found
    return document if isinstance(document, dict) else {}


def _salvaged(content: bytes) -> dict[str, str]:
    """
    Take from a file that is no YAML the lines that say where the runtime is.

    A file that is broken while its gateway runs must not send a rollback to the ledger of another one.
    """
    lines = _WHERE.findall(content.decode("utf-8", "replace"))
    return {key: value.strip("'\"") for key, value in lines if value not in ("null", "~")}


def _state_dir(config: Path | None, *, note: Callable[[str], None]) -> Path:
    document = _read(config, note=note)
    folder = document.get("state_dir")
    if config is not None and isinstance(folder, str) and folder:
        return config.absolute().parent / Path(folder).expanduser()
    name = document.get("name")
    return default_state_dir(name if isinstance(name, str) and name else "default")


def _is_alive(socket: Path) -> bool:
    # Imported here: a completion asks nobody, and waits for every import.
    from wicketgate.cli.control import is_alive

    return is_alive(socket)


def _only_running(place: Place, *, note: Callable[[str], None]) -> Place:
    """Return this user's only running runtime; the given place where there is none or more than one."""
    folder = default_state_dir("default").parent
    try:
        others = sorted(each for each in folder.iterdir() if each.is_dir() and each != place.state_dir)
    except OSError:
        return place
    running = [each for each in others if _is_alive(control_socket_path(each))]
    if len(running) == 1:
        note(f"Using the running runtime {running[0].name} ({running[0]}).")
        return Place(running[0], config=place.config, note=note)
    if running:
        names = ", ".join(each.name for each in running)
        note(f"Several runtimes are running ({names}); choose one with --state-dir.")
    return place
