"""What a machine told about itself, for `wicketgate doctor`. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wicketgate.model_size import ModelSize


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """One model of the configuration."""

    name: str
    size: ModelSize | None
    """None where its files are not on this machine or cannot be read."""
    message: str = ""
    """Why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a machine told; None is what it did not tell."""

    is_mac: bool
    release: str = ""
    """Of the system, for reading."""
    macos: tuple[int, ...] | None = None
    machine: str = "arm64"
    """What this Python was built for."""
    is_translated: bool | None = None
    """Whether it runs under Rosetta."""
    python: str = ""
    chip: str | None = None
    gpu_cores: int | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    """Of the machine or the container."""
    mlx: str | None = None
    """Its version; None where it is not installed."""
    mlx_lm: str | None = None
    wheel_tag: str | None = None
    """Platform of the wheel that holds mlx's kernels, such as macosx_26_0_arm64."""
    mlx_failure: str = ""
    """Why mlx did not start in a process of its own; empty where it did."""
    recommended_bytes: int | None = None
    """What the GPU recommends to use."""
    wired_limit_mb: int | None = None
    """The sysctl iogpu.wired_limit_mb; 0 is the system's own."""
    thermal: int | None = None
    power: str | None = None
    pressure: int | None = None
    swap_used_bytes: int | None = None
    open_files: int | None = None
    """How many this process may have open, after raising it as the server does."""
    blas: str | None = None
    """On Linux: the library that can be preloaded, None where there is none."""
    memory_limit_bytes: int | None = None
    """engine.memory.max_bytes."""
    models: tuple[ModelFacts, ...] = ()
    last_exit: str | None = None
    """Why the last engine host of the running gateway ended."""
    crash_reports: tuple[str, ...] = ()
    """Names of the system's reports of the last days about panics, the GPU, and memory."""
