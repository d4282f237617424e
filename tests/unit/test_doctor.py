"""Pins what `wicketgate doctor` finds on twenty Macs and on Linux, in words that say what to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.macs import GIB, LLAMA_8B, M4_MAX, M5, MACS, QWEN_14B, RecordedMac, mac
from wicketgate.doctor import Finding, is_well, judge, memory_limit
from wicketgate.machine import Facts, ModelFacts

LINUX = Facts(
    is_mac=False,
    release="Linux 6.1",
    machine="x86_64",
    python="3.11.9",
    cores=8,
    memory_bytes=16 * GIB,
    mlx="0.32.4",
    mlx_lm="0.32.2",
    open_files=1_048_576,
    blas="/usr/lib/x86_64-linux-gnu/libopenblas.so.0",
)


def named(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def names(findings: list[Finding], level: str) -> set[str]:
    return {finding.name for finding in findings if finding.level == level}


def promised(findings: list[Finding]) -> int | None:
    for finding in findings:
        if found := re.search(r"up to (\d+) uncached tokens", finding.text):
            return int(found[1]) // 10 * 10
    return None


@pytest.mark.parametrize("recorded", MACS.values(), ids=MACS)
def test_each_mac_is_judged_as_it_is(recorded: RecordedMac) -> None:
    findings = judge(recorded.facts)

    assert names(findings, "problem") == recorded.problems
    assert names(findings, "warning") == recorded.warnings
    assert promised(findings) == recorded.promised
    assert is_well(findings) == (not recorded.problems)


def test_there_are_twenty_of_them() -> None:
    assert len(MACS) == 20


@pytest.mark.parametrize("recorded", MACS.values(), ids=MACS)
def test_whatever_is_wrong_or_doubtful_comes_with_what_to_do(recorded: RecordedMac) -> None:
    findings = judge(recorded.facts)

    assert [each.name for each in findings if each.level != "ok" and not each.fix] == []


def test_a_linux_machine_as_it_should_be_has_nothing_to_say_of_macs() -> None:
    findings = judge(LINUX)

    assert {finding.name for finding in findings} == {
        "system",
        "python",
        "mlx",
        "blas",
        "memory",
        "open files",
    }
    assert {finding.level for finding in findings} == {"ok"}


def test_linux_without_openblas_is_told_which_package_to_install() -> None:
    finding = named(judge(replace(LINUX, blas=None)), "blas")

    assert finding.level == "warning"
    assert "libopenblas0-pthread" in finding.fix


def test_a_linux_machine_promises_no_speed() -> None:
    findings = judge(replace(LINUX, models=(LLAMA_8B,)))

    assert promised(findings) is None
    assert named(findings, "model llama-8b").level == "ok"


def test_a_mac_that_tells_nothing_is_doubtful_and_never_well() -> None:
    silent = Facts(is_mac=True, release="Darwin", mlx="0.32.4", mlx_lm="0.32.2", models=(LLAMA_8B,))

    findings = judge(silent)

    assert names(findings, "warning") == {
        "system",
        "chip",
        "wheel",
        "memory",
        "power",
        "model llama-8b",
    }
    assert promised(findings) is None


def test_a_mac_with_an_intel_chip_is_told_that_it_cannot() -> None:
    facts = replace(M4_MAX, chip="Intel(R) Core(TM) i9-9980HK", machine="x86_64", gpu_cores=None)

    finding = named(judge(facts), "python")

    assert finding.level == "problem"
    assert "no Mac with Apple silicon" in finding.text


def test_python_under_rosetta_is_told_apart_from_an_intel_mac() -> None:
    facts = replace(M4_MAX, is_translated=True, machine="x86_64")

    assert "Rosetta" in named(judge(facts), "python").text


def test_a_chip_that_is_not_in_the_table_is_measured_instead() -> None:
    findings = judge(mac("M6", 12, 32))

    assert "measured at warm-up" in named(findings, "chip").text
    assert promised(findings) is None


def test_missing_packages_are_named() -> None:
    finding = named(judge(replace(M4_MAX, mlx=None, mlx_lm=None)), "mlx")

    assert finding.level == "problem"
    assert finding.text == "mlx and mlx-lm is not installed"


def test_a_wheel_for_macos_15_on_an_m5_that_could_not_use_a_newer_one_is_slow() -> None:
    finding = named(judge(replace(M5, macos=(15, 5), wheel_tag="macosx_15_0_arm64")), "wheel")

    assert finding.level == "warning"
    assert "26.2" in finding.fix


def test_a_limit_above_all_memory_is_a_problem() -> None:
    finding = named(judge(replace(LINUX, memory_limit_bytes=32 * GIB)), "memory")

    assert finding.level == "problem"
    assert finding.text == "engine.memory.max_bytes is 32.0 GiB of 16.0 GiB that there are"


def test_a_machine_whose_memory_is_unknown_still_has_a_limit_that_was_configured() -> None:
    facts = replace(LINUX, memory_bytes=None, memory_limit_bytes=4 * GIB)

    assert memory_limit(facts) == 4 * GIB
    assert named(judge(facts), "memory").text == "4.0 GiB for models"


def test_the_limit_on_a_mac_is_what_its_gpu_recommends() -> None:
    assert memory_limit(M4_MAX) == int(0.84 * 128 * GIB)


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    finding = named(judge(replace(LINUX, memory_limit_bytes=8 * GIB, models=(QWEN_14B,))), "model qwen-14b")

    assert finding.text == (
        "7.8 GiB of weights, 640.0 MiB of KV for a stream of 4 096 tokens, and 10 %: 9.3 GiB of 8.0 GiB"
    )


def test_a_model_that_fits_says_for_how_many_streams() -> None:
    finding = named(judge(replace(LINUX, models=(LLAMA_8B,))), "model llama-8b")

    # 0.7 of 16 GiB are 11.2; less a tenth 10.18; less 4.2 of weights 5.98, of which a stream takes 0.5.
    assert finding.text.endswith("room for 11 such streams")


def test_a_model_whose_kv_is_unknown_promises_no_number_of_streams() -> None:
    assert LLAMA_8B.size is not None
    no_kv = replace(LLAMA_8B, size=replace(LLAMA_8B.size, kv_bytes_per_token=0, context_tokens=None))

    finding = named(judge(replace(LINUX, models=(no_kv,))), "model llama-8b")

    assert finding.text.endswith("of 11.2 GiB")


def test_a_model_that_is_not_there_is_doubtful_and_says_why() -> None:
    missing = ModelFacts(name="org/model", size=None, message="org/model is not on this machine yet")

    finding = named(judge(replace(LINUX, models=(missing,))), "model org/model")

    assert finding == Finding("model org/model", "warning", "org/model is not on this machine yet")


def test_a_host_that_died_before_is_mentioned_with_its_reason() -> None:
    finding = named(judge(replace(LINUX, last_exit="Metal timeout in prefill")), "last exit")

    assert finding.level == "warning"
    assert "Metal timeout in prefill" in finding.text


@pytest.mark.parametrize(("thermal", "level"), [(1, "warning"), (2, "warning"), (3, "problem")])
def test_heat_is_judged_by_its_level(thermal: int, level: str) -> None:
    assert named(judge(replace(M4_MAX, thermal=thermal)), "heat").level == level


def test_facts_that_are_missing_are_left_out_where_nothing_can_be_said() -> None:
    facts = replace(M4_MAX, pressure=None, thermal=None, open_files=None, wired_limit_mb=None, gpu_cores=None)

    shown = {finding.name for finding in judge(facts)}

    assert shown.isdisjoint({"memory pressure", "heat", "open files", "wired limit"})


def test_a_little_swap_is_nothing_to_mention() -> None:
    assert named(judge(replace(M4_MAX, swap_used_bytes=GIB // 2)), "memory pressure").level == "ok"


def test_a_warning_of_the_system_is_a_warning() -> None:
    assert named(judge(replace(M4_MAX, pressure=1)), "memory pressure").level == "warning"
