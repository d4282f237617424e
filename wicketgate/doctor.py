"""
Judges a machine: what is well, what is doubtful, what is wrong, and how to put it right. Pure.

The facts are gathered by `wicketgate.cli.doctor`. A fact that could not be read is None and is never judged
as if it were good: the finding says that it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from wicketgate.chips import find_chip, prefill_tokens_per_s, speed_ratio, uncached_tokens
from wicketgate.engine.memory import Budget, default_limit, in_units

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.chips import Chip
    from wicketgate.machine import Facts, ModelFacts
    from wicketgate.model_size import ModelSize

Level = Literal["ok", "warning", "problem"]

OLDEST_MACOS: Final = (14,)
WIRING_MACOS: Final = (15,)
M5_MACOS: Final = (26, 2)
"""The first whose Metal has the kernels for M5 that the wheel tagged macosx_26 selects (mlx#4525)."""
OLDEST_MLX: Final = (0, 32, 1)
"""Older ones abort where this one raises, and rewire memory again and again on macOS 27."""
WANTED_FILES: Final = 1024
MUCH_SWAP_BYTES: Final = 1 << 30
ROW_TOKENS: Final = 4096
"""Length of the streams in the arithmetic of memory."""
WIRED_RATIO: Final = 0.85
"""More of a Mac's memory than this wired for the GPU has paniced it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    text: str
    fix: str = ""
    """What to do about it."""


def judge(facts: Facts) -> list[Finding]:
    """Look at everything there is to look at on this kind of system."""
    findings = [finding for check in _CHECKS if (finding := check(facts)) is not None]
    for model in facts.models:
        findings += _model(facts, model)
    return findings


def is_well(findings: list[Finding]) -> bool:
    """Say whether nothing is wrong; what is doubtful is not wrong."""
    return all(finding.level != "problem" for finding in findings)


def memory_limit(facts: Facts) -> int | None:
    """Return what one engine host would be held to."""
    if facts.memory_limit_bytes is not None:
        return facts.memory_limit_bytes
    recommended = facts.recommended_bytes
    device = {} if recommended is None else {"max_recommended_working_set_size": recommended}
    if facts.is_mac and not device:
        return None
    return default_limit(device, facts.memory_bytes)


# The system


def _system(facts: Facts) -> Finding:
    if not facts.is_mac:
        return Finding("system", "ok", f"{facts.release}, {facts.cores or 'unknown'} cores; MLX on the CPU")
    if facts.macos is None:
        return Finding("system", "warning", "the version of macOS is not known")
    if facts.macos < OLDEST_MACOS:
        return Finding(
            "system",
            "problem",
            f"macOS {_dotted(facts.macos)} is too old for MLX",
            "Update to macOS 14 or later",
        )
    if facts.macos < WIRING_MACOS:
        text = f"macOS {_dotted(facts.macos)} cannot keep large models resident for the GPU"
        return Finding(
            "system", "warning", text, "Update to macOS 15 or later for models above half of memory"
        )
    return Finding("system", "ok", f"macOS {_dotted(facts.macos)}")


def _python(facts: Facts) -> Finding:
    if facts.is_mac and (facts.is_translated or facts.machine == "x86_64"):
        if not facts.is_translated and facts.chip is not None and not facts.chip.startswith("Apple"):
            return Finding("python", "problem", "this is no Mac with Apple silicon; MLX does not run here")
        return Finding(
            "python",
            "problem",
            f"Python {facts.python} runs under Rosetta, where MLX cannot reach the GPU",
            "Install a native Python (uv python install, or Homebrew in /opt/homebrew), then make install",
        )
    return Finding("python", "ok", f"Python {facts.python}, {facts.machine}")


def _chip(facts: Facts) -> Finding | None:
    if not facts.is_mac:
        return None
    if facts.chip is None:
        return Finding("chip", "warning", "the chip is not known")
    cores = "" if facts.gpu_cores is None else f", {facts.gpu_cores} GPU cores"
    known = find_chip(facts.chip, gpu_cores=facts.gpu_cores)
    if known is None:
        text = f"{facts.chip}{cores}: not in the table of speeds; what it can promise is measured at warm-up"
        return Finding("chip", "warning", text)
    return Finding("chip", "ok", f"{facts.chip}{cores}")


def _mlx(facts: Facts) -> Finding:
    if facts.mlx is None or facts.mlx_lm is None:
        missing = " and ".join(
            name for name, v in (("mlx", facts.mlx), ("mlx-lm", facts.mlx_lm)) if v is None
        )
        return Finding("mlx", "problem", f"{missing} is not installed", "make install")
    if facts.mlx_failure:
        return Finding(
            "mlx", "problem", f"mlx {facts.mlx} does not start: {facts.mlx_failure}", "make install"
        )
    if _numbers(facts.mlx) < OLDEST_MLX:
        text = f"mlx {facts.mlx} is too old: errors of the GPU end the process"
        return Finding("mlx", "problem", text, f"Install mlx {_dotted(OLDEST_MLX)} or later: make install")
    return Finding("mlx", "ok", f"mlx {facts.mlx}, mlx-lm {facts.mlx_lm}")


def _wheel(facts: Facts) -> Finding | None:
    if not facts.is_mac or facts.mlx is None:
        return None
    if facts.wheel_tag is None:
        return Finding("wheel", "warning", "which wheel of mlx is installed is not known")
    is_for_26 = facts.wheel_tag.startswith("macosx_26")
    if (facts.chip or "").startswith("Apple M5") and facts.macos is not None:
        if facts.macos < M5_MACOS:
            text = f"mlx for {facts.wheel_tag} on macOS {_dotted(facts.macos)} with {facts.chip}"
            if is_for_26:
                text += ": it selects GPU kernels that this macOS does not have"
                return Finding("wheel", "problem", text, "Update to macOS 26.2 or later")
            return Finding("wheel", "warning", f"{text}: slow", "Update to macOS 26.2, then make install")
        if not is_for_26:
            text = f"mlx for {facts.wheel_tag} does not use the M5's matrix units"
            return Finding("wheel", "warning", text, "Install mlx again on this macOS: make install")
    return Finding("wheel", "ok", facts.wheel_tag)


def _blas(facts: Facts) -> Finding | None:
    if facts.is_mac:
        return None
    if facts.blas is None:
        text = "no OpenBLAS that starts; MLX computes with its own, more than ten times slower"
        return Finding("blas", "warning", text, "Install libopenblas0-pthread")
    return Finding("blas", "ok", facts.blas)


# Its state


def _memory(facts: Facts) -> Finding:
    limit = memory_limit(facts)
    if limit is None:
        return Finding("memory", "warning", "what the GPU recommends to use is not known")
    total = "" if facts.memory_bytes is None else f" of {in_units(facts.memory_bytes)}"
    if facts.recommended_bytes is not None and limit > facts.recommended_bytes:
        return Finding(
            "memory",
            "warning",
            f"engine.memory.max_bytes is {in_units(limit)}, and the GPU recommends"
            f" {in_units(facts.recommended_bytes)}",
            "Set engine.memory.max_bytes to null",
        )
    if facts.memory_bytes is not None and limit > facts.memory_bytes:
        return Finding(
            "memory",
            "problem",
            f"engine.memory.max_bytes is {in_units(limit)}{total} that there are",
            "Set engine.memory.max_bytes to null",
        )
    return Finding("memory", "ok", f"{in_units(limit)}{total} for models")


def _wired(facts: Facts) -> Finding | None:
    if not facts.wired_limit_mb:
        return None
    size = facts.wired_limit_mb << 20
    fix = "sudo sysctl iogpu.wired_limit_mb=0, or restart the Mac"
    if facts.memory_bytes is not None and size > WIRED_RATIO * facts.memory_bytes:
        text = f"iogpu.wired_limit_mb lets the GPU hold {in_units(size)} of {in_units(facts.memory_bytes)}"
        return Finding("wired limit", "problem", f"{text}: Macs have paniced with less", fix)
    text = f"iogpu.wired_limit_mb was changed to {facts.wired_limit_mb} MiB, until the next restart"
    return Finding("wired limit", "warning", text, fix)


def _pressure(facts: Facts) -> Finding | None:
    level: Level = "problem" if facts.pressure == 2 else "warning"
    if facts.pressure:
        text = "macOS is short of memory" if level == "warning" else "macOS is critically short of memory"
        return Finding("memory pressure", level, text, "End programs that use much of it")
    if facts.swap_used_bytes is not None and facts.swap_used_bytes > MUCH_SWAP_BYTES:
        text = f"{in_units(facts.swap_used_bytes)} of memory lie in swap"
        return Finding(
            "memory pressure", "warning", text, "End programs that use much of it, or restart the Mac"
        )
    return Finding("memory pressure", "ok", "none") if facts.pressure == 0 else None


def _power(facts: Facts) -> Finding | None:
    if facts.power == "low":
        text = "low power mode: less than half of the tokens a second"
        fix = "System Settings > Battery > Low Power Mode: Never; or sudo pmset -a lowpowermode 0"
        return Finding("power", "warning", text, fix)
    if facts.is_mac and facts.power is None:
        return Finding("power", "warning", "the power mode is not known")
    return None if facts.power is None else Finding("power", "ok", f"{facts.power} power mode")


def _thermal(facts: Facts) -> Finding | None:
    if not facts.thermal:
        return None if facts.thermal is None else Finding("heat", "ok", "nominal")
    share = speed_ratio(thermal=facts.thermal, power=None)
    text = f"the Mac is hot (level {facts.thermal} of 4): about {share:.0%} of its speed is left"
    return Finding("heat", "problem" if facts.thermal > 2 else "warning", text, "Let it cool; free its vents")


def _files(facts: Facts) -> Finding | None:
    if facts.open_files is None:
        return None
    if facts.open_files < WANTED_FILES:
        text = f"this user may have {facts.open_files} files open; each connection needs one"
        fix = "Raise the hard limit (launchd: SoftResourceLimits and HardResourceLimits; Linux: LimitNOFILE)"
        return Finding("open files", "warning", text, fix)
    return Finding("open files", "ok", str(facts.open_files))


def _last_exit(facts: Facts) -> Finding | None:
    if facts.last_exit:
        return Finding("last exit", "warning", f"the engine ended before: {facts.last_exit}", "Read its log")
    if facts.crash_reports:
        text = f"macOS reported: {', '.join(facts.crash_reports)}"
        return Finding("last exit", "warning", text, "See docs/troubleshooting.md")
    return None


_CHECKS: Final[tuple[Callable[[Facts], Finding | None], ...]] = (
    _system,
    _python,
    _chip,
    _mlx,
    _wheel,
    _blas,
    _memory,
    _wired,
    _pressure,
    _power,
    _thermal,
    _files,
    _last_exit,
)


# The models


def _model(facts: Facts, model: ModelFacts) -> list[Finding]:
    name = f"model {model.name}"
    if model.size is None:
        return [Finding(name, "warning", model.message)]
    fits = _fits(name, model.size, memory_limit(facts))
    speed = _speed(facts, f"speed of {model.name}", model.size)
    return [fits] if speed is None or fits.level == "problem" else [fits, speed]


def _fits(name: str, size: ModelSize, limit: int | None) -> Finding:
    tokens = min(ROW_TOKENS, size.context_tokens or ROW_TOKENS)
    kv = size.kv_bytes_per_token * tokens
    arithmetic = (
        f"{in_units(size.weights_bytes)} of weights, {in_units(kv)} of KV for a stream of {tokens:,} tokens,"
        " and 10 %"
    ).replace(f"{tokens:,}", f"{tokens:,}".replace(",", " "))
    if limit is None:
        return Finding(name, "warning", f"{arithmetic}; the memory limit is not known")
    budget = Budget(
        limit_bytes=limit, weights_bytes=size.weights_bytes, kv_bytes_per_token=size.kv_bytes_per_token
    )
    needed = budget.needed_bytes([(1, tokens)])
    if needed > limit:
        return Finding(
            name,
            "problem",
            f"{arithmetic}: {in_units(needed)} of {in_units(limit)}",
            "Take a smaller or more quantised model",
        )
    room = limit / (1 + budget.margin_ratio) - size.weights_bytes
    rows = int(room // kv) if kv else 0
    streams = f"; room for {rows:,} such streams".replace(",", " ") if kv else ""
    return Finding(name, "ok", f"{arithmetic}: {in_units(needed)} of {in_units(limit)}{streams}")


def _speed(facts: Facts, name: str, size: ModelSize) -> Finding | None:
    chip = find_chip(facts.chip, gpu_cores=facts.gpu_cores) if facts.is_mac and facts.chip else None
    if chip is None:
        return None
    tokens = promised_tokens(chip, size, thermal=facts.thermal, power=facts.power)
    wording = f"TTFT p95 within 550 ms up to {tokens} uncached tokens, idle"
    estimate = "estimated from the chip" if chip.is_estimate else "by others' measurements of the chip"
    return Finding(name, "ok", f"{wording}; {estimate}")


def promised_tokens(chip: Chip, size: ModelSize, *, thermal: int | None, power: str | None) -> int:
    """Return how many uncached tokens TTFT keeps its objective for, with this model in this state."""
    prefill_per_s = prefill_tokens_per_s(chip, parameters=size.active_parameters, is_sparse=size.is_sparse)
    return uncached_tokens(prefill_per_s, speed_ratio=speed_ratio(thermal=thermal, power=power))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
