"""
Twenty Macs as `wicketgate doctor` would see them, and what it must say of each.

None of them was ever asked: chips, systems, wheels and limits are put together from documents and reports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from wicketgate.machine import Facts, ModelFacts
from wicketgate.model_size import ModelSize

GIB: Final = 1 << 30


def model(
    name: str, *, parameters: float, weights_gib: float, kv_kib: int, active: float = 0.0
) -> ModelFacts:
    size = ModelSize(
        weights_bytes=int(weights_gib * GIB),
        parameters=parameters,
        active_parameters=active or parameters,
        kv_bytes_per_token=kv_kib * 1024,
        context_tokens=32_768,
    )
    return ModelFacts(name=name, size=size)


LLAMA_1B: Final = model("llama-1b", parameters=1.24e9, weights_gib=0.65, kv_kib=32)
QWEN_4B: Final = model("qwen-4b", parameters=4.02e9, weights_gib=2.1, kv_kib=144)
LLAMA_8B: Final = model("llama-8b", parameters=8.03e9, weights_gib=4.2, kv_kib=128)
QWEN_14B: Final = model("qwen-14b", parameters=14.8e9, weights_gib=7.8, kv_kib=160)
QWEN_A3B: Final = model("qwen-a3b", parameters=30.5e9, weights_gib=16.0, kv_kib=96, active=3.3e9)
LLAMA_70B: Final = model("llama-70b", parameters=70.6e9, weights_gib=37.0, kv_kib=320)


@dataclass(frozen=True, kw_only=True)
class RecordedMac:
    """The facts of one Mac and the findings that are not ok, by name."""

    facts: Facts
    problems: frozenset[str] = frozenset()
    warnings: frozenset[str] = frozenset()
    promised: int | None = None
    """Uncached tokens of its first model, rounded down to ten; None where none are promised."""


def mac(
    chip: str,
    cores: int,
    gib: int,
    *,
    macos: tuple[int, ...] = (15, 5),
    wheel: str = "15_0",
    recommended: float = 0.75,
    models: tuple[ModelFacts, ...] = (LLAMA_8B,),
) -> Facts:
    return Facts(
        is_mac=True,
        release="Darwin",
        macos=macos,
        python="3.13.1",
        is_translated=False,
        chip=f"Apple {chip}",
        gpu_cores=cores,
        cores=10,
        memory_bytes=gib * GIB,
        mlx="0.32.4",
        mlx_lm="0.32.2",
        wheel_tag=f"macosx_{wheel}_arm64",
        recommended_bytes=int(recommended * gib * GIB),
        wired_limit_mb=0,
        thermal=0,
        power="automatic",
        pressure=0,
        swap_used_bytes=0,
        open_files=10_240,
        models=models,
    )


M4_MAX: Final = mac("M4 Max", 40, 128, macos=(26, 2), wheel="26_0", recommended=0.84)
M1_AIR: Final = mac("M1", 8, 8, recommended=0.66, models=(LLAMA_1B,))
M5: Final = mac("M5", 10, 24, macos=(26, 2), wheel="26_0")


def seen(facts: Facts, *, problems: str = "", warnings: str = "", promised: int | None = None) -> RecordedMac:
    """Write a Mac with its findings, separated by a comma."""
    sets = [frozenset(name.strip() for name in names.split(",") if name) for names in (problems, warnings)]
    return RecordedMac(facts=facts, problems=sets[0], warnings=sets[1], promised=promised)


MACS: Final = {
    "M1 Air with a small model": seen(M1_AIR, promised=260),
    "M1 Air with a model that does not fit": seen(
        replace(M1_AIR, models=(QWEN_14B,)), problems="model qwen-14b"
    ),
    "M1 Pro on macOS 14, which cannot wire": seen(
        mac("M1 Pro", 16, 16, macos=(14, 7, 1), wheel="14_0", recommended=0.67),
        warnings="system",
        promised=90,
    ),
    "M1 Max on macOS 13, with the last mlx for it": seen(
        replace(mac("M1 Max", 32, 64, macos=(13, 7), wheel="13_0"), mlx="0.29.3"),
        problems="system, mlx",
        promised=180,
    ),
    "M1 Ultra with two models": seen(mac("M1 Ultra", 64, 128, models=(QWEN_4B, QWEN_A3B)), promised=710),
    "M2 with Python under Rosetta": seen(
        replace(
            mac("M2", 10, 16, recommended=0.67), is_translated=True, machine="x86_64", mlx=None, mlx_lm=None
        ),
        problems="python, mlx",
        promised=60,
    ),
    "M2 Pro in low power mode": seen(
        replace(mac("M2 Pro", 16, 32, recommended=0.67), power="low"), warnings="power", promised=40
    ),
    "M2 Max that is hot": seen(replace(mac("M2 Max", 38, 96), thermal=2), warnings="heat", promised=130),
    "M2 Ultra whose wired limit was raised": seen(
        replace(mac("M2 Ultra", 76, 192, recommended=0.83), wired_limit_mb=163_840),
        warnings="wired limit",
        promised=430,
    ),
    "M3 whose wired limit was raised to nearly all memory": seen(
        replace(mac("M3", 10, 24, recommended=0.95), wired_limit_mb=23_347),
        problems="wired limit",
        promised=60,
    ),
    "M3 Pro that swaps": seen(
        replace(mac("M3 Pro", 18, 18, recommended=0.67), swap_used_bytes=6 * GIB),
        warnings="memory pressure",
        promised=120,
    ),
    "M3 Max critically short of memory": seen(
        replace(mac("M3 Max", 40, 48), pressure=2, swap_used_bytes=20 * GIB),
        problems="memory pressure",
        promised=260,
    ),
    "M3 Ultra that paniced yesterday": seen(
        replace(mac("M3 Ultra", 80, 512, models=(LLAMA_70B,)), crash_reports=("Kernel-2026-11-19.panic",)),
        warnings="last exit",
        promised=70,
    ),
    "M4 under a launchd that allows 256 files": seen(
        replace(mac("M4", 10, 16, recommended=0.67), open_files=256), warnings="open files", promised=90
    ),
    "M4 Pro with more than the GPU recommends configured": seen(
        replace(mac("M4 Pro", 20, 48), memory_limit_bytes=44 * GIB), warnings="memory", promised=150
    ),
    "M4 Max as it should be": seen(M4_MAX, promised=330),
    "M5 as it should be": seen(M5, promised=360),
    "M5 on macOS 26.0 with the wheel for 26": seen(
        replace(M5, macos=(26, 0)), problems="wheel", promised=360
    ),
    "M5 Pro on macOS 26.1 with the wheel for 26, whose mlx does not start": seen(
        replace(
            mac("M5 Pro", 20, 48, macos=(26, 1), wheel="26_0"), mlx_failure="Unable to load kernel steel_gemm"
        ),
        problems="wheel, mlx",
        promised=660,
    ),
    "M5 on macOS 26.2 with the wheel for 15": seen(
        replace(M5, wheel_tag="macosx_15_0_arm64"), warnings="wheel", promised=360
    ),
}
