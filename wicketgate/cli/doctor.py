"""`wicketgate doctor`: say whether this machine can serve, how fast, and what to put right."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wicketgate import platform
from wicketgate.cli import control
from wicketgate.cli.output import Screen, print_json
from wicketgate.cli.place import CONFIG_VARIABLE, find
from wicketgate.doctor import is_well, judge, memory_limit
from wicketgate.engine.memory import recommended_bytes
from wicketgate.errors import ExitCode, WicketgateError
from wicketgate.machine import Facts, ModelFacts
from wicketgate.model_size import model_size

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from wicketgate.cli.output import Cell
    from wicketgate.config import RuntimeConfig
    from wicketgate.doctor import Finding
    from wicketgate.macos import Mac

ANSWER_S: Final = 1.0
"""How long a running gateway may take to say why its engine last ended."""
MLX_START_S: Final = 60.0
"""How long mlx may take to start for the first time."""
_MAX_HEADER_BYTES: Final = 100 << 20
_SIGNS: Final = {"ok": ("✓", "ok"), "warning": ("!", "warn"), "problem": ("✗", "bad")}


def run(args: Namespace) -> int:
    """
    Look at this machine, and at the models of the configuration where there is one.

    Returns:
        8 where something is wrong; doubtful things are shown and change nothing.
    """
    screen = Screen.of(args)
    facts = gather(args, screen)
    findings = judge(facts)
    if args.json:
        print_json(_as_object(facts, findings))
    else:
        _print(screen, findings)
    return ExitCode.DONE if is_well(findings) else ExitCode.CHECK_FAILED


def _print(screen: Screen, findings: Sequence[Finding]) -> None:
    rows: list[list[Cell]] = [[_SIGNS[each.level], each.name, each.text] for each in findings]
    screen.table(("", "what", "finding"), rows)
    for finding in findings:
        if finding.fix:
            screen.out()
            screen.out(f"{screen.paint(finding.name, _SIGNS[finding.level][1])}: {finding.fix}")
    counts = [sum(each.level == level for each in findings) for level in ("problem", "warning")]
    screen.out()
    screen.out(
        "Nothing is wrong here." if not any(counts) else f"problems: {counts[0]}, warnings: {counts[1]}"
    )


def _as_object(facts: Facts, findings: Sequence[Finding]) -> dict[str, object]:
    return {
        "schema": "wicketgate.doctor/1",
        "ok": is_well(list(findings)),
        "findings": [asdict(finding) for finding in findings],
        "memory_limit_bytes": memory_limit(facts),
        "facts": asdict(facts),
    }


# Facts


def gather(args: Namespace, screen: Screen) -> Facts:
    """Ask the system, mlx in a process of its own, the configuration, and a gateway that runs."""
    config = _config(args, screen)
    failure, recommended_bytes = ask_mlx([sys.executable, "-m", "wicketgate.engine.mlx.device"])
    facts = Facts(
        is_mac=platform.is_macos(),
        release=f"{os.uname().sysname} {os.uname().release}",
        macos=platform.macos_version(),
        machine=os.uname().machine,
        python=".".join(map(str, sys.version_info[:3])),
        cores=os.cpu_count(),
        memory_bytes=platform.usable_memory_bytes(),
        mlx=_version("mlx"),
        mlx_lm=_version("mlx-lm"),
        wheel_tag=_wheel_tag("mlx-metal"),
        mlx_failure=failure,
        recommended_bytes=recommended_bytes,
        open_files=platform.raise_open_files_limit(),
        blas=_text(platform.openblas_preload()),
        memory_limit_bytes=None if config is None else config.engine.memory.max_bytes,
        models=() if config is None else tuple(read_model(each.name, each.path) for each in config.models),
        last_exit=_last_exit(args, screen),
        crash_reports=platform.crash_reports(time.time()),
    )
    mac = platform.mac()
    return facts if mac is None else replace(facts, **_of_mac(mac))


def _of_mac(mac: Mac) -> dict[str, Any]:
    return {
        "chip": mac.chip(),
        "gpu_cores": mac.gpu_cores(),
        "is_translated": mac.is_translated(),
        "wired_limit_mb": mac.wired_limit_mb(),
        "thermal": mac.thermal_level(),
        "power": mac.power_mode(),
        "pressure": mac.memory_pressure(),
        "swap_used_bytes": mac.swap_used_bytes(),
    }


def ask_mlx(command: Sequence[str]) -> tuple[str, int | None]:
    """
    Start mlx in a child, whose death is only a finding.

    Returns:
        Why it cannot be used, empty where it can, and what the GPU recommends to use.
    """
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=MLX_START_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error), None
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        return lines[-1], None
    told = json.loads(child.stdout)
    if not told["works"]:
        return "it computes a wrong product", None
    if platform.is_macos() and not told["has_gpu"]:
        return "it finds no GPU", None
    return "", recommended_bytes(told["device"])


def read_model(name: str, path: str) -> ModelFacts:
    """Read a model's configuration and the headers of its weights, and nothing behind them."""
    try:
        folder = _folder(path)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        headers = [_header(file) for file in sorted(folder.glob("*.safetensors"))]
    except FileNotFoundError:
        return ModelFacts(name=name, size=None, message=f"{path} is not on this machine yet")
    except (OSError, ValueError) as error:
        return ModelFacts(name=name, size=None, message=f"{path} cannot be read: {error}")
    if not headers:
        return ModelFacts(name=name, size=None, message=f"{path} holds no .safetensors file")
    return ModelFacts(name=name, size=model_size(config, headers))


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    # Imported here: it costs 0.3 s, and only a hub id needs it.
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, local_files_only=True))


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) != 8:
            raise ValueError(f"{file.name} is cut off")
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"{file.name} is no .safetensors file")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict) or not all(isinstance(tensor, dict) for tensor in header.values()):
        raise ValueError(f"{file.name} is no .safetensors file")
    return header


def _config(args: Namespace, screen: Screen) -> RuntimeConfig | None:
    named = args.config or os.environ.get(CONFIG_VARIABLE)
    path = Path(named or "runtime.yaml")
    if not named and not path.is_file():
        return None
    from wicketgate.config import load

    try:
        return load(path)
    except WicketgateError as error:
        screen.note(f"{path} is left out: {error.message}")
        return None


def _last_exit(args: Namespace, screen: Screen) -> str | None:
    """Ask a gateway that runs; where none does, nothing is known."""
    try:
        place = find(args, note=screen.note)
        _, snapshot = control.request(place.socket, "GET", "/v1/snapshot", timeout_s=ANSWER_S)
    except WicketgateError:
        return None
    engine = snapshot.get("engine")
    return str(engine["last_exit"]) if isinstance(engine, dict) and engine.get("last_exit") else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _wheel_tag(package: str) -> str | None:
    """Return the platform that a package's wheel was built for."""
    try:
        lines = (distribution(package).read_text("WHEEL") or "").splitlines()
    except PackageNotFoundError:
        return None
    tags = [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]
    return tags[0].rpartition("-")[2] if tags else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
